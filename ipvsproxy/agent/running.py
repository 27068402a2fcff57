"""`ipvsproxy run`: follow the source until told to stop. The kernel's tables outlive the agent.

Knows which tasks run side by side and what ends them. One that fails ends all, and the process:
what is left half done is only different from what is wanted, and the next start sees that.
"""

from __future__ import annotations

import asyncio
import resource
import signal
import time
from collections.abc import Coroutine, Iterable

import structlog

from ipvsproxy.agent import memory
from ipvsproxy.agent.lock import only_agent, refuse_beside_kube_proxy
from ipvsproxy.agent.loop import lag_of_running_loop
from ipvsproxy.agent.reload import ConfigFile, Reloader
from ipvsproxy.agent.sources import open_source
from ipvsproxy.agent.wiring import MANY_FILES, Wiring, wire
from ipvsproxy.config import Settings
from ipvsproxy.core.foundation import WATCHED_SYSCTLS
from ipvsproxy.dataplane import Dataplane
from ipvsproxy.http import serve
from ipvsproxy.kernel.linux import LinuxDataplane
from ipvsproxy.kernel.oom import adjust
from ipvsproxy.probe import Punctuality
from ipvsproxy.store import Source
from ipvsproxy.telemetry import Conditions, Watches, tell_nobody

log = structlog.get_logger(__name__)

_AFTER_CUT_OFF = 1.0
"""Seconds before news of the node's network are asked for again."""


async def run(settings: Settings, file: ConfigFile | None = None) -> int:
    """Keep the kernel equal to what the source says until SIGTERM or SIGINT; returns 0.

    `file` is the configuration file that `settings` are from, to be followed; None: there is none.
    Raises AnotherAgentError, what a source raises that cannot be opened, or a group of what ended
    its tasks: DataplaneError when the kernel cannot be read at the start.
    """
    memory.pass_over_imports()
    files = _allow_many_files()
    _take_place(settings)
    with only_agent():
        await refuse_beside_kube_proxy(settings)
        dataplane = LinuxDataplane(
            WATCHED_SYSCTLS, settings.iptables_backend, used=time.thread_time
        )
        try:
            watches, conditions = Watches(), Conditions()
            async with open_source(settings, watches=watches, conditions=conditions) as (
                source,
                events,
            ):
                tell = events.tell if events is not None else tell_nobody
                wiring = wire(
                    settings,
                    dataplane,
                    clock=time.monotonic,
                    wall_clock=time.time,
                    tell=tell,
                    conditions=conditions,
                    watches=watches,
                    open_files=files,
                    loop_lag=lag_of_running_loop(),
                )
                follow = [
                    _feed(wiring, source),
                    _follow_network(wiring, dataplane),
                    memory.tidy_up(after=wiring.reconciler.wait_until_applied(0)),
                    wiring.prober.run(),
                    wiring.probed_traffic.run(),
                    Punctuality(wiring.prober, conditions, wall_clock=time.time, tell=tell).run(),
                ]
                if events is not None:
                    follow.append(events.run())
                if file is not None:
                    follow.append(Reloader(file, wiring, time.time).run())
                await _until_stopped(wiring, follow)
        finally:
            await dataplane.close()
    log.info("stopped; the kernel's tables stay as they are")
    return 0


def _allow_many_files() -> int:
    """Raise the limit of open files as far as it may be, as Go's runtime does for every program.

    Each health check node port is a file, and each probe that is under way; many hosts begin with
    1024 (systemd's default). Returns the limit.
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return MANY_FILES if most == resource.RLIM_INFINITY else most


def _take_place(settings: Settings) -> None:
    """Take the place that is set among victims; kube-proxy goes on too where it may not."""
    if settings.oom_score_adj is not None and (reason := adjust(settings.oom_score_adj)):
        log.info("oomScoreAdj is not taken", value=settings.oom_score_adj, reason=reason)


async def _until_stopped(wiring: Wiring, others: Iterable[Coroutine[None, None, None]]) -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(wiring.reconciler.run(), name="reconciler"),
            *map(group.create_task, others),
            group.create_task(
                serve(wiring, clock=time.monotonic, wall_clock=time.time), name="http"
            ),
        ]
        await stopped.wait()
        for task in tasks:
            task.cancel()


async def _feed(wiring: Wiring, source: Source) -> None:
    async for event in source.events():
        wiring.take(event)
        source.need_nodes(needed=wiring.store.needs_nodes)
        source.need_pods(needed=wiring.store.needs_pods)


async def _follow_network(wiring: Wiring, dataplane: Dataplane) -> None:
    """Tell of changes of the node's own network; after an error from a new socket, nothing lost."""
    while True:
        try:
            async for _ in dataplane.changes():
                wiring.reconciler.network_changed()
        except OSError as error:
            log.warning("news of the node's addresses were cut off", reason=str(error))
        await asyncio.sleep(_AFTER_CUT_OFF)
        wiring.reconciler.network_changed()
