"""Two kernels compared by what they mean: kube-proxy's (theirs) and the agent's (ours).

Knows what is compared, and finds every difference; which of them are meant to be is the affair of
`differences`. Rules are compared by what becomes of packets: from outside, from pods of this node
and another, from the node, from a pod that may reach itself; to every frontend that the objects
ask for or either side has, and to what is not to be served at a service address.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple, TypeAlias

from ipvsproxy.core.operations import member_text
from ipvsproxy.core.packet import (
    Balanced,
    Candidate,
    Dropped,
    Fate,
    Forwarded,
    Kept,
    Local,
    Masqueraded,
    NotUnderstood,
    Packet,
    Refused,
    Sender,
    SenderKind,
    Stopped,
    place_text,
)
from ipvsproxy.core.trace import trace
from ipvsproxy.model import (
    Address,
    Family,
    Member,
    Network,
    Protocol,
    RealServerKey,
    State,
    VirtualServer,
    VirtualServerKey,
)
from tests.parity.facts import NODE_ADDRESSES, Facts
from tests.parity.recording import SET_TYPES, set_name

_STRANGERS = ("198.51.100.77", "192.0.2.77", "2001:db8:51::77")
_PODS = {
    "cni0": (Network.parse("10.244.1.0/24"), Network.parse("fd00:10:244:1::/64")),
    "eth0": (Network.parse("10.244.200.0/24"), Network.parse("fd00:10:244:c8::/64")),
}
"""Pods' networks by the interface that packets from there come in by: this node's, another's."""
_UNSERVED = 22
"""A port at which no case has a frontend on purpose."""


class VirtualServerDiffers(NamedTuple):
    """A virtual server that only one side has, or that is another one."""

    key: VirtualServerKey
    theirs: VirtualServer | None
    ours: VirtualServer | None

    def __str__(self) -> str:
        return f"virtual server {self.key}: theirs {self.theirs}, ours {self.ours}"


class RealServersDiffer(NamedTuple):
    """Other real servers, or other weights, behind a virtual server that both have."""

    key: VirtualServerKey
    theirs: frozenset[tuple[RealServerKey, int]]
    ours: frozenset[tuple[RealServerKey, int]]

    def __str__(self) -> str:
        return f"real servers of {self.key}: theirs {_some(self.theirs)}, ours {_some(self.ours)}"


class AddressDiffers(NamedTuple):
    """An address that only one side has put on the dummy interface."""

    address: Address
    ours: bool

    def __str__(self) -> str:
        return f"address {self.address} is bound by {'us' if self.ours else 'them'} only"


class MemberDiffers(NamedTuple):
    """A member that only one side has in a set."""

    base: str
    """The set's name, for IPv4."""
    member: Member
    ours: bool

    def __str__(self) -> str:
        who = "us" if self.ours else "them"
        return f"{member_text(self.member)} is in {self.base} of {who} only"


class Outcome(NamedTuple):
    """What becomes of a packet, whoever its source seems to be."""

    name: str
    members: frozenset[RealServerKey] = frozenset()

    def __str__(self) -> str:
        return f"{self.name} {_some(self.members)}" if self.members else self.name


class OutcomeDiffers(NamedTuple):
    """A packet that fares otherwise."""

    packet: Packet
    theirs: Outcome
    ours: Outcome

    def __str__(self) -> str:
        return f"{_packet_text(self.packet)}: theirs {self.theirs}, ours {self.ours}"


class SourceDiffers(NamedTuple):
    """A packet that reaches a real server on both sides, with another source."""

    packet: Packet
    member: RealServerKey
    theirs: str
    """`masqueraded`, or the address that is kept."""
    ours: str

    def __str__(self) -> str:
        told = f"theirs {self.theirs}, ours {self.ours}"
        return f"source that {self.member} sees of {_packet_text(self.packet)}: {told}"


Difference: TypeAlias = (
    VirtualServerDiffers
    | RealServersDiffer
    | AddressDiffers
    | MemberDiffers
    | OutcomeDiffers
    | SourceDiffers
)


def compare(theirs: State, ours: State, facts: Facts) -> Iterator[Difference]:
    """Find every difference in meaning."""
    for key in sorted({*theirs.virtual_servers, *ours.virtual_servers}):
        yield from _virtual_server(key, theirs, ours)
    for address in sorted(theirs.addresses ^ ours.addresses):
        yield AddressDiffers(address, ours=address in ours.addresses)
    for base in SET_TYPES:
        for family in Family:
            name = set_name(base, family)
            one, other = theirs.members.get(name, set()), ours.members.get(name, set())
            for member in sorted(one ^ other):
                yield MemberDiffers(base, member, ours=member in other)
    for packet in dict.fromkeys(_packets(theirs, ours, facts)):
        yield from _fates(packet, theirs, ours)


def _virtual_server(key: VirtualServerKey, theirs: State, ours: State) -> Iterator[Difference]:
    one, other = theirs.virtual_servers.get(key), ours.virtual_servers.get(key)
    if one != other:
        yield VirtualServerDiffers(key, one, other)
    if one is not None and other is not None:
        lists = [
            frozenset((member, server.weight) for member, server in side.real_servers[key].items())
            for side in (theirs, ours)
        ]
        if lists[0] != lists[1]:
            yield RealServersDiffer(key, *lists)


def _fates(packet: Packet, theirs: State, ours: State) -> Iterator[Difference]:
    one, other = trace(theirs, packet).fate, trace(ours, packet).fate
    if _outcome(one) != _outcome(other):
        yield OutcomeDiffers(packet, _outcome(one), _outcome(other))
    if isinstance(one, Balanced) and isinstance(other, Balanced):
        sources = {candidate.member: _source(candidate) for candidate in one.candidates}
        for candidate in other.candidates:
            source = sources.get(candidate.member)
            if source is not None and source != _source(candidate):
                yield SourceDiffers(packet, candidate.member, source, _source(candidate))


def _outcome(fate: Fate) -> Outcome:
    match fate:
        case Balanced(_, candidates):
            return Outcome("balanced to", frozenset(one.member for one in candidates))
        case Refused():
            return Outcome("refused")
        case Dropped():
            return Outcome("dropped")
        case Local():
            return Outcome("delivered to the node")
        case Forwarded():
            return Outcome("forwarded")
        case NotUnderstood(_, what):
            return Outcome(what)


def _source(candidate: Candidate) -> str:
    match candidate.seen:
        case Kept(address):
            return str(address)
        case Masqueraded():
            return "masqueraded"
        case Stopped(step):
            return f"stopped by {step.rule}"


def _packets(theirs: State, ours: State, facts: Facts) -> Iterator[Packet]:
    keys = {*theirs.virtual_servers, *ours.virtual_servers, *facts.claims}
    addresses = {*theirs.addresses, *ours.addresses, *NODE_ADDRESSES}
    health_checks = {one.health_check_node_port for one in facts.services} - {0}
    servers = {
        member.address
        for side in (theirs, ours)
        for members in side.real_servers.values()
        for member in members
    }
    for key in sorted(keys):
        for sender in senders(key.family, servers, facts):
            yield Packet(sender, key.protocol, key.address, key.port)
    for address in sorted(addresses):
        for sender in senders(address.family, servers, facts):
            yield Packet(sender, None, address)
            for port in (_UNSERVED, *health_checks):
                yield Packet(sender, Protocol.TCP, address, port)


def senders(family: Family, servers: Iterable[Address], facts: Facts) -> Iterator[Sender]:
    """Give everybody who may send a packet, of one family; the pods of this node by themselves."""
    known = set(servers)
    yield Sender(SenderKind.NODE)
    ranges = [one for service in facts.services for one in service.source_ranges]
    strangers = [*map(Address.parse, _STRANGERS), *(_within(one) for one in ranges)]
    for address in sorted({one for one in strangers if one.family is family}):
        if address not in NODE_ADDRESSES and not _is_pod(address):
            yield Sender(SenderKind.OUTSIDE, address, "eth0")
    for interface, networks in _PODS.items():
        for network in (one for one in networks if one.family is family):
            free = (_within(network, 250 - n) for n in range(100))
            yield Sender(SenderKind.POD, next(one for one in free if one not in known), interface)
    for address in sorted(known):
        if address.family is family and any(address in one for one in _PODS["cni0"]):
            yield Sender(SenderKind.POD, address, "cni0")


def _is_pod(address: Address) -> bool:
    pods = (Network.parse("10.244.0.0/16"), Network.parse("fd00:10:244::/56"))
    return any(address in network for network in pods)


def _within(network: Network, offset: int = 1) -> Address:
    """Give an address of a network: its first but one, or one further on."""
    length = len(network.address)
    size = 1 << (length * 8 - network.prefix_length)
    number = int.from_bytes(network.address) + (offset % size if size > 1 else 0)
    return Address(number.to_bytes(length))


def _packet_text(packet: Packet) -> str:
    sender = packet.sender
    address = f" {sender.address} by {sender.interface}" if sender.address is not None else ""
    return f"{sender.kind}{address} -> {place_text(packet)}"


def _some(values: Iterable[object]) -> str:
    return "{" + ", ".join(sorted(map(_text, values))) + "}"


def _text(value: object) -> str:
    if isinstance(value, tuple) and not isinstance(value, RealServerKey):
        return " weight ".join(map(str, value))
    return str(value)
