"""The agent without a kernel, run inside a test: what it is wired to, and what is looked at.

The kernel is the fake one, and it takes note of every moment at which a Service was missing that
had been served.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Coroutine
from contextlib import asynccontextmanager

from ipvsproxy.agent.wiring import Wiring
from ipvsproxy.core.operations import Operation
from ipvsproxy.dataplane import Outcome
from ipvsproxy.kernel.fake import FakeDataplane
from ipvsproxy.model import Address, Protocol, VirtualServerKey
from ipvsproxy.store import Source

SECONDS = 30
"""Longest wait for the agent to have caught up."""


def key(address: str) -> VirtualServerKey:
    return VirtualServerKey(Protocol.TCP, Address.parse(address), 80)


class WatchedKernel(FakeDataplane):
    """Looks after each single operation whether all that was served still is."""

    def __init__(self, steady: Collection[str]) -> None:
        """`steady` are the addresses of Services that always have endpoints, on port 80."""
        super().__init__()
        self.missing: list[str] = []
        self._steady = steady
        self._served: set[VirtualServerKey] = set()
        self._written = asyncio.Event()

    def _carry_out(self, operation: Operation) -> Outcome:
        outcome = super()._carry_out(operation)
        for steady in map(key, self._steady):
            members = self.state.real_servers.get(steady, {}).values()
            if steady.address in self.state.addresses and any(one.weight for one in members):
                self._served.add(steady)
            elif steady in self._served:
                self.missing.append(f"{steady} after {operation}")
        self._written.set()
        return outcome

    async def until(self, condition: Callable[[], bool], seconds: float = SECONDS) -> None:
        async with asyncio.timeout(seconds):
            while not condition():
                self._written.clear()
                await self._written.wait()

    @property
    def table(self) -> dict[str, dict[str, int]]:
        """Weights by real server, by virtual server."""
        return {
            str(virtual): {str(member): real.weight for member, real in members.items()}
            for virtual, members in self.state.real_servers.items()
        }


@asynccontextmanager
async def running(
    wiring: Wiring, source: Source, *others: Coroutine[None, None, None]
) -> AsyncIterator[None]:
    """Follow a source until the block ends, as `agent.running` does."""

    async def feed() -> None:
        async for event in source.events():
            wiring.take(event)
            source.need_nodes(needed=wiring.store.needs_nodes)

    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(feed()),
            group.create_task(wiring.reconciler.run()),
            *map(group.create_task, others),
        ]
        yield
        for task in tasks:
            task.cancel()
