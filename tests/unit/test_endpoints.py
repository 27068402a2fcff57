"""Endpoint conditions and policies: the table of who serves."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipvsproxy.core.endpoints import Policy, Whereabouts, gather, select
from ipvsproxy.model import Address, Family, Protocol, RealServerKey
from ipvsproxy.objects import Endpoint, EndpointSlice, ServiceName, SlicePort

HTTP = SlicePort("http", Protocol.TCP, 8080)
READY = (True, True, False)
STARTING = (False, False, False)
TERMINATING = (False, True, True)
GONE = (False, False, True)


def pod(index: int) -> Address:
    return Address.parse(f"10.1.0.{index}")


def endpoint(index: int, conditions: tuple[bool, bool, bool], node: str = "here") -> Endpoint:
    ready, serving, terminating = conditions
    return Endpoint(pod(index), ready, serving, terminating, node)


def a_slice(
    *endpoints: Endpoint,
    name: str = "s1",
    ports: tuple[SlicePort, ...] = (HTTP,),
    family: Family | None = Family.IPV4,
) -> EndpointSlice:
    return EndpointSlice("a", name, ServiceName("a", "web"), family, endpoints, ports)


def members(indices: str) -> set[RealServerKey]:
    return {RealServerKey(pod(int(index)), 8080) for index in indices}


@pytest.mark.parametrize(
    ("policy", "endpoints", "serving", "displaced", "retiring"),
    [
        pytest.param("Cluster", [], "", "", "", id="none"),
        pytest.param("Cluster", [(READY, "here"), (READY, "far")], "12", "", "", id="all ready"),
        pytest.param(
            "Cluster", [(READY, "far"), (TERMINATING, "here")], "1", "", "2", id="one terminates"
        ),
        pytest.param(
            "Cluster",
            [(STARTING, "here"), (TERMINATING, "far"), (GONE, "far")],
            "2",
            "",
            "13",
            id="no ready one: those that serve and terminate",
        ),
        pytest.param("Cluster", [(STARTING, "here"), (GONE, "here")], "", "", "12", id="no one"),
        pytest.param(
            "Local", [(READY, "here"), (READY, "far")], "1", "2", "", id="local: others displaced"
        ),
        pytest.param("Local", [(READY, "far")], "", "1", "", id="local: nobody here"),
        pytest.param(
            "Local",
            [(TERMINATING, "here"), (READY, "far"), (TERMINATING, "far")],
            "1",
            "2",
            "3",
            id="local: a terminating one here goes before a ready one elsewhere",
        ),
    ],
)
def test_who_serves(
    policy: str,
    endpoints: list[tuple[tuple[bool, bool, bool], str]],
    serving: str,
    displaced: str,
    retiring: str,
) -> None:
    found = [endpoint(index, one, node) for index, (one, node) in enumerate(endpoints, 1)]
    gathered = gather(
        [a_slice(*found)], port_name="http", protocol=Protocol.TCP, family=Family.IPV4
    )
    selection = select(gathered, Policy(policy), Whereabouts("here"))
    assert selection.serving == members(serving)
    assert selection.displaced == members(displaced)
    assert selection.retiring == members(retiring)


@pytest.mark.parametrize(
    ("ports", "family", "found"),
    [
        pytest.param((HTTP,), Family.IPV4, 1, id="fits"),
        pytest.param((SlicePort("web", Protocol.TCP, 8080),), Family.IPV4, 0, id="other name"),
        pytest.param((SlicePort("http", Protocol.UDP, 8080),), Family.IPV4, 0, id="other protocol"),
        pytest.param((HTTP, SlicePort("http", Protocol.TCP, 81)), Family.IPV4, 2, id="two numbers"),
        pytest.param((HTTP,), Family.IPV6, 0, id="other family"),
        pytest.param((HTTP,), None, 0, id="names, not addresses"),
    ],
)
def test_ports_are_matched_by_name_protocol_and_family(
    ports: tuple[SlicePort, ...], family: Family | None, found: int
) -> None:
    part = a_slice(endpoint(1, READY), ports=ports, family=family)
    gathered = gather([part], port_name="http", protocol=Protocol.TCP, family=Family.IPV4)
    assert len(gathered) == found


@pytest.mark.parametrize(
    ("first", "second", "wins"),
    [
        pytest.param(READY, TERMINATING, "s1", id="ready before serving"),
        pytest.param(TERMINATING, READY, "s2", id="whichever slice it is in"),
        pytest.param(GONE, TERMINATING, "s2", id="serving before neither"),
        pytest.param(READY, READY, "s1", id="alike: the first slice by name"),
    ],
)
def test_one_endpoint_in_two_slices_is_one(
    first: tuple[bool, bool, bool], second: tuple[bool, bool, bool], wins: str
) -> None:
    parts = [
        a_slice(endpoint(1, second), name="s2"),
        a_slice(endpoint(1, first), name="s1"),
    ]
    gathered = gather(parts, port_name="http", protocol=Protocol.TCP, family=Family.IPV4)
    assert [placed.slice_name for placed in gathered.values()] == [wins]


def test_the_one_of_this_node_wins_where_two_are_alike() -> None:
    parts = [
        a_slice(endpoint(1, READY, "far"), name="s1"),
        a_slice(endpoint(1, READY, "here"), name="s2"),
    ]
    gathered = gather(
        parts, port_name="http", protocol=Protocol.TCP, family=Family.IPV4, node_name="here"
    )
    assert [placed.endpoint.node_name for placed in gathered.values()] == ["here"]


def hinted(
    index: int,
    zones: str = "",
    nodes: str = "",
    conditions: tuple[bool, bool, bool] = READY,
    node: str = "far",
) -> Endpoint:
    ready, serving, terminating = conditions
    return Endpoint(
        pod(index),
        ready,
        serving,
        terminating,
        node,
        tuple(zones.split()),
        tuple(nodes.split()),
    )


@pytest.mark.parametrize(
    ("endpoints", "zone", "serving"),
    [
        pytest.param([hinted(1, "z1"), hinted(2, "z2")], "z1", "1", id="zone"),
        pytest.param([hinted(1, "z1 z2"), hinted(2, "z2")], "z2", "12", id="several zones"),
        pytest.param([hinted(1, "z1"), hinted(2)], "z1", "12", id="one ready one has no hint"),
        pytest.param([hinted(1, "z1"), hinted(2, "z2")], None, "12", id="the node has no zone"),
        pytest.param([hinted(1, "z1"), hinted(2, "z2")], "z3", "12", id="none for this zone"),
        pytest.param(
            [hinted(1, "z1"), hinted(2, "", conditions=STARTING), hinted(3, "z2")],
            "z1",
            "1",
            id="one that is not ready needs no hint",
        ),
        pytest.param(
            [hinted(1, "z1", conditions=TERMINATING), hinted(2, "z2")],
            "z1",
            "2",
            id="a hinted one that terminates does not count",
        ),
        pytest.param(
            [hinted(1, "z1", conditions=TERMINATING), hinted(2, "z2", conditions=TERMINATING)],
            "z1",
            "12",
            id="nobody ready: those that terminate, whatever their hints",
        ),
        pytest.param(
            [hinted(1, "z1", "here"), hinted(2, "z1", "far")], "z1", "1", id="node before zone"
        ),
        pytest.param(
            [hinted(1, "z1", "far"), hinted(2, "z2", "far")], "z1", "1", id="not this node: zone"
        ),
        pytest.param(
            [hinted(1, "z1", "here"), hinted(2, "z1")], "z1", "12", id="one has no hint for nodes"
        ),
        pytest.param(
            [hinted(1, "", "here"), hinted(2, "", "far")], None, "1", id="node without a zone"
        ),
        pytest.param(
            [hinted(1, "", "here"), hinted(2, "z1", "")], "z1", "12", id="each lacks one kind"
        ),
        pytest.param([], "z1", "", id="no endpoint"),
    ],
)
def test_hints_are_followed_where_all_ready_ones_have_them(
    endpoints: list[Endpoint], zone: str | None, serving: str
) -> None:
    gathered = gather(
        [a_slice(*endpoints)], port_name="http", protocol=Protocol.TCP, family=Family.IPV4
    )
    selection = select(gathered, Policy.CLUSTER, Whereabouts("here", zone))
    assert selection.serving == members(serving)
    ready = {key for key, placed in gathered.items() if placed.endpoint.ready}
    assert selection.displaced == ready - selection.serving


def test_policy_local_follows_no_hint() -> None:
    parts = [a_slice(hinted(1, "z2", "far", node="here"), hinted(2, "z1", "here", node="far"))]
    gathered = gather(parts, port_name="http", protocol=Protocol.TCP, family=Family.IPV4)
    assert select(gathered, Policy.LOCAL, Whereabouts("here", "z1")).serving == members("1")


_endpoints = st.builds(
    hinted,
    st.integers(1, 4),
    st.sampled_from(("", "z1", "z2", "z1 z2")),
    st.sampled_from(("", "here", "far")),
    st.sampled_from((READY, STARTING, TERMINATING, GONE)),
    st.sampled_from(("here", "far")),
)


@given(
    endpoints=st.lists(_endpoints, max_size=4, unique_by=lambda one: one.address),
    policy=st.sampled_from(Policy),
    zone=st.sampled_from((None, "z1", "z3")),
)
def test_somebody_serves_wherever_anybody_can(
    endpoints: list[Endpoint], policy: Policy, zone: str | None
) -> None:
    gathered = gather(
        [a_slice(*endpoints)], port_name="http", protocol=Protocol.TCP, family=Family.IPV4
    )
    selection = select(gathered, policy, Whereabouts("here", zone))
    parts = (selection.serving, selection.displaced, selection.retiring)
    assert sum(map(len, parts)) == len(frozenset().union(*parts)) == len(gathered)
    near = [one for one in endpoints if policy is Policy.CLUSTER or one.node_name == "here"]
    usable = any(one.ready or (one.serving and one.terminating) for one in near)
    assert bool(selection.serving) == usable
    served = [gathered[key].endpoint for key in selection.serving]
    assert len({one.ready for one in served}) <= 1, "those that terminate serve only alone"
