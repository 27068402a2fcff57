"""Tells the prober which virtual servers have traffic from here, where Services go by that.

Knows when `core.recent_traffic` wants the kernel's counters, and reads those; nothing at all while
no Service has `only=traffic`. It stands before the prober, for both are told by the reconciler of
what is to be probed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import structlog

from ipvsproxy.core.probing import Probing
from ipvsproxy.core.recent_traffic import RecentTraffic
from ipvsproxy.dataplane import Dataplane, DataplaneError
from ipvsproxy.objects import ServiceName
from ipvsproxy.probe.prober import Prober

log = structlog.get_logger(__name__)


class ProbedTraffic:
    """Reads counters for as long as `run` runs."""

    def __init__(self, *, dataplane: Dataplane, prober: Prober, clock: Callable[[], float]) -> None:
        """Wire it up; `clock` (s) only runs forward."""
        self._dataplane = dataplane
        self.prober = prober
        self._clock = clock
        self._recent = RecentTraffic()
        self._followed: tuple[Mapping[ServiceName, Probing], float] = ({}, 1.0)
        self._woken = asyncio.Event()
        self._failing = False

    def update(self, probings: Mapping[ServiceName, Probing], *, stretch: float, most: int) -> None:
        """Have these probed, as `Prober.update` says, and follow the traffic of those that ask."""
        before, stretched = self._followed
        if probings is not before or stretch != stretched:
            self._followed = (probings, stretch)
            self._recent.follow(probings, stretch=stretch, now=self._clock())
            self.prober.traffic(self._recent.busy)
            self._woken.set()
        self.prober.update(probings, stretch=stretch, most=most)

    async def run(self) -> None:
        """Read what is due until cancelled."""
        while True:
            self._woken.clear()
            due = self._recent.next_due
            pause = None if due is None else due - self._clock()
            if pause is None or pause > 0:
                try:
                    async with asyncio.timeout(pause):
                        await self._woken.wait()
                except TimeoutError:
                    pass
                continue
            await self._read()

    async def _read(self) -> None:
        keys = self._recent.due(self._clock())
        try:
            counted = await self._dataplane.counters_of(keys)
        except DataplaneError as error:
            if not self._failing:
                log.warning("traffic is not known, so all endpoints are probed", reason=str(error))
            self._failing = True
            self._recent.take(keys, None, self._clock())
        else:
            self._failing = False
            self._recent.take(keys, counted, self._clock())
        self.prober.traffic(self._recent.busy)
