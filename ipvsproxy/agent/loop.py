"""The event loop of the agent, which takes note of how long it keeps things waiting.

Knows asyncio's loop and the selector that it waits with; what is made of the numbers is
`telemetry`'s. A turn of the loop begins when the selector returns with what has come, and ends when
the loop asks it again; what comes meanwhile waits until then. So two readings of the clock for each
turn measure every turn, and no timer wakes an agent that has nothing to do. A timer that the
selector returns too late for (another thread had the interpreter, or another process the
processor) counts as well.
"""

from __future__ import annotations

import asyncio
import selectors
import time
from collections.abc import Callable

from ipvsproxy.telemetry import LoopLag

__all__ = ["MeasuredLoop", "TimedSelector", "lag_of_running_loop"]


class MeasuredLoop(asyncio.SelectorEventLoop):
    """An event loop that writes down its lag."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.lag = LoopLag()
        super().__init__(TimedSelector(self.lag, clock))


def lag_of_running_loop() -> LoopLag:
    """Give the lag of the loop that runs; of one that is not measured nothing will be known."""
    loop = asyncio.get_running_loop()
    return loop.lag if isinstance(loop, MeasuredLoop) else LoopLag()


class TimedSelector(selectors.EpollSelector):
    """A selector that takes the time between its returns and the next calls."""

    def __init__(self, lag: LoopLag, clock: Callable[[], float]) -> None:
        super().__init__()
        self._clock = clock
        self._lag = lag
        self._late = 0.0
        self._returned: float | None = None

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Wait as a selector does."""
        asked = self._clock()
        if self._returned is not None:
            self._lag.take(self._late + asked - self._returned, asked)
        ready = super().select(timeout)
        self._returned = returned = self._clock()
        waited = timeout is not None and timeout > 0 and not ready
        self._late = max(returned - asked - (timeout or 0.0), 0.0) if waited else 0.0
        return ready
