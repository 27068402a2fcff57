"""Whose a virtual server is. The kernel says so itself; there is no state file to lose.

A virtual server is ours when the ledger (an ipset of our own that no rule uses) names it, or when
its address is on the dummy interface and the ledger knows nothing of that address: then somebody
before us has bound it. (Where we have bound it ourselves, another port of it may be anybody's; see
docs/adr/0008-ownership.md.) Whoever came before us - kube-proxy's IPVS mode, or an older
version of us whose ledger was lost - left no ledger, so on a start without one it is filled from
what the sets say; see DESIGN's rule "own only what is ours".
"""

from __future__ import annotations

from functools import cached_property

from ipvsproxy.core.firewall import CLUSTER_IP, LEDGER, frontend_member, set_name
from ipvsproxy.core.translate import SetMember
from ipvsproxy.model import Address, Family, IpPortMember, State, VirtualServerKey


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
    """Give the ledger entries that a start without a ledger has to write first.

    Empty when a ledger with members is there. Only virtual servers that exist are adopted: those
    that the predecessor's sets name, or whose address is on the dummy interface.
    """
    if any(state.members.get(set_name(LEDGER, family)) for family in Family):
        return frozenset()
    named = {
        member
        for family in state.families
        for member in state.members.get(set_name(CLUSTER_IP, family), ())
    }
    return frozenset(
        (set_name(LEDGER, key.family), frontend_member(key))
        for key in state.virtual_servers
        if key.family in state.families
        and (key.address in state.addresses or frontend_member(key) in named)
    )
