"""When the connections of draining real servers are looked at: at once, and then ever more seldom.

Each look costs a cycle, so that many are made together: after one the next comes `_APART` later at
the earliest. What drains after quiet is looked at at once; in a storm servers that are left, which
take no new connections anyway, stand for so long at most. A great many are looked at in turns.

Knows pauses and moments; what drains, and what comes of a look, the loop and the settlement know.
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterable

from ipvsproxy.model import VirtualServerKey

_FIRST = 0.5
_LONGEST = 5.0
"""Seconds between two looks at the connections of a draining real server, doubling."""
_APART = 0.5
"""Seconds between two looks at any."""
_MOST = 256
"""Virtual servers that are looked at in one cycle; the others in the next, without a pause."""


class Polls:
    """The virtual servers with draining real servers, each with its next look."""

    def __init__(self) -> None:
        """Begin with none."""
        self._waiting: dict[VirtualServerKey, tuple[float, float]] = {}
        """When each is looked at, and the pause before that (s)."""
        self._earliest = -math.inf
        """When anything is looked at again (s)."""

    @property
    def next_due(self) -> float | None:
        """The moment (s) of the next look; None: nothing drains."""
        first = min((due for due, _ in self._waiting.values()), default=None)
        return None if first is None else max(first, self._earliest)

    def due(self, now: float, *, every: bool = False) -> list[VirtualServerKey]:
        """Give those that are to be looked at now; `every` one, where cycles are far between."""
        if now < self._earliest:
            return []
        keys = [key for key, (due, _) in self._waiting.items() if due <= now]
        if keys and (every or len(keys) <= _MOST):
            self._earliest = now + _APART
        return keys if every else keys[:_MOST]

    def schedule(
        self,
        keys: Iterable[VirtualServerKey],
        looked_at: Container[VirtualServerKey],
        draining: Container[VirtualServerKey],
        now: float,
    ) -> None:
        """Say when those that were settled, or looked at, are looked at next; a new one at once.

        One that was settled for another reason, and not looked at, is still due when it was: a
        Service that never rests would never be looked at.
        """
        for key in keys:
            if key not in draining:
                self._waiting.pop(key, None)
            elif key not in self._waiting:
                self._waiting[key] = now, 0.0
            elif key in looked_at:
                pause = min(max(self._waiting[key][1] * 2, _FIRST), _LONGEST)
                self._waiting[key] = now + pause, pause
