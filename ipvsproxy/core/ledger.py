"""Whose a virtual server is. The kernel says so itself; there is no state file to lose.

A virtual server is ours when the ledger (an ipset of our own that no rule uses) names it, or when
its address is on the dummy interface and the ledger knows nothing of that address: then somebody
before us has bound it. (Where we have bound it ourselves, another port of it may be anybody's; see
docs/adr/0008-ownership.md.) Whoever came before us - kube-proxy's IPVS mode, kube-router's service
proxy, or an older version of us whose ledger was lost - left no ledger, so on a start without one
it is filled from what the sets say; see ADR 0008.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

from ipvsproxy.core.members import SetMember
from ipvsproxy.core.predecessors import KUBE_ROUTER_FRONTENDS, are_others
from ipvsproxy.core.sets import FRONTEND_SETS, LEDGER, NODE_PORT, frontend_member, set_name
from ipvsproxy.model import Address, Family, IpPortMember, PortMember, State, VirtualServerKey


class Ownership:
    """Whose the virtual servers of one state are; good for as long as that state stands."""

    def __init__(self, state: State) -> None:
        self._state = state

    def __contains__(self, key: VirtualServerKey) -> bool:
        """Whether this virtual server is ours to change and remove."""
        if frontend_member(key) in self._state.members.get(set_name(LEDGER, key.family), ()):
            return True
        return key.address in self._state.addresses and key.address not in self._served

    @cached_property
    def _served(self) -> frozenset[Address]:
        """Addresses that the ledger knows: we bound them, so it says whose each port is."""
        return frozenset(
            member.address
            for family in Family
            for member in self._state.members.get(set_name(LEDGER, family), ())
            if isinstance(member, IpPortMember)
        )


def adopt(state: State) -> frozenset[SetMember]:
    """Give the ledger entries that a start after another proxy has to write first.

    Without a ledger all that such a proxy has left is adopted: virtual servers that exist, and that
    its sets name - a NodePort by its number, at an address of the node - or whose address is on
    the dummy interface. With one, those that a kube-proxy has named since, where it was the last to
    write the chains: somebody has gone back to it for a while. Else nothing.
    """
    listed = any(state.members.get(set_name(LEDGER, family)) for family in Family)
    if listed and not any(map(are_others, state.rulesets.values())):
        return frozenset()
    return frozenset(
        (set_name(LEDGER, key.family), frontend_member(key))
        for key in state.virtual_servers
        if key.family in state.families
        and frontend_member(key) not in state.members.get(set_name(LEDGER, key.family), ())
        and ((key.address in state.addresses and not listed) or any(_named(key, state)))
    )


def claimed(state: State) -> Iterator[VirtualServerKey]:
    """Give the virtual servers that are ours, and those to be adopted; all others are others'."""
    owned = Ownership(state)
    adopted = {member for _, member in adopt(state)}
    for key in state.virtual_servers:
        if key in owned or frontend_member(key) in adopted:
            yield key


def _named(key: VirtualServerKey, state: State) -> Iterator[bool]:
    member = frontend_member(key)
    names = (set_name(base, key.family) for base in FRONTEND_SETS)
    for name in (*names, *KUBE_ROUTER_FRONTENDS[key.family]):
        yield member in state.members.get(name, ())
    if key.address in state.network.addresses:
        ports = state.members.get(set_name(NODE_PORT[key.protocol], key.family), ())
        yield PortMember(key.port) in ports
