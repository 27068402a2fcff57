"""The way back to kube-proxy: what stands is made such that its IPVS mode can go on from there.

Everything follows from the kernel's tables alone, so that it can be done when the API cannot be
reached. In the order in which nothing stops serving:

    make    frontends that have no endpoint here, whose clients inside the cluster were redirected,
            get the endpoints of the ClusterIP, as in kube-proxy
    switch  chains without the split, without what kube-proxy has no set for; the source ranges
            are held against the node by kube-proxy's own rules again
    break   the sets that kube-proxy does not know go, the ledger last of all

Virtual servers, addresses and all other sets stay as they are: schedulers, weights and flags are
kube-proxy's to change, in place, when it starts. A node's packets to a frontend of policy Local are
masqueraded until then, without which no endpoint on another node could answer them.
"""

from __future__ import annotations

from collections.abc import Iterator

from ipvsproxy.core.firewall import MARK_MASQ, NODE_PORT_CHAIN, OUT_FILTER, out_filter_jump
from ipvsproxy.core.operations import AddRealServer, DestroySet, ForgetFlows, ReplaceChains
from ipvsproxy.core.plan import Batch, Step
from ipvsproxy.core.predecessors import are_others
from ipvsproxy.core.redirect_rules import SPLIT_CHAIN, led_to, redirect_targets
from ipvsproxy.core.sets import (
    EXTERNAL_IP_LOCAL,
    LEDGER,
    LOAD_BALANCER_FW,
    LOAD_BALANCER_LOCAL,
    NO_LOCAL,
    NODE_IP,
    SOURCE_IP,
    SPLIT,
    set_name,
)
from ipvsproxy.model import (
    Chain,
    Family,
    IpPortIpMember,
    IpPortMember,
    Protocol,
    Rule,
    Ruleset,
    State,
    VirtualServerKey,
)

UNKNOWN_TO_KUBE_PROXY = (SPLIT, NO_LOCAL, NODE_IP, LEDGER)
"""Our own sets, in the order in which they go."""


def hand_over(state: State) -> Batch:
    """Give the batch after which kube-proxy may be started; empty when there is nothing of ours."""
    steps: list[Step] = []
    for family in sorted(state.families):
        found = state.rulesets.get(family, Ruleset())
        if not are_others(found) and found.chains:
            _switch(family, found, state, steps)
    everything = tuple(range(len(steps)))
    for base in UNKNOWN_TO_KUBE_PROXY:
        for name in (set_name(base, family) for family in Family):
            if name in state.sets:
                needs = tuple(range(len(steps))) if base == LEDGER else everything
                steps.append(Step(DestroySet(name), needs=needs))
    return Batch(tuple(steps))


def _switch(family: Family, found: Ruleset, state: State, steps: list[Step]) -> None:
    redirected = dict(_redirected(family, found, state))
    widened = []
    for key in sorted(redirected.keys() & set(_frontends(NO_LOCAL, family, state))):
        for operation in _widened(key, redirected[key], state):
            widened.append(len(steps))
            steps.append(Step(operation))
    switch = len(steps)
    wanted = handed_over(family, found, state)
    steps.append(Step(ReplaceChains(family, wanted, found), follows=tuple(widened)))
    steps += (
        Step(ForgetFlows(key, None), needs=(switch,))
        for key in redirected
        if key.protocol is Protocol.UDP
    )


def _redirected(
    family: Family, found: Ruleset, state: State
) -> Iterator[tuple[VirtualServerKey, VirtualServerKey]]:
    """Give each virtual server whose clients inside are led to another one, and that one."""
    targets = redirect_targets(found)
    for key in sorted(_frontends(SPLIT, family, state)):
        target = next(led_to(targets, key), None)
        if target is not None and key in state.virtual_servers:
            yield key, target


def _widened(
    key: VirtualServerKey, target: VirtualServerKey, state: State
) -> Iterator[AddRealServer]:
    """Give what a virtual server lacks that has no endpoint here, when all ask it again."""
    present = state.real_servers[key]
    for member, real in state.real_servers.get(target, {}).items():
        if real.weight and member not in present:
            yield AddRealServer(key, member, real)


def handed_over(family: Family, found: Ruleset, state: State) -> Ruleset:
    """Give our chains as far as kube-proxy would have them, from those that stand."""
    chains = [
        Chain(table, name, tuple(_rules(rules, family)))
        for table, name, rules in found.chains
        if table != "mangle" and name != SPLIT_CHAIN
    ]
    jumps = [jump for jump in found.jumps if jump.table != "mangle"]
    drops = tuple(_drops(family, state))
    if drops:
        chains.append(Chain("filter", OUT_FILTER, drops))
        jumps.append(out_filter_jump("filter"))
    return Ruleset(
        tuple(sorted(chains, key=lambda chain: chain[:2])),
        tuple(sorted(jumps, key=lambda jump: jump[:2])),
    )


def _rules(rules: tuple[Rule, ...], family: Family) -> Iterator[Rule]:
    split, no_local, node_ip = (set_name(base, family) for base in (SPLIT, NO_LOCAL, NODE_IP))
    for rule in rules:
        if split in rule:
            if rule[-1] == MARK_MASQ:
                for base in (EXTERNAL_IP_LOCAL, LOAD_BALANCER_LOCAL):
                    name = set_name(base, family)
                    yield tuple(name if word == split else word for word in rule)
        elif node_ip in rule:
            yield "-m", "addrtype", "--dst-type", "LOCAL", "-j", NODE_PORT_CHAIN
        elif no_local not in rule:
            yield rule


def _drops(family: Family, state: State) -> Iterator[Rule]:
    """Hold the node to the source ranges, by a rule for each frontend that is closed to it.

    kube-proxy's rules of 1.29 and later (pkg/proxy/ipvs/proxier.go, KUBE-IPVS-OUT-FILTER).
    """
    admitted = state.members.get(set_name(SOURCE_IP, family), ())
    for key in sorted(_frontends(LOAD_BALANCER_FW, family, state)):
        address, protocol, port = key.address, key.protocol, key.port
        if IpPortIpMember(address, protocol, port, address) not in admitted:
            source = ("-s", f"{address}/{family.host_prefix}")
            balanced = ("-m", "ipvs", "--vproto", str(int(protocol)), "--vaddr", str(address))
            yield *source, *balanced, "--vport", str(port), "-j", "DROP"


def _frontends(base: str, family: Family, state: State) -> Iterator[VirtualServerKey]:
    for member in state.members.get(set_name(base, family), ()):
        if isinstance(member, IpPortMember):
            yield VirtualServerKey(member.protocol, member.address, member.port)
