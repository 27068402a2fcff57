"""A packet that is followed through the kernel, and what can become of it: values.

Knows what is asked (`Packet`) and how an answer looks (`Trace` with its `Step`s and its `Fate`);
knows neither how rules are read nor which way a packet takes: that is `core.trace`.
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple, TypeAlias

from ipvsproxy.model import Address, Listener, Protocol, RealServerKey, VirtualServerKey

__all__ = [
    "Balanced",
    "Candidate",
    "Dropped",
    "Fate",
    "Forwarded",
    "Kept",
    "Local",
    "Masqueraded",
    "NotUnderstood",
    "Packet",
    "Refused",
    "Seen",
    "Sender",
    "SenderKind",
    "Step",
    "Stopped",
    "Trace",
    "place_text",
]


class SenderKind(StrEnum):
    """Where a packet comes from, as seen from this node."""

    OUTSIDE = "outside"
    """From an interface, and from no pod."""
    POD = "pod"
    """From an interface, and from a pod of this node or another."""
    NODE = "node"
    """From a process of this node, or of a pod in the host's network."""


class Sender(NamedTuple):
    """Who sends a packet."""

    kind: SenderKind
    address: Address | None = None
    """None only for the node itself: the kernel chooses the source."""
    interface: str | None = None
    """The interface that it comes in by; None: not known. Of the node's own there is none."""


class Packet(NamedTuple):
    """The first packet of a new connection, or a ping."""

    sender: Sender
    protocol: Protocol | None
    """None: a ping, that is an ICMP or ICMPv6 echo request; it has no port."""
    destination: Address
    port: int = 0
    """The destination port, 1-65535; of a ping 0."""


class Step(NamedTuple):
    """Something that decided on the packet: a rule that matched, a route, IPVS."""

    hook: str
    """The netfilter hook: PREROUTING, INPUT, OUTPUT, FORWARD or POSTROUTING."""
    table: str = ""
    """The table of iptables; empty where no rule decided."""
    chain: str = ""
    rule: str = ""
    """The rule as iptables-save prints it, without its comment; or what else was asked."""
    because: tuple[str, ...] = ()
    """What of the packet and of the sets made it match, a sentence each."""
    verdict: str = ""
    """What followed."""


class Kept(NamedTuple):
    """The real server sees the source as it is."""

    address: Address


class Masqueraded(NamedTuple):
    """The real server sees an address of this node: that of the interface to the real server."""

    by: Step


class Stopped(NamedTuple):
    """What would go to this real server is dropped or rejected after IPVS has chosen it."""

    by: Step


Seen: TypeAlias = Kept | Masqueraded | Stopped


class Candidate(NamedTuple):
    """A real server that IPVS may choose."""

    member: RealServerKey
    weight: int
    """Above 0."""
    seen: Seen
    """What it sees as the source of the packet."""


class Balanced(NamedTuple):
    """IPVS chooses one of the candidates. Which one is up to scheduler, persistence and load."""

    key: VirtualServerKey
    """The virtual server that has it; after a DNAT not the one that was asked for."""
    candidates: tuple[Candidate, ...]
    """Not empty, in the order of their addresses."""
    resting: tuple[RealServerKey, ...] = ()
    """Real servers of weight 0: they take no new connection, unless a scheduler that hashes is
    without its fallback flag, and then refuse it."""


class Refused(NamedTuple):
    """The sender is told that nobody serves it."""

    by: Step
    empty: VirtualServerKey | None = None
    """The virtual server that has nobody of weight above 0; None: a rule rejected it."""


class Dropped(NamedTuple):
    """It vanishes; the sender waits."""

    by: Step


class Local(NamedTuple):
    """It is delivered to the node itself, as it is for no virtual server."""

    listeners: tuple[Listener, ...] = ()
    """Who takes it. Empty: nobody is known; then the kernel refuses it; a ping it answers."""


class Forwarded(NamedTuple):
    """It leaves this node: its destination is no address of the node, and not balanced."""

    destination: Address
    port: int


class NotUnderstood(NamedTuple):
    """It cannot be said: it comes to something that is not understood, or not known."""

    by: Step
    what: str


Fate: TypeAlias = Balanced | Refused | Dropped | Local | Forwarded | NotUnderstood


class Trace(NamedTuple):
    """What happens to a packet."""

    packet: Packet
    source: Address
    """The source with which it sets out."""
    steps: tuple[Step, ...]
    """Up to the choice of a real server; what comes after it is with each candidate."""
    fate: Fate


def place_text(packet: Packet) -> str:
    """Write where a packet goes: as `VirtualServerKey` is written, or `10.0.0.1/ICMP`."""
    if packet.protocol is None:
        return f"{packet.destination}/ICMP"
    return str(VirtualServerKey(packet.protocol, packet.destination, packet.port))
