"""The difference between what is wanted and what the kernel has, as an ordered batch.

`plan` compares a `Target` with a `State` and gives steps: each an operation, with the steps that
it has to wait for. Whoever carries the batch out sends only steps whose conditions hold, so that
stopping after any single operation leaves a state that serves (make, switch, break):

    make    sets -> members -> chains -> virtual servers -> real servers added and raised
    switch  redirections, when what they lead to stands -> who is not redirected is shut out
            addresses bound, when what stands behind them has been answered -> redirections led
            to what is bound now; and only here our chains, where others serve without IPVS
    break   real servers lowered, when another serves -> removed -> masquerading ended
            addresses unbound -> virtual servers removed -> their members removed

The batch is minimal: nothing equal is written, nothing is touched twice, no real server is removed
whose virtual server goes. Nothing here is remembered: what fails is still different next time.

    steps     the values Step and Batch, the draft of one batch
    target    what is wanted
    ground    sysctls, the dummy interface, sets, chains
    members   set members, each at the time that its role allows
    servers   virtual servers, real servers, addresses
"""

from __future__ import annotations

from ipvsproxy.core.pieces import FEW, Pieces, cut, whole
from ipvsproxy.core.plan.ground import GROUND, Ground
from ipvsproxy.core.plan.members import Members
from ipvsproxy.core.plan.servers import Servers
from ipvsproxy.core.plan.steps import Batch, Draft, Step
from ipvsproxy.core.plan.target import Target
from ipvsproxy.model import State

__all__ = ["GROUND", "Batch", "Step", "Target", "plan", "plan_in_pieces"]


def plan(target: Target, state: State, seed: bytes = b"") -> Batch:
    """Give the batch that makes the kernel, now `state`, what `target` wants.

    `seed` (the node's name) spreads the order in which real servers are added, so that not every
    node's round starts with the same endpoint.
    """
    return whole(plan_in_pieces(target, state, seed))


def plan_in_pieces(target: Target, state: State, seed: bytes) -> Pieces[Batch]:
    """Do what `plan` does; target and state must not change meanwhile."""
    draft = Draft(target, state)
    ground, members, servers = Ground(draft), Members(draft), Servers(draft, seed)
    wanted = sorted((key, one) for key, one in target.virtual_servers.items() if one is not None)
    rules = len(target.redirections.all())
    yield from members.compare()
    ground.lay(members.coming)
    yield rules
    yield from members.admit()
    ground.lead_in()
    yield rules
    for some in cut(wanted, FEW):
        for key, one in some:
            servers.make(key, one)
        yield 4 * len(some)
    yield from servers.bind_targets()
    yield from members.switch()
    yield from servers.bind()
    ground.switch()
    ground.lead_elsewhere()
    yield rules
    for some in cut(wanted, FEW):
        for key, one in some:
            servers.shrink(key, one)
        yield 3 * len(some)
    yield from servers.unbind()
    members.bare()
    for key in sorted(target.virtual_servers):
        if target.virtual_servers[key] is None and key in state.virtual_servers:
            servers.remove(key)
            yield 1
    servers.forget_flows()
    yield from members.remove()
    ground.clear()
    return Batch(tuple(draft.steps))
