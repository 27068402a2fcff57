"""A store, a reconciler and what they report to, put together; the same for every command.

Knows every part and no part's work. It also says what the agent knows of its Services (`status`),
for that is spread over the parts.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from ipvsproxy import __version__
from ipvsproxy.agent.changes import Changes
from ipvsproxy.agent.observer import Observer, sizes
from ipvsproxy.agent.traffic import TrafficReader
from ipvsproxy.config import Settings
from ipvsproxy.core.translate import Fragment, Frontend
from ipvsproxy.dataplane import Dataplane
from ipvsproxy.http import HealthChecks
from ipvsproxy.reconciler import Reconciler
from ipvsproxy.store import Event, Store
from ipvsproxy.telemetry import (
    AgentStatus,
    Conditions,
    FrontendStatus,
    Health,
    Metrics,
    ServiceStatus,
    Teller,
    Watches,
    tell_nobody,
)


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

    def status(self) -> AgentStatus:
        """Say what the agent knows: what /status answers."""
        return AgentStatus(
            version=__version__,
            node=self.settings.node_name,
            applied_revision=self.reconciler.applied_revision,
            synced=self.health.synced,
            working=self.observer.working,
            restart_needed=self.observer.restart_needed,
            services=tuple(
                self._service_status(fragment)
                for _, fragment in sorted(self.reconciler.desired.fragments.items())
            ),
            conditions=tuple(self.conditions),
            counts=sizes(self.store, self.reconciler),
            last_cycle=self.observer.last_cycle,
            writes=dict(self.observer.writes),
        )

    async def scrape(self) -> None:
        """Bring gauges and traffic counters up to date, before a scrape."""
        await self.traffic.refresh()
        self.observer.gauges(self.reconciler)
        self.metrics.health_check_node_ports.set(self.health_checks.listening)

    def _service_status(self, fragment: Fragment) -> ServiceStatus:
        return ServiceStatus(
            name=str(fragment.name),
            frontends=tuple(
                self._frontend_status(fragment, frontend)
                for frontend in fragment.frontends
                if self.reconciler.desired.owner(frontend.key) == fragment.name
            ),
            problems=tuple(
                condition.message for condition in self.conditions.of(f"Service {fragment.name}")
            ),
        )

    def _frontend_status(self, fragment: Fragment, frontend: Frontend) -> FrontendStatus:
        draining = self.reconciler.draining.get(frontend.key, frozenset())
        return FrontendStatus(
            virtual_server=str(frontend.key),
            port=self.store.port_name(fragment.name, frontend.key) or str(frontend.key.port),
            kind=str(frontend.kind),
            scheduler=frontend.server.scheduler,
            annotated=fragment.asked if fragment.annotated else None,
            draining=tuple(str(member) for member in sorted(draining)),
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
) -> Wiring:
    """Put an agent together around a dataplane; the clocks and `tell` are as in `Reconciler`.

    `conditions` and `watches` are those that the source writes into, if it does.
    """
    store = Store(settings.node_name)
    conditions = Conditions() if conditions is None else conditions
    metrics = Metrics(conditions, version=__version__, watches=watches)
    health = Health(sync_period=settings.sync_period, now=clock())
    observer = Observer(
        store=store,
        metrics=metrics,
        health=health,
        changes=Changes(metrics, conditions, wall_clock),
        clock=clock,
        wall_clock=wall_clock,
    )
    checks = HealthChecks(
        health,
        conditions,
        clock=clock,
        wall_clock=wall_clock,
        tell=lambda condition: tell(condition, store.uid(condition.subject)),
    )
    reconciler = Reconciler(
        store=store,
        dataplane=dataplane,
        settings=settings,
        conditions=conditions,
        clock=clock,
        wall_clock=wall_clock,
        observer=observer,
        health_checks=checks,
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
    return Wiring(store, conditions, metrics, health, checks, observer, reconciler, traffic)
