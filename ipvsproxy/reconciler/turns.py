"""Turns of the event loop: what takes long gives way to others after each piece of it.

Knows the event loop and nothing of the work. What has come meanwhile is dealt with between two
turns, and it may only be what the work does not look at: sources change the store, scrapes and
probes read. What all Services want and the shadow of the kernel are the cycle's alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import TypeVar

from ipvsproxy.core.pieces import Pieces, cut

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

A_TURN = 250
"""What may be done in a turn, in the units of `core.pieces`: some thousandths of a second. Each
turn costs some hundredths of one in a guest, so they are not shorter."""


class Turns:
    """How much of the present turn is used up by one who works."""

    def __init__(self) -> None:
        self._used = 0

    async def use(self, cost: int) -> None:
        """Take note of work that was done; where it was enough for a turn, let others have one."""
        self._used += cost
        if self._used >= A_TURN:
            self._used = 0
            await asyncio.sleep(0)


async def in_turns(work: Pieces[_Result]) -> _Result:
    """Do work to its end, so much of it in each turn as there is room for."""
    turns = Turns()
    while True:
        try:
            cost = next(work)
        except StopIteration as end:
            result: _Result = end.value
            return result
        await turns.use(cost)


async def a_few_at_a_time(items: Iterable[_Item], size: int = A_TURN) -> AsyncIterator[list[_Item]]:
    """Give what there is in lists of `size` at the most, each in a turn of its own."""
    first = True
    for piece in cut(items, size):
        if not first:
            await asyncio.sleep(0)
        first = False
        yield piece
