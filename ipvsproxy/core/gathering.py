"""The endpoints of a Service's ports, gathered slice by slice where there are many.

Knows what `endpoints` makes of all slices at once, which is what counts, and how to come to the
same from what each slice gives alone. A change mostly touches one slice of a Service, and what the
others give is kept from the translation before (`Parts`), by the identity of the slice, which is
frozen. They are put together by operations on whole dicts and sets, which take hashes that are
known already: so a change of one slice costs what that slice costs, and a little for all of them.

Where two slices have the same address and port, that does not do: then all is looked at together.

Small Services keep nothing: what takes them microseconds would take room for each of thousands.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from ipvsproxy.core.endpoints import (
    NOBODY,
    PlacedEndpoint,
    Policy,
    Selection,
    Whereabouts,
    gather,
    select,
)
from ipvsproxy.model import Family, Protocol, RealServerKey
from ipvsproxy.objects import Endpoint, EndpointSlice, ServicePort

LARGE = 200
"""More endpoints than these, in several slices, and what each slice gives is kept."""
_FEW = 64
"""So many changes are made in a sorted list one by one; more, and it is sorted anew."""


def is_large(slices: Sequence[EndpointSlice]) -> bool:
    """Whether it is worth it to keep what each of these slices gives."""
    return len(slices) > 1 and sum(len(part.endpoints) for part in slices) > LARGE


class _Part(NamedTuple):
    """What one slice gives for one port; the sets are subsets of `placed`."""

    origin: EndpointSlice
    placed: dict[RealServerKey, PlacedEndpoint]
    unready: frozenset[RealServerKey]
    last_resort: frozenset[RealServerKey]
    """Those that are not ready, and serve while they terminate."""
    local: frozenset[RealServerKey]
    """Those of this node."""
    by_node: frozenset[RealServerKey] | None
    """The ready ones whose hints mean this node; None: some ready one has no such hint."""
    by_zone: frozenset[RealServerKey] | None
    """The same of zones."""


class _Order(NamedTuple):
    """The real servers that serve under a policy, and the same sorted."""

    members: frozenset[RealServerKey]
    order: list[RealServerKey]


class _Which(NamedTuple):
    """Whose endpoints they are, and as seen from where."""

    port_name: str
    protocol: Protocol
    family: Family
    here: Whereabouts


class _Kept(NamedTuple):
    """What is kept of one port and family."""

    parts: dict[str, _Part]
    """By the name of the slice, in its order."""
    orders: dict[Policy, _Order]


class Gathered:
    """The endpoints of one port and family of a Service, all slices looked at at once."""

    def __init__(self, placed: Mapping[RealServerKey, PlacedEndpoint], here: Whereabouts) -> None:
        """Take what `endpoints.gather` gives, as seen from `here`."""
        self.placed = placed
        """All endpoints, whether or not they are used."""
        self._here = here

    def select(self, policy: Policy) -> Selection:
        """Choose the endpoints that serve under a policy."""
        return select(self.placed, policy, self._here)

    def in_order(self, serving: frozenset[RealServerKey], policy: Policy) -> list[RealServerKey]:
        """Sort those that serve under a policy."""
        del policy  # the order before this one is not known
        return sorted(serving)

    def local(self) -> Collection[RealServerKey]:
        """Give the endpoints of this node, ready or not."""
        name = self._here.node_name
        return [one for one, placed in self.placed.items() if placed.endpoint.node_name == name]


class _InParts(Gathered):
    """The same where no two slices have an endpoint in common."""

    def __init__(
        self,
        placed: Mapping[RealServerKey, PlacedEndpoint],
        here: Whereabouts,
        kept: _Kept,
        before: Mapping[Policy, _Order],
    ) -> None:
        super().__init__(placed, here)
        self._parts = kept.parts.values()
        self._orders, self._orders_before = kept.orders, before
        self._unready = _union(part.unready for part in self._parts)

    def select(self, policy: Policy) -> Selection:
        everybody = frozenset(self.placed)
        ready = everybody - self._unready if self._unready else everybody
        serving = self._chosen(ready, policy) or self._last_resort(policy)
        if serving is everybody:
            return Selection(serving, NOBODY, NOBODY)
        displaced = NOBODY if serving is ready else ready - serving
        return Selection(serving, displaced or NOBODY, self._unready - serving or NOBODY)

    def in_order(self, serving: frozenset[RealServerKey], policy: Policy) -> list[RealServerKey]:
        before = self._orders_before.get(policy)
        order = sorted(serving) if before is None else _edited(before, serving)
        self._orders[policy] = _Order(serving, order)
        return order

    def local(self) -> Collection[RealServerKey]:
        return _union(part.local for part in self._parts)

    def _chosen(self, ready: frozenset[RealServerKey], policy: Policy) -> frozenset[RealServerKey]:
        """Choose among the ready ones; nobody where none is."""
        if policy is Policy.LOCAL:
            return _union(part.local - part.unready for part in self._parts)
        by_node = _hinted([part.by_node for part in self._parts])
        return by_node or _hinted([part.by_zone for part in self._parts]) or ready

    def _last_resort(self, policy: Policy) -> frozenset[RealServerKey]:
        if policy is Policy.LOCAL:
            return _union(part.last_resort & part.local for part in self._parts)
        return _union(part.last_resort for part in self._parts)


class Parts:
    """What the slices of one Service give, kept from one translation to the next.

    A memory of what follows from the slices alone: without it everything is the same, and later.
    """

    def __init__(self) -> None:
        self._kept: dict[_Which, _Kept] = {}
        self._before: dict[_Which, _Kept] = {}

    def begin(self) -> None:
        """Begin a translation: what it does not ask for is forgotten."""
        self._before, self._kept = self._kept, {}

    def gather(
        self,
        slices: Sequence[EndpointSlice],
        port: ServicePort,
        family: Family,
        here: Whereabouts,
        *,
        present: Collection[RealServerKey] = (),
    ) -> Gathered:
        """Gather the endpoints of one port and family; `present` are in the kernel for them.

        Real servers that were there before, or are in the kernel at the start, are named by the
        same objects: those are told to be equal at a glance, wherever what is wanted is compared
        with what was, and with what is there.
        """
        which = _Which(port.name, port.protocol, family, here)
        before = self._before.pop(which, None)
        known = before.parts if before is not None else {}
        named = {one: one for one in present} if before is None else {}
        kept = self._kept[which] = _Kept(
            {
                one.name: _part_of(one, which, known.get(one.name), named)
                for one in sorted(slices, key=_name)
                if one.family is family
            },
            {},
        )
        placed: dict[RealServerKey, PlacedEndpoint] = {}
        for part in kept.parts.values():
            placed.update(part.placed)
        if len(placed) == sum(len(part.placed) for part in kept.parts.values()):
            return _InParts(placed, here, kept, before.orders if before is not None else {})
        return gather_all(slices, port, family, here)


def gather_all(
    slices: Iterable[EndpointSlice], port: ServicePort, family: Family, here: Whereabouts
) -> Gathered:
    """Gather the endpoints of one port and family from all slices at once."""
    return Gathered(_gather(slices, _Which(port.name, port.protocol, family, here)), here)


def _gather(slices: Iterable[EndpointSlice], which: _Which) -> dict[RealServerKey, PlacedEndpoint]:
    return gather(
        slices,
        port_name=which.port_name,
        protocol=which.protocol,
        family=which.family,
        node_name=which.here.node_name,
    )


def _part_of(
    origin: EndpointSlice,
    which: _Which,
    before: _Part | None,
    named: Mapping[RealServerKey, RealServerKey],
) -> _Part:
    """Give what a slice gives, as it was `before` where it is the same slice.

    `named`: the objects that real servers are named by, where there was none before.
    """
    if before is not None:
        if before.origin is origin:
            return before
        named = {one: one for one in before.placed}
    placed = _gather((origin,), which)
    if named:
        placed = {named.get(one, one): endpoint for one, endpoint in placed.items()}
    ready = {one: found.endpoint for one, found in placed.items() if found.endpoint.ready}
    unready = frozenset(one for one in placed if one not in ready)
    here = which.here
    return _Part(
        origin,
        placed,
        unready or NOBODY,
        frozenset(one for one in unready if _is_last_resort(placed[one].endpoint)) or NOBODY,
        frozenset(
            one for one, found in placed.items() if found.endpoint.node_name == here.node_name
        )
        or NOBODY,
        _meant_for(here.node_name, {one: found.node_hints for one, found in ready.items()}),
        _meant_for(here.zone, {one: found.zone_hints for one, found in ready.items()}),
    )


def _is_last_resort(endpoint: Endpoint) -> bool:
    return endpoint.serving and endpoint.terminating


def _meant_for(
    place: str | None, hints: Mapping[RealServerKey, tuple[str, ...]]
) -> frozenset[RealServerKey] | None:
    """Give those that are meant for a place; None: not all have hints, or it is not known."""
    if place is None or not all(hints.values()):
        return None
    return frozenset(one for one, places in hints.items() if place in places) or NOBODY


def _hinted(parts: Sequence[frozenset[RealServerKey] | None]) -> frozenset[RealServerKey]:
    """Give those that are meant for here; nobody where the hints are not usable."""
    usable = [part for part in parts if part is not None]
    return _union(usable) if len(usable) == len(parts) else NOBODY


def _union(parts: Iterable[frozenset[RealServerKey]]) -> frozenset[RealServerKey]:
    """Put sets together of which most are empty."""
    return NOBODY.union(*(part for part in parts if part))


def _edited(before: _Order, members: frozenset[RealServerKey]) -> list[RealServerKey]:
    """Sort what differs little from what was sorted before."""
    changed = before.members ^ members
    if len(changed) > _FEW:
        return sorted(members)
    order = before.order.copy()
    for one in changed:
        if one in members:
            insort(order, one)
        else:
            del order[bisect_left(order, one)]
    return order


def _name(part: EndpointSlice) -> str:
    return part.name
