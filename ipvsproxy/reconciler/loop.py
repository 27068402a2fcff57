"""When something is done, and in which order: the cycle, its pace, the audit, the polls.

    cycle   [audit] -> dirty Services -> fragments -> connections of draining servers
            -> target -> batch -> writer -> conditions -> report
    audit   the whole kernel is read, drift is counted, everything is compared

Knows the store and the core's decisions; the writer knows the kernel. Errors of one Service end
at that Service: what cannot be translated keeps its last fragment and becomes a condition. A cycle
returns a report, logged as one sentence. Time comes from the clock that is handed in.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Protocol

import structlog

from ipvsproxy.config import Settings
from ipvsproxy.core.desired import Desired, Touched
from ipvsproxy.core.ledger import adopt, owns
from ipvsproxy.core.plan import Target, plan
from ipvsproxy.core.settlement import Holds, Settlement
from ipvsproxy.core.translate import Fragment, Surroundings, translate
from ipvsproxy.dataplane import Dataplane, DataplaneError
from ipvsproxy.model import Address, RealServerKey, State, VirtualServerKey
from ipvsproxy.objects import ServiceName
from ipvsproxy.reconciler.conditions import ConditionWriter
from ipvsproxy.reconciler.report import CycleReport
from ipvsproxy.reconciler.writer import Writer, Written
from ipvsproxy.store import Store
from ipvsproxy.telemetry import Conditions

log = structlog.get_logger(__name__)

FIRST_SERVICES = (
    ServiceName("default", "kubernetes"),
    ServiceName("kube-system", "kube-dns"),
    ServiceName("kube-system", "coredns"),
)
"""What everything else on a node waits for: the API server and the cluster's DNS."""

_FIRST_POLL = 0.5
_LONGEST_POLL = 5.0
"""Seconds between two looks at the connections of a draining real server, doubling."""
_RECONSIDER_SCHEDULERS = 300.0
"""Seconds after which a scheduler that this kernel lacked is tried again."""


class CycleObserver(Protocol):
    """Who wants to know of cycles."""

    def cycle_started(self) -> None:
        """Take note that a cycle begins."""
        ...

    def cycle_finished(self, report: CycleReport) -> None:
        """Take note of what a cycle did."""
        ...


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
    ) -> None:
        """Wire the loop up.

        `clock` counts seconds and only runs forward; `wall_clock` gives seconds since the epoch,
        for people.
        """
        self._store = store
        self._settings = settings
        self._clock = clock
        self._wall_clock = wall_clock
        self._observer = observer
        self._writer = Writer(dataplane, clock)
        self._desired = Desired()
        self._settlement = Settlement(self._desired, settings)
        self._conditions = ConditionWriter(store, self._desired, conditions)
        self._polls: dict[VirtualServerKey, tuple[float, float]] = {}
        """When each draining virtual server is looked at, and the pause before that."""
        self._audit_due = clock()
        self._schedulers_due = clock() + _RECONSIDER_SCHEDULERS
        self._sweep_due = False
        self._was_whole = False
        self._untranslated: dict[ServiceName, frozenset[Address]] = {}
        """Addresses of Services that have no fragment because their translation failed."""
        self._first_served = False
        self._woken = asyncio.Event()
        self._applied = asyncio.Condition()
        self.applied_revision = -1
        """The store's revision up to which everything has been carried out or refused."""

    @property
    def desired(self) -> Desired:
        """What all Services want, for the status table."""
        return self._desired

    @property
    def state(self) -> State | None:
        """What the kernel is known to hold; None before the first dump."""
        return self._writer.state if self._writer.known else None

    @property
    def draining(self) -> Mapping[VirtualServerKey, frozenset[RealServerKey]]:
        """Real servers that are kept only for their open connections."""
        return self._settlement.draining

    @property
    def pending(self) -> int:
        """How many Services are not in the kernel as they should be: changed, or refused."""
        return self._store.dirty + len(
            {self._desired.owner(key) for key in self._writer.unfinished.keys}
        )

    @property
    def busy(self) -> bool:
        """Whether another cycle, right now, would find something to do."""
        now = self._clock()
        return self._store.listed and (
            self._store.dirty > 0 or self._woken.is_set() or self._next_due() <= now
        )

    def wake(self) -> None:
        """Have the loop look at the store."""
        self._woken.set()

    def audit_soon(self) -> None:
        """Have the kernel's tables read and compared in the next cycle."""
        self._audit_due = self._clock()
        self._woken.set()

    async def wait_until_applied(self, revision: int) -> None:
        """Wait until everything up to a revision of the store has been carried out or refused."""
        async with self._applied:
            await self._applied.wait_for(lambda: self.applied_revision >= revision)

    async def run(self) -> None:
        """Run cycles until cancelled.

        Raises DataplaneError when the kernel cannot be read at the start.
        """
        while True:
            await self._rest()
            await self.cycle()
            await asyncio.sleep(self._settings.min_sync_period)

    async def cycle(self) -> CycleReport:
        """Carry out what is due now, once; report what was done.

        Nothing is read or written before every kind's initial list is complete; only what may keep
        them from it is told.
        """
        self._woken.clear()
        report = CycleReport(started=self._clock())
        if not self._store.listed:
            self._conditions.update((), (), (), self._wall_clock())
            return report
        if self._observer is not None:
            self._observer.cycle_started()
        revision = self._store.revision
        await self._audit_if_due(report)
        names = self._take_names()
        touched = self._translate(names)
        touched.add(self._sweep_if_due())
        touched.add(self._writer.unfinished)
        connections = await self._poll()
        touched.keys.update(connections)
        target = self._settlement.target(
            touched, self._writer.state, connections=connections, now=self._clock()
        )
        written = await self._carry_out(target)
        self._schedule_polls(target.virtual_servers)
        self._conditions.update(
            names, target.virtual_servers, self._writer.refusals, self._wall_clock()
        )
        report.translated = len(names)
        report.add(written)
        self._finish(report)
        if not self._store.dirty:
            await self._announce(revision)
        return report

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
        dues = [self._audit_due, *(due for due, _ in self._polls.values())]
        retry = self._writer.next_due()
        return min(dues if retry is None else [*dues, retry])

    async def _announce(self, revision: int) -> None:
        async with self._applied:
            self.applied_revision = revision
            self._applied.notify_all()

    def _finish(self, report: CycleReport) -> None:
        report.duration = self._clock() - report.started
        if self._observer is not None:
            self._observer.cycle_finished(report)
        if sentence := report.sentence():
            log.info("cycle", summary=sentence)

    def _sweep_if_due(self) -> Touched:
        """Touch everything after an audit, and when the picture has become whole.

        Not before every Service has been translated: what is not claimed yet is no leftover.
        """
        if self._store.whole and not self._was_whole:
            self._sweep_due = True
        self._was_whole = self._store.whole
        if not self._sweep_due or self._store.dirty:
            return Touched()
        self._sweep_due = False
        state = self._writer.state
        touched = Touched()
        for key in self._desired.foreign - state.virtual_servers.keys():
            touched.add(self._desired.clear_foreign(key))
        held = self._store.held_addresses()
        holds = Holds(
            everything=held is None or not self._store.whole,
            addresses=(held or frozenset()).union(*self._untranslated.values()),
        )
        touched.add(self._settlement.sweep(state, holds, self._clock()))
        return touched

    async def _audit_if_due(self, report: CycleReport) -> None:
        if self._clock() >= self._audit_due:
            self._audit_due = self._clock() + self._settings.sync_period
            self._sweep_due = True
            await self._audit(report)

    async def _audit(self, report: CycleReport) -> None:
        first = not self._writer.known
        try:
            report.drift.update(await self._writer.dump())
            report.audited = True
        except DataplaneError as error:
            if first:
                raise
            log.warning("kernel tables not read, the last picture stays", reason=str(error))
            return
        if first:
            await self._adopt(report)
        if self._clock() >= self._schedulers_due:
            self._schedulers_due = self._clock() + _RECONSIDER_SCHEDULERS
            self._reconsider_schedulers()

    async def _adopt(self, report: CycleReport) -> None:
        """Fill the ledger from what a predecessor left, before anything else is written."""
        members = dict.fromkeys(sorted(adopt(self._writer.state)), True)
        if members:
            log.info("adopting a predecessor's virtual servers", count=len(members))
            target = self._settlement.target(
                Touched(), self._writer.state, connections={}, now=self._clock()
            )
            written = await self._carry_out(Target(target.foundation, members=members))
            report.add(written)

    async def _carry_out(self, target: Target) -> Written:
        batch = plan(target, self._writer.state, self._settings.node_name.encode())
        # A cancelled cycle is carried out to its end: the shadow must know what was written.
        written = await asyncio.shield(asyncio.ensure_future(self._writer.carry_out(batch)))
        if written.contradicted:
            self.audit_soon()
        if written.unsupported - self._settlement.unavailable:
            self._settlement.unavailable |= written.unsupported
            self._translate_again(written.unsupported)
        return written

    def _translate_again(self, schedulers: Collection[str]) -> None:
        """Have those Services translated again that chose a scheduler which the kernel lacks."""
        self._store.mark_dirty(
            name
            for name, fragment in self._desired.fragments.items()
            if fragment.asked in schedulers or fragment.scheduler in schedulers
        )
        self._woken.set()

    def _reconsider_schedulers(self) -> None:
        """Try the schedulers again that the kernel lacked: a module may have been installed."""
        lacking = frozenset(self._settlement.unavailable)
        self._settlement.unavailable.clear()
        self._translate_again(lacking)

    def _take_names(self) -> list[ServiceName]:
        """Take the Services to be looked at.

        On a cold start those that all others wait for come first, alone. Not on a restart: nobody
        waits, and a Service that is looked at alone would take what an older one owns.
        """
        state = self._writer.state
        warm = self._first_served or any(owns(state, key) for key in state.virtual_servers)
        self._first_served = True
        return self._store.take_dirty() if warm else self._store.take_dirty(FIRST_SERVICES)

    def _translate(self, names: Iterable[ServiceName]) -> Touched:
        around = Surroundings(
            self._settings, self._writer.state, frozenset(self._settlement.unavailable)
        )
        touched = Touched()
        for name in names:
            touched.add(self._translate_one(name, around))
        return touched

    def _translate_one(self, name: ServiceName, around: Surroundings) -> Touched:
        """Translate one Service; whatever goes wrong in it stays with it."""
        inputs = self._store.inputs(name)
        if inputs is None:
            self._untranslated.pop(name, None)
            return self._desired.drop(name, self._clock())
        try:
            fragment = translate(inputs, around, self._desired.fragments.get(name))
        except Exception as error:  # noqa: BLE001 - a bug in one Service's case is that Service's
            self._conditions.internal_error(name, error, self._wall_clock())
            if name not in self._desired.fragments:
                self._untranslated[name] = frozenset(inputs.service.cluster_ips)
            return Touched()
        self._untranslated.pop(name, None)
        self._conditions.translation_succeeded(name)
        touched = self._mark_foreign(fragment)
        touched.add(self._desired.put(fragment, self._clock()))
        return touched

    def _mark_foreign(self, fragment: Fragment) -> Touched:
        """Leave those virtual servers alone that exist, are wanted, and are somebody else's."""
        state = self._writer.state
        touched = Touched()
        for frontend in fragment.frontends:
            key = frontend.key
            exists = key in state.virtual_servers and key not in self._desired.held
            if exists and not owns(state, key):
                touched.add(self._desired.mark_foreign(key))
        return touched

    async def _poll(self) -> dict[VirtualServerKey, dict[RealServerKey, int]]:
        """Read the connections of draining real servers, where it is time to.

        A virtual server that somebody has removed is among them, so that it is planned again.
        """
        now = self._clock()
        keys = [key for key, (due, _) in self._polls.items() if due <= now]
        connections = await self._writer.read(keys)
        return {key: connections.get(key, {}) for key in keys}

    def _schedule_polls(self, keys: Iterable[VirtualServerKey]) -> None:
        """Say when those that were settled are looked at next; a new one at once.

        One that was settled for another reason, and not looked at, is still due when it was: a
        Service that never rests would never be looked at.
        """
        now = self._clock()
        draining = self._settlement.draining
        for key in keys:
            if key not in draining:
                self._polls.pop(key, None)
                continue
            due, pause = self._polls.get(key, (now, 0.0))
            if due <= now:
                longer = min(max(pause * 2, _FIRST_POLL), _LONGEST_POLL)
                self._polls[key] = (now + pause, longer)
