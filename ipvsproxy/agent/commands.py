"""The commands that end by themselves: `run --once`, plan, cleanup, status, explain.

Each opens the kernel, does its work with the parts that `run` uses too, and closes the kernel; what
it returns is a value that `cli` prints. Only `run_once` and the three that clean up write anything.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing

import structlog

from ipvsproxy.agent.lock import only_agent, refuse_beside_kube_proxy
from ipvsproxy.agent.sources import open_source
from ipvsproxy.agent.wiring import Wiring, wire
from ipvsproxy.config import Settings
from ipvsproxy.core import foreign
from ipvsproxy.core.cleanup import cleanup as core_cleanup
from ipvsproxy.core.foundation import WATCHED_SYSCTLS
from ipvsproxy.core.hand_over import hand_over as core_hand_over
from ipvsproxy.core.ledger import Ownership
from ipvsproxy.core.operations import describe
from ipvsproxy.core.plan import Batch
from ipvsproxy.core.predecessors import Predecessor
from ipvsproxy.core.question import Place, Who
from ipvsproxy.core.take_over import lost_node_port_addresses
from ipvsproxy.http import ask_agent
from ipvsproxy.kernel.dry_run import DryRunDataplane
from ipvsproxy.kernel.foreign import Foreign
from ipvsproxy.kernel.linux import LinuxDataplane
from ipvsproxy.kernel.process import Processes
from ipvsproxy.model import State
from ipvsproxy.reconciler.writer import Writer
from ipvsproxy.telemetry import CleanupReport, PlanReport, StatusTable, status_table
from ipvsproxy.telemetry.explanations import ExplainReport, explain_report

log = structlog.get_logger(__name__)

_WAITS = "not tried, because what has to go before it is still there"
_MOST_CYCLES = 20
"""Of one synchronisation: it takes two, and one more for each fall-back that the kernel forces."""


async def run_once(settings: Settings) -> int:
    """Synchronise once; returns 0 when everything is as asked for, 1 when something is not."""
    with only_agent():
        await refuse_beside_kube_proxy(settings)
        async with _kernel(settings) as dataplane:
            wiring = wire(settings, dataplane)
            await _synchronise(wiring, settings)
    if len(wiring.conditions) or not wiring.store.listed:
        log.error("not all is as asked for", problems=len(wiring.conditions))
        return 1
    return 0


async def plan(settings: Settings) -> PlanReport:
    """Say what `run` would change, and change nothing."""
    async with _kernel(settings) as dataplane:
        found = await dataplane.dump()
        dry = DryRunDataplane(dataplane)
        wiring = wire(settings, dry)
        await _synchronise(wiring, settings)
    return PlanReport(
        operations=tuple(describe(operation) for operation in dry.recorded),
        problems=tuple(f"{one.subject}: {one.message}" for one in wiring.conditions),
        whole=wiring.store.whole,
        lost_node_port_addresses=tuple(
            map(str, lost_node_port_addresses(settings, found, wiring.store.node))
        ),
    )


async def cleanup(settings: Settings, *, dry_run: bool = False) -> CleanupReport:
    """Remove all that is ours from the kernel, and nothing else; with `dry_run`, only say what.

    Raises AnotherAgentError beside a running agent or kube-proxy, whose work this would undo.
    """
    return await _carry_out(
        settings, lambda state: core_cleanup(state, settings.exclude_cidrs), dry_run=dry_run
    )


async def hand_over(settings: Settings, *, dry_run: bool = False) -> CleanupReport:
    """Make what stands such that kube-proxy can be started; with `dry_run`, only say how.

    Raises AnotherAgentError as `cleanup` does.
    """
    return await _carry_out(settings, core_hand_over, dry_run=dry_run)


async def clean_up_after(
    settings: Settings, predecessor: Predecessor, *, dry_run: bool = False
) -> CleanupReport:
    """Remove what another proxy left and is its own; with `dry_run`, only say what.

    Meant for beside a running agent, or after `run --once`: where ours does not serve yet, nothing
    is removed, and the report says why. Raises AnotherAgentError beside a live kube-proxy.
    """
    async with _kernel(settings) as dataplane:
        state = await dataplane.dump()
    found = foreign.obstacle(predecessor, state)
    if not found and not dry_run:
        await refuse_beside_kube_proxy(settings)
    with closing(Foreign(Processes(), settings.iptables_backend)) as traces:
        removals = foreign.removals(predecessor, await asyncio.to_thread(traces.read))
        if found and removals:
            return CleanupReport(refused=(f"nothing of {predecessor} is removed: {found}",))
        if dry_run:
            return CleanupReport(tuple(map(foreign.describe, removals)))
        outcomes = [await asyncio.to_thread(traces.remove, removal) for removal in removals]
    answers = list(zip(map(foreign.describe, removals), outcomes, strict=True))
    return CleanupReport(
        operations=tuple(text for text, outcome in answers if outcome.refusal is None),
        refused=tuple(
            f"{text}: {outcome.reason}" for text, outcome in answers if outcome.refusal is not None
        ),
    )


async def status(settings: Settings) -> StatusTable:
    """Show what the kernel has of ours, and what the running agent knows of it."""
    async with _kernel(settings) as dataplane:
        state = await dataplane.dump()
        owned = Ownership(state)
        ours = [key for key in state.virtual_servers if key in owned]
        readings = await dataplane.read(ours)
    agent = await ask_agent(settings.metrics_bind_address)
    found = {key: reading for key, reading in readings.items() if reading is not None}
    return status_table(found, agent)


async def explain(settings: Settings, who: Who | None, target: Place | str) -> ExplainReport:
    """Say what happens to packets, from the tables that are in the kernel now.

    `who` None: one from outside, one from a pod, one from the node. `target` is a place, or the
    NAMESPACE/NAME of a Service: then all frontends that the running agent has for it.
    """
    async with _kernel(settings) as dataplane:
        state = await dataplane.dump()
    agent = await ask_agent(settings.metrics_bind_address)
    return explain_report(state, settings, who, target, agent)


async def _carry_out(
    settings: Settings, decide: Callable[[State], Batch], *, dry_run: bool
) -> CleanupReport:
    """Carry out what is decided about the kernel as it is now, with nobody else at work."""
    async with _kernel(settings) as dataplane:
        if dry_run:
            batch = decide(await dataplane.dump())
            return CleanupReport(tuple(describe(step.operation) for step in batch.steps))
        with only_agent():
            await refuse_beside_kube_proxy(settings)
            writer = Writer(dataplane, time.monotonic)
            await writer.dump()
            batch = decide(writer.state)
            written = await writer.carry_out([batch])
    reasons = {refused.operation: refused.outcome.reason for refused in written.refused}
    undone = dict.fromkeys(written.undone)
    return CleanupReport(
        operations=tuple(
            describe(step.operation) for step in batch.steps if step.operation not in undone
        ),
        refused=tuple(
            f"{describe(operation)}: {reasons.get(operation, _WAITS)}" for operation in undone
        ),
    )


async def _synchronise(wiring: Wiring, settings: Settings) -> None:
    """Take in one complete reading of the source and carry out all that follows from it."""
    async with open_source(settings) as (source, _):
        async for event in source.once():
            wiring.take(event)
            source.need_nodes(needed=wiring.store.needs_nodes)
            source.need_pods(needed=wiring.store.needs_pods)
    for _ in range(_MOST_CYCLES):
        await wiring.reconciler.cycle()
        if not wiring.reconciler.busy:
            return


@asynccontextmanager
async def _kernel(settings: Settings) -> AsyncIterator[LinuxDataplane]:
    dataplane = LinuxDataplane(WATCHED_SYSCTLS, settings.iptables_backend, used=time.thread_time)
    try:
        yield dataplane
    finally:
        await dataplane.close()
