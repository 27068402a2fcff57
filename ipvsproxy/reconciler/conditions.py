"""What is wrong with which Service, file or kernel table, told to `telemetry.Conditions`.

Three parts write conditions, and each clears only its own: what the core says of a Service when it
is translated, what the kernel refuses, and what the source cannot read. Nothing is decided here.
"""

from __future__ import annotations

import traceback
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from collections.abc import Set as AbstractSet
from enum import Enum

import structlog

from ipvsproxy.core.annotations.strays import strays_of_node
from ipvsproxy.core.desired import Desired
from ipvsproxy.core.frontends import Kind
from ipvsproxy.core.operations import (
    AddMember,
    BindAddress,
    RemoveMember,
    UnbindAddress,
    describe,
)
from ipvsproxy.core.sets import PORT_SETS
from ipvsproxy.dataplane import Refusal
from ipvsproxy.model import (
    Family,
    IpMember,
    IpPortIpMember,
    IpPortMember,
    IpPortNetMember,
    Member,
    PortMember,
    VirtualServerKey,
)
from ipvsproxy.objects import ServiceName
from ipvsproxy.reconciler.turns import a_few_at_a_time
from ipvsproxy.reconciler.writer import RefusedOperation, virtual_server_of
from ipvsproxy.store import Store
from ipvsproxy.telemetry import Conditions, ConditionType, Teller, tell_nobody

log = structlog.get_logger(__name__)


class Stage(Enum):
    """Where a mistake of ours in one Service's case is caught; the value fits a sentence."""

    TRANSLATED = "translated"
    PLANNED = "planned"


_OF_TRANSLATION = (
    ConditionType.INVALID_ANNOTATION,
    ConditionType.NO_EFFECT,
    ConditionType.SCHEDULER_UNAVAILABLE,
    ConditionType.CONTESTED_ADDRESS,
    ConditionType.FOREIGN_VIRTUAL_SERVER,
    ConditionType.IGNORED_FIELD,
    ConditionType.RESERVED_ADDRESS,
    ConditionType.NODES_UNKNOWN,
    ConditionType.PODS_UNKNOWN,
    ConditionType.TOO_MANY_ENDPOINTS,
    ConditionType.HEALTH_CHECKS_IGNORED,
    ConditionType.ENDPOINTS_NOT_PROBED,
    ConditionType.INTERNAL_ERROR,
)
_LINES = 20
"""So many are logged in a turn of the loop."""
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
        *,
        tell: Teller = tell_nobody,
    ) -> None:
        """Tell `conditions`, and `tell` of what is raised; `wall_clock` as in `Reconciler`."""
        self._tell = tell
        self._store = store
        self._desired = desired
        self._conditions = conditions
        self._wall_clock = wall_clock
        self._failed: dict[ServiceName, set[Stage]] = {}
        self._families: AbstractSet[Family] = frozenset(Family)
        self._shortcomings: tuple[str, ...] = ()
        self._without: dict[Family, set[ServiceName]] = {family: set() for family in Family}
        """Services with an address of a family that this node lacks."""
        self._refused: set[tuple[str, ConditionType]] = set()
        self._unread: dict[tuple[str, ConditionType], str] = {}
        self._revision = -1

    async def update(
        self,
        names: Iterable[ServiceName],
        keys: Iterable[VirtualServerKey],
        refusals: Sequence[RefusedOperation],
        *,
        postponed: AbstractSet[ServiceName] = frozenset(),
    ) -> None:
        """Tell what a cycle has found; `names` were translated, `keys` settled; log what is new.

        Of the Services in `postponed` nothing is told: the next cycle begins at once and knows.
        A few Services at a time; whoever asks meanwhile sees some conditions that are about to go.
        """
        concerned = set(names)
        async for some in a_few_at_a_time(keys):
            concerned.update(name for key in some for name in self._desired.claimants(key))
        async for several in a_few_at_a_time(concerned - postponed):
            for name in several:
                self._translated(name)
        self._refusals(refusals, {_subject(name) for name in postponed})
        self._tell_shortcomings()
        if self._store.revision != self._revision:
            self._revision = self._store.revision
            self._source()
        async for raised in a_few_at_a_time(self._conditions.take_raised(), _LINES):
            for condition in raised:
                self._tell(condition, self._store.uid(condition.subject))
                log.warning(
                    "condition",
                    subject=condition.subject,
                    type=str(condition.type),
                    problem=condition.message,
                )
        async for cleared in a_few_at_a_time(self._conditions.take_cleared(), _LINES):
            for condition in cleared:
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

    def kernel(self, trouble: str) -> None:
        """Tell why the kernel's tables could not be read the last time; empty: they could."""
        if trouble:
            text = f"the kernel's tables could not be read, the last picture stays: {trouble}"
            self._set("Node", ConditionType.KERNEL_UNREADABLE, text)
        else:
            self._conditions.clear("Node", ConditionType.KERNEL_UNREADABLE)

    def own_node(self, name: str, *, needed_for: str) -> None:
        """Tell that settings need the own Node, and there is none, and what is wrong with it."""
        if strays := strays_of_node(self._store.node):
            self._set("Node", ConditionType.INVALID_ANNOTATION, strays)
        else:
            self._conditions.clear("Node", ConditionType.INVALID_ANNOTATION)
        if needed_for and self._store.listed and self._store.node is None:
            text = (
                f"there is no Node {name}, which {needed_for} needs; set nodeName "
                "(--hostname-override) to the name that kubectl get nodes shows"
            )
            self._set("Node", ConditionType.NODES_UNKNOWN, text)
        else:
            self._conditions.clear("Node", ConditionType.NODES_UNKNOWN)

    def node(self, families: AbstractSet[Family], shortcomings: Sequence[str]) -> None:
        """Take note of what this node has and lacks; told with the next `update`."""
        self._families = families
        self._shortcomings = tuple(shortcomings)

    def _tell_shortcomings(self) -> None:
        """Tell what this node cannot have, and how many Services go without a family for it."""
        told = [*self._shortcomings]
        for family, names in sorted(self._without.items()):
            if names and family not in self._families:
                first = min(names)
                told.append(
                    f"this node has no IPv{family}: the IPv{family} addresses of {len(names)} "
                    f"Services are not served ({first}{', ...' if len(names) > 1 else ''})"
                )
        if told:
            self._set("Node", ConditionType.MISSING_FEATURE, "; ".join(told))
        else:
            self._conditions.clear("Node", ConditionType.MISSING_FEATURE)

    def _note_families(self, name: ServiceName) -> None:
        addresses = self._store.cluster_ips(name)
        for family, names in self._without.items():
            if family not in self._families and any(one.family is family for one in addresses):
                names.add(name)
            else:
                names.discard(name)

    def _set(self, subject: str, type_: ConditionType, message: str) -> None:
        self._conditions.set(subject, type_, message=message, now=self._wall_clock())

    def _translated(self, name: ServiceName) -> None:
        self._note_families(name)
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
            foreign = self._desired.foreign
            for frontend in fragment.frontends if foreign else ():
                if frontend.key in foreign:
                    messages[ConditionType.FOREIGN_VIRTUAL_SERVER].append(
                        f"{frontend.key} exists and was made by somebody else; it is left alone; "
                        "remove it with ipvsadm, or give the Service another address"
                    )
        subject = _subject(name)
        if not messages and not self._conditions.of(subject):
            self._forgotten(name)
            return
        for type_ in _OF_TRANSLATION:
            if type_ in messages:
                self._set(subject, type_, "; ".join(messages[type_]))
            elif type_ is not ConditionType.INTERNAL_ERROR or self._forgotten(name):
                self._conditions.clear(subject, type_)

    def _forgotten(self, name: ServiceName) -> bool:
        """Whether a Service is no longer there; then nothing of it is remembered here either."""
        if name in self._store.names:
            return False
        self._failed.pop(name, None)
        return True

    def _refusals(self, refusals: Sequence[RefusedOperation], postponed: AbstractSet[str]) -> None:
        found: dict[tuple[str, ConditionType], list[str]] = defaultdict(list)
        for refused in refusals:
            subject, type_, line = self._told(refused)
            if subject not in postponed:
                found[subject, type_].append(line)
        for (subject, type_), lines in found.items():
            more = len(lines) - _SHOWN_REFUSALS
            shown = [*lines[:_SHOWN_REFUSALS], *([f"and {more} more"] if more > 0 else [])]
            self._set(subject, type_, f"refused, tried again: {'; '.join(shown)}")
        for subject, type_ in self._refused - found.keys():
            if subject not in postponed:
                self._conditions.clear(subject, type_)
        self._refused = set(found) | {one for one in self._refused if one[0] in postponed}

    def _told(self, refused: RefusedOperation) -> tuple[str, ConditionType, str]:
        """Say whom a refusal concerns, and what is wrong."""
        line = f"{describe(refused.operation)}: {refused.outcome.reason}"
        match refused.operation:
            case AddMember(name) if refused.outcome.refusal is Refusal.FULL:
                line = f"{line}; raise setCapacityLimit, or see why {name} has so many members"
                return self._subject_of(refused), ConditionType.SET_FULL, line
            case _:
                return self._subject_of(refused), ConditionType.OPERATION_REFUSED, line

    def _subject_of(self, refused: RefusedOperation) -> str:
        """Say whom a refusal concerns: the Service of its virtual server, else the node."""
        key = virtual_server_of(refused.operation)
        match refused.operation:
            case AddMember(name, member) | RemoveMember(name, member):
                key = self._frontend_of(name, member)
            case BindAddress(address) | UnbindAddress(address):
                key = next(iter(self._desired.behind(address)), None)
            case _:
                pass
        owner = self._desired.owner(key) if key is not None else None
        return _subject(owner) if owner is not None else "Node"

    def _frontend_of(self, name: str, member: Member) -> VirtualServerKey | None:
        """Give a virtual server that a set member is for; None where nothing says which."""
        match member:
            case IpPortMember(address, protocol, port) | IpPortNetMember(address, protocol, port):
                return VirtualServerKey(protocol, address, port)
            case IpPortIpMember(address, protocol, port):
                return VirtualServerKey(protocol, address, port)
            case IpMember(address):
                return next(iter(self._desired.behind(address)), None)
            case PortMember(port):
                kind = PORT_SETS.get(name)
                frontends = self._desired.held.values()
                ports = (one.key for one in frontends if one.kind is Kind.NODE_PORT)
                found = (key for key in ports if key.port == port)
                return next((key for key in found if (key.family, key.protocol) == kind), None)

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
