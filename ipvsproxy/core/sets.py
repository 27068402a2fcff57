"""The ipsets: their names, what each holds and what its members do to traffic.

Knows the sets as values; which rule asks which set is core.firewall's, what a Service puts into
them core.members'. Names, types and the forms of members are those of kube-proxy's IPVS mode
(pkg/proxy/ipvs/ipset.go of Kubernetes 1.30), because this replaces it in place and other tools look
for them; four are ours.

What a member does decides when it may come and go (`Role`): one that lets traffic in comes before
its virtual server, one that sends traffic elsewhere after that is ready.

To add a set: a constant and a line in `_SETS`, and in `_ROLES` unless it merely lets traffic in.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import Enum

from ipvsproxy.model import (
    Family,
    IpPortIpMember,
    IpPortMember,
    Protocol,
    RealServerKey,
    SetSpec,
    SetType,
    VirtualServerKey,
)

CLUSTER_IP = "KUBE-CLUSTER-IP"
"""Address and port of every ClusterIP frontend."""
EXTERNAL_IP = "KUBE-EXTERNAL-IP"
"""... of every externalIP with externalTrafficPolicy Cluster."""
EXTERNAL_IP_LOCAL = "KUBE-EXTERNAL-IP-LOCAL"
"""... of every externalIP with externalTrafficPolicy Local."""
LOAD_BALANCER = "KUBE-LOAD-BALANCER"
"""... of every load balancer address."""
LOAD_BALANCER_LOCAL = "KUBE-LOAD-BALANCER-LOCAL"
"""Those of `LOAD_BALANCER` with externalTrafficPolicy Local: not masqueraded."""
LOAD_BALANCER_FW = "KUBE-LOAD-BALANCER-FW"
"""Those of `LOAD_BALANCER` with source ranges: closed but for who is in the next two sets."""
SOURCE_CIDR = "KUBE-LOAD-BALANCER-SOURCE-CIDR"
"""Frontend, and a network that may use it."""
SOURCE_IP = "KUBE-LOAD-BALANCER-SOURCE-IP"
"""Frontend, and its own address, with which the node itself comes; where the node may use it."""
NODE_PORT: Mapping[Protocol, str] = {
    Protocol.TCP: "KUBE-NODE-PORT-TCP",
    Protocol.UDP: "KUBE-NODE-PORT-UDP",
    Protocol.SCTP: "KUBE-NODE-PORT-SCTP-HASH",
}
"""Every NodePort; of SCTP with each address of the node, since a bitmap:port has no SCTP."""
NODE_PORT_LOCAL: Mapping[Protocol, str] = {
    Protocol.TCP: "KUBE-NODE-PORT-LOCAL-TCP",
    Protocol.UDP: "KUBE-NODE-PORT-LOCAL-UDP",
    Protocol.SCTP: "KUBE-NODE-PORT-LOCAL-SCTP-HASH",
}
"""Those of `NODE_PORT` with externalTrafficPolicy Local: not masqueraded."""
HEALTH_CHECK_NODE_PORT = "KUBE-HEALTH-CHECK-NODE-PORT"
"""Every healthCheckNodePort that is served here."""
LOOP_BACK = "KUBE-LOOP-BACK"
"""Endpoints of this node, each with itself: a pod that reaches itself through a Service."""
IPVS_IPS = "KUBE-IPVS-IPS"
"""Every address on the dummy interface."""
NODE_IP = "KUBE-NODE-IP"
"""The node's addresses on which NodePorts are served; ours. kube-proxy asks for any local address,
and so masquerades what comes to a NodePort's number on a service address or another interface."""
SPLIT = "KUBE-SPLIT"
"""Frontends whose clients inside the cluster are sent to the ClusterIP instead; ours."""
NO_LOCAL = "KUBE-NO-LOCAL"
"""Frontends of externalTrafficPolicy Local that have endpoints, but none on this node; ours."""
LEDGER = "IPVSPROXY-OWN"
"""The virtual servers that are ours; no rule uses it (see `core.ledger`)."""

OWN_SET_PREFIXES = ("KUBE-", "IPVSPROXY-")
"""How the names of the sets begin that are looked at: ours and those of a kube-proxy before us."""

FRONTEND_SETS = (
    CLUSTER_IP,
    EXTERNAL_IP,
    EXTERNAL_IP_LOCAL,
    LOAD_BALANCER,
    NODE_PORT[Protocol.SCTP],
)
"""Sets of which each member is a virtual server, address and port."""

_SET_NAME_LENGTH = 31
"""IPSET_MAXNAMELEN in include/uapi/linux/netfilter/ipset/ip_set.h, less the final NUL."""

_SETS: Mapping[str, SetType] = {
    CLUSTER_IP: SetType.HASH_IP_PORT,
    EXTERNAL_IP: SetType.HASH_IP_PORT,
    EXTERNAL_IP_LOCAL: SetType.HASH_IP_PORT,
    LOAD_BALANCER: SetType.HASH_IP_PORT,
    LOAD_BALANCER_LOCAL: SetType.HASH_IP_PORT,
    LOAD_BALANCER_FW: SetType.HASH_IP_PORT,
    SOURCE_CIDR: SetType.HASH_IP_PORT_NET,
    SOURCE_IP: SetType.HASH_IP_PORT_IP,
    NODE_PORT[Protocol.TCP]: SetType.BITMAP_PORT,
    NODE_PORT[Protocol.UDP]: SetType.BITMAP_PORT,
    NODE_PORT[Protocol.SCTP]: SetType.HASH_IP_PORT,
    NODE_PORT_LOCAL[Protocol.TCP]: SetType.BITMAP_PORT,
    NODE_PORT_LOCAL[Protocol.UDP]: SetType.BITMAP_PORT,
    NODE_PORT_LOCAL[Protocol.SCTP]: SetType.HASH_IP_PORT,
    HEALTH_CHECK_NODE_PORT: SetType.BITMAP_PORT,
    LOOP_BACK: SetType.HASH_IP_PORT_IP,
    IPVS_IPS: SetType.HASH_IP,
    NODE_IP: SetType.HASH_IP,
    SPLIT: SetType.HASH_IP_PORT,
    NO_LOCAL: SetType.HASH_IP_PORT,
    LEDGER: SetType.HASH_IP_PORT,
}


class Role(Enum):
    """What a member does to traffic, as far as its time depends on it."""

    ADMITS = "admits"
    """Lets traffic work: comes before the virtual server and goes after it."""
    CLOSES = "closes"
    """Shuts out all but those admitted: comes after these and goes before them."""
    MASKS = "masks"
    """Admits, and has its clients masqueraded: comes before a server elsewhere takes connections,
    which would answer past this node, and goes when none does any more."""
    BARES = "bares"
    """Ends the masquerading: comes when no server elsewhere takes new connections any more, and
    goes before the first one does."""
    REDIRECTS = "redirects"
    """Sends clients to another virtual server: comes when that is ready."""
    SHUTS_OUT = "shuts out"
    """Drops who was not redirected: comes after the redirection and goes before it."""


_ROLES: Mapping[str, Role] = {
    EXTERNAL_IP: Role.MASKS,
    LOAD_BALANCER: Role.MASKS,
    LOAD_BALANCER_FW: Role.CLOSES,
    LOAD_BALANCER_LOCAL: Role.BARES,
    **dict.fromkeys(NODE_PORT_LOCAL.values(), Role.BARES),
    SPLIT: Role.REDIRECTS,
    NO_LOCAL: Role.SHUTS_OUT,
}


def set_name(base: str, family: Family) -> str:
    """Name of a set in one family: kube-proxy's names, and for the ledger a suffix.

    kube-proxy writes KUBE-6- for KUBE- and cuts the result to what ipset allows, so that two of
    its names end in the middle of a word.
    """
    return _NAMES[base, family]


def role_of(name: str) -> Role:
    """Say what the members of a set do, by the set's name in either family."""
    return _ROLE_BY_NAME.get(name, Role.ADMITS)


def set_specs(
    families: Iterable[Family], maxelem: int, hash_size: int = 1024
) -> dict[str, SetSpec]:
    """Every set that must exist, by name.

    `maxelem` is the most members that one may have, `hash_size` the buckets it begins with; a
    bitmap has neither.
    """
    return {
        set_name(base, family): SetSpec(set_type, family)
        if set_type is SetType.BITMAP_PORT
        else SetSpec(set_type, family, maxelem, hash_size)
        for family in families
        for base, set_type in _SETS.items()
    }


def frontend_member(key: VirtualServerKey) -> IpPortMember:
    """Member that stands for a frontend in the sets of frontends and in the ledger."""
    return IpPortMember(key.address, key.protocol, key.port)


def loop_back_member(protocol: Protocol, real: RealServerKey) -> IpPortIpMember:
    """Member of LOOP_BACK for an endpoint of this node."""
    return IpPortIpMember(real.address, protocol, real.port, real.address)


def _named(base: str, family: Family) -> str:
    if family is Family.IPV4:
        return base
    if base.startswith("KUBE-"):
        return base.replace("KUBE-", "KUBE-6-", 1)[:_SET_NAME_LENGTH]
    return f"{base}-6"


_NAMES = {(base, family): _named(base, family) for base in _SETS for family in Family}
PORT_SETS: Mapping[str, tuple[Family, Protocol]] = {
    set_name(bases[protocol], family): (family, protocol)
    for bases in (NODE_PORT, NODE_PORT_LOCAL)
    for protocol in Protocol
    for family in Family
}
"""The family and the protocol of the NodePorts in a set, by its name."""
LOOP_BACKS = frozenset(set_name(LOOP_BACK, family) for family in Family)
"""Names of the sets whose members are of endpoints, not of frontends."""
_ROLE_BY_NAME = {_named(base, family): role for base, role in _ROLES.items() for family in Family}
