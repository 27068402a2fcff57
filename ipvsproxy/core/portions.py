"""A great deal to look at, in portions that can be planned one after the other.

Nothing is split off but Services that hang on nothing else: whose addresses and ports nobody else
claims, and that redirect nobody. Of those, what the kernel has nothing of yet may be carried out
in whatever order, each portion as soon as it is planned; and what it has all of may be passed over
where it is as it should be. All else is left for the end and planned as one, as are changes of
chains. So at a cold start the first Services do not wait for the last, at a restart what is equal
is found out bit by bit, and others get their turn in between.

Knows what all Services want and what the kernel has; does not know who plans and carries out.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from typing import NamedTuple

from ipvsproxy.core.desired import Desired, Touched
from ipvsproxy.core.pieces import MANY, Cost
from ipvsproxy.core.predecessors import are_others
from ipvsproxy.core.translate import Fragment
from ipvsproxy.model import Address, State

AT_ONCE = 500
"""Virtual and real servers of a portion: some hundredths of a second of planning in a guest."""


class Sort(Enum):
    """What may be done with a portion by itself."""

    NEW = "new"
    """It may be carried out."""
    STANDING = "standing"
    """It may be passed over if nothing of it is to be done; else it is part of the rest."""
    REST = "rest"
    """All that has to be seen as one; the last one."""


class Portion(NamedTuple):
    """A part of what was touched."""

    touched: Touched
    sort: Sort


def portions(
    touched: Touched, desired: Desired, state: State, at_once: int = AT_ONCE
) -> Iterator[Portion | Cost]:
    """Split what was touched. The rest comes always, as the last one; mostly it is the only one.

    Where many Services were looked at and none was split off, what that has cost comes in between.

    `touched` is used up: what goes into a portion is taken out of it, and it is the rest in the
    end. `desired` and `state` are looked at when a portion is asked for: by then the one before it
    may have been carried out. What a virtual server waits for is in its portion, and nothing of the
    rest leads to one that is not there. So a member that others need too is in both.
    """
    if len(touched.keys) > at_once and _chains_stand(state):
        collected = {sort: (Touched(), 0) for sort in (Sort.NEW, Sort.STANDING)}
        for looked_at, fragment in enumerate(list(desired.fragments.values()), 1):
            if looked_at % MANY == 0:
                yield MANY
            sort = _sort(fragment, touched, desired, state)
            if sort is Sort.REST:
                continue
            some, size = collected[sort]
            size += _take(fragment, touched, some)
            collected[sort] = some, size
            if size >= at_once:
                collected[sort] = Touched(), 0
                touched.keys -= some.keys
                touched.addresses -= some.addresses
                touched.members -= {one for one in some.members if not desired.is_shared(one)}
                yield Portion(some, sort)
    yield Portion(touched, Sort.REST)


def _chains_stand(state: State) -> bool:
    """Whether our chains are there: no address is bound before the rules for its clients."""
    return all(one.chains and not are_others(one) for one in state.rulesets.values())


def _take(fragment: Fragment, touched: Touched, some: Touched) -> int:
    """Put of a Service what was touched into `some`; give the virtual and real servers of it."""
    size = 0
    some.members.update(touched.members.intersection(fragment.members))
    for frontend in fragment.frontends:
        some.keys.add(frontend.key)
        some.members.update(touched.members.intersection(frontend.members))
        if frontend.bind and frontend.key.address in touched.addresses:
            some.addresses.add(frontend.key.address)
        size += 1 + len(frontend.real_servers)
    return size


def _sort(fragment: Fragment, touched: Touched, desired: Desired, state: State) -> Sort:
    """Sort a Service: only one whose every virtual server is its own and leads nowhere else."""
    if not fragment.frontends:
        return Sort.REST
    held, alone, standing = desired.held, (fragment.name,), 0
    bound: set[Address] = set()  # each once, for a Service may have thousands of ports
    for frontend in fragment.frontends:
        key = frontend.key
        if (
            frontend.redirect is not None
            or key not in touched.keys
            or held.get(key) != frontend
            or desired.claimants(key) != alone
        ):
            return Sort.REST
        if frontend.bind:
            bound.add(key.address)
        standing += key in state.virtual_servers
    for address in bound:
        for other in desired.behind(address):
            if desired.claimants(other) != alone:
                return Sort.REST
    if not standing:
        return Sort.NEW
    return Sort.STANDING if standing == len(fragment.frontends) else Sort.REST
