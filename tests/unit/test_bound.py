"""For which virtual servers an address is bound, be they few or many."""

from __future__ import annotations

import pytest

from ipvsproxy.core.bound import Bound
from ipvsproxy.model import Address, Protocol, VirtualServerKey

ADDRESS = Address.parse("10.96.0.10")


@pytest.mark.parametrize("count", [1, 3, 8, 9, 40])
def test_an_address_is_bound_until_the_last_one_behind_it_goes(count: int) -> None:
    bound = Bound()
    keys = [VirtualServerKey(Protocol.TCP, ADDRESS, port) for port in range(1, count + 1)]
    for key in (*keys, *keys):
        bound.add(key)
    assert bound.behind(ADDRESS) == tuple(keys), "each once, in the order in which they came"
    for gone, key in enumerate(keys, 1):
        assert ADDRESS in bound
        bound.discard(key)
        bound.discard(key)
        assert bound.behind(ADDRESS) == tuple(keys[gone:])
    assert ADDRESS not in bound
