"""What happens in the reconciler, written into metrics and health.

The reconciler tells it of cycles, the feeder of events; it decides nothing and is asked by nobody
but the HTTP ports.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from ipvsproxy.agent.changes import Changes
from ipvsproxy.core.operations import ReplaceChains
from ipvsproxy.core.pieces import MANY, Pieces, cut
from ipvsproxy.model import SetType
from ipvsproxy.probe import Prober
from ipvsproxy.reconciler import CycleReport, Reconciler
from ipvsproxy.reconciler.turns import in_turns
from ipvsproxy.store import Event, Store
from ipvsproxy.telemetry import CycleSummary, Health, Metrics
from ipvsproxy.telemetry.metrics import TRAFFIC_POLICIES


class Observer:
    """Keeps metrics and health equal to what the reconciler does."""

    def __init__(
        self,
        *,
        store: Store,
        metrics: Metrics,
        health: Health,
        changes: Changes,
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
    ) -> None:
        self._store = store
        self._metrics = metrics
        self._health = health
        self._changes = changes
        self._clock = clock
        self._wall_clock = wall_clock
        self._events: Counter[type[Event]] = Counter()
        """Not yet in the metric, which costs two locks for each: a start brings thousands."""
        self.last_cycle: CycleSummary | None = None
        self.restart_needed: tuple[str, ...] = ()
        """Fields of the configuration file that were changed and count after a restart only."""
        self.writes: Counter[str] = Counter()
        """Acknowledged operations since the start, by kind."""

    def event(self, event: Event, *, changed: bool) -> None:
        """Take note of what a source has said."""
        self._events[type(event)] += 1
        if self._store.node is not None:
            self._health.leaving = self._store.node.leaving
        if changed:
            self._changes.note(event, self._store.revision)
        if changed and self._store.listed:
            self._health.queued(self._clock())
            self._metrics.sync_last_queued.set(self._wall_clock())

    @property
    def working(self) -> bool:
        """Whether changes are carried out in time, as /livez says."""
        return self._health.is_working(self._clock())

    def cycle_started(self) -> None:
        """Take note that a cycle begins."""
        self._health.cycle_started()

    def cycle_finished(self, report: CycleReport) -> None:
        """Take note of what a cycle did."""
        now = self._wall_clock()
        self._changes.finished(report.covers)
        self._health.cycle_completed(self._clock())
        if report.covers >= 0:
            self._health.in_step()
        self.writes.update(report.done)
        self.last_cycle = CycleSummary(
            completed=now,
            duration=report.duration,
            operations=report.done.total(),
            refused=report.refused.total(),
            result=report.result,
        )
        metrics = self._metrics
        metrics.cycles.labels(report.result).inc()
        metrics.sync_duration.observe(report.duration)
        if not report.undone:  # what was refused earlier waits out its pause, and is no refusal now
            metrics.sync_last.set(now)
        for kind, count in report.done.items():
            metrics.operations.labels(kind, "done").inc(count)
        for (kind, reason), count in report.refused.items():
            metrics.operations.labels(kind, reason).inc(count)
        metrics.restore_failures.inc(
            sum(n for (kind, _), n in report.refused.items() if kind == ReplaceChains.__name__)
        )
        if report.audited:
            metrics.audits.inc()
        for kind, count in report.drift.items():
            metrics.drift.labels(kind).inc(count)

    async def gauges(self, reconciler: Reconciler) -> None:
        """Write down the sizes of things; for when somebody looks."""
        counts = await in_turns(sizes(self._store, reconciler))
        without = await in_turns(_without_local(reconciler))
        metrics = self._metrics
        for kind, count in self._events.items():
            metrics.source_events.labels(kind.__name__).inc(count)
        self._events.clear()
        self._changes.gauges()
        metrics.audits.inc(reconciler.looks["rounds"])
        metrics.glances.inc(reconciler.looks["glances"])
        reconciler.looks.clear()
        metrics.loop_lag_max.set(metrics.loop_lag.longest(self._clock()))
        gauges = {
            "services": metrics.services,
            "virtual_servers": metrics.virtual_servers,
            "real_servers": metrics.real_servers,
            "draining_real_servers": metrics.draining_real_servers,
            "pending_services": metrics.pending_services,
        }
        for name, count in counts.items():
            gauges[name].set(count)
        for policy in TRAFFIC_POLICIES:
            metrics.no_local_endpoints.labels(policy).set(without[policy])
        state = reconciler.state
        if state is None:
            return
        for name, spec in state.sets.items():
            metrics.set_members.labels(name).set(len(state.members[name]))
            if spec.type is not SetType.BITMAP_PORT:
                metrics.set_capacity.labels(name).set(spec.maxelem)

    def probes(self, reconciler: Reconciler, prober: Prober) -> None:
        """Write down how the probes are doing; for when somebody looks."""
        metrics = self._metrics
        for outcome, count in prober.outcomes.items():
            metrics.health_checks.labels(str(outcome)).inc(count)
        prober.outcomes.clear()
        metrics.health_check_targets.set(prober.targets)
        metrics.health_check_resting.set(prober.resting)
        metrics.health_check_late.set(prober.late)
        metrics.health_checks_under_way.set(prober.under_way)
        metrics.health_checks_worst.set(prober.worst)
        metrics.health_checks_limit.set(prober.most)
        metrics.unhealthy_endpoints.clear()
        for name, probing in reconciler.desired.probings.items():
            gauge = metrics.unhealthy_endpoints.labels(name.namespace, name.name)
            gauge.set(len(probing.unhealthy))


def sizes(store: Store, reconciler: Reconciler) -> Pieces[dict[str, int]]:
    """Count what there is: Services, and what the kernel holds for them."""
    state = reconciler.state
    held = tuple(reconciler.desired.held)
    real_servers = 0
    for keys in cut(held if state is not None else (), MANY):
        assert state is not None, "else there are no keys"
        real_servers += sum(len(state.real_servers.get(key, ())) for key in keys)
        yield len(keys) // 4
    return {
        "services": len(store.names),
        "virtual_servers": len(held),
        "real_servers": real_servers,
        "draining_real_servers": sum(len(some) for some in reconciler.draining.values()),
        "pending_services": reconciler.pending,
    }


def _without_local(reconciler: Reconciler) -> Pieces[Counter[str]]:
    """Count the Services that have no endpoint on this node, by the policy that asks for one."""
    found = Counter[str]()
    for fragments in cut(tuple(reconciler.desired.fragments.values()), MANY):
        found.update(policy for fragment in fragments for policy in fragment.without_local)
        yield len(fragments) // 4
    return found
