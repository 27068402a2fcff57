"""What looks at all Services gives way to others, as often with many as with few."""

from __future__ import annotations

import asyncio
import selectors
import sys
from collections.abc import Awaitable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import TypeVar

import msgspec
import pytest

from ipvsproxy.agent.wiring import Wiring, wire
from ipvsproxy.config import Settings, WatchNodes
from ipvsproxy.core.operations import Operation
from ipvsproxy.dataplane import Dataplane, Glance, Outcome, Reading, TrafficReading
from ipvsproxy.kernel.fake import FakeDataplane, Wrapper
from ipvsproxy.model import Address, State, VirtualServerKey
from ipvsproxy.objects import KubernetesObject
from ipvsproxy.store import KINDS, Listed, Put
from tests.unit.builders import Clock, part, service, settle

_Result = TypeVar("_Result")

FEW, MANY = 1000, 2500
MORE = 1.3
"""How much longer the longest turn may be with more Services: it is noise."""


class Counting(selectors.DefaultSelector):
    """Counts the calls of functions between two looks at what has come."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0
        self.longest = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self.longest = max(self.longest, self.calls)
        self.calls = 0
        return super().select(timeout)

    @contextmanager
    def counted(self) -> Iterator[None]:
        self.calls = self.longest = 0
        sys.setprofile(self._note)
        try:
            yield
        finally:
            sys.setprofile(None)
            self.longest = max(self.longest, self.calls)

    @contextmanager
    def passed_over(self) -> Iterator[None]:
        """Do not count what another thread does where the kernel is a real one."""
        before = sys.getprofile()
        sys.setprofile(None)
        try:
            yield
        finally:
            sys.setprofile(before)

    def _note(self, _: FrameType, event: str, __: object) -> None:
        self.calls += event in {"call", "c_call"}


class Elsewhere(Wrapper):
    """A kernel whose work is another thread's."""

    def __init__(self, inner: FakeDataplane, counting: Counting) -> None:
        super().__init__(inner)
        self._counting = counting

    async def dump(self) -> State:
        return await self._there(super().dump())

    async def glance(self, keys: Collection[VirtualServerKey], sets: Collection[str]) -> Glance:
        return await self._there(super().glance(keys, sets))

    async def read(
        self, keys: Collection[VirtualServerKey]
    ) -> Mapping[VirtualServerKey, Reading | None]:
        return await self._there(super().read(keys))

    async def counters(
        self, real_servers_of: Collection[VirtualServerKey] = ()
    ) -> Mapping[VirtualServerKey, TrafficReading]:
        return await self._there(super().counters(real_servers_of))

    async def apply(self, operations: Sequence[Operation]) -> Sequence[Outcome]:
        return await self._there(super().apply(operations))

    async def _there(self, work: Awaitable[_Result]) -> _Result:
        with self._counting.passed_over():
            result = await work
        await asyncio.sleep(0)
        return result


def cluster(size: int, *, entangled: bool) -> list[KubernetesObject]:
    """Describe Services of two endpoints.

    Entangled ones share an address in pairs, so that none is planned by itself, and something is to
    be told of each.
    """
    found: list[KubernetesObject] = []
    for number in range(size):
        high, low = divmod(number, 250)
        one = service(f"web-{number}", f"10.96.{high}.{low + 1}", 80 + number % 2)
        if entangled:
            shared = Address.parse(f"172.20.{high}.{low // 2 + 1}")
            wrong = (("ipvsproxy.io/scheduler", "best"),)
            one = msgspec.structs.replace(one, external_ips=(shared,), annotations=wrong)
        found += (one, part(f"web-{number}", f"10.1.{high}.{low + 1}", f"10.2.{high}.{low + 1}"))
    return found


def told(kernel: Dataplane, objects: Iterable[KubernetesObject]) -> Wiring:
    """Give an agent that has been told everything, and has done nothing yet."""
    clock = Clock()
    settings = Settings(node_name="node-a", watch_nodes=WatchNodes.NEVER)
    wiring = wire(settings, kernel, clock=clock, wall_clock=clock)
    for one in objects:
        wiring.take(Put(one, "a.yaml"))
    for kind in sorted(KINDS):
        wiring.take(Listed(kind))
    return wiring


async def longest_turns(counting: Counting, size: int, *, entangled: bool) -> dict[str, int]:
    """Give the calls in the longest turn of all that an agent does with all Services."""
    kernel = Elsewhere(FakeDataplane(), counting)
    objects = cluster(size, entangled=entangled)
    found: dict[str, int] = {}

    async def note(what: str, work: Awaitable[object]) -> None:
        await asyncio.sleep(0)
        with counting.counted():
            await work
        found[what] = counting.longest

    first = told(kernel, objects)
    await note("start", settle(first.reconciler))
    again = told(kernel, objects)
    await note("restart", settle(again.reconciler))
    again.reconciler.audit_soon()
    await note("sweep", settle(again.reconciler))
    await note("metrics", again.scrape())
    await note("status", again.status())
    gone = told(kernel, ())
    await note("all are gone", settle(gone.reconciler))
    return found


def measured(size: int, *, entangled: bool) -> dict[str, int]:
    counting = Counting()
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(counting)) as runner:
        return runner.run(longest_turns(counting, size, entangled=entangled))


@pytest.mark.parametrize("entangled", [False, True], ids=["alone", "entangled"])
def test_the_longest_turn_of_the_event_loop_is_as_long_with_few_services_as_with_many(
    *, entangled: bool
) -> None:
    few = measured(FEW, entangled=entangled)
    many = measured(MANY, entangled=entangled)
    longer = {what: (few[what], calls) for what, calls in many.items() if calls > MORE * few[what]}
    assert longer == {}
