"""How long to wait before the next try: exponential backoff with full jitter.

Knows numbers only. The clock, the sleep and the randomness are arguments, so that tests run in
virtual time. The figures are client-go's (tools/cache reflector: 0.8 s, 30 s, factor 2, reset
after 2 minutes), with full jitter instead of its half one: a thousand nodes whose API server
restarts should not come back together.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NamedTuple

FIRST_SECONDS = 0.8
LONGEST_SECONDS = 30.0
HEALTHY_SECONDS = 120.0
"""A watch that has lived this long starts the backoff anew."""
LONGEST_REQUESTED_SECONDS = 300.0
"""A server that asks for more patience than this is asked again all the same."""
_LARGEST_EXPONENT = 16


class Timing(NamedTuple):
    """Time and chance, from outside."""

    now: Callable[[], float]
    """Seconds of a clock that never goes back."""
    sleep: Callable[[float], Awaitable[None]]
    random: Callable[[], float]
    """A number in [0, 1), each time another."""


class Backoff:
    """Delays that grow with each failure in a row."""

    def __init__(self, random: Callable[[], float]) -> None:
        self._random = random
        self._failures = 0

    def next(self, at_least: float = 0.0) -> float:
        """Count a failure and give the seconds to wait, not less than the server has asked for."""
        doubled = FIRST_SECONDS * 2.0 ** min(self._failures, _LARGEST_EXPONENT)
        self._failures += 1
        asked = min(at_least, LONGEST_REQUESTED_SECONDS)
        return asked + self._random() * min(LONGEST_SECONDS, doubled)

    def reset(self) -> None:
        """Start anew."""
        self._failures = 0
