"""Complaints about who reaches whom, and with whose address."""

from __future__ import annotations

import pytest

from ipvsproxy.core.packet import Dropped, Local, Packet, Refused, Sender
from ipvsproxy.core.trace import trace
from ipvsproxy.model import Address
from tests.complaints.node import (
    ELSEWHERE,
    HERE,
    OUTSIDE,
    POD,
    SETTINGS,
    THE_NODE,
    change,
    endpoints,
    fate,
    seen,
    service,
    started,
)

BALANCER = "203.0.113.10"
LOCAL = service(
    type="LoadBalancer",
    externalTrafficPolicy="Local",
    ingress=(BALANCER,),
    ports=[{"port": 80, "nodePort": 30080}],
)
CLUSTER = service(type="LoadBalancer", ingress=(BALANCER,))
PLACES = (f"{BALANCER}:80/TCP", "192.168.50.11:30080/TCP")


@pytest.mark.parametrize("place", PLACES)
async def test_issue_71596_with_policy_local_everybody_is_served_as_he_should_be(
    place: str,
) -> None:
    """Outside only by endpoints here, with its own address; inside by all (#75262, #92857, #93456).

    With real packets: tests/e2e/test_matrix.py.
    """
    stage = await started(LOCAL, endpoints(HERE, ELSEWHERE))
    assert seen(stage, OUTSIDE, place) == {HERE: "198.51.100.77"}
    assert seen(stage, POD, place) == dict.fromkeys((HERE, ELSEWHERE), "10.244.1.77")
    assert seen(stage, THE_NODE, place) == dict.fromkeys((HERE, ELSEWHERE), "node")


@pytest.mark.parametrize("place", PLACES)
async def test_issue_121909_without_a_local_endpoint_only_the_outside_goes_without(
    place: str,
) -> None:
    """It is dropped, never led to where its answer would be lost (#125167); others are served."""
    stage = await started(LOCAL, endpoints(ELSEWHERE))
    assert isinstance(fate(stage, OUTSIDE, place), Dropped)
    assert seen(stage, POD, place) == {ELSEWHERE: "10.244.1.77"}
    assert seen(stage, THE_NODE, place) == {ELSEWHERE: "node"}


async def test_issue_115931_a_pod_keeps_its_address_on_a_load_balancer_s() -> None:
    """It is at home on the node that it asks, so the answer comes back here; the outside is not."""
    stage = await started(CLUSTER, endpoints(HERE, ELSEWHERE))
    both = (HERE, ELSEWHERE)
    assert seen(stage, POD, f"{BALANCER}:80/TCP") == dict.fromkeys(both, "10.244.1.77")
    assert seen(stage, OUTSIDE, f"{BALANCER}:80/TCP") == dict.fromkeys(both, "node")


@pytest.mark.parametrize(
    ("ranges", "outside", "pod", "node"),
    [
        ("198.51.100.0/24", True, False, False),
        ("10.244.0.0/16", False, True, False),
        ("192.168.50.11/32", False, False, True),
    ],
)
@pytest.mark.parametrize("policy", ["Cluster", "Local"])
async def test_issue_119656_source_ranges_hold_for_everybody(
    policy: str, ranges: str, *, outside: bool, pod: bool, node: bool
) -> None:
    """For the node itself and for pods too, whom policy Local redirects (#88698)."""
    closed = service(
        type="LoadBalancer",
        ingress=(BALANCER,),
        externalTrafficPolicy=policy,
        loadBalancerSourceRanges=[ranges],
    )
    stage = await started(closed, endpoints(HERE))
    for sender, admitted in ((OUTSIDE, outside), (POD, pod), (THE_NODE, node)):
        found = fate(stage, sender, f"{BALANCER}:80/TCP")
        assert isinstance(found, Dropped) is not admitted, (sender, found)
        assert seen(stage, sender, "10.96.0.10:80/TCP").keys() == {HERE}


async def test_issue_63241_the_node_does_not_come_with_a_service_address() -> None:
    """The route to a ClusterIP makes that the source; a server elsewhere could not answer it.

    Whether pods are known or not (#63985, #65158, #65358).
    """
    for settings in (SETTINGS, type(SETTINGS)(node_name="node-a")):
        stage = await started(service(), endpoints(ELSEWHERE), settings=settings)
        assert seen(stage, THE_NODE, "10.96.0.10:80/TCP") == {ELSEWHERE: "node"}


@pytest.mark.parametrize("place", ["10.96.0.10:80/TCP", *PLACES])
async def test_issue_61938_no_host_port_takes_a_service_s_traffic(place: str) -> None:
    """A rule for a hostPort matches every local address; what is ours is accepted before it."""
    stage = await started(LOCAL, endpoints(HERE))
    address, _, port = place.removesuffix("/TCP").rpartition(":")
    packet = Packet(OUTSIDE, None, Address.parse(address))
    packet = packet._replace(protocol=next(iter(stage.fake.state.virtual_servers)).protocol)
    followed = trace(stage.fake.state, packet._replace(port=int(port)))
    last = [step for step in followed.steps if (step.hook, step.table) == ("PREROUTING", "nat")][-1]
    assert last.verdict == "ACCEPT"


async def test_issue_53775_a_pod_reaches_itself_through_its_service() -> None:
    """With the node's address, lest it answer itself past the node (#92584)."""
    stage = await started(LOCAL, endpoints(HERE, ELSEWHERE))
    itself = Sender(POD.kind, Address.parse(HERE), POD.interface)
    for place in ("10.96.0.10:80/TCP", *PLACES):
        assert seen(stage, itself, place) == {HERE: "node", ELSEWHERE: HERE}


async def test_issue_51974_corner_cases_are_answered_as_they_should_be() -> None:
    """Without endpoints everybody is refused at once; pings are answered; policies are exact.

    kubernetes/website #51974 and KEP-5495 name these as what IPVS mode never had.
    """
    stage = await started(LOCAL, endpoints())
    for sender in (OUTSIDE, POD, THE_NODE):
        for place in ("10.96.0.10:80/TCP", *PLACES):
            assert isinstance(fate(stage, sender, place), Refused)
    for address in ("10.96.0.10", BALANCER):
        ping = Packet(POD, None, Address.parse(address))
        assert isinstance(trace(stage.fake.state, ping).fate, Local)
    await change(stage, service(internalTrafficPolicy="Local"), endpoints(ELSEWHERE))
    assert isinstance(fate(stage, POD, "10.96.0.10:80/TCP"), Refused)
