"""What of the own Node concerns every Service."""

from __future__ import annotations

import pytest

from ipvsproxy.model import Address, Network, Protocol
from ipvsproxy.objects import Node, Service, ServiceName, ServicePort
from ipvsproxy.store import Put, Store

NODE = Node("node-a", zone="zone-a", addresses=(Address.parse("192.168.50.11"),))
SERVICE = Service(ServiceName("shop", "web"), ports=(ServicePort("", Protocol.TCP, 80),))


@pytest.mark.parametrize(
    ("changed", "dirty"),
    [
        (Node("node-a", zone="zone-b", addresses=NODE.addresses), 1),
        (Node("node-a", zone="zone-a", addresses=(Address.parse("192.168.50.12"),)), 1),
        (Node("node-a", zone="zone-a", addresses=NODE.addresses, leaving=True), 0),
        (
            Node(
                "node-a",
                zone="zone-a",
                addresses=NODE.addresses,
                pod_cidrs=(Network.parse("10.244.1.0/24"),),
            ),
            0,
        ),
    ],
)
def test_services_are_translated_again_for_what_they_depend_on(changed: Node, dirty: int) -> None:
    store = Store("node-a")
    for one in (NODE, SERVICE):
        store.apply(Put(one, "here"))
    store.take_dirty()
    revision = store.revision
    store.apply(Put(changed, "here"))
    assert (store.dirty, store.revision) == (dirty, revision + 1)
