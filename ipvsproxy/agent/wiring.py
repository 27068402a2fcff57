"""A store, a reconciler and what they report to, put together; the same for every command.

Knows every part and no part's work. It also says what the agent knows of its Services (`status`),
for that is spread over the parts.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import msgspec

from ipvsproxy import __version__
from ipvsproxy.agent.changes import Changes
from ipvsproxy.agent.observer import Observer, sizes
from ipvsproxy.agent.traffic import TrafficReader
from ipvsproxy.config import Settings
from ipvsproxy.core.translate import Fragment, Frontend
from ipvsproxy.dataplane import Dataplane
from ipvsproxy.http import HealthChecks
from ipvsproxy.model import Protocol
from ipvsproxy.probe import ProbedTraffic, Prober, ask
from ipvsproxy.reconciler import Reconciler
from ipvsproxy.reconciler.turns import a_few_at_a_time, in_turns
from ipvsproxy.store import Event, Store
from ipvsproxy.telemetry import (
    AgentStatus,
    Condition,
    Conditions,
    FrontendStatus,
    Health,
    LoopLag,
    Metrics,
    ServiceStatus,
    Teller,
    Watches,
    tell_nobody,
)

MANY_FILES = 1 << 16
"""The limit of open files where nobody says another."""


@dataclass(frozen=True, slots=True)
class Wiring:
    """One agent's parts."""

    store: Store
    conditions: Conditions
    metrics: Metrics
    health: Health
    health_checks: HealthChecks
    observer: Observer
    reconciler: Reconciler
    traffic: TrafficReader
    probed_traffic: ProbedTraffic

    @property
    def prober(self) -> Prober:
        """Who probes endpoints."""
        return self.probed_traffic.prober

    @property
    def settings(self) -> Settings:
        """The settings that count now."""
        return self.reconciler.settings

    def configure(self, settings: Settings) -> None:
        """Go by other settings from the next cycle on."""
        self.health.limit = 2 * settings.sync_period
        self.reconciler.configure(settings)

    def take(self, event: Event) -> None:
        """Take in what a source says."""
        before = self.store.revision
        self.store.apply(event)
        changed = self.store.revision != before
        self.observer.event(event, changed=changed)
        if changed:
            self.reconciler.wake()

    async def status(self) -> AgentStatus:
        """Say what the agent knows: what /status answers.

        The Services are shown a few at a time, as they are then: no older than `applied_revision`
        says, and what has changed since may be seen of some and not of others.
        """
        head = AgentStatus(
            version=__version__,
            node=self.settings.node_name,
            applied_revision=self.reconciler.applied_revision,
            synced=self.health.synced,
            working=self.observer.working,
            restart_needed=self.observer.restart_needed,
            last_cycle=self.observer.last_cycle,
            writes=dict(self.observer.writes),
        )
        fragments = sorted(self.reconciler.desired.fragments.items())
        services: list[ServiceStatus] = []
        async for some in a_few_at_a_time(fragments):
            services += (self._service_status(fragment) for _, fragment in some)
        conditions: list[Condition] = []
        async for subjects in a_few_at_a_time(self.conditions.subjects):
            conditions += (one for subject in subjects for one in self.conditions.of(subject))
        counts = await in_turns(sizes(self.store, self.reconciler))
        return msgspec.structs.replace(
            head, services=tuple(services), conditions=tuple(conditions), counts=counts
        )

    async def scrape(self) -> None:
        """Bring gauges and traffic counters up to date, before a scrape."""
        await self.traffic.refresh()
        await self.observer.gauges(self.reconciler)
        self.observer.probes(self.reconciler, self.prober)
        self.metrics.health_check_node_ports.set(self.health_checks.listening)

    def _service_status(self, fragment: Fragment) -> ServiceStatus:
        ports = self.store.port_names(fragment.name)
        return ServiceStatus(
            name=str(fragment.name),
            frontends=tuple(
                self._frontend_status(fragment, frontend, ports)
                for frontend in fragment.frontends
                if self.reconciler.desired.owner(frontend.key) == fragment.name
            ),
            problems=tuple(
                condition.message for condition in self.conditions.of(f"Service {fragment.name}")
            ),
            targets=len(fragment.probing.targets) if fragment.probing is not None else 0,
            resting=self.prober.resting_of(fragment.name),
        )

    def _frontend_status(
        self,
        fragment: Fragment,
        frontend: Frontend,
        ports: Mapping[tuple[Protocol, int], str],
    ) -> FrontendStatus:
        key = frontend.key
        draining = self.reconciler.draining.get(key, frozenset())
        unhealthy = fragment.probing.unhealthy if fragment.probing is not None else frozenset()
        return FrontendStatus(
            virtual_server=str(key),
            port=ports.get((key.protocol, key.port)) or str(key.port),
            kind=str(frontend.kind),
            scheduler=frontend.server.scheduler,
            annotated=fragment.asked if fragment.annotated else None,
            draining=tuple(str(member) for member in sorted(draining)),
            unhealthy=tuple(
                str(target.server)
                for target in sorted(unhealthy)
                if target.protocol is key.protocol
                and (target.server in frontend.real_servers or target.server in frontend.cut)
            ),
        )


def wire(
    settings: Settings,
    dataplane: Dataplane,
    *,
    clock: Callable[[], float] = time.monotonic,
    wall_clock: Callable[[], float] = time.time,
    tell: Teller = tell_nobody,
    conditions: Conditions | None = None,
    watches: Watches | None = None,
    loop_lag: LoopLag | None = None,
    chance: Callable[[], float] = random.random,
    open_files: int = MANY_FILES,
) -> Wiring:
    """Put an agent together around a dataplane; the clocks and `tell` are as in `Reconciler`.

    `conditions`, `watches` and `loop_lag` are the source's and the loop's; `chance` spreads probes.
    """
    store = Store(settings.node_name)
    conditions = Conditions() if conditions is None else conditions
    metrics = Metrics(conditions, version=__version__, watches=watches, loop_lag=loop_lag)
    health = Health(sync_period=settings.sync_period, now=clock())
    observer = Observer(
        store=store,
        metrics=metrics,
        health=health,
        changes=Changes(metrics, conditions, wall_clock),
        clock=clock,
        wall_clock=wall_clock,
    )
    checks = _health_checks(health, conditions, store, clock, wall_clock, tell=tell)
    probes = _probes(dataplane, metrics, clock, chance, open_files=open_files)
    reconciler = Reconciler(
        store=store,
        dataplane=dataplane,
        settings=settings,
        conditions=conditions,
        clock=clock,
        wall_clock=wall_clock,
        observer=observer,
        health_checks=checks,
        probes=probes,
        tell=tell,
    )
    traffic = TrafficReader(
        dataplane=dataplane,
        store=store,
        reconciler=reconciler,
        metrics=metrics,
        clock=clock,
        wall_clock=wall_clock,
    )
    parts = (store, conditions, metrics, health, checks, observer, reconciler, traffic, probes)
    wiring = Wiring(*parts)
    probes.prober.tell = wiring.take
    return wiring


def _probes(
    dataplane: Dataplane,
    metrics: Metrics,
    clock: Callable[[], float],
    chance: Callable[[], float],
    *,
    open_files: int,
) -> ProbedTraffic:
    """Make who probes: of the `open_files` that the agent may have, probes get three quarters."""
    took = metrics.health_check_duration.observe
    room = max(1, open_files * 3 // 4)
    prober = Prober(ask=ask, observe=took, clock=clock, chance=chance, room=room)
    return ProbedTraffic(dataplane=dataplane, prober=prober, clock=clock)


def _health_checks(
    health: Health,
    conditions: Conditions,
    store: Store,
    clock: Callable[[], float],
    wall_clock: Callable[[], float],
    *,
    tell: Teller,
) -> HealthChecks:
    return HealthChecks(
        health,
        conditions,
        clock=clock,
        wall_clock=wall_clock,
        tell=lambda condition: tell(condition, store.uid(condition.subject)),
    )
