"""What is wrong now, by subject: one line each, kept until it is put right.

A condition is a state, not an event: it is raised once however often it is found again, and cleared
when it no longer holds. Whoever logs asks `take_raised` and `take_cleared` after each cycle and so
tells each once (`take_raised_of`: one that shall not wait for a cycle); metrics, `status` and
Events read what stands.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from enum import StrEnum
from typing import TypeAlias

import msgspec


class ConditionType(StrEnum):
    """What can be wrong; docs/operations.md has a paragraph for each."""

    INVALID_ANNOTATION = "InvalidAnnotation"
    """An annotation's value is wrong; the last good value stays, the default for a new Service."""
    NO_EFFECT = "NoEffect"
    """What an annotation asks for does nothing here, or not for all; the message says why."""
    SCHEDULER_UNAVAILABLE = "SchedulerUnavailable"
    """This kernel lacks the scheduler that is asked for; the previous one stays."""
    INVALID_OBJECT = "InvalidObject"
    """An object is nonsense; its last good state stays."""
    UNREADABLE_SOURCE = "UnreadableSource"
    """A file or folder cannot be read; until it can, no object counts as deleted."""
    OPERATION_REFUSED = "OperationRefused"
    """The kernel refused a change; it is tried again."""
    FOREIGN_VIRTUAL_SERVER = "ForeignVirtualServer"
    """Somebody else's virtual server has an address and port that a Service wants."""
    CONTESTED_ADDRESS = "ContestedAddress"
    """Two Services want the same address and port; the older one has it."""
    RESERVED_ADDRESS = "ReservedAddress"
    """An external address of a Service is one that others live on; it is not served there."""
    IGNORED_FIELD = "IgnoredField"
    """An entry of a field is passed over; the rest of the object counts."""
    INTERNAL_ERROR = "InternalError"
    """A mistake in this program; the Service's last good state stays."""
    PORT_TAKEN = "PortTaken"
    """An HTTP server of the agent cannot listen; it is tried again."""
    HEALTH_CHECK_PORT_TAKEN = "HealthCheckPortTaken"
    """The health check node port of a Service cannot be had; it is tried again."""
    KERNEL_UNREADABLE = "KernelUnreadable"
    """The kernel's tables could not be read; the last picture stays in force."""
    MISSING_FEATURE = "MissingFeature"
    """A program, module or setting of the node is missing; the message says what goes without."""
    SET_FULL = "SetFull"
    """An ipset holds as many members as it may; members of Services wait."""
    INVALID_CONFIGURATION = "InvalidConfiguration"
    """The configuration file has become wrong; the settings stay as they were."""
    NODES_UNKNOWN = "NodesUnknown"
    """Node objects that are needed are not known yet; what depends on them waits."""
    PODS_UNKNOWN = "PodsUnknown"
    """Weights of a Service go by Pods, and these are not known yet."""
    TOO_MANY_ENDPOINTS = "TooManyEndpoints"
    """A Service has more endpoints than its scheduler's table has room for."""
    HEALTH_CHECKS_IGNORED = "HealthChecksIgnored"
    """So many endpoints fail their checks from this node that what checks say is passed over."""
    HEALTH_CHECKS_LATE = "HealthChecksLate"
    """This node does not make probes when they are due, so that faults are found late."""
    ENDPOINTS_NOT_PROBED = "EndpointsNotProbed"
    """Endpoints of a Service with a health check are at addresses that are not probed."""
    API_UNREACHABLE = "ApiUnreachable"
    """Objects cannot be watched: the API server is away, or refuses; what was known stays."""


class Condition(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that is wrong."""

    subject: str
    """What it is about: `Service default/web`, `Node`, `File a.yaml`."""
    type: ConditionType
    message: str
    """One line: what is wrong, where, what to do."""
    since: float
    """Seconds since the epoch."""


Teller: TypeAlias = Callable[[Condition, str], None]
"""Is called with each condition that is raised, and the uid of the object it is about."""


def tell_nobody(condition: Condition, uid: str) -> None:
    """Tell nobody of a condition; it stands all the same."""


class Conditions:
    """The conditions that hold now; at most one for each subject and type."""

    __slots__ = ("_cleared", "_raised", "_standing", "_told")

    def __init__(self) -> None:
        self._standing: dict[str, dict[ConditionType, Condition]] = {}
        """By subject, and there by type; no subject stands without a condition."""
        self._told: dict[tuple[str, ConditionType], Condition] = {}
        """What stands of what `take_raised` returned, as it was then."""
        self._raised: dict[tuple[str, ConditionType], Condition] = {}
        """What stands and was not told, or not with this message."""
        self._cleared: dict[tuple[str, ConditionType], Condition] = {}
        """What was told and stands no more."""

    def set(self, subject: str, type_: ConditionType, *, message: str, now: float) -> None:
        """Say that something is wrong; again with another message counts as newly raised.

        `since` stays that of the first time. A condition that was cleared and is set again before
        anybody asked is as if it had stood all along.
        """
        key = (subject, type_)
        if key in self._cleared:
            self._told[key] = self._cleared.pop(key)
        standing = self._standing.setdefault(subject, {})
        told = self._told.get(key)
        before = standing.get(type_, told)
        if told is not None and told.message == message:
            self._raised.pop(key, None)
            standing[type_] = told
            return
        if before is not None and before.message == message:
            return
        since = before.since if before is not None else now
        condition = Condition(subject=subject, type=type_, message=message, since=since)
        standing[type_] = self._raised[key] = condition

    def clear(self, subject: str, type_: ConditionType) -> None:
        """Say that something is no longer wrong; nothing happens when it was not."""
        standing = self._standing.get(subject, {})
        if standing.pop(type_, None) is None:
            return
        if not standing:
            del self._standing[subject]
        key = (subject, type_)
        self._raised.pop(key, None)
        if key in self._told:
            self._cleared[key] = self._told.pop(key)

    def take_raised(self) -> tuple[Condition, ...]:
        """Return what was raised or has another message since the last call, and still stands."""
        raised = tuple(self._raised.values())
        self._told |= self._raised
        self._raised.clear()
        return raised

    def take_raised_of(self, subject: str, type_: ConditionType) -> Condition | None:
        """Return one condition if `take_raised` would, which then no longer does."""
        condition = self._raised.pop((subject, type_), None)
        if condition is not None:
            self._told[subject, type_] = condition
        return condition

    def take_cleared(self) -> tuple[Condition, ...]:
        """Return what was put right since the last call, of what `take_raised` had returned."""
        cleared = tuple(self._cleared.values())
        self._cleared.clear()
        return cleared

    def of(self, subject: str) -> tuple[Condition, ...]:
        """Return the conditions of one subject, by type."""
        standing = self._standing.get(subject)
        return tuple(one for _, one in sorted(standing.items())) if standing else ()

    @property
    def subjects(self) -> tuple[str, ...]:
        """All with which something is wrong, in order."""
        return tuple(sorted(self._standing))

    def count(self) -> Mapping[ConditionType, int]:
        """Count by type; every type has a number."""
        counted = Counter(type_ for standing in self._standing.values() for type_ in standing)
        return {type_: counted[type_] for type_ in ConditionType}

    def __iter__(self) -> Iterator[Condition]:
        """Iterate by subject, then type."""
        return iter([one for subject in self.subjects for one in self.of(subject)])

    def __len__(self) -> int:
        return sum(map(len, self._standing.values()))
