"""What is wrong with which Service, file or kernel table, told to `telemetry.Conditions`.

Three parts write conditions, and each clears only its own: what the core says of a Service when it
is translated, what the kernel refuses, and what the source cannot read. Nothing is decided here.
"""

from __future__ import annotations

import traceback
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from enum import Enum

import structlog

from ipvsproxy.core.desired import Desired
from ipvsproxy.core.operations import (
    AddMember,
    BindAddress,
    RemoveMember,
    UnbindAddress,
    describe,
)
from ipvsproxy.model import IpMember, IpPortMember, VirtualServerKey
from ipvsproxy.objects import ServiceName
from ipvsproxy.reconciler.writer import Refused, virtual_server_of
from ipvsproxy.store import Store
from ipvsproxy.telemetry import Conditions, ConditionType

log = structlog.get_logger(__name__)


class Stage(Enum):
    """Where a mistake of ours in one Service's case is caught; the value fits a sentence."""

    TRANSLATED = "translated"
    PLANNED = "planned"


_OF_TRANSLATION = (
    ConditionType.INVALID_ANNOTATION,
    ConditionType.SCHEDULER_UNAVAILABLE,
    ConditionType.CONTESTED_ADDRESS,
    ConditionType.FOREIGN_VIRTUAL_SERVER,
    ConditionType.INTERNAL_ERROR,
)
_SHOWN_REFUSALS = 3
"""So many refusals of one Service are spelled out; a line must stay one line."""


class ConditionWriter:
    """Keeps the conditions equal to what is wrong now."""

    def __init__(
        self,
        store: Store,
        desired: Desired,
        conditions: Conditions,
        wall_clock: Callable[[], float],
    ) -> None:
        """Tell `conditions`; `wall_clock` gives seconds since the epoch."""
        self._store = store
        self._desired = desired
        self._conditions = conditions
        self._wall_clock = wall_clock
        self._failed: dict[ServiceName, set[Stage]] = {}
        self._refused: set[str] = set()
        self._unread: dict[tuple[str, ConditionType], str] = {}
        self._revision = -1

    def update(
        self,
        names: Iterable[ServiceName],
        keys: Iterable[VirtualServerKey],
        refusals: Sequence[Refused],
    ) -> None:
        """Tell what a cycle has found; `names` were translated, `keys` settled; log what is new."""
        claimants = {name for key in keys for name in self._desired.claimants(key)}
        for name in claimants.union(names):
            self._translated(name)
        self._refusals(refusals)
        if self._store.revision != self._revision:
            self._revision = self._store.revision
            self._source()
        for condition in self._conditions.take_raised():
            log.warning(
                "condition",
                subject=condition.subject,
                type=str(condition.type),
                problem=condition.message,
            )
        for condition in self._conditions.take_cleared():
            log.info("condition cleared", subject=condition.subject, type=str(condition.type))

    def internal_error(self, name: ServiceName, stage: Stage, error: Exception) -> None:
        """Tell of a mistake of ours in the case of one Service; its traceback is logged once."""
        self._failed.setdefault(name, set()).add(stage)
        message = (
            f"{type(error).__name__} while it was {stage.value}: {error}; the Service's last good "
            "state stays; please report this with the traceback in the agent's log"
        )
        if all(one.message != message for one in self._conditions.of(_subject(name))):
            log.error(
                "internal error",
                service=str(name),
                traceback="".join(traceback.format_exception(error)),
            )
        self._set(_subject(name), ConditionType.INTERNAL_ERROR, message)

    def worked(self, name: ServiceName, stage: Stage) -> None:
        """Tell that a stage went well for a Service."""
        if name in self._failed:
            self._failed[name].discard(stage)
            if not self._failed[name]:
                del self._failed[name]
                self._conditions.clear(_subject(name), ConditionType.INTERNAL_ERROR)

    def kernel_unreadable(self, reason: str) -> None:
        """Tell that the kernel's tables could not be read."""
        text = f"the kernel's tables could not be read, the last picture stays: {reason}"
        self._set("Node", ConditionType.KERNEL_UNREADABLE, text)

    def kernel_read(self, shortcomings: Sequence[str]) -> None:
        """Tell that the kernel's tables were read, and what this node cannot have."""
        self._conditions.clear("Node", ConditionType.KERNEL_UNREADABLE)
        if shortcomings:
            self._set("Node", ConditionType.MISSING_FEATURE, "; ".join(shortcomings))
        else:
            self._conditions.clear("Node", ConditionType.MISSING_FEATURE)

    def _set(self, subject: str, type_: ConditionType, message: str) -> None:
        self._conditions.set(subject, type_, message=message, now=self._wall_clock())

    def _translated(self, name: ServiceName) -> None:
        messages: dict[ConditionType, list[str]] = defaultdict(list)
        fragment = self._desired.fragments.get(name)
        if fragment is not None:
            for problem in fragment.problems:
                messages[ConditionType(problem.kind)].append(problem.message)
            for contest in self._desired.contests(name):
                messages[ConditionType.CONTESTED_ADDRESS].append(
                    f"{contest.key} belongs to Service {contest.owner}, first by age, then name; "
                    "give one of the two another address or port"
                )
            for frontend in fragment.frontends:
                if frontend.key in self._desired.foreign:
                    messages[ConditionType.FOREIGN_VIRTUAL_SERVER].append(
                        f"{frontend.key} exists and was made by somebody else; it is left alone; "
                        "remove it with ipvsadm, or give the Service another address"
                    )
        for type_ in _OF_TRANSLATION:
            if type_ in messages:
                text = "; ".join(messages[type_])
                self._set(_subject(name), type_, text)
            elif type_ is not ConditionType.INTERNAL_ERROR or self._forgotten(name):
                self._conditions.clear(_subject(name), type_)

    def _forgotten(self, name: ServiceName) -> bool:
        """Whether a Service is no longer there; then nothing of it is remembered here either."""
        if name in self._store.names:
            return False
        self._failed.pop(name, None)
        return True

    def _refusals(self, refusals: Sequence[Refused]) -> None:
        by_subject: dict[str, list[str]] = defaultdict(list)
        for refused in refusals:
            by_subject[self._subject_of(refused)].append(
                f"{describe(refused.operation)}: {refused.outcome.reason}"
            )
        for subject, lines in by_subject.items():
            more = len(lines) - _SHOWN_REFUSALS
            shown = [*lines[:_SHOWN_REFUSALS], *([f"and {more} more"] if more > 0 else [])]
            text = f"refused, tried again: {'; '.join(shown)}"
            self._set(subject, ConditionType.OPERATION_REFUSED, text)
        for subject in self._refused - by_subject.keys():
            self._conditions.clear(subject, ConditionType.OPERATION_REFUSED)
        self._refused = set(by_subject)

    def _subject_of(self, refused: Refused) -> str:
        """Say whom a refusal concerns: the Service of its virtual server, else the node."""
        key = virtual_server_of(refused.operation)
        match refused.operation:
            case AddMember(_, IpPortMember(address, protocol, port)) | RemoveMember(
                _, IpPortMember(address, protocol, port)
            ):
                key = VirtualServerKey(protocol, address, port)
            case BindAddress(address) | UnbindAddress(address) | AddMember(_, IpMember(address)):
                key = next(iter(self._desired.behind(address)), None)
            case _:
                pass
        owner = self._desired.owner(key) if key is not None else None
        return _subject(owner) if owner is not None else "Node"

    def _source(self) -> None:
        found: dict[tuple[str, ConditionType], str] = {}
        for refused in self._store.refused:
            place = (str(refused.reference), ConditionType.INVALID_OBJECT)
            found[place] = f"{refused.origin}: {refused.reason}; its last good state stays"
        for unreadable in self._store.unreadable:
            place = (f"Source {unreadable.origin}", ConditionType.UNREADABLE_SOURCE)
            found[place] = f"{unreadable.reason}; until it can be read nothing counts as deleted"
        for (subject, type_), message in found.items():
            self._set(subject, type_, message)
        for subject, type_ in self._unread.keys() - found.keys():
            self._conditions.clear(subject, type_)
        self._unread = found


def _subject(name: ServiceName) -> str:
    return f"Service {name}"
