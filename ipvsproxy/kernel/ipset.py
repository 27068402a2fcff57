"""ipsets: read with one `ipset save`, written with one `ipset restore`.

Knows ipset's language and its error texts; does not know which sets there ought to be. The program
rather than netlink, because a member costs 11 microseconds in a restore and 185 through pyroute2.

`restore` is not a transaction. It stops at the first line that the kernel refuses and names it,
and lines before it may or may not have been carried out, as they are sent in packets. So the line's
operation is given its outcome and all others are sent again without it; with `-exist` a line that
was carried out is carried out again without harm. Two things `-exist` would hide are looked at
first: a set that exists already, perhaps with another type (a set of the other family passes
silently), and a network of prefix length 0, which no hash:ip,port,net can hold.
"""

from __future__ import annotations

import re
import socket
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeAlias, assert_never

from ipvsproxy.core.sets import OWN_SET_PREFIXES
from ipvsproxy.core.operations import AddMember, CreateSet, DestroySet, RemoveMember, member_text
from ipvsproxy.dataplane import DONE, DataplaneError, Outcome, Refusal
from ipvsproxy.kernel.process import Completed, ProcessError, Processes
from ipvsproxy.model import (
    Address,
    Family,
    IpMember,
    IpPortIpMember,
    IpPortMember,
    IpPortNetMember,
    Member,
    Network,
    PortMember,
    Protocol,
    SetSpec,
    SetType,
)

SetOperation: TypeAlias = CreateSet | DestroySet | AddMember | RemoveMember
Contents: TypeAlias = tuple[dict[str, SetSpec], dict[str, set[Member]]]

REFUSALS_BEFORE_SHARING = 3
"""Refusals of one kind in one set, after which its other additions are not tried one by one."""
MOST_RUNS = 20
"""Processes that one call may start before what is left is put off."""

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

_PROTOCOLS = {protocol.name.lower(): protocol for protocol in Protocol}
_FAMILIES = {"inet": Family.IPV4, "inet6": Family.IPV6}
_FAMILY_WORDS = {family: word for word, family in _FAMILIES.items()}
_PLAIN_OPTIONS = frozenset({"family", "hashsize", "maxelem", "bucketsize", "initval"})
"""Options with a value that do not change what a set means; any other makes it not ours."""
_DEFAULT_MAXELEM = SetSpec._field_defaults["maxelem"]


class Ipsets:
    """The ipsets whose names begin as ours do."""

    def __init__(self, processes: Processes) -> None:
        self._processes = processes
        self.ignored: Mapping[str, str] = {}
        """Sets named like ours that the last dump left out, as they are made otherwise: why."""

    def dump(self) -> Contents:
        """Read the sets and their members.

        Raises DataplaneError when ipset is missing, forbidden or does not work.
        """
        try:
            done = self._processes.run(("ipset", "save"))
        except ProcessError as error:
            raise DataplaneError(str(error)) from None
        if done.returncode:
            raise DataplaneError(f"the ipsets cannot be read: {_advice(_said(done))}")
        specs, members, self.ignored = parse_save(done.stdout)
        return specs, members

    def apply(self, operations: Sequence[SetOperation]) -> list[Outcome]:
        """Carry out operations, in their order; one outcome each.

        One process, one more when a set is created, one more for each line that is refused. A set
        that exists already is CONTRADICTED, whatever it is, since its members are not known here.
        """
        if not operations:
            return []
        try:
            outcomes = self._refused_beforehand(operations)
            _Restore(self._processes, operations, outcomes).run()
        except ProcessError as error:
            return [error.outcome] * len(operations)
        return [outcomes.get(index, DONE) for index in range(len(operations))]

    def _refused_beforehand(self, operations: Sequence[SetOperation]) -> dict[int, Outcome]:
        outcomes: dict[int, Outcome] = {}
        existing: Mapping[str, str] = {}
        if any(isinstance(operation, CreateSet) for operation in operations):
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


class _Restore:
    """One call of `apply`: runs until every operation is carried out or has its refusal."""

    def __init__(
        self,
        processes: Processes,
        operations: Sequence[SetOperation],
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


def line(operation: SetOperation) -> str:
    """Write an operation as a line of `ipset restore`."""
    match operation:
        case CreateSet(name, SetSpec(SetType.BITMAP_PORT)):
            return f"create {name} {SetType.BITMAP_PORT} range 0-65535"
        case CreateSet(name, spec):
            family = _FAMILY_WORDS[spec.family]
            return f"create {name} {spec.type} family {family} maxelem {spec.maxelem}"
        case DestroySet(name):
            return f"destroy {name}"
        case AddMember(name, member):
            return f"add {name} {member_text(member)}"
        case RemoveMember(name, member):
            return f"del {name} {member_text(member)}"
        case _:
            assert_never(operation)


def parse_save(text: str) -> tuple[dict[str, SetSpec], dict[str, set[Member]], dict[str, str]]:
    """Read what `ipset save` prints: sets, their members, and the sets left out with the reason.

    Sets with other names are passed over. A member that we would never write (another protocol,
    an exception) is left out: what is not ours is not seen.
    """
    specs: dict[str, SetSpec] = {}
    members: dict[str, set[Member]] = {}
    ignored: dict[str, str] = {}
    for row in text.splitlines():
        words = row.split()
        if len(words) < 3 or not words[1].startswith(OWN_SET_PREFIXES):  # noqa: PLR2004 - verb, name, rest
            continue
        name = words[1]
        if words[0] == "create":
            spec = _parse_spec(name, words[2:])
            if spec is None:
                ignored[name] = " ".join(words[2:])
            else:
                specs[name] = spec
                members[name] = set()
        elif words[0] == "add" and name in specs and len(words) == 3:  # noqa: PLR2004 - no options
            member = _parse_member(specs[name].type, words[2])
            if member is not None:
                members[name].add(member)
    return specs, members, ignored


def parse_headers(text: str) -> dict[str, str]:
    """Read what `ipset list -terse` prints: type and options of each set, by name."""
    types: dict[str, str] = {}
    name = ""
    for row in text.splitlines():
        label, _, value = row.partition(": ")
        match label:
            case "Name":
                name = value
            case "Type":
                types[name] = value
            case "Header":
                types[name] += f" {value}"
            case _:
                pass
    return types


def _parse_spec(name: str, words: Sequence[str]) -> SetSpec | None:
    """Read type and options; None for a set of another kind."""
    if words[0] == SetType.BITMAP_PORT:
        family = Family.IPV6 if name.startswith("KUBE-6-") else Family.IPV4
        whole = list(words[1:]) == ["range", "0-65535"]
        return SetSpec(SetType.BITMAP_PORT, family) if whole else None
    if words[0] not in _PARSERS:
        return None
    options = dict(zip(words[1::2], words[2::2], strict=False))
    if len(options) * 2 != len(words) - 1 or not options.keys() <= _PLAIN_OPTIONS:
        return None
    maxelem = options.get("maxelem", str(_DEFAULT_MAXELEM))
    return SetSpec(SetType(words[0]), _FAMILIES[options.get("family", "inet")], int(maxelem))


def _parse_member(set_type: SetType, element: str) -> Member | None:
    try:
        return _PARSERS[set_type](element)
    except (ValueError, OSError, KeyError):
        return None


def _address(text: str) -> Address:
    family = socket.AF_INET6 if ":" in text else socket.AF_INET
    return Address(socket.inet_pton(family, text))


def _parse_ip(element: str) -> Member:
    return IpMember(_address(element))


def _parse_ip_port(element: str) -> Member:
    address, service = element.split(",")
    protocol, port = service.split(":")
    return IpPortMember(_address(address), _PROTOCOLS[protocol], int(port))


def _parse_ip_port_ip(element: str) -> Member:
    address, service, other = element.split(",")
    protocol, port = service.split(":")
    return IpPortIpMember(_address(address), _PROTOCOLS[protocol], int(port), _address(other))


def _parse_ip_port_net(element: str) -> Member:
    address, service, network = element.split(",")
    protocol, port = service.split(":")
    block = Network.parse(network)
    return IpPortNetMember(_address(address), _PROTOCOLS[protocol], int(port), block)


def _parse_port(element: str) -> Member:
    return PortMember(int(element))


_PARSERS: Mapping[str, Callable[[str], Member]] = {
    SetType.HASH_IP: _parse_ip,
    SetType.HASH_IP_PORT: _parse_ip_port,
    SetType.HASH_IP_PORT_IP: _parse_ip_port_ip,
    SetType.HASH_IP_PORT_NET: _parse_ip_port_net,
    SetType.BITMAP_PORT: _parse_port,
}


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
