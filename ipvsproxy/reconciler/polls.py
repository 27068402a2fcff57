"""When the connections of draining real servers are looked at: at once, and then ever more seldom.

Knows pauses and moments; what drains, and what comes of a look, the loop and the settlement know.
"""

from __future__ import annotations

from collections.abc import Container, Iterable

from ipvsproxy.model import VirtualServerKey

_FIRST = 0.5
_LONGEST = 5.0
"""Seconds between two looks at the connections of a draining real server, doubling."""


class Polls:
    """The virtual servers with draining real servers, each with its next look."""

    def __init__(self) -> None:
        """Begin with none."""
        self._waiting: dict[VirtualServerKey, tuple[float, float]] = {}
        """When each is looked at, and the pause before that (s)."""

    @property
    def next_due(self) -> float | None:
        """The moment (s) of the next look; None: nothing drains."""
        return min((due for due, _ in self._waiting.values()), default=None)

    def due(self, now: float) -> list[VirtualServerKey]:
        """Give those that are to be looked at now."""
        return [key for key, (due, _) in self._waiting.items() if due <= now]

    def schedule(
        self, keys: Iterable[VirtualServerKey], draining: Container[VirtualServerKey], now: float
    ) -> None:
        """Say when those that were settled, or looked at, are looked at next; a new one at once.

        One that was settled for another reason, and not looked at, is still due when it was: a
        Service that never rests would never be looked at.
        """
        for key in keys:
            if key not in draining:
                self._waiting.pop(key, None)
                continue
            due, pause = self._waiting.get(key, (now, 0.0))
            if due <= now:
                self._waiting[key] = now + pause, min(max(pause * 2, _FIRST), _LONGEST)
