"""How memory is looked after: the garbage collector's pace, and what a start has left.

Knows that nearly all that the agent keeps is values without cycles, which go when nothing refers to
them any more: the collector finds next to nothing, and looks at everything for it. At a start with
5,000 Services it took a fifth of the agent's own time. So it comes less often, and what was there
before the start, and after it, is not looked at again. It stays on: errors have cycles, and a
connection that failed in the TLS handshake keeps its large buffers in one. So the slow pace is for
the start only: it ends with it, and after `_START_SECONDS` where there is no API server to start
from, which is when connections fail.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
from collections.abc import Awaitable

_NEW_OBJECTS = 50_000
"""New objects that are kept before the collector looks at the new ones; Python's is 700."""
_ROUNDS = 20
"""Such looks before it looks at older ones too; Python's is 10."""
_LATER = (2_000, 10, 10)
"""The pace once the start is over: what it has left is passed over, so that a look is cheap."""
_START_SECONDS = 20.0
"""A start that takes longer waits for something, and goes on at the later pace."""


def begin() -> None:
    """Set the collector's pace; best before anything large is imported."""
    gc.set_threshold(_NEW_OBJECTS, _ROUNDS, _ROUNDS)


def pass_over_imports() -> None:
    """Have the collector not look again at what is imported."""
    gc.freeze()


async def tidy_up(after: Awaitable[object]) -> None:
    """Give back what a start has used, and have the collector pass over what it has left."""
    waiting = asyncio.get_running_loop().call_later(_START_SECONDS, gc.set_threshold, *_LATER)
    try:
        await after
    finally:
        waiting.cancel()
    # Without a look at it all: at 5,000 Services that is a tenth of a second for two dozen objects.
    gc.freeze()
    gc.set_threshold(*_LATER)
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
    if trim is not None:
        trim(0)
