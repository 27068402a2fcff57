"""What a glance at the kernel gives reason to doubt, as a comparison of values.

Knows the shadow and what a glance says; reads nothing and decides nothing. The numbers of a glance
count more than the shadow has: virtual servers by firewall mark, addresses of all interfaces. How
many of those there are is learned when the shadow is known to be true (`unseen`), and only a change
of it is a reason to doubt.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from enum import Enum
from operator import attrgetter
from typing import NamedTuple

from ipvsproxy.core.sets import OWN_SET_PREFIXES
from ipvsproxy.dataplane import Glance
from ipvsproxy.model import Address, State

__all__ = ["Doubt", "Numbers", "doubts", "numbers", "unseen", "watched_sets"]

_IPV4_BYTES = 4
_address = attrgetter("address")


class Doubt(Enum):
    """Where the shadow may be wrong."""

    ADDRESSES = "addresses"
    """There are more or fewer, and they need not be ours."""
    TABLES = "tables"
    """Something is gone or was changed, or there is a virtual server more or less."""


class Numbers(NamedTuple):
    """How many there are of IPv4; None: the kernel does not say."""

    virtual_servers: int | None
    addresses: int | None


def numbers(state: State) -> Numbers:
    """Count what the shadow has of IPv4; in proportion to its size."""
    return Numbers(_of_ipv4(map(_address, state.virtual_servers)), _of_ipv4(state.addresses))


def unseen(glance: Glance, known: Numbers) -> Numbers:
    """Say how many there are in the kernel beside those that are known."""
    return Numbers(
        _beside(glance.ipv4_virtual_servers, known.virtual_servers),
        _beside(glance.ipv4_addresses, known.addresses),
    )


def watched_sets(state: State) -> list[str]:
    """Give the names of the sets that have to be there."""
    return [name for name in state.sets if name.startswith(OWN_SET_PREFIXES)]


def doubts(
    state: State, glance: Glance, *, sets: Collection[str], before: Numbers, now: Numbers
) -> Doubt | None:
    """Say where the shadow may be wrong, the worse first; None: nowhere that was looked at.

    `sets` were asked for. `before` is what was unseen when the shadow was known to be true, `now`
    what is.
    """
    found = glance.virtual_servers.items()
    if (
        glance.link != state.link
        or any(server != state.virtual_servers.get(key) for key, server in found)
        or not glance.sets.issuperset(sets)
        or now.virtual_servers != before.virtual_servers
    ):
        return Doubt.TABLES
    return Doubt.ADDRESSES if now.addresses != before.addresses else None


def _of_ipv4(addresses: Iterable[Address]) -> int:
    """Count, without a call of ours for each."""
    return sum(map(_IPV4_BYTES.__eq__, map(len, addresses)))


def _beside(found: int | None, known: int | None) -> int | None:
    return None if found is None or known is None else found - known
