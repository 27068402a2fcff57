"""What is kept of slices changes nothing: a translation with it is one from nothing."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipvsproxy.config import Settings
from ipvsproxy.core import gathering
from ipvsproxy.core.endpoints import Policy, Whereabouts, gather
from ipvsproxy.core.gathering import Parts, gather_all, is_large
from ipvsproxy.core.surroundings import Surroundings
from ipvsproxy.core.translate import Fragment, Inputs, translate
from ipvsproxy.model import Address, Family, Protocol, State
from ipvsproxy.objects import (
    Endpoint,
    EndpointSlice,
    Node,
    Service,
    ServiceName,
    ServicePort,
    SlicePort,
)

HERE = Whereabouts("here", "z1")
HTTP = ServicePort("http", Protocol.TCP, 80)
PLACES = st.sampled_from(("here", "far"))
ZONES = st.sampled_from(((), (), ("z1",), ("z2",), ("z1", "z2")))
NODES = st.sampled_from(((), (), ("here",), ("far",)))
CONDITIONS = st.sampled_from(
    ((True, True, False),) * 3 + ((False, True, True), (False, False, True), (False, False, False))
)
PORTS = st.sampled_from(
    (
        (SlicePort("http", Protocol.TCP, 8080),),
        (SlicePort("http", Protocol.TCP, 8080), SlicePort("dns", Protocol.UDP, 53)),
        (SlicePort("http", Protocol.TCP, 8080), SlicePort("http", Protocol.TCP, 81)),
        (SlicePort("web", Protocol.TCP, 8080),),
    )
)


@st.composite
def endpoints(draw: st.DrawFn, number: int, *, hinted: bool) -> Endpoint:
    """One endpoint; `hinted`: it has hints, which all of a Service have or none."""
    ready, serving, terminating = draw(CONDITIONS)
    zones = draw(st.sampled_from((("z1",), ("z2",)))) if hinted else draw(ZONES)
    address = Address.parse(f"10.1.0.{number}")
    return Endpoint(
        address, ready, serving, terminating, draw(PLACES), zones, draw(NODES), pod=f"p{number}"
    )


@st.composite
def slices(draw: st.DrawFn, index: int, *, hinted: bool) -> EndpointSlice:
    """Slice `index` of a Service; its endpoints are mostly its own, or else another's too."""
    own = [index * 8 + number for number in draw(st.sets(st.integers(0, 7)))]
    others = draw(st.sets(st.integers(0, 39), max_size=2)) if draw(st.booleans()) else set()
    family = draw(st.sampled_from((Family.IPV4,) * 6 + (Family.IPV6, None)))
    return EndpointSlice(
        "a",
        f"s{index}",
        ServiceName("a", "web"),
        family,
        tuple(draw(endpoints(one, hinted=hinted)) for one in (*own, *sorted(others - {*own}))),
        draw(PORTS),
    )


@st.composite
def histories(draw: st.DrawFn) -> list[tuple[EndpointSlice, ...]]:
    """What the slices of a Service are, one after the other: each time one is another, or gone."""
    hinted = draw(st.booleans())
    present = {index: draw(slices(index, hinted=hinted)) for index in range(4)}
    history = [tuple(present.values())]
    for _ in range(draw(st.integers(1, 5))):
        index = draw(st.integers(0, 4))
        if index in present and draw(st.integers(0, 4)) == 0:
            del present[index]
        else:
            present[index] = draw(slices(index, hinted=hinted))
        history.append(tuple(present.values()))
    return history


@given(histories(), st.sampled_from((1, 64)))
def test_parts_come_to_what_all_slices_come_to(
    history: list[tuple[EndpointSlice, ...]], few: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gathering, "_FEW", few)
        parts = Parts()
        for present in history:
            parts.begin()
            some = parts.gather(present, HTTP, Family.IPV4, HERE)
            every = gather_all(present, HTTP, Family.IPV4, HERE)
            assert list(some.placed.items()) == list(every.placed.items())
            assert {*some.local()} == {*every.local()}
            for policy in Policy:
                selection = some.select(policy)
                assert selection == every.select(policy)
                assert some.in_order(selection.serving, policy) == sorted(selection.serving)


SERVICES = st.builds(
    Service,
    name=st.just(ServiceName("a", "web")),
    type=st.just("LoadBalancer"),
    cluster_ips=st.sampled_from(
        (
            (Address.parse("10.96.0.1"),),
            (Address.parse("10.96.0.1"), Address.parse("fd00::1")),
        )
    ),
    ports=st.sampled_from(
        (
            (HTTP,),
            (HTTP, ServicePort("dns", Protocol.UDP, 53)),
            (ServicePort("web", Protocol.TCP, 80),),
        )
    ),
    ingress_ips=st.sampled_from(((), (Address.parse("192.0.2.1"),))),
    health_check_node_port=st.sampled_from((0, 30000)),
    internal_traffic_local=st.booleans(),
    external_traffic_local=st.booleans(),
)


@given(st.data(), histories())
def test_a_fragment_is_the_same_with_what_was_kept(
    data: st.DataObject, history: list[tuple[EndpointSlice, ...]]
) -> None:
    """Whatever else changes meanwhile: the Service, and where this node is."""
    parts = Parts()
    with_parts: Fragment | None = None
    without: Fragment | None = None
    service, zone = data.draw(SERVICES), "z1"
    for present in history:
        if data.draw(st.integers(0, 3)) == 0:
            service, zone = data.draw(SERVICES), data.draw(st.sampled_from(("z1", "z2")))
        around = Surroundings(
            Settings(node_name="here"), State(), node=Node("here", zone=zone), nodes_known=True
        )
        inputs = Inputs(service, present, whole=True)
        with_parts = translate(inputs, around, with_parts, parts=parts)
        without = translate(inputs, around, without)
        assert with_parts == without
        for one, other in zip(with_parts.frontends, without.frontends, strict=True):
            assert list(one.real_servers) == list(other.real_servers), "in the same order"


def _many(*names: str, each: int = 100) -> Sequence[EndpointSlice]:
    return [
        EndpointSlice(
            "a",
            name,
            ServiceName("a", "web"),
            Family.IPV4,
            tuple(
                Endpoint(Address.parse(f"10.{index}.0.{number}"), node_name="here")
                for number in range(each)
            ),
            (SlicePort("http", Protocol.TCP, 8080),),
        )
        for index, name in enumerate(names)
    ]


@pytest.mark.parametrize(
    ("present", "large"),
    [
        pytest.param(_many("s1"), False, id="one slice"),
        pytest.param(_many("s1", "s2"), False, id="two families of a usual one"),
        pytest.param(_many("s1", "s2", "s3"), True, id="three full slices"),
        pytest.param(_many("s1", "s2", "s3", each=5), False, id="three that are nearly empty"),
    ],
)
def test_little_is_kept_of_what_is_small(present: Sequence[EndpointSlice], *, large: bool) -> None:
    assert is_large(present) is large


def test_real_servers_that_stay_are_named_by_the_same_objects() -> None:
    """So that they are told to be equal at a glance."""
    parts = Parts()
    before = _many("s1", "s2")
    parts.begin()
    old = parts.gather(before, HTTP, Family.IPV4, HERE).placed
    again = Parts()
    again.begin()
    assert {*map(id, again.gather(before, HTTP, Family.IPV4, HERE, present=old).placed)} == {
        *map(id, old)
    }, "after a restart, those of the kernel"
    changed = msgspec.structs.replace(before[0], endpoints=before[0].endpoints[1:])
    parts.begin()
    new = parts.gather([changed, before[1]], HTTP, Family.IPV4, HERE).placed
    assert {*map(id, new)} < {*map(id, old)}
    assert gather(
        [changed, before[1]], port_name="http", protocol=Protocol.TCP, family=Family.IPV4
    ) == dict(new)


def test_a_port_that_is_not_asked_for_any_more_is_forgotten() -> None:
    parts = Parts()
    present = _many("s1", "s2")
    parts.begin()
    first = parts.gather(present, HTTP, Family.IPV4, HERE)
    for _ in range(2):
        parts.begin()
    again = parts.gather(present, HTTP, Family.IPV4, HERE)
    assert first.placed == again.placed
    assert {*map(id, first.placed)}.isdisjoint(map(id, again.placed))
