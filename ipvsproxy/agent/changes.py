"""What the sources have changed and the kernel does not have yet: counts, and how long it took.

Knows kube-proxy's measures of it (pkg/proxy/endpointschangetracker.go and servicechangetracker.go):
changes by kind, and the time from the change that the control plane saw to the kernel's having it.
Knows revisions of the store, and nothing of what a change was.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from typing import NamedTuple, assert_never

from ipvsproxy.objects import EndpointSlice, ObjectReference, ServiceName
from ipvsproxy.store import (
    Event,
    Gone,
    Judged,
    Listed,
    Put,
    Readable,
    Refused,
    Unlisted,
    Unreadable,
    reference_of,
)
from ipvsproxy.telemetry import Conditions, ConditionType, Metrics

_KINDS = ("Service", "EndpointSlice")
_HELD_UP = frozenset(
    {ConditionType.OPERATION_REFUSED, ConditionType.INTERNAL_ERROR, ConditionType.SET_FULL}
)
"""Conditions of a Service of which a part is not in the kernel, and is tried again."""
_MOST_TRIGGERS = 10_000
"""Of those that wait; more are there only in a storm, or while much is refused."""


class _Trigger(NamedTuple):
    revision: int
    service: ServiceName
    moment: float
    """Seconds since the epoch."""


class Changes:
    """The changes on their way into the kernel."""

    def __init__(
        self, metrics: Metrics, conditions: Conditions, wall_clock: Callable[[], float]
    ) -> None:
        self._metrics = metrics
        self._conditions = conditions
        self._wall_clock = wall_clock
        self._started = wall_clock()
        self._pending: dict[str, dict[ObjectReference, int]] = {kind: {} for kind in _KINDS}
        """Under which revision each object has last changed."""
        self._counted: Counter[str] = Counter()
        """Not yet in the metric."""
        self._triggers: deque[_Trigger] = deque(maxlen=_MOST_TRIGGERS)

    def note(self, event: Event, revision: int) -> None:
        """Take note of an event that has made the store's inputs what `revision` names."""
        match event:
            case Put(changed):
                self._count(reference_of(changed), revision)
                if isinstance(changed, EndpointSlice):
                    self._note_trigger(changed, revision)
            case Gone(reference):
                self._count(reference, revision)
            case Refused() | Unreadable() | Readable() | Listed() | Unlisted() | Judged():
                return
            case _:
                assert_never(event)

    def finished(self, covers: int) -> None:
        """Take note that a cycle has carried out all changes up to a revision, or was refused."""
        for kind, pending in self._pending.items():
            self._pending[kind] = {one: at for one, at in pending.items() if at > covers}
        now = self._wall_clock()
        held_up: list[_Trigger] = []
        while self._triggers and self._triggers[0].revision <= covers:
            trigger = self._triggers.popleft()
            if self._is_held_up(trigger.service):
                held_up.append(trigger)
            else:
                self._metrics.network_programming.observe(max(0.0, now - trigger.moment))
        self._triggers.extendleft(reversed(held_up))

    def gauges(self) -> None:
        """Write the counts down; for when somebody looks."""
        metrics = self._metrics
        for kind, pending, total in (
            ("Service", metrics.service_changes_pending, metrics.service_changes),
            ("EndpointSlice", metrics.endpoint_changes_pending, metrics.endpoint_changes),
        ):
            pending.set(len(self._pending[kind]))
            total.inc(self._counted.pop(kind, 0))

    def _count(self, reference: ObjectReference, revision: int) -> None:
        if reference.kind in self._pending:
            self._counted[reference.kind] += 1
            self._pending[reference.kind][reference] = revision

    def _note_trigger(self, changed: EndpointSlice, revision: int) -> None:
        """Keep when it was triggered; not from before our start, which says nothing of us."""
        if changed.triggered is not None and changed.triggered > self._started:
            self._triggers.append(_Trigger(revision, changed.service, changed.triggered))

    def _is_held_up(self, service: ServiceName) -> bool:
        standing = self._conditions.of(f"Service {service}")
        return any(one.type in _HELD_UP for one in standing)
