"""How far the reconciler has come with what the store has said; others may wait for it.

Knows revisions of the store, which are numbers that grow, and nothing of what is in them.
"""

from __future__ import annotations

import asyncio


class Progress:
    """The revision up to which everything has been carried out or refused."""

    def __init__(self) -> None:
        self._moved = asyncio.Condition()
        self.revision = -1
        """-1: nothing yet."""

    async def reach(self, revision: int) -> None:
        """Tell all who wait."""
        async with self._moved:
            self.revision = revision
            self._moved.notify_all()

    async def wait(self, revision: int) -> None:
        """Wait until that revision is reached."""
        async with self._moved:
            await self._moved.wait_for(lambda: self.revision >= revision)
