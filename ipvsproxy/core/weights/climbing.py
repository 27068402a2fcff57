"""Who climbs, and when the next step is due: the memory that slow start needs.

Knows virtual servers and what was found of them in the kernel; what a climb is stands in
`slow_start`. A virtual server that is seen for the first time may have been climbing when the
agent was last there; the kernel's weights tell (`resuming`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import NamedTuple

from ipvsproxy.core.weights.normal import WEIGHTLESS
from ipvsproxy.core.weights.resuming import is_near, resumed
from ipvsproxy.core.weights.shaping import Shaping
from ipvsproxy.core.weights.slow_start import began_at, climbs, next_step, step
from ipvsproxy.model import RealServer, RealServerKey, VirtualServerKey

_PAUSE = 1.0
"""Seconds between two steps of one virtual server, at least."""
_NOTHING: Mapping[RealServerKey, int] = MappingProxyType({})


class Climb(NamedTuple):
    """How the climbs of one virtual server stand."""

    steps: Mapping[RealServerKey, int] = _NOTHING
    """The step of each real server that climbs."""
    stays: Mapping[RealServerKey, int] = _NOTHING
    """Weights in the kernel that come near enough to what these steps are, until the next one."""


NOBODY_CLIMBS = Climb()


class _Stay(NamedTuple):
    """What was found stays while the same is wanted."""

    weights: Mapping[RealServerKey, int]
    shaping: Shaping
    scheduler: str
    found: Mapping[RealServerKey, int]
    until: float | None
    """Seconds; None: no step is due."""


class Climbing:
    """Remembers since when each real server climbs."""

    def __init__(self) -> None:
        self._began: dict[VirtualServerKey, Mapping[RealServerKey, float]] = {}
        self._due: dict[VirtualServerKey, float] = {}
        self._seen: dict[VirtualServerKey, None] = {}
        """All that were looked at; of thousands a dict takes a third of the room of a set."""
        self._stays: dict[VirtualServerKey, _Stay] = {}

    @property
    def next_due(self) -> float | None:
        """When the next step is due (s); None: nobody climbs."""
        return min(self._due.values(), default=None)

    def due(self, now: float) -> set[VirtualServerKey]:
        """Name the virtual servers with a step that is due."""
        return {key for key, due in self._due.items() if due <= now}

    def forget(self, key: VirtualServerKey) -> None:
        """Forget a virtual server that is not wanted."""
        self._began.pop(key, None)
        self._due.pop(key, None)
        self._seen.pop(key, None)
        self._stays.pop(key, None)

    def steps(
        self,
        key: VirtualServerKey,
        weights: Mapping[RealServerKey, int],
        found: Mapping[RealServerKey, RealServer],
        *,
        shaping: Shaping,
        scheduler: str,
        now: float,
        urgent: Collection[RealServerKey] = (),
    ) -> Climb:
        """Say which step each real server has reached that climbs now; `weights` are wanted.

        `urgent` are those that must not climb.
        """
        if shaping.of_kernel:  # what was found is looked at once it can be told from what is wanted
            self._due.pop(key, None)
            return NOBODY_CLIMBS
        duration = shaping.slow_start
        began = self._began.pop(key, {})
        self._due.pop(key, None)
        first = key not in self._seen
        self._seen[key] = None
        near = False
        if not duration or scheduler in WEIGHTLESS:
            began = {}
            if first and shaping.deduced:
                near = is_near(weights, found, shaping=shaping, scheduler=scheduler)
        elif first:
            reached, near = resumed(weights, found, shaping=shaping, scheduler=scheduler)
            began = {one: began_at(at, duration, now) for one, at in reached.items()}
        if duration and scheduler not in WEIGHTLESS:
            began = climbs(weights, found, began, duration=duration, now=now, urgent=urgent)
        if began:
            self._began[key] = began
            due = min(since + next_step(now - since, duration) for since in began.values())
            self._due[key] = max(due, now + _PAUSE)
        if near:
            at = {member: real.weight for member, real in found.items()}
            self._stays[key] = _Stay(weights, shaping, scheduler, at, self._due.get(key))
        return Climb(
            {member: step(now - since, duration) for member, since in began.items()},
            self._staying(key, (weights, shaping, scheduler), now),
        )

    def _staying(
        self,
        key: VirtualServerKey,
        wanted: tuple[Mapping[RealServerKey, int], Shaping, str],
        now: float,
    ) -> Mapping[RealServerKey, int]:
        stay = self._stays.get(key)
        if stay is None:
            return _NOTHING
        over = stay.until is not None and now >= stay.until
        if over or wanted != (stay.weights, stay.shaping, stay.scheduler):
            del self._stays[key]
            return _NOTHING
        return stay.found
