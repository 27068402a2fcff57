"""ipsets: members by netlink, hundreds in a message; everything else by the program ipset.

Knows ipset's error texts; its language is `ipset_text`, the messages are `ipset_codec`'s. Does not
know which sets there ought to be. A message is quick (a member costs 11 microseconds in a restore,
most of it for reading /etc/protocols, and a fraction of that here), but says no more of what it did
not like than a number. So whatever is not simply acknowledged is left to the program: members that
were refused are given to `ipset restore`, which names the one and the reason; where a set is made
otherwise than ours are, or a listing fails, all is read from `ipset save`.

`restore` is not a transaction. It stops at the first line that the kernel refuses and names it,
and lines before it may or may not have been carried out, as they are sent in packets. So the line's
operation is given its outcome and all others are sent again without it; with `-exist` a line that
was carried out is carried out again without harm. Two things `-exist` would hide are looked at
first: a set that exists already, perhaps with another type (a set of the other family passes
silently), and a network of prefix length 0, which no hash:ip,port,net can hold.

A set cannot be changed, so to grow one another takes its place by a swap, in a restore of its own.
What a killed run has left of that is seen by the next dump, told to nobody, and destroyed with the
next change.
"""

from __future__ import annotations

import errno
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import TypeAlias

from ipvsproxy.core.operations import AddMember, CreateSet, DestroySet, GrowSet, RemoveMember
from ipvsproxy.dataplane import DONE, DataplaneError, Outcome, Refusal
from ipvsproxy.kernel import ipset_codec
from ipvsproxy.kernel.ipset_text import (
    OF_KUBE_ROUTER,
    TEMPORARY,
    LineOperation,
    growth_text,
    is_looked_at,
    line,
    parse_headers,
    parse_save,
)
from ipvsproxy.kernel.message import CodecError
from ipvsproxy.kernel.netlink import REPORTS, NetlinkSocket, Request
from ipvsproxy.kernel.process import Completed, ProcessError, Processes
from ipvsproxy.kernel.refusals import refused
from ipvsproxy.model import IpPortNetMember, Member, SetSpec, SetType

SetOperation: TypeAlias = LineOperation | GrowSet
Contents: TypeAlias = tuple[dict[str, SetSpec], dict[str, set[Member]]]

REFUSALS_BEFORE_SHARING = 3
"""Refusals of one kind in one set, after which its other additions are not tried one by one."""
MEMBERS_OF_MESSAGE = 200
MESSAGES_OF_BATCH = 10
"""Messages that are sent at once: some 10 KiB each, of the 208 KiB that a socket may have."""
MOST_RUNS = 20
"""Processes that one call may start before what is left is put off."""

_ODD = frozenset({TEMPORARY, *OF_KUBE_ROUTER})
"""Sets that only the program's text tells all about."""
_LINE = re.compile(r"Error in line (\d+): *(.*)", re.DOTALL)
_NO_SUCH_SET = "set with the given name does not exist"
_REFUSALS = (
    ("is full", Refusal.FULL),
    (_NO_SUCH_SET, Refusal.CONTRADICTED),
    ("with the same name already exists", Refusal.CONTRADICTED),
    ("in use by a kernel component", Refusal.BUSY),
    ("Operation not permitted", Refusal.FORBIDDEN),
    ("set type not supported", Refusal.UNSUPPORTED),
    ("is unknown", Refusal.UNSUPPORTED),
    ("Cannot open session to kernel", Refusal.UNSUPPORTED),
    ("Module ip_set not found", Refusal.UNSUPPORTED),
    ("Kernel support protocol version", Refusal.UNSUPPORTED),
    ("Invalid argument", Refusal.INVALID),
    ("is invalid", Refusal.INVALID),
    ("Null-valued element", Refusal.INVALID),
    ("Syntax error", Refusal.INVALID),
    ("Cannot allocate memory", Refusal.BUSY),
    ("No buffer space", Refusal.BUSY),
)
_OF_THE_SET = frozenset({Refusal.FULL, Refusal.CONTRADICTED, Refusal.UNSUPPORTED})
"""Refusals that speak of the set, so that the next member of it would meet with the same."""
_OF_ALL = frozenset({Refusal.FORBIDDEN})
"""Refusals that every other line would meet with too."""


class Ipsets:
    """The ipsets whose names begin as ours do."""

    def __init__(self, processes: Processes, netlink: NetlinkSocket | None = None) -> None:
        """Use a socket of NETFILTER; without one, programs only."""
        self._processes = processes
        self._netlink = netlink
        self.ignored: Mapping[str, str] = {}
        """Sets named like ours that the last dump left out, as they are made otherwise: why."""
        self._leftover = False
        """Whether there may be a temporary set, of a growth that did not come to its end."""

    def dump(self) -> Contents:
        """Read the sets and their members.

        Raises DataplaneError when ipset is missing, forbidden or does not work.
        """
        listed = self._list()
        if listed is not None:
            self.ignored = {}
            self._leftover = False
            return listed
        try:
            done = self._processes.run(("ipset", "save"))
        except ProcessError as error:
            raise DataplaneError(str(error)) from None
        if done.returncode:
            raise DataplaneError(f"the ipsets cannot be read: {_advice(_said(done))}")
        specs, members, ignored = parse_save(done.stdout)
        self._leftover = TEMPORARY in specs or TEMPORARY in ignored
        specs.pop(TEMPORARY, None)
        members.pop(TEMPORARY, None)
        ignored.pop(TEMPORARY, None)
        self.ignored = ignored
        return specs, members

    def present(self, names: Collection[str]) -> frozenset[str]:
        """Say which of the sets are there, launching nothing. Raises DataplaneError."""
        assert self._netlink is not None
        asked = list(names)
        answers = self._netlink.exchange(
            [ipset_codec.header(name) for name in asked], batch=REPORTS
        )
        for name, answer in zip(asked, answers, strict=True):
            if answer.error not in {0, errno.ENOENT}:
                reason = refused(answer.error).reason
                raise DataplaneError(f"set {name} cannot be looked at: {reason}")
        return frozenset(
            name for name, answer in zip(asked, answers, strict=True) if not answer.error
        )

    def read(self, name: str) -> tuple[SetSpec, set[Member]] | None:
        """Read one set, launching nothing; None where there is none that is made as ours are.

        Raises DataplaneError.
        """
        assert self._netlink is not None
        try:
            return ipset_codec.decode_set(self._netlink.dump(ipset_codec.listing(name)))
        except ipset_codec.OddError:
            return None
        except (OSError, CodecError) as error:
            if isinstance(error, OSError) and error.errno == errno.ENOENT:
                return None
            raise DataplaneError(f"set {name} cannot be read: {error}") from error

    def forget_ignored(self) -> None:
        """Take those out of `ignored` that are there no longer. Raises DataplaneError."""
        if self.ignored:
            there = self.present(self.ignored)
            self.ignored = {name: how for name, how in self.ignored.items() if name in there}

    def apply(self, operations: Sequence[SetOperation]) -> list[Outcome]:
        """Carry out operations in their order, but growths before all else; one outcome each.

        No process for members; one for all else, one more when a set to be created is there, one
        more for each line that is refused, and three for each growth. A set that exists already is
        CONTRADICTED, whatever it is, since its members are not known here.
        """
        growths = {i: one for i, one in enumerate(operations) if isinstance(one, GrowSet)}
        lines = {i: one for i, one in enumerate(operations) if not isinstance(one, GrowSet)}
        if self._leftover and operations:
            self._destroy_temporary()
        outcomes = {index: self._grow(one) for index, one in growths.items()}
        outcomes.update(self._carry_out_all(lines))
        return [outcomes[index] for index in range(len(operations))]

    def _carry_out_all(self, lines: Mapping[int, LineOperation]) -> dict[int, Outcome]:
        """Send members when their sets are made; what is not acknowledged goes to the program."""
        if self._netlink is None:
            return dict(zip(lines, self._carry_out(list(lines.values())), strict=True))
        others = {
            i: one for i, one in lines.items() if not isinstance(one, AddMember | RemoveMember)
        }
        outcomes = dict(zip(others, self._carry_out(list(others.values())), strict=True))
        members = {i: one for i, one in lines.items() if i not in others}
        sent = self._send(members)
        rest = [index for index in members if index not in sent]
        outcomes.update((index, DONE) for index in sent)
        answers = self._carry_out([members[index] for index in rest])
        outcomes.update(zip(rest, answers, strict=True))
        return outcomes

    def _send(self, operations: Mapping[int, LineOperation]) -> set[int]:
        """Send members, those of a set together; give the positions of those that are done."""
        assert self._netlink is not None
        requests: list[Request] = []
        parts: list[list[int]] = []
        for (kind, name), indexes in _by_set(operations).items():
            encode = ipset_codec.additions if kind is AddMember else ipset_codec.removals
            for start in range(0, len(indexes), MEMBERS_OF_MESSAGE):
                part = indexes[start : start + MEMBERS_OF_MESSAGE]
                with suppress(CodecError, OverflowError, ValueError):
                    requests.append(encode(name, (_member_of(operations[one]) for one in part)))
                    parts.append(part)
        answers = self._netlink.exchange(requests, batch=MESSAGES_OF_BATCH)
        return {
            index
            for part, answer in zip(parts, answers, strict=True)
            if answer.error == 0
            for index in part
        }

    def _list(self) -> Contents | None:
        """Read our sets by netlink; None where the program has to say what there is."""
        if self._netlink is None:
            return None
        specs: dict[str, SetSpec] = {}
        members: dict[str, set[Member]] = {}
        try:
            for name in ipset_codec.decode_names(self._netlink.dump(ipset_codec.NAMES)):
                if name in _ODD:
                    return None
                if is_looked_at(name):
                    payloads = self._netlink.dump(ipset_codec.listing(name))
                    specs[name], members[name] = ipset_codec.decode_set(payloads)
        except (OSError, CodecError, ipset_codec.OddError):
            return None
        return specs, members

    def _carry_out(self, operations: Sequence[LineOperation]) -> list[Outcome]:
        if not operations:
            return []
        try:
            outcomes = self._refused_beforehand(operations)
            _Restore(self._processes, operations, outcomes).run()
        except ProcessError as error:
            return [error.outcome] * len(operations)
        return [outcomes.get(index, DONE) for index in range(len(operations))]

    def _grow(self, operation: GrowSet) -> Outcome:
        """Put another set in the place of the present one.

        It may be killed at any point and tried again: until the swap the present set is as it was,
        after it the new one stands, and a temporary one that is left over is destroyed beforehand.
        """
        name, spec = operation.name, operation.spec
        try:
            saved = self._processes.run(("ipset", "save", name))
            outcome = _fit_to_grow(operation, saved)
            if outcome.refusal is not None:
                return outcome
            self._destroy_temporary()
            text = growth_text(name, spec, saved.stdout)
            done = self._processes.run(("ipset", "restore"), text)
        except ProcessError as error:
            self._leftover = True
            return error.outcome
        if done.returncode == 0:
            return DONE
        self._destroy_temporary()
        return _refused(_said(done))

    def _destroy_temporary(self) -> None:
        """Destroy what a growth has left, if anything; should that fail, the next one will say."""
        with suppress(ProcessError):
            self._processes.run(("ipset", "destroy", TEMPORARY))
        self._leftover = False

    def _may_exist(self, names: Collection[str]) -> bool:
        """Whether there may be any of some sets, so that the program has to say how it is made."""
        if self._netlink is None or not names:
            return bool(names)
        try:
            return bool(self.present(names))
        except DataplaneError:
            return True

    def _refused_beforehand(self, operations: Sequence[LineOperation]) -> dict[int, Outcome]:
        outcomes: dict[int, Outcome] = {}
        existing: Mapping[str, str] = {}
        if self._may_exist([one.name for one in operations if isinstance(one, CreateSet)]):
            done = self._processes.run(("ipset", "list", "-terse"))
            existing = parse_headers(done.stdout)
        for index, operation in enumerate(operations):
            match operation:
                case CreateSet(name) if name in existing:
                    reason = f"set {name} exists already: {existing[name]}"
                    outcomes[index] = Outcome(Refusal.CONTRADICTED, reason)
                case AddMember(name, IpPortNetMember() as member):
                    if member.network.prefix_length == 0:
                        reason = f"set {name} cannot hold {member.network}: halve the network"
                        outcomes[index] = Outcome(Refusal.INVALID, reason)
                case _:
                    pass
        return outcomes


def _by_set(
    operations: Mapping[int, LineOperation],
) -> dict[tuple[type[LineOperation], str], list[int]]:
    """Give the positions of additions and of removals, by set.

    A member is named once in a batch, so it does not matter which of the two goes first.
    """
    found: defaultdict[tuple[type[LineOperation], str], list[int]] = defaultdict(list)
    for index, operation in operations.items():
        found[type(operation), operation.name].append(index)
    return found


def _member_of(operation: LineOperation) -> Member:
    assert isinstance(operation, AddMember | RemoveMember)
    return operation.member


class _Restore:
    """One call of `apply`: runs until every operation is carried out or has its refusal."""

    def __init__(
        self,
        processes: Processes,
        operations: Sequence[LineOperation],
        outcomes: dict[int, Outcome],
    ) -> None:
        self._processes = processes
        self._operations = operations
        self._outcomes = outcomes
        """By the operation's position; carried out where there is none at the end."""
        self._counts: Counter[tuple[str, Refusal]] = Counter()

    def run(self) -> None:
        for _ in range(MOST_RUNS):
            pending = [i for i in range(len(self._operations)) if i not in self._outcomes]
            if not pending:
                return
            text = "".join(f"{line(self._operations[index])}\n" for index in pending)
            done = self._processes.run(("ipset", "restore", "-exist"), text)
            if done.returncode == 0:
                return
            self._note(done, pending)
        reason = f"put off after {MOST_RUNS} refused lines"
        self._settle(range(len(self._operations)), Outcome(Refusal.BUSY, reason))

    def _note(self, done: Completed, pending: Sequence[int]) -> None:
        """Give the operation that was refused its outcome, and those their own that share it."""
        found = _LINE.search(done.stderr)
        if found is None or not 1 <= int(found[1]) <= len(pending):
            self._settle(pending, _refused(_said(done)))
            return
        place = int(found[1]) - 1
        index = pending[place]
        operation = self._operations[index]
        said = " ".join(found[2].split())
        if isinstance(operation, RemoveMember | DestroySet) and _NO_SUCH_SET in said:
            self._outcomes[index] = DONE
            return
        outcome = _refused(said)
        self._outcomes[index] = outcome
        if outcome.refusal in _OF_ALL:
            self._settle(pending, outcome)
        elif outcome.refusal in _OF_THE_SET:
            self._share(operation.name, pending[place:], outcome)

    def _share(self, name: str, following: Sequence[int], outcome: Outcome) -> None:
        assert outcome.refusal is not None
        self._counts[name, outcome.refusal] += 1
        if self._counts[name, outcome.refusal] >= REFUSALS_BEFORE_SHARING:
            same_set = (
                index
                for index in following
                if isinstance(self._operations[index], AddMember)
                and self._operations[index].name == name
            )
            self._settle(same_set, outcome)

    def _settle(self, indexes: Iterable[int], outcome: Outcome) -> None:
        for index in indexes:
            self._outcomes.setdefault(index, outcome)


def _fit_to_grow(operation: GrowSet, saved: Completed) -> Outcome:
    """Say whether the set that was saved is one of the kind that the operation speaks of."""
    name, spec = operation.name, operation.spec
    if saved.returncode:
        return _refused(_said(saved))
    present = parse_save(saved.stdout)[0].get(name)
    if present is None or (present.type, present.family) != (spec.type, spec.family):
        created, _, _ = saved.stdout.partition("\n")
        return Outcome(Refusal.CONTRADICTED, f"set {name} is of another kind: {created}")
    if spec.type is SetType.BITMAP_PORT:
        return Outcome(Refusal.INVALID, f"set {name} is a bitmap, which has its size")
    return DONE


def _said(done: Completed) -> str:
    """Return what ipset said, without its version."""
    return re.sub(r"^ipset v[\d.]+: ", "", done.complaint)


def _refused(said: str) -> Outcome:
    return Outcome(_refusal(said), f"ipset: {said}")


def _refusal(said: str) -> Refusal:
    for text, refusal in _REFUSALS:
        if text in said:
            return refusal
    return Refusal.FAILED


def _advice(said: str) -> str:
    match _refusal(said):
        case Refusal.FORBIDDEN:
            return f"{said}; the capability NET_ADMIN is needed"
        case Refusal.UNSUPPORTED:
            return f"{said}; load the kernel module ip_set"
        case _:
            return said
