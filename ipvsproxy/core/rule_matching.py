"""Whether a match of an iptables rule holds for a packet, and why.

Knows what the extensions of iptables ask that kube-proxy and we use, as xt_*.c and ip_set_*.c of
the kernel answer it; knows neither chains nor targets. There are three answers: it holds, it does
not, and it cannot be said, for a match that is not understood or something that is not known of
the packet. The last is never taken for one of the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple, assert_never

from ipvsproxy.core.operations import member_text
from ipvsproxy.core.rule_words import Match
from ipvsproxy.model import (
    Address,
    IpMember,
    IpPortIpMember,
    IpPortMember,
    IpPortNetMember,
    Member,
    Network,
    PortMember,
    Protocol,
    SetType,
    State,
    VirtualServerKey,
)

__all__ = ["HOLDS_NOT", "NO_INTERFACE", "Answer", "InFlight", "answer", "is_local"]

NO_INTERFACE = ""
"""There is none: no way in for the node's own packets, no way out before routing."""

_LOOPBACK = (Network.parse("127.0.0.0/8"), Network.parse("::1"))
_PROTOCOL_NAMES: Mapping[str, int] = {
    "icmp": 1,
    "tcp": 6,
    "udp": 17,
    "ipv6-icmp": 58,
    "icmpv6": 58,
    "sctp": 132,
}
_PING_NUMBERS = frozenset({1, 58})
_PING_TYPES = {"--icmp-type": ("8", "8/0", "echo-request"), "--icmpv6-type": ("128", "128/0")}
_DIRECTIONS: Mapping[SetType, int] = {
    SetType.HASH_IP: 1,
    SetType.BITMAP_PORT: 1,
    SetType.HASH_IP_PORT: 2,
    SetType.HASH_IP_PORT_IP: 3,
    SetType.HASH_IP_PORT_NET: 3,
}


class InFlight(NamedTuple):
    """A packet at one place in the kernel, as rules see it."""

    protocol: Protocol | None
    """None: a ping."""
    source: Address
    destination: Address
    port: int
    mark: int = 0
    inward: str | None = NO_INTERFACE
    """The interface that it has come in by; None: not known."""
    outward: str | None = NO_INTERFACE
    """The interface that it will leave by; None: not known."""
    balanced: VirtualServerKey | None = None
    """The virtual server that has chosen a real server for it."""


class Answer(NamedTuple):
    """Whether something holds."""

    holds: bool | None
    """None: it cannot be said."""
    because: str = ""
    """What made it hold, or why it cannot be said; empty where the words say it all."""


HOLDS = Answer(True)
HOLDS_NOT = Answer(False)


def is_local(state: State, address: Address) -> bool:
    """Say whether the node takes packets to an address for its own."""
    return (
        address in state.addresses
        or address in state.network.addresses
        or any(address in network for network in _LOOPBACK)
    )


def answer(match: Match, packet: InFlight, state: State) -> Answer:
    """Say whether a match holds."""
    ask = _QUESTIONS.get(match.option)
    if ask is None or not match.known:
        return Answer(None, f"not understood: {match}")
    try:
        found = ask(match.values, packet, state)
    except ValueError:
        return Answer(None, f"not understood: {match}")
    # A module that finds nothing to ask about answers no, whatever is negated: `_balanced`.
    if found.holds is None or not match.negated or found is _NEVER:
        return found
    return Answer(not found.holds)


_NEVER = Answer(False, "there is nothing that could be asked")


def _source(values: Sequence[str], packet: InFlight, _: State) -> Answer:
    return _within(values[0], packet.source)


def _destination(values: Sequence[str], packet: InFlight, _: State) -> Answer:
    return _within(values[0], packet.destination)


def _within(text: str, address: Address) -> Answer:
    return Answer(address in Network.parse(text))


def _inward(values: Sequence[str], packet: InFlight, _: State) -> Answer:
    return _named(values[0], packet.inward, "by which interface it comes in")


def _outward(values: Sequence[str], packet: InFlight, _: State) -> Answer:
    return _named(values[0], packet.outward, "by which interface it leaves")


def _named(pattern: str, interface: str | None, what: str) -> Answer:
    """Compare an interface's name; a pattern that ends with + stands for all that begin so."""
    if pattern == "+":
        return HOLDS
    if interface is None:
        return Answer(None, f"not known: {what}, and a rule asks for {pattern}")
    if pattern.endswith("+"):
        return Answer(interface.startswith(pattern[:-1]))
    return Answer(interface == pattern)


def _protocol(values: Sequence[str], packet: InFlight, _: State) -> Answer:
    name = values[0]
    if name == "all":
        return HOLDS
    number = int(name) if name.isdecimal() else _PROTOCOL_NAMES.get(name)
    if packet.protocol is None:
        return Answer(number in _PING_NUMBERS)
    return Answer(number == packet.protocol)


def _destination_port(values: Sequence[str], packet: InFlight, _: State) -> Answer:
    first, colon, last = values[0].partition(":")
    return Answer(int(first or 0) <= packet.port <= int(last or (65535 if colon else first)))


def _unknown_source_port(values: Sequence[str], _packet: InFlight, _: State) -> Answer:
    return Answer(None, f"not known: the source port, and a rule asks for {values[0]}")


def _source_type(values: Sequence[str], packet: InFlight, state: State) -> Answer:
    return _typed(values[0], packet.source, state)


def _destination_type(values: Sequence[str], packet: InFlight, state: State) -> Answer:
    return _typed(values[0], packet.destination, state)


def _typed(kind: str, address: Address, state: State) -> Answer:
    if kind != "LOCAL":
        return Answer(None, f"not understood: addresses of type {kind}")
    if is_local(state, address):
        return Answer(True, f"{address} is an address of this node")
    return HOLDS_NOT


def _mark(values: Sequence[str], packet: InFlight, _: State) -> Answer:
    value, _slash, mask = values[0].partition("/")
    return Answer(packet.mark & int(mask or "0xffffffff", 0) == int(value, 0))


def _connection(values: Sequence[str], _packet: InFlight, _: State) -> Answer:
    """Ask conntrack; the packet is the first one of its connection."""
    states = set(values[0].split(","))
    if "NEW" in states:
        return HOLDS
    known = states <= {"RELATED", "ESTABLISHED", "INVALID", "UNTRACKED"}
    return HOLDS_NOT if known else Answer(None, f"not understood: the state {values[0]}")


def _echo_request(option: str) -> Callable[[Sequence[str], InFlight, State], Answer]:
    def ask(values: Sequence[str], packet: InFlight, _: State) -> Answer:
        return Answer(packet.protocol is None and values[0] in (*_PING_TYPES[option], "any"))

    return ask


def _bridged(_values: Sequence[str], _packet: InFlight, _: State) -> Answer:
    """Ask br_netfilter; no packet here is one that a bridge hands on by itself."""
    return HOLDS_NOT


def _balanced(
    compare: Callable[[VirtualServerKey, str], bool],
) -> Callable[[Sequence[str], InFlight, State], Answer]:
    """Ask for the virtual server of a packet that IPVS has balanced (net/netfilter/xt_ipvs.c)."""

    def ask(values: Sequence[str], packet: InFlight, _: State) -> Answer:
        if packet.balanced is None:
            return _NEVER
        return Answer(compare(packet.balanced, "".join(values)))

    return ask


def _in_flight_balanced(_values: Sequence[str], packet: InFlight, _: State) -> Answer:
    return Answer(packet.balanced is not None)


def _in_set(values: Sequence[str], packet: InFlight, state: State) -> Answer:
    name, directions = values[0], values[1].split(",")
    spec = state.sets.get(name)
    if spec is None:
        why = state.lacks.get(f"set {name}", "there is no such set")
        return Answer(None, f"not known: the set {name}: {why}")
    if len(directions) < _DIRECTIONS[spec.type]:
        return Answer(None, f"not understood: {spec.type} {name} asked for {values[1]}")
    if spec.type not in (SetType.HASH_IP, SetType.BITMAP_PORT) and directions[1] != "dst":
        return Answer(None, f"not known: the source port, and a rule asks {name} for it")
    if spec.type is SetType.BITMAP_PORT and directions[0] != "dst":
        return Answer(None, f"not known: the source port, and a rule asks {name} for it")
    member = _member(spec.type, directions, packet, state.members.get(name, set()))
    if member is None:
        return HOLDS_NOT
    return Answer(True, f"{member_text(member)} is in {name}")


def _member(
    set_type: SetType, directions: Sequence[str], packet: InFlight, members: set[Member]
) -> Member | None:
    """Return the member of a set that a packet matches.

    A ping has no port that a member of these sets could have: ip_set_getport.c.
    """
    for wanted in _wanted(set_type, directions, packet, members):
        if wanted in members:
            return wanted
    return None


def _wanted(
    set_type: SetType, directions: Sequence[str], packet: InFlight, members: set[Member]
) -> Iterator[Member]:
    """Yield the members that the packet would match, if the set had them."""
    ends = {"src": packet.source, "dst": packet.destination}
    first = ends[directions[0]]
    protocol = packet.protocol
    if set_type is SetType.HASH_IP:
        yield IpMember(first)
        return
    if protocol is None:
        return
    match set_type:
        case SetType.BITMAP_PORT:
            yield PortMember(packet.port)
        case SetType.HASH_IP_PORT:
            yield IpPortMember(first, protocol, packet.port)
        case SetType.HASH_IP_PORT_IP:
            yield IpPortIpMember(first, protocol, packet.port, ends[directions[2]])
        case SetType.HASH_IP_PORT_NET:
            other = ends[directions[2]]
            prefix = (first, protocol, packet.port)
            yield from (
                one
                for one in sorted(one for one in members if isinstance(one, IpPortNetMember))
                if one[:3] == prefix and other in one.network
            )
        case _:
            assert_never(set_type)


_QUESTIONS: Mapping[str, Callable[[Sequence[str], InFlight, State], Answer]] = {
    "-s": _source,
    "-d": _destination,
    "-i": _inward,
    "-o": _outward,
    "-p": _protocol,
    "--dport": _destination_port,
    "--sport": _unknown_source_port,
    "--src-type": _source_type,
    "--dst-type": _destination_type,
    "--mark": _mark,
    "--ctstate": _connection,
    "--icmp-type": _echo_request("--icmp-type"),
    "--icmpv6-type": _echo_request("--icmpv6-type"),
    "--physdev-is-in": _bridged,
    "--physdev-is-out": _bridged,
    "--physdev-is-bridged": _bridged,
    "--ipvs": _in_flight_balanced,
    "--vproto": _balanced(lambda key, text: int(text) == key.protocol),
    "--vaddr": _balanced(lambda key, text: key.address in Network.parse(text)),
    "--vport": _balanced(lambda key, text: int(text) == key.port),
    "--match-set": _in_set,
}
