"""Who climbs, and when the next step is due: the memory that slow start needs.

Knows virtual servers and what was found of them in the kernel; what a climb is stands in
`slow_start`. A virtual server that is seen for the first time may have been climbing when the
agent was last there; the kernel's weights tell.
"""

from __future__ import annotations

from collections.abc import Mapping

from ipvsproxy.core.weights.normal import WEIGHTLESS
from ipvsproxy.core.weights.shaping import Shaping, shaped
from ipvsproxy.core.weights.slow_start import climbs, next_step, resumed, step
from ipvsproxy.model import RealServer, RealServerKey, VirtualServerKey

_PAUSE = 1.0
"""Seconds between two steps of one virtual server, at least."""


class Climbing:
    """Remembers since when each real server climbs."""

    def __init__(self) -> None:
        self._began: dict[VirtualServerKey, Mapping[RealServerKey, float]] = {}
        self._due: dict[VirtualServerKey, float] = {}
        self._seen: set[VirtualServerKey] = set()

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
        self._seen.discard(key)

    def steps(
        self,
        key: VirtualServerKey,
        weights: Mapping[RealServerKey, int],
        found: Mapping[RealServerKey, RealServer],
        *,
        shaping: Shaping,
        scheduler: str,
        now: float,
    ) -> dict[RealServerKey, int]:
        """Say which step each real server has reached that climbs now; `weights` are wanted."""
        if shaping.of_kernel:  # what was found is looked at once it can be told from what is wanted
            self._due.pop(key, None)
            return {}
        duration = shaping.slow_start
        began = self._began.pop(key, {})
        self._due.pop(key, None)
        first = key not in self._seen
        self._seen.add(key)
        if not duration or scheduler in WEIGHTLESS:
            return {}
        if first:
            full = shaped(weights, shaping, scheduler, {})
            began = resumed(full, found, duration=duration, now=now)
        began = climbs(weights, found, began, duration=duration, now=now)
        if not began:
            return {}
        self._began[key] = began
        due = min(since + next_step(now - since, duration) for since in began.values())
        self._due[key] = max(due, now + _PAUSE)
        return {member: step(now - since, duration) for member, since in began.items()}
