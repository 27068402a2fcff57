"""What the store knows of Nodes and API servers: addresses that no Service may have."""

from __future__ import annotations

import msgspec
import pytest

from ipvsproxy.model import Address
from ipvsproxy.objects import Node, ObjectReference, Service, ServicePort
from ipvsproxy.store import KINDS, Event, Gone, Listed, Put, Store
from tests.unit.builders import frontend, named, part, service, service_reference

HERE, THERE = Address.parse("192.0.2.10"), Address.parse("192.0.2.20")
EXTERNAL = Address.parse("203.0.113.5")
OTHER = Node("node-b", addresses=(THERE,))


def external(name: str, *addresses: Address) -> Service:
    return msgspec.structs.replace(service(name), external_ips=addresses)


def stored(*objects: Service | Node) -> Store:
    store = Store("node-a")
    for one in objects:
        store.apply(Put(one, "a.yaml"))
    for kind in KINDS:
        store.apply(Listed(kind))
    store.take_dirty()
    return store


def dirty_after(store: Store, event: Event) -> list[str]:
    store.apply(event)
    return sorted(name.name for name in store.take_dirty())


def test_other_nodes_addresses_are_taken_and_the_own_are_not() -> None:
    store = stored(OTHER, Node("node-a", addresses=(HERE,)))
    assert store.taken == {THERE: "the address of node node-b"}
    assert store.taken is store.taken
    store.apply(Gone(ObjectReference("Node", "", "node-b")))
    assert store.taken == {}


def test_the_own_node_stays_known_when_it_is_gone() -> None:
    own = Node("node-a", zone="z", addresses=(HERE,))
    store = stored(own)
    assert dirty_after(store, Gone(ObjectReference("Node", "", "node-a"))) == []
    assert store.node == own


def test_the_api_servers_are_taken_wherever_they_are() -> None:
    store = stored()
    store.apply(Put(part("kubernetes", "192.0.2.30"), "a.yaml"))
    assert store.taken == {Address.parse("192.0.2.30"): "the address of an API server"}
    before = store.taken
    store.apply(Put(part("kubernetes", "192.0.2.30", name="another"), "a.yaml"))
    store.apply(Put(part("web", "192.0.2.31"), "a.yaml"))
    assert store.taken is before
    store.apply(Gone(ObjectReference("EndpointSlice", "default", "another")))
    store.apply(Gone(ObjectReference("EndpointSlice", "default", "kubernetes-1")))
    assert store.taken == {}


def test_only_who_has_the_address_of_a_node_is_looked_at_again_for_it() -> None:
    store = stored(external("hit", THERE), external("other", EXTERNAL), service("web"))
    dirty_after(store, Listed("Nodes"))
    assert dirty_after(store, Put(OTHER, "a.yaml")) == ["hit"]
    assert dirty_after(store, Put(OTHER, "a.yaml")) == []
    before = store.taken
    labelled = Node("node-b", addresses=(THERE,), zone="z")
    assert dirty_after(store, Put(labelled, "a.yaml")) == []
    assert store.taken is before
    moved = Node("node-b", addresses=(EXTERNAL,))
    assert dirty_after(store, Put(moved, "a.yaml")) == ["hit", "other"]
    assert dirty_after(store, Gone(ObjectReference("Node", "", "node-b"))) == ["other"]


def test_who_has_the_address_of_an_api_server_is_looked_at_again_for_it() -> None:
    store = stored(external("hit", THERE), external("other", EXTERNAL))
    changed = Put(part("kubernetes", str(THERE)), "a.yaml")
    assert dirty_after(store, changed) == ["hit", "kubernetes"]


def test_while_nodes_are_being_listed_each_is_only_noted() -> None:
    store = stored(external("hit", THERE), external("other", EXTERNAL), service("web"))
    assert dirty_after(store, Put(OTHER, "a.yaml")) == []
    assert THERE in store.taken
    assert dirty_after(store, Listed("Nodes")) == ["hit", "other"]


def test_when_all_nodes_are_known_those_with_external_addresses_are_looked_at() -> None:
    balanced = msgspec.structs.replace(service("balanced"), ingress_ips=(EXTERNAL,))
    store = stored(external("external", EXTERNAL), balanced, service("web"))
    assert not store.nodes_listed
    assert dirty_after(store, Listed("Nodes")) == ["balanced", "external"]
    assert store.nodes_listed


def test_all_nodes_are_needed_while_a_service_has_an_external_ip() -> None:
    store = stored(service("web"))
    needed = [store.needs_nodes]
    for event in (
        Put(external("web", EXTERNAL), "a.yaml"),
        Put(service("web"), "a.yaml"),
        Put(external("web", EXTERNAL), "a.yaml"),
        Gone(service_reference("web")),
    ):
        store.apply(event)
        needed.append(store.needs_nodes)
    assert needed == [False, True, False, True, False]


@pytest.mark.parametrize(
    ("addresses", "node_ports", "concerned"),
    [
        ({HERE}, False, set()),
        ({EXTERNAL}, False, {"external", "balanced"}),
        ({Address.parse("10.96.0.10")}, False, {"external", "balanced", "port", "web"}),
        (set(), True, {"port"}),
        ({EXTERNAL}, True, {"external", "balanced", "port"}),
    ],
)
def test_whom_a_change_of_the_nodes_addresses_concerns(
    addresses: set[Address], node_ports: bool, concerned: set[str]
) -> None:
    port = ServicePort("", frontend().protocol, 80, 30080)
    store = stored(
        external("external", EXTERNAL),
        msgspec.structs.replace(service("balanced"), ingress_ips=(EXTERNAL,)),
        msgspec.structs.replace(service("port"), ports=(port,)),
        service("web"),
    )
    found = store.concerned(addresses, node_ports=node_ports)
    assert {name.name for name in found} == concerned


def test_external_addresses_are_told_and_none_of_who_is_not_there() -> None:
    store = stored(external("external", EXTERNAL, THERE), service("web"))
    assert store.external_addresses(named("external")) == (EXTERNAL, THERE)
    assert store.external_addresses(named("web")) == ()
    assert store.external_addresses(named("none")) == ()
