"""When all Nodes have to be known: for addresses that may be another node's."""

from __future__ import annotations

import pytest

from ipvsproxy.config import Settings
from ipvsproxy.core.frontends import places
from ipvsproxy.core.problem import ProblemKind
from ipvsproxy.core.surroundings import Surroundings
from ipvsproxy.kernel.fake import fresh_state
from ipvsproxy.model import Address, Protocol
from ipvsproxy.objects import Node, ObjectReference, Service, ServiceName, ServicePort
from ipvsproxy.store import Gone, Put, Store

NODE = Node("node-a", addresses=(Address.parse("192.168.50.11"), Address.parse("fd00:50::11")))
NEAR, FAR = "192.168.99.7", "203.0.113.10"


def load_balancer(address: str) -> Service:
    return Service(
        ServiceName("shop", "web"),
        type="LoadBalancer",
        cluster_ips=(Address.parse("10.96.0.10"), Address.parse("fd00:96::10")),
        ingress_ips=(Address.parse(address),),
        ports=(ServicePort("", Protocol.TCP, 80),),
    )


@pytest.mark.parametrize(
    ("address", "needed"),
    [(NEAR, True), (FAR, False), ("fd00:50::99", True), ("fd00:51::99", False)],
)
@pytest.mark.parametrize("node_first", [True, False])
def test_a_load_balancers_address_near_the_node_makes_all_nodes_needed(
    address: str, needed: bool, node_first: bool
) -> None:
    store = Store("node-a")
    objects: list[Service | Node] = [NODE, load_balancer(address)]
    for one in objects if node_first else reversed(objects):
        store.apply(Put(one, "here"))
    assert store.needs_nodes is needed
    store.apply(Gone(ObjectReference("Service", "shop", "web")))
    assert not store.needs_nodes


@pytest.mark.parametrize(("address", "waits"), [(NEAR, True), (FAR, False)])
def test_it_waits_for_the_nodes_only_where_it_may_be_one_of_theirs(
    address: str, waits: bool
) -> None:
    around = Surroundings(Settings(node_name="node-a"), fresh_state(), node=NODE, nodes_known=False)
    found = places(load_balancer(address), around, frozenset())
    served = {str(place.key.address) for place in found.places}
    assert (address not in served) is waits
    assert [problem.kind for problem in found.problems] == [ProblemKind.NODES_UNKNOWN] * waits


def test_what_was_served_goes_on_while_the_nodes_are_not_known() -> None:
    around = Surroundings(Settings(node_name="node-a"), fresh_state(), node=NODE, nodes_known=False)
    service = load_balancer(NEAR)
    known = Surroundings(Settings(node_name="node-a"), fresh_state(), node=NODE)
    before = frozenset(place.key for place in places(service, known, frozenset()).places)
    assert places(service, around, before) == places(service, known, before)
