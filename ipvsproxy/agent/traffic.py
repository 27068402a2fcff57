"""The traffic counters, read from the kernel when somebody scrapes, and not too often.

Knows whose each virtual server is, how old a reading may be and how long a scrape waits for one;
how readings are added up is `telemetry.traffic`'s affair. The kernel is read in the dataplane's
thread and added up in another one, so that the event loop goes on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

import structlog

from ipvsproxy.core.pieces import Pieces
from ipvsproxy.dataplane import Dataplane, DataplaneError
from ipvsproxy.model import VirtualServerKey
from ipvsproxy.reconciler import Reconciler
from ipvsproxy.reconciler.turns import in_turns
from ipvsproxy.store import Store
from ipvsproxy.telemetry import Metrics
from ipvsproxy.telemetry.traffic import TrafficPort

log = structlog.get_logger(__name__)

FRESH_SECONDS = 5.0
"""For so long a reading serves every scraper."""
_PATIENCE_SECONDS = 3.0
"""How long a scrape waits, which Prometheus gives up after 10 s: the kernel may be busy with a cold
start. The reading goes on, and the next scrape has it."""


class TrafficReader:
    """Keeps the counters of `metrics.traffic` fresh for whoever asks."""

    def __init__(
        self,
        *,
        dataplane: Dataplane,
        store: Store,
        reconciler: Reconciler,
        metrics: Metrics,
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
        patience: float = _PATIENCE_SECONDS,
    ) -> None:
        self._dataplane = dataplane
        self._store = store
        self._reconciler = reconciler
        self._metrics = metrics
        self._clock = clock
        self._wall_clock = wall_clock
        self._patience = patience
        self._reading: asyncio.Task[None] | None = None
        self._read_at: float | None = None

    async def refresh(self) -> None:
        """Bring the counters up to date; they stay as they were when the kernel does not answer."""
        if self._reading is None:
            if self._read_at is not None and self._clock() < self._read_at + FRESH_SECONDS:
                return
            self._reading = asyncio.create_task(self._read(), name="traffic counters")
        with suppress(TimeoutError):
            async with asyncio.timeout(self._patience):
                await asyncio.shield(self._reading)

    async def _read(self) -> None:
        endpoints = self._reconciler.settings.endpoint_metrics
        metrics = self._metrics
        try:
            readings = await self._dataplane.counters(
                tuple(self._reconciler.desired.held) if endpoints else ()
            )
        except DataplaneError as error:
            log.debug("the traffic counters cannot be read", reason=str(error))
            metrics.traffic_read.set(0)
        else:
            ports = await in_turns(self._ports())
            services = frozenset(self._store.names)
            await asyncio.to_thread(metrics.traffic.take, readings, ports, services)
            metrics.traffic_read.set(1)
            metrics.traffic_read_at.set(self._wall_clock())
        finally:
            self._read_at = self._clock()
            self._reading = None

    def _ports(self) -> Pieces[dict[VirtualServerKey, TrafficPort]]:
        """Say whose the virtual servers are that Services have now.

        A Service that changes meanwhile may be as it was, until the next reading.
        """
        desired = self._reconciler.desired
        found: dict[VirtualServerKey, TrafficPort] = {}
        for name, fragment in tuple(desired.fragments.items()):
            ports = self._store.port_names(name)
            for frontend in fragment.frontends:
                key = frontend.key
                if key in desired.held and desired.owner(key) == name:
                    port = ports.get((key.protocol, key.port)) or str(key.port)
                    found[key] = TrafficPort(name, port, key.protocol.name)
            yield 1
        return found
