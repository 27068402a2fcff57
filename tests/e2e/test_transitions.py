"""What changes while a hundred connections come and stay: no request fails, none is reset."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from testbed.client import REFUSAL, Answer, Protocol, distribution, failures
from testbed.manifests import Exposure, Service, endpoints_of
from testbed.scenario import rolling_update
from tests.e2e.under_load import Way, Ways, under_load

if TYPE_CHECKING:
    from collections.abc import Iterator

    from testbed.cluster import Cluster
    from testbed.layout import Pod
    from testbed.traffic import Held

Make = Callable[..., Service]

NUMBERS = itertools.count(600)
BALANCED = Exposure("LoadBalancer", external_ips=True)
LOCAL = replace(BALANCED, policy="Local")
NODE_PORT = Exposure("NodePort")
TRIES = 20
"""Datagrams that a client sends before it is given up."""


@pytest.fixture
def make(cluster: Cluster, old: tuple[Pod, ...]) -> Iterator[Make]:
    """Make Services for one test, applied: `make(exposure)`."""
    made: list[Service] = []

    def one(exposure: Exposure, *, protocol: str = "TCP") -> Service:
        number = next(NUMBERS)
        service = Service(
            f"transition-{number}",
            number,
            endpoints_of(old),
            protocols=(protocol,),
            families=(4,),
            exposure=exposure,
        )
        made.append(service)
        cluster.apply(service)
        return service

    yield one
    for service in made:
        cluster.folder.withdraw(service)
    for pod in cluster.layout.pods:
        cluster.traffic.listen(pod.name)


def test_all_pods_are_replaced(
    cluster: Cluster, make: Make, old: tuple[Pod, ...], new: tuple[Pod, ...]
) -> None:
    service, local = make(BALANCED), make(LOCAL)
    ways, of_local = Ways(cluster, service), Ways(cluster, local)
    with under_load(
        cluster,
        {
            "pod to ClusterIP": ways.cluster_ip("c1"),
            "pod to local balancer": of_local.balancer("c2"),
            "node to local balancer": of_local.balancer("node1"),
            "outside to balancer": ways.balancer("elsewhere"),
            "outside to local balancer": of_local.balancer("outside"),
            "outside to local node port": of_local.node_port("elsewhere", "node2"),
        },
    ) as observed:
        for _ in rolling_update(cluster, [service, local], old=old, new=new):
            pass
    observed.assert_nothing_failed()


def test_a_service_is_scaled_to_nothing_and_back(cluster: Cluster, make: Make) -> None:
    service, other = make(LOCAL), make(LOCAL)
    ways, others = Ways(cluster, service), Ways(cluster, other)
    clients = [ways.cluster_ip("c1"), ways.balancer("node1"), ways.balancer("outside")]
    leaving = [replace(one, ready=False, terminating=True) for one in service.endpoints]
    with (
        under_load(
            cluster,
            {
                "pod to the other": others.cluster_ip("c1"),
                "outside to the other": others.balancer("outside"),
            },
        ) as observed,
        cluster.traffic.hold(*ways.cluster_ip("c2"), 8) as held,
        cluster.traffic.hold(*ways.balancer("outside"), 8) as from_outside,
    ):
        cluster.apply(service.with_endpoints(leaving))
        for host, where in clients:
            assert not failures(cluster.traffic.ask(host, where, 8))
        cluster.apply(service.with_endpoints(()))
        for host, where in clients:
            replies = cluster.traffic.ask(host, where, 4)
            assert [failure.reason for failure in failures(replies)] == [REFUSAL] * 4
        cluster.apply(service)
        for host, where in clients:
            assert not failures(cluster.traffic.ask(host, where, 8))
        assert still_there([*held, *from_outside])
    observed.assert_nothing_failed()


def still_there(held: list[Held]) -> bool:
    """Talk on long connections; say whether each is answered by the pod that it began with."""
    return [distribution([one.talk()]) for one in held] == [
        distribution([one.first]) for one in held
    ]


def test_a_node_flaps(cluster: Cluster, make: Make) -> None:
    """All endpoints of a node are not ready and come back (kubernetes/kubernetes#117205)."""
    service = make(BALANCED)
    ways = Ways(cluster, service)
    without = [
        replace(one, ready=one.pod.node == "node1") if one.pod.node == "node2" else one
        for one in service.endpoints
    ]
    with under_load(
        cluster,
        {
            "pod to ClusterIP": ways.cluster_ip("c1"),
            "node to ClusterIP": ways.cluster_ip("node2"),
            "outside to balancer": ways.balancer("outside"),
            "outside to node port": ways.node_port("elsewhere", "node2"),
        },
    ) as observed:
        cluster.apply(service.with_endpoints(without))
        replies = cluster.traffic.ask(*ways.cluster_ip("c1"), 8)
        assert set(distribution(replies)) == {"a1", "b1"}
        cluster.apply(service)
    observed.assert_nothing_failed()


def test_the_type_changes(cluster: Cluster, make: Make) -> None:
    service = make(Exposure())
    ways = {"pod": Ways(cluster, service).cluster_ip("c1")}
    ways["node"] = Ways(cluster, service).cluster_ip("node2")
    with under_load(cluster, ways) as inside:
        service = service.exposed(NODE_PORT)
        cluster.apply(service)
        by_port = Ways(cluster, service).node_port
        with under_load(
            cluster, {"outside": by_port("outside", "node1"), "pod": by_port("c1", "node2")}
        ) as outside:
            for exposure in (
                Exposure("LoadBalancer"),
                NODE_PORT,
                replace(NODE_PORT, policy="Local"),
            ):
                service = service.exposed(exposure)
                cluster.apply(service)
        cluster.apply(service.exposed(Exposure()))
    inside.assert_nothing_failed()
    outside.assert_nothing_failed()


def test_the_external_policy_changes(cluster: Cluster, make: Make) -> None:
    service = make(BALANCED)
    ways = Ways(cluster, service)
    with under_load(
        cluster,
        {
            "pod to balancer": ways.balancer("c1"),
            "node to balancer": ways.balancer("node1"),
            "outside to balancer": ways.balancer("outside"),
            "outside to external address": ways.external_ip("elsewhere"),
            "outside to node port": ways.node_port("outside", "node2"),
        },
    ) as observed:
        for exposure in (LOCAL, BALANCED, LOCAL):
            cluster.apply(service.exposed(exposure))
    observed.assert_nothing_failed()


WAYS: dict[str, Callable[[Ways], Way]] = {
    "pod-to-ClusterIP": lambda ways: ways.cluster_ip("c1"),
    "pod-to-balancer": lambda ways: ways.balancer("c1"),
    "node-to-balancer": lambda ways: ways.balancer("node1"),
    "pod-to-node-port": lambda ways: ways.node_port("c1", "node1"),
    "outside-to-balancer": lambda ways: ways.balancer("outside"),
    "outside-to-node-port": lambda ways: ways.node_port("outside", "node1"),
}


def test_a_udp_sender_reaches_a_new_pod_when_its_pod_went(
    cluster: Cluster, make: Make, new: tuple[Pod, ...]
) -> None:
    """Also where it was redirected: only conntrack leads it then (see docs/packet-flow.md)."""
    services = [make(exposure, protocol="UDP") for exposure in (BALANCED, LOCAL)]
    senders: dict[str, Held] = {}
    with contextlib.ExitStack() as stack:
        for service in services:
            ways = Ways(cluster, service, protocol=Protocol.UDP)
            for name, way in WAYS.items():
                [sender] = stack.enter_context(cluster.traffic.hold(*way(ways), 1))
                assert isinstance(sender.first, Answer)
                senders[f"{name}, policy {service.exposure.policy}"] = sender
        cluster.apply(*(service.with_endpoints(endpoints_of(new)) for service in services))
        names = {pod.name for pod in new}
        reached = {name: reaches(sender, names) for name, sender in senders.items()}
    assert reached == dict.fromkeys(senders, True)


def reaches(sender: Held, names: set[str]) -> bool:
    """Send datagrams from one socket until one of some pods has answered, so many times."""
    replies = (sender.talk() for _ in range(TRIES))
    return any(isinstance(reply, Answer) and reply.pod in names for reply in replies)
