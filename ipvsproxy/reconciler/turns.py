"""Turns of the event loop: what takes long gives way to others after each piece of it.

Knows the event loop and nothing of the work. What has come meanwhile is dealt with between two
pieces, and it may only be what the work does not look at: sources change the store, scrapes and
probes read. What all Services want and the shadow of the kernel are the cycle's alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import TypeVar

from ipvsproxy.core.pieces import AT_A_TIME, Pieces, cut

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


async def in_turns(work: Pieces[_Result]) -> _Result:
    """Do work to its end, each piece of it in a turn of its own."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            result: _Result = end.value
            return result
        await asyncio.sleep(0)


async def a_few_at_a_time(
    items: Iterable[_Item], size: int = AT_A_TIME
) -> AsyncIterator[list[_Item]]:
    """Give what there is in lists of `size` at the most, each in a turn of its own."""
    first = True
    for piece in cut(items, size):
        if not first:
            await asyncio.sleep(0)
        first = False
        yield piece
