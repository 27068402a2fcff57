"""The nouns of the kernel's tables: what an IPVS table, an ipset, a chain or an address is to us.

This module knows the kernel's vocabulary and nothing of Kubernetes: no Service, no endpoint, no
annotation. It holds values only; nothing here reads, writes or decides.

Two shapes are used on purpose. What is hashed and compared tens of thousands of times in a cycle
(keys, servers, members) is a `NamedTuple`; what gathers them is a slotted dataclass. Named tuples
of equal shape compare equal, so keys of two types never share one set or dict.

`State` is the one type for what the kernel holds: read back from it, advanced by each
acknowledged operation, and compared with what is wanted.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum, IntFlag, StrEnum
from functools import cached_property
from typing import NamedTuple, TypeAlias

__all__ = [
    "DUMMY_INTERFACE",
    "KERNEL_TIMEOUTS",
    "Address",
    "Chain",
    "Connections",
    "Family",
    "Flags",
    "ForwardingMethod",
    "IpMember",
    "IpPortIpMember",
    "IpPortMember",
    "IpPortNetMember",
    "Jump",
    "Listener",
    "Member",
    "Network",
    "NodeNetwork",
    "PortMember",
    "Protocol",
    "RealServer",
    "RealServerKey",
    "Rule",
    "Ruleset",
    "Scheduler",
    "SetSpec",
    "SetType",
    "State",
    "Timeouts",
    "VirtualServer",
    "VirtualServerKey",
]

DUMMY_INTERFACE = "kube-ipvs0"
"""The dummy interface that holds the service addresses; kube-proxy's name."""


class Family(IntEnum):
    """An IP version; the value is the version number."""

    IPV4 = 4
    IPV6 = 6

    @property
    def host_prefix(self) -> int:
        """Prefix length of a single host: 32 or 128."""
        return 32 if self is Family.IPV4 else 128


_BY_BYTES = {4: Family.IPV4, 16: Family.IPV6}  # a member of an enum is looked up slower


class Address(bytes):
    """An IP address in network byte order: 4 or 16 bytes, so that its order is the numeric one.

    Packed, because that is what netlink takes, what hashes at C speed (a `bytes` caches its hash)
    and what 50,000 of fit in a few MiB; text is made only at the edge, by `str()`.
    """

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read an address; an IPv4-mapped IPv6 one is the IPv4 address, as in kube-proxy.

        Raises ValueError, whose text says what is wrong, for anything that is none.
        """
        parsed = ipaddress.ip_address(text)
        if isinstance(parsed, ipaddress.IPv6Address):
            if parsed.scope_id is not None:
                raise ValueError(f"{text!r} has a zone; an address without one is needed")
            parsed = parsed.ipv4_mapped or parsed
        return cls(parsed.packed)

    @property
    def family(self) -> Family:
        """IPv4 for four bytes, IPv6 for sixteen."""
        return _BY_BYTES[len(self)]

    def __str__(self) -> str:
        if self.family is Family.IPV4:
            return ".".join(map(str, self))
        return str(ipaddress.IPv6Address(bytes(self)))

    def __repr__(self) -> str:
        return f"Address({self})"


class Network(NamedTuple):
    """An address block; host bits are zero."""

    address: Address
    prefix_length: int

    @classmethod
    def parse(cls, text: str) -> Network:
        """Read `address/length`; host bits are cleared, a bare address is a block of one.

        Raises ValueError for anything else.
        """
        parsed = ipaddress.ip_network(text, strict=False)
        return cls(Address(parsed.network_address.packed), parsed.prefixlen)

    @property
    def family(self) -> Family:
        """The family of its address."""
        return self.address.family

    def __contains__(self, address: object) -> bool:
        if not isinstance(address, Address) or len(address) != len(self.address):
            return False
        shift = len(address) * 8 - self.prefix_length
        return int.from_bytes(address) >> shift == int.from_bytes(self.address) >> shift

    def __str__(self) -> str:
        return f"{self.address}/{self.prefix_length}"


class Protocol(IntEnum):
    """The protocols that IPVS balances; the value is the IP protocol number."""

    TCP = 6
    UDP = 17
    SCTP = 132


class Scheduler(StrEnum):
    """The schedulers of the kernel's IPVS (net/netfilter/ipvs/ip_vs_*.c), by their kernel names."""

    RR = "rr"
    WRR = "wrr"
    LC = "lc"
    WLC = "wlc"
    LBLC = "lblc"
    LBLCR = "lblcr"
    DH = "dh"
    SH = "sh"
    SED = "sed"
    NQ = "nq"
    FO = "fo"
    OVF = "ovf"
    MH = "mh"
    TWOS = "twos"


class Flags(IntFlag):
    """Flags of a virtual server that we choose (IP_VS_SVC_F_* in include/uapi/linux/ip_vs.h).

    PERSISTENT (0x1) follows from the timeout and HASHED (0x2) is the kernel's own, so neither is
    here. What SCHED_1 to SCHED_3 mean depends on the scheduler: for sh and mh, SCHED_1 is
    "fall back to another server when the hashed one is not available", SCHED_2 is "hash the
    source port too".
    """

    NONE = 0
    ONE_PACKET = 0x4
    SCHED_1 = 0x8
    SCHED_2 = 0x10
    SCHED_3 = 0x20


class ForwardingMethod(IntEnum):
    """How packets reach a real server (IP_VS_CONN_F_* in include/uapi/linux/ip_vs.h)."""

    MASQUERADE = 0
    LOCAL = 1
    TUNNEL = 2
    DIRECT_ROUTE = 3
    BYPASS = 4


class VirtualServerKey(NamedTuple):
    """What identifies a virtual server in the kernel; firewall-mark servers are never ours."""

    protocol: Protocol
    address: Address
    port: int

    @property
    def family(self) -> Family:
        """The family of its address."""
        return _BY_BYTES[len(self.address)]

    def __str__(self) -> str:
        return f"{_host(self.address)}:{self.port}/{self.protocol.name}"


class VirtualServer(NamedTuple):
    """The configurable part of a virtual server; all of it changes in place, by SET."""

    scheduler: str
    """A `Scheduler`; any other name only where a foreign virtual server uses one."""
    flags: Flags = Flags.NONE
    persistence: int = 0
    """Seconds for which a client keeps its real server; 0: not persistent."""
    persistence_prefix: int = 32
    """Prefix length that makes clients one client for persistence: 1-32, or 1-128 for IPv6."""


class RealServerKey(NamedTuple):
    """What identifies a real server within its virtual server."""

    address: Address
    port: int

    def __str__(self) -> str:
        return f"{_host(self.address)}:{self.port}"


class RealServer(NamedTuple):
    """The configurable part of a real server; changes in place, by SET."""

    weight: int
    """0-65535; 0 takes no new connection and keeps the open ones."""
    forwarding_method: ForwardingMethod = ForwardingMethod.MASQUERADE
    upper_threshold: int = 0
    """Connections above which it takes no new one; 0: no limit."""
    lower_threshold: int = 0
    """Connections below which it takes new ones again; 0: three quarters of the upper one."""


class Connections(NamedTuple):
    """How many connections a real server has, as `ipvsadm -Ln` counts them."""

    active: int
    inactive: int
    persistent: int = 0


class Timeouts(NamedTuple):
    """Seconds for which IPVS remembers a silent connection; 0: it balances no such protocol."""

    tcp: int
    tcp_fin: int
    udp: int


KERNEL_TIMEOUTS = Timeouts(15 * 60, 2 * 60, 5 * 60)
"""What every network namespace starts with (net/netfilter/ipvs/ip_vs_proto_tcp.c, _udp.c)."""


class SetType(StrEnum):
    """The kinds of ipset that are used, by ipset's names."""

    HASH_IP = "hash:ip"
    HASH_IP_PORT = "hash:ip,port"
    HASH_IP_PORT_IP = "hash:ip,port,ip"
    HASH_IP_PORT_NET = "hash:ip,port,net"
    BITMAP_PORT = "bitmap:port"


@dataclass(frozen=True, slots=True)
class SetSpec:
    """How an ipset is created; a bitmap has no family in the kernel and always holds 0-65535.

    Two that differ in `hashsize` only are equal.
    """

    type: SetType
    family: Family
    maxelem: int = 65536
    """Most members; a bitmap has none of this."""
    hashsize: int = field(default=1024, compare=False)
    """Buckets at the start, rounded up to a power of two; no bitmap has any. The kernel doubles
    them when it likes, so what is read back tells nothing of what was asked for."""


class IpMember(NamedTuple):
    """A member of hash:ip."""

    address: Address


class IpPortMember(NamedTuple):
    """A member of hash:ip,port."""

    address: Address
    protocol: Protocol
    port: int


class IpPortIpMember(NamedTuple):
    """A member of hash:ip,port,ip."""

    address: Address
    protocol: Protocol
    port: int
    other: Address


class IpPortNetMember(NamedTuple):
    """A member of hash:ip,port,net; the kernel stores no network of prefix length 0."""

    address: Address
    protocol: Protocol
    port: int
    network: Network


class PortMember(NamedTuple):
    """A member of bitmap:port."""

    port: int


Member: TypeAlias = IpMember | IpPortMember | IpPortIpMember | IpPortNetMember | PortMember

Rule: TypeAlias = tuple[str, ...]
"""A rule's words as iptables-save prints them after `-A CHAIN`, quotes resolved."""


class Chain(NamedTuple):
    """A chain of ours, with all its rules."""

    table: str
    name: str
    rules: tuple[Rule, ...]


class Jump(NamedTuple):
    """A rule in a chain that is not ours (PREROUTING, INPUT, ...) that leads into ours."""

    table: str
    chain: str
    rule: Rule


class Ruleset(NamedTuple):
    """Our chains and the jumps into them, of one family; sorted by table and name."""

    chains: tuple[Chain, ...] = ()
    jumps: tuple[Jump, ...] = ()


class Listener(NamedTuple):
    """A socket of this node that takes what comes to a port."""

    protocol: Protocol
    address: Address
    """All zeros: every address of its family; all zeros of IPv6: of both families."""
    port: int


@dataclass(frozen=True)
class NodeNetwork:
    """What there is of the node's own network: not ours to change, but Services must fit in."""

    interfaces: Mapping[str, frozenset[Address]] = field(default_factory=dict)
    """The addresses of every interface but those for service addresses, `DUMMY_INTERFACE` and a
    predecessor's, by the interface's name."""
    gateways: frozenset[Address] = frozenset()
    """Next hops of the node's routes."""
    listeners: frozenset[Listener] = frozenset()
    """Sockets that listen in this network namespace, whatever process has them."""

    @cached_property
    def addresses(self) -> frozenset[Address]:
        """All addresses that are the node's own: they are never put on `DUMMY_INTERFACE`."""
        return frozenset[Address]().union(*self.interfaces.values())


@dataclass(slots=True)
class State:
    """What the kernel holds of the things that we look at, ours and foreign.

    Absent from a mapping is absent from the kernel, with two exceptions that are unknown instead:
    a family that is missing in `rulesets` (its programs do not work here) and a name that is
    missing in `sysctls` (the kernel has none of that name).
    """

    families: frozenset[Family] = frozenset(Family)
    """The families that this kernel has; nothing is planned for another."""
    link: bool = False
    """Whether `DUMMY_INTERFACE` exists."""
    addresses: set[Address] = field(default_factory=set)
    """Addresses on `DUMMY_INTERFACE`, link-local ones left out."""
    network: NodeNetwork = field(default_factory=NodeNetwork)
    virtual_servers: dict[VirtualServerKey, VirtualServer] = field(default_factory=dict)
    real_servers: dict[VirtualServerKey, dict[RealServerKey, RealServer]] = field(
        default_factory=dict
    )
    """An entry for every virtual server, empty where it has no real server."""
    sets: dict[str, SetSpec] = field(default_factory=dict)
    members: dict[str, set[Member]] = field(default_factory=dict)
    """An entry for every set in `sets`."""
    rulesets: dict[Family, Ruleset] = field(default_factory=dict)
    sysctls: dict[str, str] = field(default_factory=dict)
    """By path below /proc/sys, as in `net/ipv4/vs/conntrack`."""
    timeouts: Timeouts = KERNEL_TIMEOUTS
    """Of the connections of this network namespace."""
    processors: int = 1
    """How many there are, as kube-proxy counts them for the size of conntrack's table."""
    lacks: dict[str, str] = field(default_factory=dict)
    """What of it all could not be read, with the reason: a family's chains, a set."""


def _host(address: Address) -> str:
    return str(address) if address.family is Family.IPV4 else f"[{address}]"
