"""A great deal to do, in portions that can be planned and carried out one after the other.

Nothing is split but what is new and hangs on nothing else: Services of which the kernel has
nothing yet, whose addresses and ports nobody else claims, and that redirect nobody. Carried out in
whatever order, such ones are served as soon as their own portion is; all else is left for the end
and planned as one, as are changes of chains. So at a cold start the first Services do not wait for
the last, what is planned at a time is small, and others get their turn in between.

Knows what all Services want and what the kernel has; does not know who carries out, nor when.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from ipvsproxy.core.desired import Desired, Touched
from ipvsproxy.core.members import SetMember
from ipvsproxy.core.predecessors import are_others
from ipvsproxy.core.translate import Fragment
from ipvsproxy.model import State

AT_ONCE = 500
"""Virtual and real servers of a portion: some hundredths of a second of planning in a guest."""


class Portion(NamedTuple):
    """A part of what was touched."""

    touched: Touched
    last: bool
    """Whether it is the last one: that of all that has to be seen as one."""


def portions(
    touched: Touched, desired: Desired, state: State, at_once: int = AT_ONCE
) -> Iterator[Portion]:
    """Split what was touched. The last portion comes always; mostly it is the only one.

    `desired` and `state` are looked at when a portion is asked for: by then the one before it may
    have been carried out.
    """
    rest = Touched(set(touched.keys), set(touched.addresses), set(touched.members))
    if len(touched.keys) > at_once and _chains_stand(state):
        some, size = Touched(), 0
        for fragment in list(desired.fragments.values()):
            if not fragment.frontends or not _stands_alone(fragment, touched, desired, state):
                continue
            some.keys.update(frontend.key for frontend in fragment.frontends)
            some.members.update(_members(fragment) & touched.members)
            size += sum(1 + len(frontend.real_servers) for frontend in fragment.frontends)
            if size >= at_once:
                rest.keys -= some.keys
                rest.members -= some.members
                yield Portion(some, last=False)
                some, size = Touched(), 0
    yield Portion(rest, last=True)


def _chains_stand(state: State) -> bool:
    """Whether our chains are there: no address is bound before the rules for its clients."""
    return all(one.chains and not are_others(one) for one in state.rulesets.values())


def _stands_alone(fragment: Fragment, touched: Touched, desired: Desired, state: State) -> bool:
    """Whether all that a Service wants is new, its own, and leads nowhere else."""
    return all(
        frontend.key in touched.keys
        and frontend.key not in state.virtual_servers
        and desired.held.get(frontend.key) == frontend
        and desired.claimants(frontend.key) == (fragment.name,)
        and frontend.redirect is None
        and (
            not frontend.bind
            or all(
                desired.claimants(other) == (fragment.name,)
                for other in desired.behind(frontend.key.address)
            )
        )
        for frontend in fragment.frontends
    )


def _members(fragment: Fragment) -> frozenset[SetMember]:
    return fragment.members.union(*(frontend.members for frontend in fragment.frontends))
