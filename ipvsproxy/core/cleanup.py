"""What it takes to leave no trace: the batch that removes all that is ours, and nothing else.

In the order in which nothing serves half: rules first (a set that a rule uses cannot go), then the
addresses with their interface, then the virtual servers, then the sets, the ledger last, so that a
clean-up that was interrupted still knows what is ours.
"""

from __future__ import annotations

from collections.abc import Collection

from ipvsproxy.core.firewall import LEDGER, set_name, set_specs
from ipvsproxy.core.ledger import adopt, owns
from ipvsproxy.core.operations import (
    DestroySet,
    RemoveLink,
    RemoveVirtualServer,
    ReplaceChains,
)
from ipvsproxy.core.plan import Batch, Step
from ipvsproxy.model import Family, Network, Ruleset, State


def cleanup(state: State, exclude: Collection[Network] = ()) -> Batch:
    """Give the batch that removes our chains, interface, virtual servers and sets.

    Virtual servers with an address in `exclude` stay, as excludeCIDRs asks for.
    """
    steps: list[Step] = []
    for family, found in state.rulesets.items():
        if found != Ruleset():
            steps.append(Step(ReplaceChains(family, Ruleset(), found)))
    rules = tuple(range(len(steps)))
    if state.link:
        steps.append(Step(RemoveLink()))
    adopted = {member for _, member in adopt(state)}
    first = len(steps)
    steps.extend(
        Step(RemoveVirtualServer(key))
        for key in sorted(state.virtual_servers)
        if (owns(state, key) or (key.address, key.protocol, key.port) in adopted)
        and not any(key.address in network for network in exclude)
    )
    virtual_servers = tuple(range(first, len(steps)))
    ledgers = {set_name(LEDGER, family) for family in Family}
    for name in set_specs(Family, 0):
        if name in state.sets:
            needs = (*rules, *virtual_servers) if name in ledgers else rules
            steps.append(Step(DestroySet(name), needs=needs))
    return Batch(tuple(steps))
