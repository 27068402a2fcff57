"""What the chains do with a packet, how the sets are named, and that the text is kube-proxy's."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import pytest

from ipvsproxy.core.firewall import OWN_CHAINS, ruleset
from ipvsproxy.core.operations import member_text
from ipvsproxy.core.sets import (
    CLUSTER_IP,
    IPVS_IPS,
    LEDGER,
    LOOP_BACK,
    frontend_member,
    loop_back_member,
    set_name,
    set_specs,
)
from ipvsproxy.model import (
    Address,
    Family,
    Network,
    Protocol,
    RealServerKey,
    Rule,
    Ruleset,
    SetSpec,
    SetType,
    VirtualServerKey,
)
from tests.unit.builders import pods_in


def rules_of(
    family: Family, *local: str, masquerade_all: bool = False, masquerade_bit: int = 14
) -> Ruleset:
    return ruleset(
        family,
        pods=pods_in(family, *local),
        masquerade_all=masquerade_all,
        masquerade_bit=masquerade_bit,
    )


class Packet(NamedTuple):
    """What the rules ask of a packet: its addresses, its ports and its state."""

    source: str
    destination: str
    port: int = 80
    protocol: str = "tcp"
    state: str = "NEW"
    mark: int = 0


def sets(family: Family) -> Mapping[str, set[tuple[object, ...]]]:
    """One frontend at port 80 and one hairpin endpoint."""
    frontend, pod = (
        ("10.96.0.10", "10.244.1.5") if family is Family.IPV4 else ("fd00::a", "fd01::5")
    )
    return {
        set_name(CLUSTER_IP, family): {(frontend, 80)},
        set_name(IPVS_IPS, family): {(frontend,)},
        set_name(LOOP_BACK, family): {(pod, 80, pod)},
    }


class Walk:
    """Takes a packet through the chains as the kernel would, far enough for these rules."""

    def __init__(self, rules: Ruleset, family: Family) -> None:
        self._chains = {(chain.table, chain.name): chain.rules for chain in rules.chains}
        self._jumps = rules.jumps
        self._sets = sets(family)

    def through(self, table: str, hook: str, packet: Packet) -> tuple[str, int]:
        """Verdict and mark at the end of a built-in chain; its policy is CONTINUE."""
        mark = packet.mark
        for jump in self._jumps:
            if (jump.table, jump.chain) == (table, hook):
                verdict, mark = self._rules(table, (jump.rule,), packet._replace(mark=mark))
                if verdict not in ("RETURN", "CONTINUE"):
                    return verdict, mark
        return "CONTINUE", mark

    def _rules(self, table: str, rules: tuple[Rule, ...], packet: Packet) -> tuple[str, int]:
        mark = packet.mark
        for rule in rules:
            if not self._matches(rule, packet._replace(mark=mark)):
                continue
            target = rule[rule.index("-j") + 1]
            if target == "MARK":
                value, mask = (int(part, 16) for part in rule[-1].split("/"))
                mark = (mark & ~mask) ^ value
            elif (table, target) in self._chains:
                inner = self._chains[table, target]
                verdict, mark = self._rules(table, inner, packet._replace(mark=mark))
                if verdict not in ("RETURN", "CONTINUE"):
                    return verdict, mark
            else:
                return target, mark
        return "CONTINUE", mark

    def _matches(self, rule: Rule, packet: Packet) -> bool:
        return all(hit != negated for negated, hit in self._conditions(rule, packet))

    def _conditions(self, rule: Rule, packet: Packet) -> Iterator[tuple[bool, bool]]:
        words = rule[: rule.index("-j")]
        for index, word in enumerate(words):
            negated = index > 0 and words[index - 1] == "!"
            match word:
                case "-s":
                    block = Network.parse(words[index + 1])
                    yield negated, Address.parse(packet.source) in block
                case "-p":
                    yield negated, packet.protocol == words[index + 1]
                case "--mark":
                    value, mask = (int(part, 16) for part in words[index + 1].split("/"))
                    yield negated, packet.mark & mask == value
                case "--ctstate":
                    yield negated, packet.state in words[index + 1].split(",")
                case "--match-set":
                    yield negated, self._in_set(words[index + 1], words[index + 2], packet)
                case _:
                    pass

    def _in_set(self, name: str, directions: str, packet: Packet) -> bool:
        values: list[object] = []
        for position, direction in enumerate(directions.split(",")):
            is_port = position == 1
            address = packet.destination if direction == "dst" else packet.source
            values.append(packet.port if is_port else address)
        return tuple(values) in self._sets[name]


POD, OUTSIDE, FRONTEND = "10.244.1.5", "203.0.113.9", "10.96.0.10"
MARKED = 0x4000


@pytest.mark.parametrize(
    ("local", "source", "marked"),
    [
        ((), POD, False),
        ((), OUTSIDE, False),
        ((), FRONTEND, True),
        (("10.244.0.0/16",), POD, False),
        (("10.244.0.0/16",), OUTSIDE, True),
        (("10.244.0.0/16",), FRONTEND, True),
        (("10.244.0.0/16", "fd00:244::/56"), OUTSIDE, True),
        (("fd00:244::/56",), OUTSIDE, False),
        (("10.244.0.0/16", "10.245.0.0/16"), POD, False),
        (("10.244.0.0/16", "10.245.0.0/16"), "10.245.1.1", False),
        (("10.244.0.0/16", "10.245.0.0/16"), OUTSIDE, True),
        (("10.244.0.0/16", "0.0.0.0/0"), OUTSIDE, False),
        (("0.0.0.0/0",), FRONTEND, False),
    ],
)
@pytest.mark.parametrize("hook", ["PREROUTING", "OUTPUT"])
def test_who_is_masqueraded(local: tuple[str, ...], source: str, marked: bool, hook: str) -> None:
    walk = Walk(rules_of(Family.IPV4, *local), Family.IPV4)
    # The set holds address and port; source and destination address are one where the node
    # itself has chosen the service address as its source.
    packet = Packet(source, FRONTEND)
    assert walk.through("nat", hook, packet) == ("ACCEPT", MARKED if marked else 0)


def test_masquerade_all_marks_pods_too_but_not_loopback() -> None:
    walk = Walk(rules_of(Family.IPV4, "10.244.0.0/16", masquerade_all=True), Family.IPV4)
    assert walk.through("nat", "PREROUTING", Packet(POD, FRONTEND)) == ("ACCEPT", MARKED)
    assert walk.through("nat", "OUTPUT", Packet("127.0.0.1", FRONTEND)) == ("CONTINUE", 0)


def test_traffic_to_other_addresses_and_ports_goes_on_untouched() -> None:
    walk = Walk(rules_of(Family.IPV4, "10.244.0.0/16"), Family.IPV4)
    for packet in (Packet(OUTSIDE, FRONTEND, port=81), Packet(OUTSIDE, "10.0.0.5")):
        assert walk.through("nat", "PREROUTING", packet) == ("CONTINUE", 0)


@pytest.mark.parametrize(
    ("packet", "expected"),
    [
        (Packet(OUTSIDE, POD, mark=MARKED), ("MASQUERADE", 0)),
        (Packet(OUTSIDE, POD, mark=MARKED | 0xF), ("MASQUERADE", 0xF)),
        (Packet(OUTSIDE, POD, mark=0xF), ("CONTINUE", 0xF)),
        (Packet(POD, POD), ("MASQUERADE", 0)),
        (Packet(POD, POD, port=81), ("CONTINUE", 0)),
        (Packet("10.244.1.6", POD), ("CONTINUE", 0)),
    ],
)
def test_what_is_marked_and_hairpins_are_masqueraded(
    packet: Packet, expected: tuple[str, int]
) -> None:
    walk = Walk(rules_of(Family.IPV4), Family.IPV4)
    assert walk.through("nat", "POSTROUTING", packet) == expected


@pytest.mark.parametrize(
    ("family", "frontend", "ping"),
    [(Family.IPV4, "10.96.0.10", "icmp"), (Family.IPV6, "fd00::a", "ipv6-icmp")],
)
def test_a_service_address_answers_its_frontends_and_ping_and_refuses_the_rest(
    family: Family, frontend: str, ping: str
) -> None:
    walk = Walk(rules_of(family), family)
    source, other = ("10.0.0.1", "10.0.0.2") if family is Family.IPV4 else ("fd02::1", "fd02::2")

    def verdict(packet: Packet) -> str:
        return walk.through("filter", "INPUT", packet)[0]

    assert verdict(Packet(source, frontend)) == "CONTINUE"
    assert verdict(Packet(source, frontend, protocol=ping)) == "CONTINUE"
    assert verdict(Packet(source, frontend, port=22)) == "REJECT"
    assert verdict(Packet(source, frontend, port=22, state="ESTABLISHED")) == "CONTINUE"
    assert verdict(Packet(source, other, port=22)) == "CONTINUE"


@pytest.mark.parametrize(
    ("packet", "verdict"),
    [
        (Packet(OUTSIDE, POD, mark=MARKED), "ACCEPT"),
        (Packet(POD, OUTSIDE, state="ESTABLISHED"), "ACCEPT"),
        (Packet(OUTSIDE, POD), "CONTINUE"),
    ],
)
def test_marked_traffic_and_answers_pass_a_closed_forward_chain(
    packet: Packet, verdict: str
) -> None:
    assert (
        Walk(rules_of(Family.IPV4), Family.IPV4).through("filter", "FORWARD", packet)[0] == verdict
    )


def test_the_mark_is_the_bit_that_was_asked_for() -> None:
    words = {
        word
        for chain in rules_of(Family.IPV4, masquerade_bit=31).chains
        for rule in chain.rules
        for word in rule
    }
    assert {"0x80000000/0x80000000", "0x80000000/0x0"} <= words
    assert not any("0x4000" in word for word in words)


KUBE_PROXY = """\
-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A OUTPUT -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A POSTROUTING -m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING
-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000
-A KUBE-POSTROUTING -m comment --comment "Kubernetes endpoints dst ip:port, source ip for solving hairpin purpose" -m set --match-set KUBE-LOOP-BACK dst,dst,src -j MASQUERADE
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --set-xmark 0x4000/0x0
-A KUBE-POSTROUTING -m comment --comment "kubernetes service traffic requiring SNAT" -j MASQUERADE --random-fully
-A KUBE-SERVICES -s 127.0.0.0/8 -j RETURN
-A KUBE-SERVICES ! -s 10.244.0.0/16 -m comment --comment "Kubernetes service cluster ip + port for masquerade purpose" -m set --match-set KUBE-CLUSTER-IP dst,dst -j KUBE-MARK-MASQ
-A KUBE-SERVICES -m set --match-set KUBE-CLUSTER-IP dst,dst -j ACCEPT
-A INPUT -m comment --comment "kubernetes ipvs access filter" -j KUBE-IPVS-FILTER
-A FORWARD -m comment --comment "kubernetes forwarding rules" -j KUBE-FORWARD
-A KUBE-FORWARD -m comment --comment "kubernetes forwarding rules" -m mark --mark 0x4000/0x4000 -j ACCEPT
-A KUBE-FORWARD -m comment --comment "kubernetes forwarding conntrack rule" -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A KUBE-IPVS-FILTER -m set --match-set KUBE-CLUSTER-IP dst,dst -j RETURN
-A KUBE-IPVS-FILTER -m conntrack --ctstate NEW -m set --match-set KUBE-IPVS-IPS dst -j REJECT --reject-with icmp-port-unreachable
"""  # noqa: E501 - as iptables-save prints it


def test_every_rule_but_that_for_ping_is_kube_proxys() -> None:
    """Recorded from kube-proxy 1.30 with one ClusterIP Service and a cluster CIDR."""
    found = rules_of(Family.IPV4, "10.244.0.0/16")
    ours = {(chain.name, *rule) for chain in found.chains for rule in chain.rules}
    ours |= {(jump.chain, *jump.rule) for jump in found.jumps}
    theirs = {tuple(shlex.split(line)[1:]) for line in KUBE_PROXY.splitlines()}
    assert theirs - ours == set()
    assert ours - theirs == {
        ("KUBE-IPVS-FILTER", "-p", "icmp", "-m", "icmp", "--icmp-type", "8", "-j", "RETURN")
    }


@pytest.mark.parametrize("family", Family)
def test_only_sets_that_are_made_and_chains_that_are_ours_are_named(family: Family) -> None:
    specs = set_specs([family], 65536)
    for local in ((), ("10.244.0.0/16", "fd00:244::/56"), ("10.0.0.0/9", "10.128.0.0/9")):
        found = rules_of(family, *local)
        assert found.chains == tuple(sorted(found.chains))
        assert found.jumps == tuple(sorted(found.jumps, key=lambda jump: jump[:2]))
        for chain in found.chains:
            assert chain.name in OWN_CHAINS[chain.table]
            for rule in chain.rules:
                if "--match-set" in rule:
                    assert rule[rule.index("--match-set") + 1] in specs


def test_no_rule_names_the_ledger() -> None:
    assert all(LEDGER not in str(rules_of(family)) for family in Family)


@pytest.mark.parametrize(
    ("base", "name"),
    [
        ("KUBE-CLUSTER-IP", "KUBE-6-CLUSTER-IP"),
        ("KUBE-LOAD-BALANCER-SOURCE-CIDR", "KUBE-6-LOAD-BALANCER-SOURCE-CID"),
        ("KUBE-NODE-PORT-LOCAL-SCTP-HASH", "KUBE-6-NODE-PORT-LOCAL-SCTP-HAS"),
        ("IPVSPROXY-OWN", "IPVSPROXY-OWN-6"),
    ],
)
def test_ipv6_names_are_kube_proxys_and_fit_the_kernel(base: str, name: str) -> None:
    assert set_name(base, Family.IPV6) == name
    assert len(name) <= 31
    assert set_name(base, Family.IPV4) == base


def test_each_family_has_its_own_sets() -> None:
    both = set_specs(Family, 1000)
    assert both == set_specs([Family.IPV4], 1000) | set_specs([Family.IPV6], 1000)
    assert len(both) == 8
    assert both["KUBE-6-LOOP-BACK"] == SetSpec(SetType.HASH_IP_PORT_IP, Family.IPV6, 1000)
    assert both["IPVSPROXY-OWN"] == SetSpec(SetType.HASH_IP_PORT, Family.IPV4, 1000)


def test_members_are_written_as_kube_proxy_writes_them() -> None:
    key = VirtualServerKey(Protocol.SCTP, Address.parse("10.96.0.10"), 80)
    real = RealServerKey(Address.parse("10.244.1.5"), 8080)
    assert member_text(frontend_member(key)) == "10.96.0.10,sctp:80"
    member = loop_back_member(Protocol.TCP, real)
    assert member_text(member) == "10.244.1.5,tcp:8080,10.244.1.5"
