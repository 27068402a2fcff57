"""`bindAddress` takes the place of the Node's first InternalIP, in its family only."""

from __future__ import annotations

import pytest

from ipvsproxy.config import NodePortAddresses, Settings
from ipvsproxy.core.surroundings import Surroundings
from ipvsproxy.kernel.fake import fresh_state
from ipvsproxy.model import Address, Family, NodeNetwork
from ipvsproxy.objects import Node

FIRST, SECOND, OTHER = map(Address.parse, ("192.0.2.1", "192.0.2.2", "2001:db8::1"))


def around(bind_address: Address | None) -> Surroundings:
    state = fresh_state()
    state.network = NodeNetwork({"eth0": frozenset({FIRST, SECOND, OTHER})})
    settings = Settings(
        node_name="n",
        bind_address=bind_address,
        node_port_addresses=NodePortAddresses(primary=True),
    )
    return Surroundings(settings, state, node=Node(name="n", addresses=(FIRST, OTHER)))


@pytest.mark.parametrize(("bound", "own"), [(None, FIRST), (SECOND, SECOND), (OTHER, FIRST)])
def test_it_is_what_source_ranges_are_held_against_and_what_primary_means(
    bound: Address | None, own: Address
) -> None:
    surroundings = around(bound)
    assert list(surroundings.primary_addresses(Family.IPV4)) == [own]
    assert list(surroundings.primary_addresses(Family.IPV6)) == [OTHER]
    assert surroundings.node_port_addresses == {
        Family.IPV4: frozenset({own}),
        Family.IPV6: frozenset({OTHER}),
    }
