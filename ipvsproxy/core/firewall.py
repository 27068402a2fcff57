"""The ipsets and the iptables chains that let balanced traffic work, as values.

Knows the names, types and members of the sets and every rule of the chains, for each family; does
not know how they reach the kernel, nor what is there. Chains never grow with the number of
Services: what belongs to a Service is a set member, and a rule asks the set.

    nat     PREROUTING, OUTPUT -> KUBE-SERVICES      who is to be masqueraded -> KUBE-MARK-MASQ
            POSTROUTING        -> KUBE-POSTROUTING   masquerades hairpins and what was marked
    filter  INPUT              -> KUBE-IPVS-FILTER   refuses what a service address does not serve
            FORWARD            -> KUBE-FORWARD       lets the answers through a closed FORWARD

Names, comments and rules are those of kube-proxy's IPVS mode (pkg/proxy/ipvs, README and
proxier.go of Kubernetes 1.30), because this replaces it in place and other tools look for them.
Words stand exactly as iptables-save prints them, so that what is wanted can be compared with what
is found and a restart writes nothing.

To add a set: a constant and a line in `_SETS`. To add a chain: a line in `OWN_CHAINS` unless it is
there, and one in `ruleset`; to add a jump into it, a line in `_jumps`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from ipvsproxy.model import (
    Chain,
    Family,
    IpPortIpMember,
    IpPortMember,
    Jump,
    Network,
    Protocol,
    RealServerKey,
    Rule,
    Ruleset,
    SetSpec,
    SetType,
    VirtualServerKey,
)

CLUSTER_IP = "KUBE-CLUSTER-IP"
"""Address and port of every ClusterIP frontend."""
LOOP_BACK = "KUBE-LOOP-BACK"
"""Endpoints of this node, each with itself: a pod that reaches itself through a Service."""
IPVS_IPS = "KUBE-IPVS-IPS"
"""Every address on the dummy interface."""
LEDGER = "IPVSPROXY-OWN"
"""The virtual servers that are ours; no rule uses it (see `core.desired`)."""

OWN_SET_PREFIXES = ("KUBE-", "IPVSPROXY-")
"""How the names of the sets begin that are looked at: ours and those of a kube-proxy before us."""

SERVICES = "KUBE-SERVICES"
MARK_MASQ = "KUBE-MARK-MASQ"
POSTROUTING = "KUBE-POSTROUTING"
FORWARD = "KUBE-FORWARD"
IPVS_FILTER = "KUBE-IPVS-FILTER"

OWN_CHAINS: Mapping[str, frozenset[str]] = {
    "nat": frozenset({SERVICES, MARK_MASQ, POSTROUTING, "KUBE-NODE-PORT", "KUBE-LOAD-BALANCER"}),
    "filter": frozenset(
        {
            FORWARD,
            IPVS_FILTER,
            "KUBE-NODE-PORT",
            "KUBE-PROXY-FIREWALL",
            "KUBE-SOURCE-RANGES-FIREWALL",
            "KUBE-IPVS-OUT-FILTER",
        }
    ),
}
"""Names of the chains that are ours, by table: those of kube-proxy's IPVS mode, used here or not,
so that none of a predecessor is left behind. KUBE-FIREWALL is kubelet's."""

_SET_NAME_LENGTH = 31
"""IPSET_MAXNAMELEN in include/uapi/linux/netfilter/ipset/ip_set.h, less the final NUL."""

_SETS: Mapping[str, SetType] = {
    CLUSTER_IP: SetType.HASH_IP_PORT,
    LOOP_BACK: SetType.HASH_IP_PORT_IP,
    IPVS_IPS: SetType.HASH_IP,
    LEDGER: SetType.HASH_IP_PORT,
}

_LOOPBACK = {Family.IPV4: "127.0.0.0/8", Family.IPV6: "::1/128"}
_PING: Mapping[Family, Rule] = {
    Family.IPV4: ("-p", "icmp", "-m", "icmp", "--icmp-type", "8"),
    Family.IPV6: ("-p", "ipv6-icmp", "-m", "icmp6", "--icmpv6-type", "128"),
}
_PORT_UNREACHABLE = {
    Family.IPV4: "icmp-port-unreachable",
    Family.IPV6: "icmp6-port-unreachable",
}


def set_name(base: str, family: Family) -> str:
    """Name of a set in one family: kube-proxy's names, and for the ledger a suffix.

    kube-proxy writes KUBE-6- for KUBE- and cuts the result to what ipset allows, so that two of
    its names end in the middle of a word.
    """
    if family is Family.IPV4:
        return base
    if base.startswith("KUBE-"):
        return base.replace("KUBE-", "KUBE-6-", 1)[:_SET_NAME_LENGTH]
    return f"{base}-6"


def set_specs(families: Iterable[Family], maxelem: int) -> dict[str, SetSpec]:
    """Every set that must exist, by name; `maxelem` is the most members that one may have."""
    return {
        set_name(base, family): SetSpec(set_type, family, maxelem)
        for family in families
        for base, set_type in _SETS.items()
    }


def frontend_member(key: VirtualServerKey) -> IpPortMember:
    """Member that stands for a frontend in the sets of frontends and in the ledger."""
    return IpPortMember(key.address, key.protocol, key.port)


def loop_back_member(protocol: Protocol, real: RealServerKey) -> IpPortIpMember:
    """Member of LOOP_BACK for an endpoint of this node."""
    return IpPortIpMember(real.address, protocol, real.port, real.address)


def ruleset(
    family: Family,
    *,
    local: Sequence[Network],
    masquerade_all: bool,
    masquerade_bit: int,
) -> Ruleset:
    """Say which chains and jumps one family is to have.

    `local` are the address blocks of the pods; those of the other family are left out. Without
    any, only traffic of the node itself is masqueraded. `masquerade_bit` is the bit of the packet
    mark that means "masquerade this", 0 to 31. Every set of `set_specs` that a rule names must
    exist before the rules can.

    MASQUERADE is always `--random-fully`, without which two connections may be given one source
    port and one of them loses its packets (kubernetes/kubernetes#56903): iptables has it since
    1.6.2 and the kernel since 3.13, both older than what is supported here.
    """
    mark = f"{1 << masquerade_bit:#x}"
    if masquerade_all:
        marking: tuple[Rule, ...] = (_cluster_ip(family, "dst,dst", MARK_MASQ),)
    else:
        marking = _mark_strangers(family, sorted({net for net in local if net.family is family}))
    chains = (
        Chain("filter", FORWARD, _forward(mark)),
        Chain("filter", IPVS_FILTER, _ipvs_filter(family)),
        Chain("nat", MARK_MASQ, (("-j", "MARK", "--set-xmark", f"{mark}/{mark}"),)),
        Chain("nat", POSTROUTING, _postrouting(family, mark)),
        Chain("nat", SERVICES, _services(family, marking)),
    )
    return Ruleset(tuple(sorted(chains, key=lambda chain: chain[:2])), _jumps())


def _services(family: Family, marking: tuple[Rule, ...]) -> tuple[Rule, ...]:
    return (
        ("-s", _LOOPBACK[family], "-j", "RETURN"),
        *marking,
        # Ends the chain that called, so that a rule for a hostPort, which matches every local
        # address, does not take Service traffic (kubernetes/kubernetes#61938).
        (*_in_set(CLUSTER_IP, family, "dst,dst"), "-j", "ACCEPT"),
    )


def _mark_strangers(family: Family, local: Sequence[Network]) -> tuple[Rule, ...]:
    """Mark what comes to a ClusterIP and is not from a pod.

    No block: the node's own traffic, whose source is the service address itself. One block: one
    rule, kube-proxy's. Several: "in none of them" does not go into one rule, so what is in one is
    accepted first, as it would be at the end of the chain.
    """
    if not local:
        return (_cluster_ip(family, "src,dst", MARK_MASQ),)
    if any(block.prefix_length == 0 for block in local):
        return ()
    if len(local) == 1:
        return (("!", "-s", str(local[0]), *_cluster_ip(family, "dst,dst", MARK_MASQ)),)
    pods = tuple(
        ("-s", str(block), *_in_set(CLUSTER_IP, family, "dst,dst"), "-j", "ACCEPT")
        for block in local
    )
    return (*pods, _cluster_ip(family, "dst,dst", MARK_MASQ))


def _cluster_ip(family: Family, directions: str, target: str) -> Rule:
    comment = _comment("Kubernetes service cluster ip + port for masquerade purpose")
    return (*comment, *_in_set(CLUSTER_IP, family, directions), "-j", target)


def _postrouting(family: Family, mark: str) -> tuple[Rule, ...]:
    hairpin = _comment("Kubernetes endpoints dst ip:port, source ip for solving hairpin purpose")
    return (
        (*hairpin, *_in_set(LOOP_BACK, family, "dst,dst,src"), "-j", "MASQUERADE"),
        ("-m", "mark", "!", "--mark", f"{mark}/{mark}", "-j", "RETURN"),
        # The bit is cleared, lest a packet that passes here twice be masqueraded twice.
        ("-j", "MARK", "--set-xmark", f"{mark}/0x0"),
        (
            *_comment("kubernetes service traffic requiring SNAT"),
            *("-j", "MASQUERADE", "--random-fully"),
        ),
    )


def _forward(mark: str) -> tuple[Rule, ...]:
    return (
        (
            *_comment("kubernetes forwarding rules"),
            *("-m", "mark", "--mark", f"{mark}/{mark}", "-j", "ACCEPT"),
        ),
        (
            *_comment("kubernetes forwarding conntrack rule"),
            *("-m", "conntrack", "--ctstate", "RELATED,ESTABLISHED", "-j", "ACCEPT"),
        ),
    )


def _ipvs_filter(family: Family) -> tuple[Rule, ...]:
    """Refuse new traffic to a service address that no frontend serves, but answer its ping.

    Service addresses are local, so without this every daemon of the node that listens on all
    addresses would answer on them (kubernetes/kubernetes#72236). kube-proxy refuses pings too,
    which only misleads whoever looks for a fault.
    """
    new = ("-m", "conntrack", "--ctstate", "NEW")
    reject = ("-j", "REJECT", "--reject-with", _PORT_UNREACHABLE[family])
    return (
        (*_in_set(CLUSTER_IP, family, "dst,dst"), "-j", "RETURN"),
        (*_PING[family], "-j", "RETURN"),
        (*new, *_in_set(IPVS_IPS, family, "dst"), *reject),
    )


def _jumps() -> tuple[Jump, ...]:
    """Jumps into our chains; those of one chain in the order in which they stand in it."""
    return (
        _jump_from("filter", "FORWARD", "kubernetes forwarding rules", FORWARD),
        _jump_from("filter", "INPUT", "kubernetes ipvs access filter", IPVS_FILTER),
        _jump_from("nat", "OUTPUT", "kubernetes service portals", SERVICES),
        _jump_from("nat", "POSTROUTING", "kubernetes postrouting rules", POSTROUTING),
        _jump_from("nat", "PREROUTING", "kubernetes service portals", SERVICES),
    )


def _jump_from(table: str, chain: str, comment: str, target: str) -> Jump:
    return Jump(table, chain, (*_comment(comment), "-j", target))


def _comment(text: str) -> Rule:
    return ("-m", "comment", "--comment", text)


def _in_set(base: str, family: Family, directions: str) -> Rule:
    return ("-m", "set", "--match-set", set_name(base, family), directions)
