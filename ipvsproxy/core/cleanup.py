"""What it takes to leave no trace: the batch that removes all that is ours, and nothing else.

In the order in which nothing serves half: rules first (a set that a rule uses cannot go), then the
addresses with their interface, then the virtual servers, then the sets. What says whose a virtual
server is goes after it (the ledger, a set of a predecessor, or an address where the ledger is
silent), so that a clean-up that was interrupted still knows what is ours.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from ipvsproxy.core.firewall import CLUSTER_IP, LEDGER, frontend_member, set_name, set_specs
from ipvsproxy.core.ledger import Ownership, adopt
from ipvsproxy.core.operations import (
    DestroySet,
    RemoveLink,
    RemoveVirtualServer,
    ReplaceChains,
)
from ipvsproxy.core.plan import Batch, Step
from ipvsproxy.model import Family, Network, Ruleset, State, VirtualServerKey


def cleanup(state: State, exclude: Collection[Network] = ()) -> Batch:
    """Give the batch that removes our chains, interface, virtual servers and sets.

    Virtual servers with an address in `exclude` stay, as excludeCIDRs asks for.
    """
    steps: list[Step] = []
    for family, found in state.rulesets.items():
        if found != Ruleset():
            steps.append(Step(ReplaceChains(family, Ruleset(), found)))
    rules = tuple(range(len(steps)))
    ours = sorted(_ours(state, exclude))
    first = len(steps)
    steps.extend(Step(RemoveVirtualServer(key)) for key in ours if not _listed(state, key))
    if state.link:
        # Its addresses are all that says whose those are which the ledger does not name.
        steps.append(Step(RemoveLink(), needs=tuple(range(first, len(steps)))))
    steps.extend(Step(RemoveVirtualServer(key)) for key in ours if _listed(state, key))
    virtual_servers = tuple(
        position
        for position, step in enumerate(steps)
        if isinstance(step.operation, RemoveVirtualServer)
    )
    telling = {set_name(base, family) for base in (LEDGER, CLUSTER_IP) for family in Family}
    for name in set_specs(Family, 0):
        if name in state.sets:
            needs = (*rules, *virtual_servers) if name in telling else rules
            steps.append(Step(DestroySet(name), needs=needs))
    return Batch(tuple(steps))


def _ours(state: State, exclude: Collection[Network]) -> Iterator[VirtualServerKey]:
    owned = Ownership(state)
    adopted = {member for _, member in adopt(state)}
    for key in state.virtual_servers:
        excluded = any(key.address in network for network in exclude)
        if not excluded and (key in owned or frontend_member(key) in adopted):
            yield key


def _listed(state: State, key: VirtualServerKey) -> bool:
    return frontend_member(key) in state.members.get(set_name(LEDGER, key.family), ())
