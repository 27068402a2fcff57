"""The commands that end by themselves: `run --once`, plan, cleanup, status, explain.

Each opens the kernel, does its work with the parts that `run` uses too, and closes the kernel; what
it returns is a value that `cli` prints. None but `run_once` and `cleanup` writes anything.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog

from ipvsproxy.agent.lock import only_agent, refuse_beside_kube_proxy
from ipvsproxy.agent.sources import open_source
from ipvsproxy.agent.wiring import Wiring, wire
from ipvsproxy.config import Settings
from ipvsproxy.core import cleanup as core_cleanup
from ipvsproxy.core.foundation import WATCHED_SYSCTLS
from ipvsproxy.core.ledger import Ownership
from ipvsproxy.core.operations import describe
from ipvsproxy.core.question import Place, Who
from ipvsproxy.http import ask_agent
from ipvsproxy.kernel.fake import DryRunDataplane
from ipvsproxy.kernel.linux import LinuxDataplane
from ipvsproxy.reconciler.writer import Writer
from ipvsproxy.telemetry import (
    CleanupReport,
    ExplainReport,
    PlanReport,
    StatusTable,
    explain_report,
    status_table,
)

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
        dry = DryRunDataplane(dataplane)
        wiring = wire(settings, dry)
        await _synchronise(wiring, settings)
    return PlanReport(
        operations=tuple(describe(operation) for operation in dry.recorded),
        problems=tuple(f"{one.subject}: {one.message}" for one in wiring.conditions),
        whole=wiring.store.whole,
    )


async def cleanup(settings: Settings, *, dry_run: bool = False) -> CleanupReport:
    """Remove all that is ours from the kernel, and nothing else; with `dry_run`, only say what.

    Raises AnotherAgentError beside a running agent or kube-proxy, whose work this would undo.
    """
    async with _kernel(settings) as dataplane:
        if dry_run:
            batch = core_cleanup.cleanup(await dataplane.dump(), settings.exclude_cidrs)
            return CleanupReport(tuple(describe(step.operation) for step in batch.steps))
        with only_agent():
            await refuse_beside_kube_proxy(settings)
            writer = Writer(dataplane, time.monotonic)
            await writer.dump()
            batch = core_cleanup.cleanup(writer.state, settings.exclude_cidrs)
            written = await writer.carry_out(batch)
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


async def _synchronise(wiring: Wiring, settings: Settings) -> None:
    """Take in one complete reading of the source and carry out all that follows from it."""
    async with open_source(settings) as (source, _):
        async for event in source.once():
            wiring.take(event)
            if wiring.store.needs_nodes:
                source.need_nodes()
    for _ in range(_MOST_CYCLES):
        await wiring.reconciler.cycle()
        if not wiring.reconciler.busy:
            return


@asynccontextmanager
async def _kernel(settings: Settings) -> AsyncIterator[LinuxDataplane]:
    dataplane = LinuxDataplane(WATCHED_SYSCTLS, settings.iptables_backend)
    try:
        yield dataplane
    finally:
        await dataplane.close()
