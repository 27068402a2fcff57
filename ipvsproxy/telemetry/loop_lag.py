"""How long the event loop keeps things waiting, as plain data: what metrics are made of.

Who turns the loop writes, `metrics` reads. Knows no clock: times are handed in.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from itertools import accumulate

BOUNDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
"""Seconds; 0.02 is what no turn should take."""
_WINDOW = 60.0


class LoopLag:
    """Counts the turns of a loop by how long what came meanwhile had to wait at most."""

    __slots__ = ("_counts", "_longest", "_longest_before", "_window", "total")

    def __init__(self) -> None:
        self._counts = [0] * (len(BOUNDS) + 1)
        self.total = 0.0
        """Seconds of all turns."""
        self._window = 0
        self._longest = 0.0
        self._longest_before = 0.0

    def take(self, seconds: float, now: float) -> None:
        """Take note of a turn of so many seconds that has ended at `now`, in seconds as well."""
        self._counts[bisect_left(BOUNDS, seconds)] += 1
        self.total += seconds
        if int(now // _WINDOW) != self._window:
            self._turn_window(now)
        self._longest = max(self._longest, seconds)

    def longest(self, now: float) -> float:
        """Give the longest turn of this minute and of the one before, in seconds."""
        self._turn_window(now)
        return max(self._longest, self._longest_before)

    def cumulative(self) -> Iterator[tuple[float, int]]:
        """Count the turns of at most each bound, ever; the last bound is infinite."""
        return zip((*BOUNDS, float("inf")), accumulate(self._counts), strict=True)

    def _turn_window(self, now: float) -> None:
        window = int(now // _WINDOW)
        if window != self._window:
            self._longest_before = self._longest if window == self._window + 1 else 0.0
            self._window, self._longest = window, 0.0
