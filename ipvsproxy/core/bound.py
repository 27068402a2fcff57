"""For which virtual servers each service address must be on the dummy interface.

Knows keys only. Behind most addresses there is one virtual server, or a few: those are a tuple. A
dict for each of thousands of addresses would take four times the room; it is kept where there are
many behind an address, for a Service may have thousands of ports.
"""

from __future__ import annotations

from typing import TypeAlias

from ipvsproxy.model import Address, VirtualServerKey

_Behind: TypeAlias = tuple[VirtualServerKey, ...] | dict[VirtualServerKey, None]

_FEW = 8
"""So many are looked through as quickly as a dict."""


class Bound:
    """The addresses that are wanted on the dummy interface, and what stands behind each."""

    def __init__(self) -> None:
        self._behind: dict[Address, _Behind] = {}

    def __contains__(self, address: Address) -> bool:
        return address in self._behind

    def behind(self, address: Address) -> tuple[VirtualServerKey, ...]:
        """Give the virtual servers for which an address must be there, in the order they came."""
        return tuple(self._behind.get(address, ()))

    def add(self, key: VirtualServerKey) -> None:
        """Have the address of a virtual server bound for it."""
        behind = self._behind.get(key.address, ())
        if key in behind:
            return
        if isinstance(behind, tuple) and len(behind) < _FEW:
            self._behind[key.address] = (*behind, key)
            return
        many = dict.fromkeys(behind) if isinstance(behind, tuple) else behind
        many[key] = None
        self._behind[key.address] = many

    def discard(self, key: VirtualServerKey) -> None:
        """Have the address of a virtual server bound for it no longer."""
        behind = self._behind.get(key.address, ())
        if isinstance(behind, tuple):
            behind = tuple(one for one in behind if one != key)
        else:
            behind.pop(key, None)
        if behind:
            self._behind[key.address] = behind
        else:
            self._behind.pop(key.address, None)
