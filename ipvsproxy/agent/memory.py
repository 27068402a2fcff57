"""How memory is looked after: the garbage collector's pace, and what a start has left.

Knows that nearly all that the agent keeps is values without cycles, which go when nothing refers to
them any more: the collector finds next to nothing, and looks at everything for it. At a start with
5,000 Services it took a fifth of the agent's own time, and held the event loop for tens of
milliseconds at a time. So it does not come while the agent starts, and what was there before the
start, and after it, is not looked at again. Afterwards it comes as always: errors have cycles, and
a connection that failed in the TLS handshake keeps its large buffers in one. So it does where a
start waits for something, as for an API server that cannot be reached, which is when connections
fail.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
from collections.abc import Coroutine

_LATER = (2_000, 10, 10)
"""The pace once the start is over: what it has left is passed over, so that a look is cheap."""
_START_SECONDS = 20.0
"""A start that takes longer waits for something, or has much to do."""
_MUCH = 50_000
"""New objects in that time by which one is told from the other."""


def begin() -> None:
    """Keep the collector away for the start; best before anything large is imported."""
    gc.set_threshold(0)


def pass_over_imports() -> None:
    """Have the collector not look again at what is imported."""
    gc.freeze()


async def tidy_up(after: Coroutine[None, None, object]) -> None:
    """Give back what a start has used, and have the collector pass over what it has left."""
    start = asyncio.create_task(after)
    try:
        await _until_over(start)
    finally:
        start.cancel()
    # Without a look at it all: at 5,000 Services that is a tenth of a second for two dozen objects.
    gc.freeze()
    gc.set_threshold(*_LATER)
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
    if trim is not None:
        await asyncio.to_thread(trim, 0)  # tens of milliseconds


async def _until_over(start: asyncio.Task[object]) -> None:
    """Wait for a start; the collector comes meanwhile if that is all there is to do."""
    while True:
        done, _ = await asyncio.wait([start], timeout=_START_SECONDS)
        if done:
            break
        if gc.get_count()[0] < _MUCH:
            gc.set_threshold(*_LATER)
            break
        gc.freeze()
    await start
