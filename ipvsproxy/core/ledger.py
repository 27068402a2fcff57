"""Whose a virtual server is. The kernel says so itself; there is no state file to lose.

A virtual server is ours when the ledger (an ipset of our own that no rule uses) names it, or when
its address is on the dummy interface. Whoever came before us - kube-proxy's IPVS mode, or an older
version of us whose ledger was lost - left no ledger, so on a start without one it is filled from
what the sets say; see DESIGN's rule "own only what is ours".
"""

from __future__ import annotations

from ipvsproxy.core.firewall import CLUSTER_IP, LEDGER, frontend_member, set_name
from ipvsproxy.core.translate import SetMember
from ipvsproxy.model import Family, State, VirtualServerKey


def owns(state: State, key: VirtualServerKey) -> bool:
    """Whether this virtual server is ours to change and remove."""
    if key.address in state.addresses:
        return True
    ledger = state.members.get(set_name(LEDGER, key.family), ())
    return frontend_member(key) in ledger


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
