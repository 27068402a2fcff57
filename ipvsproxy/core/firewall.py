"""The iptables chains that let balanced traffic work, as values.

Knows every rule of the chains, for each family; does not know how they reach the kernel, nor what
is there. Chains do not grow with the number of Services: what belongs to a Service is a set member,
and a rule asks the set (core.sets). The one exception is KUBE-SPLIT, which has a rule for each
redirected frontend, and which only packets to such a frontend enter.

    nat     PREROUTING, OUTPUT -> KUBE-SERVICES            redirects, marks who is masqueraded
                KUBE-SPLIT                                 to the ClusterIP, for clients inside
                KUBE-LOAD-BALANCER, KUBE-NODE-PORT         marks, but for policy Local
                KUBE-MARK-MASQ                             sets the mark
            POSTROUTING        -> KUBE-POSTROUTING         masquerades hairpins and what is marked
    mangle  OUTPUT             -> KUBE-IPVS-OUT-FILTER     source ranges, for the node itself
    filter  INPUT              -> KUBE-PROXY-FIREWALL      source ranges, for everybody else
                                  KUBE-IPVS-FILTER         refuses what is not served
                                  KUBE-NODE-PORT           lets health checks in
            FORWARD            -> KUBE-FORWARD             lets answers through a closed FORWARD

Names, comments and most rules are those of kube-proxy's IPVS mode (pkg/proxy/ipvs, README and
proxier.go of Kubernetes 1.30), because this replaces it in place and other tools look for them.
Words stand exactly as iptables-save prints them, so that what is wanted can be compared with what
is found and a restart writes nothing.

To add a chain: a line in `OWN_CHAINS` unless it is there, and one in `ruleset`; to add a jump into
it, a line in `_jumps`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from ipvsproxy.config import NoLocalEndpoints
from ipvsproxy.core.detect_local import LocalPods
from ipvsproxy.core.redirect import Redirect
from ipvsproxy.core.redirect_rules import SPLIT_CHAIN, redirect_rule
from ipvsproxy.core.sets import (
    CLUSTER_IP,
    EXTERNAL_IP,
    EXTERNAL_IP_LOCAL,
    HEALTH_CHECK_NODE_PORT,
    IPVS_IPS,
    LOAD_BALANCER,
    LOAD_BALANCER_FW,
    LOAD_BALANCER_LOCAL,
    LOOP_BACK,
    NO_LOCAL,
    NODE_IP,
    NODE_PORT,
    NODE_PORT_LOCAL,
    SOURCE_CIDR,
    SOURCE_IP,
    SPLIT,
    set_name,
)
from ipvsproxy.model import (
    Chain,
    Family,
    Jump,
    Protocol,
    Rule,
    Ruleset,
)

SERVICES = "KUBE-SERVICES"
LOAD_BALANCER_CHAIN = "KUBE-LOAD-BALANCER"
NODE_PORT_CHAIN = "KUBE-NODE-PORT"
MARK_MASQ = "KUBE-MARK-MASQ"
POSTROUTING = "KUBE-POSTROUTING"
FORWARD = "KUBE-FORWARD"
IPVS_FILTER = "KUBE-IPVS-FILTER"
OUT_FILTER = "KUBE-IPVS-OUT-FILTER"
PROXY_FIREWALL = "KUBE-PROXY-FIREWALL"
SOURCE_RANGES = "KUBE-SOURCE-RANGES-FIREWALL"

OWN_CHAINS: Mapping[str, frozenset[str]] = {
    "filter": frozenset(
        {FORWARD, IPVS_FILTER, NODE_PORT_CHAIN, OUT_FILTER, PROXY_FIREWALL, SOURCE_RANGES}
    ),
    "mangle": frozenset({OUT_FILTER}),
    "nat": frozenset(
        {
            *(SERVICES, SPLIT_CHAIN, LOAD_BALANCER_CHAIN, NODE_PORT_CHAIN, MARK_MASQ, POSTROUTING),
            "KUBE-FIRE-WALL",  # kube-proxy's source ranges, up to 1.24
        }
    ),
}
"""Names of the chains that are ours, by table: those of kube-proxy's IPVS mode, used here or not,
so that none of a predecessor is left behind. KUBE-FIREWALL and KUBE-MARK-DROP are kubelet's."""

_LOOPBACK = {Family.IPV4: "127.0.0.0/8", Family.IPV6: "::1/128"}
_PING: Mapping[Family, Rule] = {
    Family.IPV4: ("-p", "icmp", "-m", "icmp", "--icmp-type", "8"),
    Family.IPV6: ("-p", "ipv6-icmp", "-m", "icmp6", "--icmpv6-type", "128"),
}
_PORT_UNREACHABLE = {
    Family.IPV4: "icmp-port-unreachable",
    Family.IPV6: "icmp6-port-unreachable",
}
_NEW: Rule = ("-m", "conntrack", "--ctstate", "NEW")


def ruleset(
    family: Family,
    *,
    pods: LocalPods,
    masquerade_all: bool = False,
    masquerade_bit: int = 14,
    no_local: NoLocalEndpoints = NoLocalEndpoints.DROP,
    redirects: Sequence[Redirect] = (),
) -> Ruleset:
    """Say which chains and jumps one family is to have.

    Where nothing is known of `pods`, only the node's own traffic to ClusterIPs is masqueraded.
    `masquerade_bit` is the bit of the packet mark that means "masquerade this", 0 to 31.
    `redirects` are those of this family. Every set of core.sets must exist before the rules can.

    MASQUERADE is always `--random-fully`, without which two connections may be given one source
    port and one of them loses its packets (kubernetes/kubernetes#56903): iptables has it since
    1.6.2 and the kernel since 3.13, both older than what is supported here.
    """
    mark = f"{1 << masquerade_bit:#x}"
    sets = _Sets(family)
    chains = (
        Chain("filter", FORWARD, _forward(mark)),
        Chain("filter", IPVS_FILTER, tuple(_ipvs_filter(sets, no_local))),
        Chain("filter", NODE_PORT_CHAIN, (_health_checks(sets),)),
        Chain("filter", PROXY_FIREWALL, (_has_ranges(sets),)),
        Chain("filter", SOURCE_RANGES, _source_ranges(sets)),
        Chain("mangle", OUT_FILTER, _out_filter(sets)),
        Chain("nat", LOAD_BALANCER_CHAIN, _load_balancer(sets)),
        Chain("nat", MARK_MASQ, (("-j", "MARK", "--set-xmark", f"{mark}/{mark}"),)),
        Chain("nat", NODE_PORT_CHAIN, tuple(_node_ports(sets))),
        Chain("nat", POSTROUTING, _postrouting(sets, mark)),
        Chain("nat", SERVICES, tuple(_services(sets, pods, masquerade_all=masquerade_all))),
        Chain("nat", SPLIT_CHAIN, tuple(_split(sets, redirects))),
    )
    return Ruleset(tuple(sorted(chains, key=lambda chain: chain[:2])), _jumps())


class _Sets:
    """Matches on the sets of one family."""

    def __init__(self, family: Family) -> None:
        self.family = family

    def has(self, base: str, directions: str = "dst,dst") -> Rule:
        return ("-m", "set", "--match-set", set_name(base, self.family), directions)

    def lacks(self, base: str, directions: str) -> Rule:
        return ("-m", "set", "!", "--match-set", set_name(base, self.family), directions)


def _services(sets: _Sets, pods: LocalPods, *, masquerade_all: bool) -> Iterator[Rule]:
    """Redirect clients inside the cluster, mark who is to be masqueraded, end at a frontend."""
    yield "-s", _LOOPBACK[sets.family], "-j", "RETURN"
    yield from _inside_clients(sets, pods, masquerade_all=masquerade_all)
    if pods.known and not masquerade_all:
        # A pod keeps its address where the packet is certainly the pod's own node's to answer: a
        # bound address is bound on its node too, so nobody else's pod comes here to it.
        for match in pods.matches:
            yield *match, *sets.has(IPVS_IPS, "dst"), "-j", "ACCEPT"
    whose = "dst,dst" if pods.known or masquerade_all else "src,dst"
    portal = _comment("Kubernetes service cluster ip + port for masquerade purpose")
    yield *portal, *sets.has(CLUSTER_IP, whose), "-j", MARK_MASQ
    portal = _comment("Kubernetes service external ip + port for masquerade and filter purpose")
    yield *portal, *sets.has(EXTERNAL_IP), "-j", MARK_MASQ
    portal = _comment("Kubernetes service lb portal")
    yield *portal, *sets.has(LOAD_BALANCER), "-j", LOAD_BALANCER_CHAIN
    # ACCEPT ends the chain that called, so that a rule for a hostPort, which matches every local
    # address, does not take Service traffic (kubernetes/kubernetes#61938).
    for base in (CLUSTER_IP, EXTERNAL_IP, EXTERNAL_IP_LOCAL, LOAD_BALANCER):
        yield *sets.has(base), "-j", "ACCEPT"
    yield *sets.has(NODE_IP, "dst"), "-j", NODE_PORT_CHAIN


def _inside_clients(sets: _Sets, pods: LocalPods, *, masquerade_all: bool) -> Iterator[Rule]:
    """Lead the node's own packets and those of pods to the redirections.

    The node's are masqueraded: it comes with a service address, which every node has. So are those
    of other nodes' pods: a server elsewhere would answer them past this node.
    """
    node = ("-m", "addrtype", "--src-type", "LOCAL")
    yield *node, *sets.has(SPLIT), "-j", MARK_MASQ
    yield *node, *sets.has(SPLIT), "-j", SPLIT_CHAIN
    for match in pods.matches if masquerade_all else pods.from_afar:
        yield *match, *sets.has(SPLIT), "-j", MARK_MASQ
    for match in pods.matches:
        yield *match, *sets.has(SPLIT), "-j", SPLIT_CHAIN


def _split(sets: _Sets, redirects: Sequence[Redirect]) -> Iterator[Rule]:
    """Send to the ClusterIP; not who may not use the address: the firewall shall meet him there."""
    yield *_outside_ranges(sets), "-j", "RETURN"
    # With an address first: a NodePort's number may be another Service's port on one address.
    for redirect in sorted(redirects, key=lambda one: (one.address is None, one)):
        yield redirect_rule(redirect)


def _outside_ranges(sets: _Sets) -> Rule:
    return (
        *sets.has(LOAD_BALANCER_FW),
        *sets.lacks(SOURCE_CIDR, "dst,dst,src"),
        *sets.lacks(SOURCE_IP, "dst,dst,src"),
    )


def _out_filter(sets: _Sets) -> tuple[Rule, ...]:
    """Hold the node itself to the source ranges, which it would pass by on its way out.

    It comes with the service address as its source, unless that is chosen otherwise. Whether a
    range happens to hold that address says nothing of the node; SOURCE_IP does.
    """
    as_itself = (*sets.has(LOAD_BALANCER_FW), *sets.has(IPVS_IPS, "src"))
    return (
        (*as_itself, *sets.lacks(SOURCE_IP, "dst,dst,src"), "-j", "DROP"),
        (*_outside_ranges(sets), "-j", "DROP"),
    )


def _load_balancer(sets: _Sets) -> tuple[Rule, ...]:
    return ((*sets.has(LOAD_BALANCER_LOCAL), "-j", "RETURN"), ("-j", MARK_MASQ))


def _node_ports(sets: _Sets) -> Iterator[Rule]:
    for protocol in Protocol:
        directions = "dst,dst" if protocol is Protocol.SCTP else "dst"
        match = ("-p", protocol.name.lower())
        comment = _comment(f"Kubernetes nodeport {protocol.name} port for masquerade purpose")
        port = sets.has(NODE_PORT[protocol], directions)
        yield *match, *sets.has(NODE_PORT_LOCAL[protocol], directions), "-j", "ACCEPT"
        yield *match, *comment, *port, "-j", MARK_MASQ
        yield *match, *port, "-j", "ACCEPT"


def _postrouting(sets: _Sets, mark: str) -> tuple[Rule, ...]:
    hairpin = _comment("Kubernetes endpoints dst ip:port, source ip for solving hairpin purpose")
    return (
        (*hairpin, *sets.has(LOOP_BACK, "dst,dst,src"), "-j", "MASQUERADE"),
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


def _has_ranges(sets: _Sets) -> Rule:
    comment = "Kubernetes service load balancer ip + port for load balancer with sourceRange"
    return (*_comment(comment), *sets.has(LOAD_BALANCER_FW), "-j", SOURCE_RANGES)


def _source_ranges(sets: _Sets) -> tuple[Rule, ...]:
    return (
        (*sets.has(SOURCE_CIDR, "dst,dst,src"), "-j", "RETURN"),
        (*sets.has(SOURCE_IP, "dst,dst,src"), "-j", "RETURN"),
        ("-j", "DROP"),
    )


def _health_checks(sets: _Sets) -> Rule:
    comment = _comment("Kubernetes health check node port")
    return ("-p", "tcp", *comment, *sets.has(HEALTH_CHECK_NODE_PORT, "dst"), "-j", "ACCEPT")


def _ipvs_filter(sets: _Sets, no_local: NoLocalEndpoints) -> Iterator[Rule]:
    """Refuse new traffic to a service address that no frontend serves, but answer its ping.

    Service addresses are local, so without this every daemon of the node that listens on all
    addresses would answer on them (kubernetes/kubernetes#72236). kube-proxy refuses pings too,
    which only misleads whoever looks for a fault.

    Who asks a frontend of policy Local from outside, where this node has no endpoint of it, gets
    no answer, so that a load balancer tries another node. Open connections go on.
    """
    reject = ("-j", "REJECT", "--reject-with", _PORT_UNREACHABLE[sets.family])
    silence = ("-j", "DROP") if no_local is NoLocalEndpoints.DROP else reject
    yield *_NEW, *sets.has(NO_LOCAL), *silence
    for base in (LOAD_BALANCER, CLUSTER_IP, EXTERNAL_IP, EXTERNAL_IP_LOCAL):
        yield *sets.has(base), "-j", "RETURN"
    yield "-p", "tcp", *sets.has(HEALTH_CHECK_NODE_PORT, "dst"), "-j", "RETURN"
    yield *_PING[sets.family], "-j", "RETURN"
    yield *_NEW, *sets.has(IPVS_IPS, "dst"), *reject


def _jumps() -> tuple[Jump, ...]:
    """Jumps into our chains; those of one chain in the order in which they stand in it."""
    return (
        _jump_from("filter", "FORWARD", "kubernetes forwarding rules", FORWARD),
        _jump_from("filter", "INPUT", "kube-proxy firewall rules", PROXY_FIREWALL),
        _jump_from("filter", "INPUT", "kubernetes ipvs access filter", IPVS_FILTER),
        _jump_from("filter", "INPUT", "kubernetes health check rules", NODE_PORT_CHAIN),
        out_filter_jump("mangle"),
        _jump_from("nat", "OUTPUT", "kubernetes service portals", SERVICES),
        _jump_from("nat", "POSTROUTING", "kubernetes postrouting rules", POSTROUTING),
        _jump_from("nat", "PREROUTING", "kubernetes service portals", SERVICES),
    )


def out_filter_jump(table: str) -> Jump:
    """Give the jump to the rules for the node's own packets; kube-proxy has them in `filter`."""
    return _jump_from(table, "OUTPUT", "kubernetes ipvs access filter", OUT_FILTER)


def _jump_from(table: str, chain: str, comment: str, target: str) -> Jump:
    return Jump(table, chain, (*_comment(comment), "-j", target))


def _comment(text: str) -> Rule:
    return ("-m", "comment", "--comment", text)
