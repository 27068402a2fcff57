"""The whole path on the kernel of a namespace: JSON in, the kernel's tables out.

The agent's own store, reconciler and Linux dataplane are wired up as the agent wires them; only
the source is replaced by a list in memory. What this leaves out (the start of the process, YAML or
the API server) is not in its figures.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections import Counter
from collections.abc import AsyncIterator, Collection, Iterable, Iterator, Mapping, Sequence

from bench import floors
from bench.figures import Figure, Unit
from bench.workload import NODE, Objects, Size, endpoint_slice, objects, pods, spare_pod
from ipvsproxy.agent.wiring import Wiring, wire
from ipvsproxy.config import Settings
from ipvsproxy.core.foundation import WATCHED_SYSCTLS
from ipvsproxy.core.operations import Operation
from ipvsproxy.core.parts import Part
from ipvsproxy.dataplane import Change, Counters, Glance, Outcome, Reading, TrafficReading
from ipvsproxy.kernel.linux import LinuxDataplane
from ipvsproxy.model import NodeNetwork, State, VirtualServerKey
from ipvsproxy.objects import read_endpoint_slice, read_service
from ipvsproxy.store import KINDS, Listed, Put

# No audit comes between: it is measured by itself.
_SETTINGS = Settings(node_name=NODE, sync_period=86400.0)
_CHANGES = 20
_MOST_CYCLES = 20
_READ = (floors.LIST_TABLE, floors.SAVE_SETS, *[floors.LAUNCH] * 2)
"""The chains of two families are read by two programs at least."""
_COLD = (floors.SEND_TABLE, floors.SEND_ADDRESSES, floors.RESTORE_SETS, *[floors.LAUNCH] * 2)
"""The chains of two families are written by two programs."""
_NEXT_LOOK = 1.0
"""Seconds after which who has left is looked at again at the latest, where nobody has a client."""


class Watched:
    """A Linux dataplane, with a count of what is asked of it and the seconds that this takes."""

    def __init__(self) -> None:
        self._inner = LinuxDataplane(WATCHED_SYSCTLS, used=time.thread_time)
        self._counted: Counter[str] = Counter()
        self.seconds = 0.0

    @property
    def counts(self) -> Counter[str]:
        """Operations, dumps, virtual servers that were read, and programs launched."""
        inner = dict(self._inner.counts)
        counted = Counter(self._counted)
        counted["programs"] = inner.pop("processes")
        counted["operations"] = sum(inner.values())
        return counted

    async def dump(self) -> State:
        """Pass on."""
        self._counted["dumps"] += 1
        start = time.perf_counter()
        state = await self._inner.dump()
        self.seconds += time.perf_counter() - start
        return state

    async def glance(self, keys: Collection[VirtualServerKey], sets: Collection[str]) -> Glance:
        """Pass on."""
        self._counted["glances"] += 1
        start = time.perf_counter()
        glance = await self._inner.glance(keys, sets)
        self.seconds += time.perf_counter() - start
        return glance

    async def look(self, part: Part) -> State:
        """Pass on."""
        self._counted["looks"] += 1
        start = time.perf_counter()
        state = await self._inner.look(part)
        self.seconds += time.perf_counter() - start
        return state

    async def read(
        self, keys: Collection[VirtualServerKey]
    ) -> Mapping[VirtualServerKey, Reading | None]:
        """Pass on."""
        self._counted["reads"] += len(keys)
        start = time.perf_counter()
        readings = await self._inner.read(keys)
        self.seconds += time.perf_counter() - start
        return readings

    async def counters(
        self, real_servers_of: Collection[VirtualServerKey] = ()
    ) -> Mapping[VirtualServerKey, TrafficReading]:
        """Pass on; the cycles that are measured here never ask."""
        return await self._inner.counters(real_servers_of)

    async def counters_of(
        self, keys: Collection[VirtualServerKey]
    ) -> Mapping[VirtualServerKey, Counters]:
        """Pass on; the cycles that are measured here never ask."""
        return await self._inner.counters_of(keys)

    async def network(self) -> NodeNetwork:
        """Pass on."""
        start = time.perf_counter()
        network = await self._inner.network()
        self.seconds += time.perf_counter() - start
        return network

    async def apply(self, operations: Sequence[Operation]) -> Sequence[Outcome]:
        """Pass on."""
        start = time.perf_counter()
        outcomes = await self._inner.apply(operations)
        self.seconds += time.perf_counter() - start
        return outcomes

    def changes(self) -> AsyncIterator[Change]:
        """Pass on."""
        return self._inner.changes()

    async def close(self) -> None:
        """Pass on."""
        await self._inner.close()


def measure(size: Size) -> Iterator[Figure]:
    """Give the figures of one size of the cluster; the namespace must be empty, `lo` up."""
    yield from asyncio.run(_Run(size).all())


class _Run:
    """One agent on one kernel, then another one on what the first has left."""

    def __init__(self, size: Size) -> None:
        self._size = size
        self._figures: list[Figure] = []
        self._ahead = 0.0
        """How far the agents' clock is ahead (s): nobody waits for what is only due later."""

    async def all(self) -> list[Figure]:
        """Measure everything; the order matters, each step builds on the one before."""
        described = objects(self._size)
        first = Watched()
        wiring = wire(_SETTINGS, first, clock=self._clock)
        await self._synchronise("cold start", _COLD, first, wiring, described)
        added = await self._changes("one endpoint added", first, wiring, self._with_another())
        replaced = await self._changes("one endpoint replaced", first, wiring, self._with_other())
        await first.close()
        current = described._replace(slices=_edited(described.slices, {**added, **replaced}))
        second = Watched()
        wiring = wire(_SETTINGS, second, clock=self._clock)
        await self._synchronise("restart, nothing changed", _READ, second, wiring, current)
        await self._audit(second, wiring)
        await second.close()
        return self._figures

    def _clock(self) -> float:
        return time.monotonic() + self._ahead

    async def _synchronise(
        self,
        title: str,
        against: tuple[str, ...],
        dataplane: Watched,
        wiring: Wiring,
        described: Objects,
    ) -> None:
        start = time.perf_counter()
        _list(wiring, described)
        read = time.perf_counter()
        await _settle(wiring)
        end = time.perf_counter()
        self._count(title, dataplane.counts)
        self._time(title, end - start, against)
        self._time(f"{title}: of that, reading JSON", read - start)
        self._time(f"{title}: of that, in the kernel's adapters", dataplane.seconds, against)
        self._time(f"{title}: of that, deciding", end - read - dataplane.seconds)

    async def _changes(
        self, title: str, dataplane: Watched, wiring: Wiring, texts: Mapping[int, bytes]
    ) -> Mapping[int, bytes]:
        before = dataplane.counts
        served: list[float] = []
        settled: list[float] = []
        for text in texts.values():
            start = time.perf_counter()
            _put(wiring, text)
            await wiring.reconciler.cycle()
            served.append(time.perf_counter() - start)
            self._ahead += _NEXT_LOOK
            await _settle(wiring)
            settled.append(time.perf_counter() - start)
        spent = dataplane.counts - before
        self._count(title, Counter({what: n / len(texts) for what, n in spent.items()}))
        against = (floors.ONE_MESSAGE,)
        self._time(f"{title}: served, median", statistics.median(served), against)
        self._time(f"{title}: served, longest", max(served), against)
        self._time(f"{title}: nothing left to do, median", statistics.median(settled), against)
        return texts

    async def _audit(self, dataplane: Watched, wiring: Wiring) -> None:
        before, seconds = dataplane.counts, dataplane.seconds
        start = time.perf_counter()
        wiring.reconciler.audit_soon()
        await _settle(wiring)
        against = _READ
        self._count("audit", dataplane.counts - before)
        self._time("audit", time.perf_counter() - start, against)
        self._time("audit: of that, the dump", dataplane.seconds - seconds, against)

    def _with_another(self) -> dict[int, bytes]:
        return {index: self._part(index, [index], kept=0) for index in self._chosen(0)}

    def _with_other(self) -> dict[int, bytes]:
        return {index: self._part(index, [index], kept=1) for index in self._chosen(1)}

    def _part(self, index: int, spare: Iterable[int], *, kept: int) -> bytes:
        """Write a slice without its first `kept` endpoints and with spare ones at its end."""
        addresses = pods(index, self._size.endpoints)[kept:]
        return endpoint_slice(index, [*addresses, *map(spare_pod, spare)])

    def _chosen(self, half: int) -> range:
        """Choose Services all over the cluster, others for each half; no first pod is local."""
        step = self._size.services // (2 * _CHANGES)
        return range(half * _CHANGES * step + 1, (half + 1) * _CHANGES * step, step)

    def _count(self, title: str, counts: Mapping[str, float]) -> None:
        for what in ("operations", "programs", "dumps", "reads"):
            self._figures.append(
                self._figure(f"{title}: {what}", counts.get(what, 0), unit=Unit.COUNT)
            )

    def _time(self, name: str, seconds: float, against: tuple[str, ...] = ()) -> None:
        self._figures.append(self._figure(name, seconds, against=against))

    def _figure(
        self, name: str, value: float, *, unit: Unit = Unit.SECONDS, against: tuple[str, ...] = ()
    ) -> Figure:
        return Figure(
            stage="whole",
            services=self._size.services,
            endpoints=self._size.endpoints,
            name=name,
            value=value,
            unit=unit,
            floors=against,
        )


def _list(wiring: Wiring, described: Objects) -> None:
    for text in described.services:
        wiring.take(Put(read_service(text), "bench"))
    for text in described.slices:
        _put(wiring, text)
    for kind in KINDS:
        wiring.take(Listed(kind))


def _put(wiring: Wiring, text: bytes) -> None:
    part = read_endpoint_slice(text)
    assert part is not None, "the slice names its Service"
    wiring.take(Put(part, "bench"))


async def _settle(wiring: Wiring) -> None:
    for _ in range(_MOST_CYCLES):
        if not wiring.reconciler.busy:
            return
        await wiring.reconciler.cycle()
    raise RuntimeError(f"not at rest after {_MOST_CYCLES} cycles: {list(wiring.conditions)}")


def _edited(texts: Sequence[bytes], edits: Mapping[int, bytes]) -> tuple[bytes, ...]:
    return tuple(edits.get(index, text) for index, text in enumerate(texts))
