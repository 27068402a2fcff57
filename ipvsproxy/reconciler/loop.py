"""When something is done, and in which order: the cycle, its pace, the polls.

    cycle   [audit] -> dirty Services -> fragments -> connections of draining servers
            -> target -> batch -> writer, in portions -> conditions -> report
    audit   the whole kernel is read, drift is counted, everything is compared

Where nothing is due but to look whether others have changed something (`audits`), a cycle is only
that, in small steps; a change that comes meanwhile ends it.

Knows the store and the core's decisions; the writer knows the kernel. Errors of one Service end
at that Service: what cannot be translated keeps its last fragment and becomes a condition. A cycle
returns a report, logged as one sentence. Time comes from the clock that is handed in.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from collections.abc import Set as AbstractSet
from itertools import chain

import structlog

from ipvsproxy.config import Settings
from ipvsproxy.core.desired import Desired
from ipvsproxy.core.foundation import shortcomings
from ipvsproxy.core.operations import AddMember
from ipvsproxy.core.pieces import Cost
from ipvsproxy.core.plan import Batch
from ipvsproxy.core.probing import stretch
from ipvsproxy.core.settlement import Settlement
from ipvsproxy.core.surroundings import needs_own_node
from ipvsproxy.dataplane import Dataplane, DataplaneError
from ipvsproxy.model import RealServerKey, State, VirtualServerKey
from ipvsproxy.objects import ServiceName
from ipvsproxy.reconciler.audits import Audits
from ipvsproxy.reconciler.conditions import ConditionWriter
from ipvsproxy.reconciler.network import PAUSE, NetworkFollower
from ipvsproxy.reconciler.observers import CycleObserver, HealthCheckPorts, Probes
from ipvsproxy.reconciler.planning import Planning, adoption
from ipvsproxy.reconciler.polls import Polls
from ipvsproxy.reconciler.progress import Progress
from ipvsproxy.reconciler.report import CycleReport
from ipvsproxy.reconciler.sweeps import Sweeps
from ipvsproxy.reconciler.translation import Translation
from ipvsproxy.reconciler.turns import a_few_at_a_time, in_turns
from ipvsproxy.reconciler.writer import Writer, Written
from ipvsproxy.store import Store
from ipvsproxy.telemetry import Conditions, Teller, tell_nobody

log = structlog.get_logger(__name__)

_RECONSIDER_SCHEDULERS = 300.0
"""Seconds after which a scheduler that this kernel lacked is tried again."""


class Reconciler:
    """Keeps the kernel's tables equal to what the store asks for."""

    def __init__(
        self,
        *,
        store: Store,
        dataplane: Dataplane,
        settings: Settings,
        conditions: Conditions,
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
        observer: CycleObserver | None = None,
        health_checks: HealthCheckPorts | None = None,
        probes: Probes | None = None,
        tell: Teller = tell_nobody,
    ) -> None:
        """Wire the loop up: `clock` (s) runs forward only, `wall_clock` (s since 1970) is shown."""
        self._store = store
        self._settings = settings
        self._coming: Settings | None = None
        self._clock = clock
        self._observer = observer
        self._health_checks = health_checks
        self._probes = probes
        self._writer = Writer(dataplane, clock)
        self._desired = Desired()
        self._network = NetworkFollower(store, self._writer, settings, clock)
        self._settlement = Settlement(self._desired, settings)
        self._conditions = ConditionWriter(store, self._desired, conditions, wall_clock, tell=tell)
        self._translation = Translation(
            store=store,
            desired=self._desired,
            settings=settings,
            conditions=self._conditions,
            clock=clock,
        )
        self._planning = Planning(
            desired=self._desired,
            settlement=self._settlement,
            settings=settings,
            conditions=self._conditions,
            clock=clock,
        )
        self._polls = Polls()
        self._audits = Audits(self._writer, self._network, settings, clock)
        self._schedulers_due = clock() + _RECONSIDER_SCHEDULERS
        self._sweeps = Sweeps(self._desired, self._settlement)
        self._told = ""
        """What was said of a kernel that cannot be read."""
        self._woken = asyncio.Event()
        self._reconfigured = asyncio.Event()
        """Other settings have come: a pause that was too long may be what they mend."""
        self._progress = Progress()

    @property
    def settings(self) -> Settings:
        """The settings that count from the next cycle on."""
        return self._coming or self._settings

    @property
    def desired(self) -> Desired:
        """What all Services want, for the status table."""
        return self._desired

    @property
    def state(self) -> State | None:
        """What the kernel is known to hold; None before the first dump."""
        return self._writer.state if self._writer.known else None

    @property
    def applied_revision(self) -> int:
        """The store's revision up to which everything has been carried out or refused."""
        return self._progress.revision

    @property
    def looks(self) -> Counter[str]:
        """Glances at the kernel and rounds of the rolling audit, since somebody has cleared it."""
        return self._audits.counts

    @property
    def draining(self) -> Mapping[VirtualServerKey, frozenset[RealServerKey]]:
        """Real servers that are kept only for their open connections."""
        return self._settlement.draining

    @property
    def pending(self) -> int:
        """How many Services are not in the kernel as they should be: changed, or refused."""
        unfinished = self._writer.unfinished
        keys = {*unfinished.keys, *self._planning.unplanned}
        for address in unfinished.addresses:
            keys.update(self._desired.behind(address))
        return self._store.dirty + len({self._desired.owner(key) or key for key in keys})

    @property
    def busy(self) -> bool:
        """Whether another cycle, right now, would find something to do."""
        now = self._clock()
        return self._store.listed and (
            self._store.dirty > 0 or self._woken.is_set() or self._next_due() <= now
        )

    def configure(self, settings: Settings) -> None:
        """Go by other settings from the next cycle on."""
        self._coming = settings
        self._woken.set()
        self._reconfigured.set()

    def wake(self) -> None:
        """Have the loop look at the store."""
        self._woken.set()

    def audit_soon(self) -> None:
        """Have the kernel's tables read and compared in the next cycle."""
        self._audits.soon()
        self._woken.set()

    def network_changed(self) -> None:
        """Have the node's own addresses read and followed soon, and see to the dummy interface."""
        self._network.changed()
        self._audits.glance_soon(PAUSE)
        self._woken.set()

    async def wait_until_applied(self, revision: int) -> None:
        """Wait until everything up to a revision of the store has been carried out or refused."""
        await self._progress.wait(revision)

    async def run(self) -> None:
        """Run cycles until cancelled.

        Raises DataplaneError when the kernel cannot be read at the start.
        """
        while True:
            await self._rest()
            if (await self.cycle()).only_looked:
                continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.settings.min_sync_period):
                    await self._reconfigured.wait()
            self._reconfigured.clear()

    async def cycle(self) -> CycleReport:
        """Carry out what is due now, once; report what was done.

        Nothing is read or written before every kind's initial list is complete; only what may keep
        them from it is told.
        """
        report = CycleReport(started=self._clock())
        if await self._only_looks():
            report.only_looked = True
            return report
        self._woken.clear()
        self._take_settings()
        if not self._store.listed:
            await self._conditions.update((), (), ())
            return report
        if self._observer is not None:
            self._observer.cycle_started()
        await self._look_around(report)
        names = self._translation.take_names(self._writer.state, sweeps=self._sweeps.due)
        complete = not self._store.dirty
        if complete or self._progress.revision >= 0:  # a start is not in parts
            report.covers = self._store.taken_up_to
        if await in_turns(self._translation.needs_listeners(names, self._writer.state)):
            await self._network.look()
        around = self._translation.around(self._writer.state)
        touched = await self._translation.in_turns(names, around, last=complete)
        holds = self._translation.holds(self._writer.state)
        await in_turns(
            self._sweeps.touch(
                touched, self._writer.state, holds, translated=complete, now=self._clock()
            )
        )
        touched.add(self._writer.unfinished)
        touched.keys |= self._settlement.climbing.due(self._clock())
        connections = await self._poll()
        touched.keys.update(connections)
        written = await self._carry_out(self._planning.batches(touched, around, connections))
        if self._health_checks is not None:  # not before what is promised there stands
            self._health_checks.update(self._desired.health_checks, around.health_check_addresses)
        self._probe()
        postponed = self._translation.lacking(written.unsupported)
        await self._schedule_polls(connections)
        await self._tell(names, self._planning.settled, postponed)
        report.translated = len(names)
        report.add(written)
        self._finish(report)
        if report.covers >= 0:
            await self._progress.reach(report.covers)
        return report

    async def _tell(
        self,
        names: Iterable[ServiceName],
        keys: Iterable[VirtualServerKey],
        postponed: AbstractSet[ServiceName],
    ) -> None:
        """Have told what is wrong."""
        if self._writer.unread:
            self._audits.doubt()
        self._told = self._writer.trouble
        self._conditions.kernel(self._told)
        self._conditions.own_node(
            self._settings.node_name, needed_for=needs_own_node(self._settings)
        )
        await self._conditions.update(names, keys, self._writer.refusals, postponed=postponed)

    async def _schedule_polls(self, looked_at: Collection[VirtualServerKey]) -> None:
        """Say when what drains is looked at next, of what was settled or looked at just now."""
        now, settled = self._clock(), self._planning.settled
        others = (key for key in looked_at if key not in settled)
        async for keys in a_few_at_a_time(chain(settled, others)):
            self._polls.schedule(keys, looked_at, self._settlement.draining, now)

    def _probe(self) -> None:
        """Have probed what is to be probed now."""
        if self._probes is not None:
            settings = self._settings
            self._probes.update(
                self._desired.probings,
                stretch=stretch(self._store.node_count, settings.health_check_nodes),
                most=settings.health_check_concurrency,
            )

    def _take_settings(self) -> None:
        """Take new settings and have everything looked at: each may concern every Service."""
        if (settings := self._coming) is None:
            return
        self._coming = None
        self._settings = settings
        for part in (self._network, self._settlement, self._translation, self._planning):
            part.settings = settings
        self._audits.configure(settings)
        self._sweeps.due = True
        self._store.mark_dirty(self._store.names)

    async def _rest(self) -> None:
        """Wait until something is due or somebody wakes us."""
        if self.busy:
            await asyncio.sleep(0)
            return
        pause = self._next_due() - self._clock() if self._store.listed else None
        try:
            async with asyncio.timeout(pause):
                await self._woken.wait()
        except TimeoutError:
            pass

    def _next_due(self) -> float:
        return min(self._audits.due, self._change_due())

    def _change_due(self) -> float:
        """Say when something else is due than to look at the kernel."""
        dues = (
            self._polls.next_due,
            self._network.due,
            self._planning.due,
            self._schedulers_due,
            self._translation.due,
            self._settlement.climbing.next_due,
            self._writer.next_due(),
        )
        return min((due for due in dues if due is not None), default=math.inf)

    def _finish(self, report: CycleReport) -> None:
        report.duration = self._clock() - report.started
        if self._observer is not None:
            self._observer.cycle_finished(report)
        if sentence := report.sentence():
            log.info("cycle", summary=sentence)

    async def _only_looks(self) -> bool:
        """Look at what is due of the kernel, as long as nothing else is; say whether that was all.

        It was not when a change has come, or what was seen wants to be told, or everything to be
        read.
        """
        if not self._writer.known or self._audits.due > self._clock():
            return False
        while not self._is_change_due():
            if self._audits.is_full_due:
                return False
            if not await self._audits.step():
                return self._writer.trouble == self._told
        return False

    def _is_change_due(self) -> bool:
        return (
            self._woken.is_set()
            or self._store.revision != self.applied_revision
            or self._change_due() <= self._clock()
        )

    async def _look_around(self, report: CycleReport) -> None:
        """Look at what is due: the kernel, the node's network, schedulers that were lacking."""
        if self._audits.is_full_due:
            self._sweeps.due = True
            await self._audit(report)
        elif self._audits.overdue:  # there is always something else to do
            await self._audits.step()
        if self._clock() >= self._schedulers_due:
            self._schedulers_due = self._clock() + _RECONSIDER_SCHEDULERS
            self._translation.reconsider()
        await self._network.look_if_due()
        self._translation.look_again()

    async def _audit(self, report: CycleReport) -> None:
        first = not self._writer.known
        before = None if first else self._writer.state
        self._audits.begin_full()
        try:
            report.drift.update(await self._writer.dump())
            report.audited = True
        except DataplaneError:
            if first:
                raise
            return
        await self._audits.finish_full()
        if first:
            await self._adopt(report)
        elif before is not None:
            if before.families != self._writer.state.families:
                self._store.mark_dirty(self._store.names)
            self._network.follow(before.network)
        self._conditions.node(
            self._writer.state.families, shortcomings(self._settings, self._writer.state)
        )

    async def _adopt(self, report: CycleReport) -> None:
        """Fill the ledger from what a predecessor left, before anything else is written."""
        batch = adoption(self._settings, self._writer.state)
        if batch.steps:
            count = sum(isinstance(step.operation, AddMember) for step in batch.steps)
            log.info("adopting a predecessor's virtual servers", count=count)
            report.add(await self._carry_out([batch]))

    async def _carry_out(self, batches: Iterable[Batch | Cost]) -> Written:
        written = await self._writer.carry_out(batches)
        if written.contradicted:
            self.audit_soon()
        for key in written.foreign:
            # What was written for it goes again; it itself is somebody else's and stays.
            self._writer.unfinished.members |= self._desired.mark_foreign(key).members
            self._store.mark_dirty(self._desired.claimants(key))
            self._woken.set()
        return written

    async def _poll(self) -> dict[VirtualServerKey, dict[RealServerKey, int]]:
        """Read the connections of draining real servers, where it is time to.

        A virtual server that somebody has removed is among them, so that it is planned again.
        """
        keys = self._polls.due(self._clock(), every=self._settings.min_sync_period > 0)
        connections = await self._writer.read(keys)
        return {key: connections.get(key, {}) for key in keys}
