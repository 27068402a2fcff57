"""The tracer on kernels that kube-proxy had programmed, and on rules made for it."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest

from ipvsproxy.core.packet import (
    Balanced,
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
    Trace,
    place_text,
)
from ipvsproxy.core.rule_words import Match, parse, rule_text
from ipvsproxy.core.trace import trace
from ipvsproxy.model import (
    Address,
    Chain,
    Family,
    IpMember,
    IpPortMember,
    Jump,
    Listener,
    NodeNetwork,
    PortMember,
    Protocol,
    RealServer,
    RealServerKey,
    Rule,
    Ruleset,
    SetSpec,
    SetType,
    State,
    VirtualServer,
    VirtualServerKey,
)
from tests.parity.recording import read_case

CASES = Path(__file__).resolve().parents[1] / "parity" / "cases"
OUTSIDE = Sender(SenderKind.OUTSIDE, Address.parse("198.51.100.77"), "eth0")
POD = Sender(SenderKind.POD, Address.parse("10.244.1.77"), "cbr0")
LOCAL_BACKEND = Sender(SenderKind.POD, Address.parse("10.244.1.5"), "cbr0")
NODE = Sender(SenderKind.NODE)
ALL = ("10.244.1.5", "10.244.2.5", "10.244.3.5")


@cache
def recorded(case: str) -> State:
    return read_case(CASES / case).theirs


def packet(sender: Sender, place: str) -> Packet:
    address, _, rest = place.rpartition(":")
    port, _, name = rest.partition("/")
    return Packet(sender, Protocol[name or "TCP"], Address.parse(address.strip("[]")), int(port))


def follow(case: str, sender: Sender, place: str) -> Trace:
    return trace(recorded(case), packet(sender, place))


def seen(fate: Fate) -> dict[str, str]:
    """Give what each candidate sees."""
    assert isinstance(fate, Balanced), fate
    names = {}
    for one in fate.candidates:
        match one.seen:
            case Kept(address):
                names[str(one.member.address)] = str(address)
            case Masqueraded():
                names[str(one.member.address)] = "the node"
            case Stopped():
                names[str(one.member.address)] = "nothing"
    return names


class TestKubeProxy:
    """What becomes of packets with kube-proxy's rules, as specs and users say it is."""

    @pytest.mark.parametrize(
        ("sender", "source"), [(OUTSIDE, "the node"), (POD, "10.244.1.77"), (NODE, "the node")]
    )
    def test_a_cluster_ip(self, sender: Sender, source: str) -> None:
        fate = follow("clusterip-tcp", sender, "10.96.0.10:80").fate
        assert seen(fate) == dict.fromkeys(ALL, source)

    def test_a_hairpin_is_masqueraded_and_nothing_else_of_that_pod(self) -> None:
        fate = follow("hairpin", LOCAL_BACKEND, "10.96.0.10:80").fate
        assert seen(fate) == {"10.244.1.5": "the node", "10.244.1.6": "10.244.1.5"}
        fate = follow("hairpin", LOCAL_BACKEND, "10.96.0.10:53/UDP").fate
        assert seen(fate) == {"10.244.1.5": "the node", "10.244.1.6": "10.244.1.5"}

    @pytest.mark.parametrize("sender", [OUTSIDE, POD, NODE])
    def test_a_load_balancer_address_masquerades_everybody(self, sender: Sender) -> None:
        fate = follow("loadbalancer", sender, "203.0.113.10:80").fate
        assert seen(fate) == dict.fromkeys(ALL, "the node")

    @pytest.mark.parametrize(
        ("sender", "source"),
        [(OUTSIDE, "198.51.100.77"), (POD, "10.244.1.77"), (NODE, "203.0.113.10")],
    )
    def test_policy_local_has_one_list_for_everybody_and_keeps_sources(
        self, sender: Sender, source: str
    ) -> None:
        """The node's own packets too, whose source no pod can answer."""
        fate = follow("external-local", sender, "203.0.113.10:80").fate
        assert seen(fate) == {"10.244.1.5": source}

    def test_policy_local_without_local_endpoint_leads_away_without_masquerade(self) -> None:
        fate = follow("external-local-none", OUTSIDE, "203.0.113.10:80").fate
        assert "the node" not in seen(fate).values()
        assert set(seen(fate).values()) == {"198.51.100.77"}

    @pytest.mark.parametrize(
        ("case", "protocol"),
        [("nodeport-tcp", "TCP"), ("nodeport-udp", "UDP"), ("nodeport-sctp", "SCTP")],
    )
    @pytest.mark.parametrize("sender", [OUTSIDE, POD, NODE])
    def test_a_node_port_masquerades_everybody(
        self, case: str, protocol: str, sender: Sender
    ) -> None:
        fate = follow(case, sender, f"192.168.50.11:{node_port(case)}/{protocol}").fate
        assert set(seen(fate).values()) == {"the node"}

    @pytest.mark.parametrize("protocol", ["TCP", "UDP", "SCTP"])
    def test_a_node_port_of_policy_local_keeps_the_source(self, protocol: str) -> None:
        keys = [key for key in recorded("nodeport-local").virtual_servers if key.port >= 30000]
        (key,) = [key for key in keys if key.protocol.name == protocol]
        fate = trace(
            recorded("nodeport-local"), Packet(OUTSIDE, key.protocol, key.address, key.port)
        ).fate
        assert seen(fate) == {"10.244.1.5": "198.51.100.77"}

    def test_source_ranges_let_in_who_is_in_them(self) -> None:
        inside = follow("source-ranges", OUTSIDE, "203.0.113.10:80")
        assert seen(inside.fate) == dict.fromkeys(ALL, "the node")
        reasons = [reason for step in inside.steps for reason in step.because]
        in_set = "203.0.113.10,tcp:80,198.51.100.0/25 is in KUBE-LOAD-BALANCER-SOURCE-CIDR"
        assert in_set in reasons

    @pytest.mark.parametrize("address", ["198.51.100.200", "192.0.2.1", "10.244.1.77"])
    def test_source_ranges_drop_everybody_else(self, address: str) -> None:
        stranger = Sender(SenderKind.OUTSIDE, Address.parse(address), "eth0")
        fate = follow("source-ranges", stranger, "203.0.113.10:80").fate
        assert isinstance(fate, Dropped)
        assert (fate.by.chain, fate.by.rule) == ("KUBE-SOURCE-RANGES-FIREWALL", "-j DROP")

    def test_the_node_is_dropped_behind_ipvs_unless_a_range_has_it(self) -> None:
        fate = follow("source-ranges", NODE, "203.0.113.10:80").fate
        assert isinstance(fate, Dropped)
        assert fate.by.chain == "KUBE-IPVS-OUT-FILTER"
        fate = follow("source-ranges-this-node", NODE, "203.0.113.10:80").fate
        assert seen(fate) == dict.fromkeys(ALL, "the node")

    def test_source_ranges_of_a_load_balancer_leave_node_ports_alone(self) -> None:
        stranger = Sender(SenderKind.OUTSIDE, Address.parse("192.0.2.1"), "eth0")
        fate = follow("source-ranges", stranger, "192.168.50.11:30080").fate
        assert seen(fate) == dict.fromkeys(ALL, "the node")

    def test_source_ranges_of_ipv6(self) -> None:
        inside = Sender(SenderKind.OUTSIDE, Address.parse("2001:db8:3::1"), "eth0")
        outside = Sender(SenderKind.OUTSIDE, Address.parse("2001:db8:3::2"), "eth0")
        (key,) = [
            key
            for key in recorded("source-ranges-ipv6").virtual_servers
            if str(key.address).startswith("2001:db8")
        ]
        assert isinstance(follow("source-ranges-ipv6", inside, str(key)).fate, Balanced)
        assert isinstance(follow("source-ranges-ipv6", outside, str(key)).fate, Dropped)

    def test_a_range_of_everybody_closes_the_address(self) -> None:
        fate = follow("source-ranges-everyone", OUTSIDE, "203.0.113.10:80").fate
        assert isinstance(fate, Dropped)

    @pytest.mark.parametrize("sender", [OUTSIDE, POD, NODE])
    def test_other_ports_of_a_service_address_are_rejected(self, sender: Sender) -> None:
        fate = follow("clusterip-tcp", sender, "10.96.0.10:22").fate
        assert isinstance(fate, Refused)
        assert (fate.by.chain, fate.empty) == ("KUBE-IPVS-FILTER", None)
        ping = trace(
            recorded("clusterip-tcp"), Packet(sender, None, Address.parse("10.96.0.10"))
        ).fate
        assert isinstance(ping, Refused)

    def test_a_service_without_endpoints_is_refused_by_ipvs(self) -> None:
        fate = follow("no-endpoints", OUTSIDE, "10.96.0.10:80").fate
        assert isinstance(fate, Refused)
        assert fate.empty == VirtualServerKey(Protocol.TCP, Address.parse("10.96.0.10"), 80)
        assert "it has no real server" in fate.by.because

    def test_external_addresses_masquerade_everybody(self) -> None:
        for sender in (OUTSIDE, POD, NODE):
            fate = follow("external-ips", sender, f"{external('external-ips')}:80").fate
            assert seen(fate) == dict.fromkeys(ALL, "the node")

    def test_external_addresses_of_policy_local_keep_the_source(self) -> None:
        place = f"{external('external-ips-local')}:80"
        assert seen(follow("external-ips-local", OUTSIDE, place).fate) == {
            "10.244.1.5": "198.51.100.77"
        }

    def test_the_health_check_port_is_the_nodes(self) -> None:
        for address in ("192.168.50.11", "203.0.113.10"):
            fate = follow("external-local", OUTSIDE, f"{address}:32080").fate
            assert fate == Local()

    def test_a_real_server_on_the_node_itself_sees_who_comes_from_outside(self) -> None:
        """It is delivered at once; POSTROUTING is not passed. (The API server's Service.)"""
        state = recorded("host-network-endpoint")
        key = min(
            key
            for key, members in state.real_servers.items()
            if any(str(one.address) == "192.168.50.11" for one in members)
        )
        own = seen(trace(state, Packet(OUTSIDE, key.protocol, key.address, key.port)).fate)
        assert own["192.168.50.11"] == "198.51.100.77"
        own = seen(trace(state, Packet(NODE, key.protocol, key.address, key.port)).fate)
        assert own["192.168.50.11"] == "the node"

    @pytest.mark.parametrize("path", sorted(CASES.iterdir()), ids=lambda path: path.name)
    def test_every_rule_is_understood(self, path: Path) -> None:
        state = recorded(path.name)
        for key in state.virtual_servers:
            senders = [NODE]
            if key.family is Family.IPV4:
                senders += [OUTSIDE, POD]
            for sender in senders:
                fate = trace(state, Packet(sender, key.protocol, key.address, key.port)).fate
                assert isinstance(fate, Balanced | Refused | Dropped), fate


def node_port(case: str) -> int:
    keys = recorded(case).virtual_servers
    return next(key.port for key in keys if str(key.address) == "192.168.50.11")


def external(case: str) -> str:
    state = recorded(case)
    members = state.members["KUBE-EXTERNAL-IP"] | state.members["KUBE-EXTERNAL-IP-LOCAL"]
    return min(str(one.address) for one in members if isinstance(one, IpPortMember))


VIP = Address.parse("10.96.0.10")
OWN = Address.parse("192.0.2.1")
KEY = VirtualServerKey(Protocol.TCP, VIP, 80)
BACKEND = RealServerKey(Address.parse("10.244.1.5"), 8080)


def kernel(*rules: tuple[str, str, Rule], chains: tuple[Chain, ...] = ()) -> State:
    """Make a kernel with a virtual server, and rules in built-in chains."""
    return State(
        link=True,
        addresses={VIP},
        network=NodeNetwork({"eth0": frozenset({OWN})}),
        virtual_servers={KEY: VirtualServer("rr")},
        real_servers={KEY: {BACKEND: RealServer(1)}},
        sets={"IPS": SetSpec(SetType.HASH_IP, Family.IPV4)},
        members={"IPS": {IpMember(VIP)}},
        rulesets={
            Family.IPV4: Ruleset(chains, tuple(Jump(*one) for one in rules)),
            Family.IPV6: Ruleset(),
        },
    )


def fate_of(state: State, sender: Sender = OUTSIDE, place: str = "10.96.0.10:80") -> Fate:
    return trace(state, packet(sender, place)).fate


class TestWay:
    def test_nobody_of_weight_above_0_refuses(self) -> None:
        state = kernel()
        state.real_servers[KEY] = {BACKEND: RealServer(0)}
        fate = fate_of(state)
        assert isinstance(fate, Refused)
        assert fate.empty == KEY
        assert "its real servers all have weight 0" in fate.by.because

    def test_real_servers_of_weight_0_are_no_candidates(self) -> None:
        state = kernel()
        leaving = BACKEND._replace(port=8081)
        state.real_servers[KEY][leaving] = RealServer(0)
        fate = fate_of(state)
        assert isinstance(fate, Balanced)
        assert [one.member for one in fate.candidates] == [BACKEND]
        assert fate.resting == (leaving,)

    def test_input_sees_the_destination_from_before_ipvs_and_output_the_one_after(self) -> None:
        before = ("filter", "INPUT", ("-d", "10.96.0.10/32", "-j", "DROP"))
        after = ("filter", "OUTPUT", ("-d", "10.244.1.5/32", "-j", "DROP"))
        never = ("filter", "INPUT", ("-d", "10.244.1.5/32", "-j", "DROP"))
        assert isinstance(fate_of(kernel(before)), Dropped)
        assert isinstance(fate_of(kernel(after)), Dropped)
        assert isinstance(fate_of(kernel(never)), Balanced)

    def test_ipvs_has_the_nodes_own_packets_before_filter_output(self) -> None:
        before = ("filter", "OUTPUT", ("-d", "10.96.0.10/32", "-j", "DROP"))
        after = ("filter", "OUTPUT", ("-d", "10.244.1.5/32", "-j", "DROP"))
        assert isinstance(fate_of(kernel(before), NODE), Balanced)
        assert isinstance(fate_of(kernel(after), NODE), Dropped)

    def test_a_rule_can_ask_what_ipvs_has_made_of_it(self) -> None:
        words = ("-m", "ipvs", "--vproto", "6", "--vaddr", "10.96.0.10", "--vport", "80")
        assert isinstance(fate_of(kernel(("filter", "OUTPUT", (*words, "-j", "DROP")))), Dropped)
        assert isinstance(fate_of(kernel(("filter", "INPUT", (*words, "-j", "DROP")))), Balanced)
        other = ("-m", "ipvs", "--vport", "81", "-j", "DROP")
        assert isinstance(fate_of(kernel(("filter", "OUTPUT", other))), Balanced)
        none = ("-m", "ipvs", "!", "--vport", "81", "-j", "DROP")
        assert isinstance(fate_of(kernel(("filter", "INPUT", none))), Balanced), (
            "before IPVS has it there is nothing to ask, negated or not"
        )

    def test_only_what_is_stopped_behind_ipvs_is_no_candidate(self) -> None:
        state = kernel(("filter", "OUTPUT", ("-d", "10.244.1.5/32", "-j", "REJECT")))
        state.real_servers[KEY][RealServerKey(Address.parse("10.244.1.6"), 80)] = RealServer(2)
        assert seen(fate_of(state)) == {"10.244.1.5": "nothing", "10.244.1.6": "198.51.100.77"}

    @pytest.mark.parametrize("sender", [OUTSIDE, NODE])
    def test_a_changed_destination_is_routed_and_balanced_anew(self, sender: Sender) -> None:
        hook = "OUTPUT" if sender is NODE else "PREROUTING"
        words = ("-d", "203.0.113.5/32", "-p", "tcp", "-m", "tcp", "--dport", "443")
        target = ("-j", "DNAT", "--to-destination", "10.96.0.10:80")
        fate = fate_of(kernel(("nat", hook, (*words, *target))), sender, "203.0.113.5:443")
        assert isinstance(fate, Balanced)
        assert fate.key == KEY

    def test_a_destination_of_ipv6_can_be_changed(self) -> None:
        state = kernel()
        target = ("-j", "DNAT", "--to-destination", "[fd00::2]:81")
        state.rulesets[Family.IPV6] = Ruleset((), (Jump("nat", "PREROUTING", target),))
        sender = Sender(SenderKind.OUTSIDE, Address.parse("2001:db8::1"))
        assert fate_of(state, sender, "[fd00::1]:80") == Forwarded(Address.parse("fd00::2"), 81)

    def test_what_is_not_for_the_node_is_forwarded(self) -> None:
        drop = ("filter", "FORWARD", ("-m", "set", "--match-set", "IPS", "dst", "-j", "DROP"))
        fate = fate_of(kernel(drop), OUTSIDE, "203.0.113.5:80")
        assert fate == Forwarded(Address.parse("203.0.113.5"), 80)
        state = kernel(drop)
        state.members["IPS"].add(IpMember(Address.parse("203.0.113.5")))
        assert isinstance(fate_of(state, OUTSIDE, "203.0.113.5:80"), Dropped)

    def test_who_listens_takes_what_is_balanced_to_nobody(self) -> None:
        everywhere = Listener(Protocol.TCP, Address(bytes(16)), 22)
        here = Listener(Protocol.TCP, OWN, 22)
        elsewhere = Listener(Protocol.TCP, VIP, 22)
        other = Listener(Protocol.UDP, OWN, 22)
        state = kernel()
        listeners = frozenset({everywhere, here, elsewhere, other})
        state.network = NodeNetwork(state.network.interfaces, listeners=listeners)
        fate = fate_of(state, OUTSIDE, "192.0.2.1:22")
        assert isinstance(fate, Local)
        assert set(fate.listeners) == {everywhere, here}

    def test_the_node_asks_a_service_address_from_that_address_and_others_from_its_own(
        self,
    ) -> None:
        assert trace(kernel(), packet(NODE, "10.96.0.10:80")).source == VIP
        assert trace(kernel(), packet(NODE, "203.0.113.5:80")).source == OWN

    def test_what_the_node_sends_itself_comes_in_by_lo(self) -> None:
        rule = ("filter", "INPUT", ("-i", "lo", "-j", "REJECT"))
        assert isinstance(fate_of(kernel(rule), NODE, "10.96.0.10:22"), Refused)
        assert fate_of(kernel(rule), OUTSIDE, "10.96.0.10:22") == Local()

    def test_rules_that_ask_for_the_interface(self) -> None:
        stranger = ("filter", "INPUT", ("!", "-i", "cbr0", "-j", "DROP"))
        assert isinstance(fate_of(kernel(stranger), OUTSIDE), Dropped)
        assert isinstance(fate_of(kernel(stranger), POD), Balanced)
        prefix = ("filter", "INPUT", ("-i", "cb+", "-j", "DROP"))
        assert isinstance(fate_of(kernel(prefix), POD), Dropped)
        assert isinstance(fate_of(kernel(prefix), OUTSIDE), Balanced)
        unknown = fate_of(kernel(stranger), OUTSIDE._replace(interface=None))
        assert isinstance(unknown, NotUnderstood)
        assert "by which interface it comes in" in unknown.what

    def test_the_nodes_own_packets_have_no_interface_to_come_in_by(self) -> None:
        stranger = ("nat", "OUTPUT", ("!", "-i", "cbr0", "-j", "MARK", "--set-xmark", "0x1/0x1"))
        marked = ("nat", "POSTROUTING", ("-m", "mark", "--mark", "0x1/0x1", "-j", "MASQUERADE"))
        assert seen(fate_of(kernel(stranger, marked), NODE)) == {"10.244.1.5": "the node"}

    def test_a_ping_is_answered_unless_a_rule_says_otherwise(self) -> None:
        reject = ("-m", "set", "--match-set", "IPS", "dst", "-j", "REJECT")
        ping = Packet(OUTSIDE, None, VIP)
        assert trace(kernel(), ping).fate == Local()
        assert isinstance(trace(kernel(("filter", "INPUT", reject)), ping).fate, Refused)
        allowed = ("-p", "icmp", "-m", "icmp", "--icmp-type", "8", "-j", "ACCEPT")
        state = kernel(("filter", "INPUT", allowed), ("filter", "INPUT", reject))
        assert trace(state, ping).fate == Local()
        assert place_text(ping) == "10.96.0.10/ICMP"

    def test_a_ping_has_no_port_that_a_set_could_have(self) -> None:
        state = kernel(
            ("filter", "INPUT", ("-m", "set", "--match-set", "PORTS", "dst", "-j", "DROP"))
        )
        state.sets["PORTS"] = SetSpec(SetType.BITMAP_PORT, Family.IPV4)
        state.members["PORTS"] = {PortMember(0), PortMember(80)}
        assert trace(state, Packet(OUTSIDE, None, VIP)).fate == Local()
        assert isinstance(fate_of(state), Dropped)


class TestChains:
    def test_a_chain_returns_and_its_caller_goes_on(self) -> None:
        chains = (
            Chain("filter", "A", (("-s", "198.51.100.0/24", "-j", "RETURN"), ("-j", "DROP"))),
        )
        rules = (("filter", "INPUT", ("-j", "A")), ("filter", "INPUT", ("-j", "REJECT")))
        assert isinstance(fate_of(kernel(*rules, chains=chains)), Refused)
        assert isinstance(fate_of(kernel(*rules, chains=chains), POD), Dropped)

    def test_goto_returns_to_where_its_caller_was_called(self) -> None:
        chains = (
            Chain("filter", "A", (("-g", "B"), ("-j", "DROP"))),
            Chain("filter", "B", (("-s", "192.0.2.9/32", "-j", "DROP"),)),
        )
        state = kernel(("filter", "INPUT", ("-j", "A")), chains=chains)
        assert isinstance(fate_of(state), Balanced)

    def test_accept_ends_one_table_only(self) -> None:
        rules = (
            ("mangle", "INPUT", ("-j", "ACCEPT")),
            ("filter", "INPUT", ("-j", "DROP")),
        )
        assert isinstance(fate_of(kernel(*rules)), Dropped)

    def test_marks_are_set_and_cleared_by_bits(self) -> None:
        rules = (
            ("mangle", "PREROUTING", ("-j", "MARK", "--set-xmark", "0x4001/0xffffffff")),
            ("nat", "PREROUTING", ("-j", "MARK", "--set-xmark", "0x4000/0x0")),
            ("filter", "INPUT", ("-m", "mark", "!", "--mark", "0x1", "-j", "DROP")),
        )
        assert isinstance(fate_of(kernel(*rules)), Balanced)

    def test_steps_tell_which_rules_matched(self) -> None:
        comment = ("-m", "comment", "--comment", "of the\nnight")
        words = ("-m", "set", "--match-set", "IPS", "dst", "-j", "DROP")
        told = trace(kernel(("filter", "INPUT", (*comment, *words))), packet(OUTSIDE, str(KEY)))
        step = told.steps[-1]
        assert (step.hook, step.table, step.chain) == ("INPUT", "filter", "INPUT")
        assert step.rule == "-m set --match-set IPS dst -j DROP"
        assert step.because == ("10.96.0.10 is in IPS",)
        assert step.verdict == "DROP"
        assert told.steps[0].because == ("10.96.0.10 is on kube-ipvs0",)


class TestNotUnderstood:
    """What is not understood is said, and never taken for a yes or a no."""

    @pytest.mark.parametrize(
        ("words", "what"),
        [
            (("-m", "recent", "--rcheck", "--name", "x"), "--rcheck"),
            (("-m", "addrtype", "--dst-type", "BROADCAST"), "BROADCAST"),
            (("-m", "conntrack", "--ctstate", "DNAT"), "DNAT"),
            (("-p", "tcp", "-m", "tcp", "--sport", "80"), "source port"),
            (("-m", "set", "--match-set", "GONE", "dst"), "no such set"),
            (("-m", "set", "--match-set", "IPS", "dst", "--return-nomatch"), "--return-nomatch"),
            (("-m", "mark", "--mark", "nonsense"), "nonsense"),
            (("-j", "NFQUEUE"), "the target NFQUEUE"),
            (("-j", "DNAT", "--to-destination", "10.0.0.1-10.0.0.9"), "10.0.0.1-10.0.0.9"),
            (("-j", "DNAT", "--to-destination", "10.0.0.1", "--persistent"), "--persistent"),
        ],
    )
    def test_it_ends_the_trace(self, words: Rule, what: str) -> None:
        rule = words if "-j" in words else (*words, "-j", "ACCEPT")
        fate = fate_of(kernel(("nat", "PREROUTING", rule)))
        assert isinstance(fate, NotUnderstood)
        assert what in fate.what

    def test_a_rule_that_does_not_match_anyway_does_no_harm(self) -> None:
        rule = ("-s", "192.0.2.9/32", "-m", "recent", "--rcheck", "-j", "DROP")
        assert isinstance(fate_of(kernel(("filter", "INPUT", rule))), Balanced)

    def test_behind_ipvs_too(self) -> None:
        rule = ("-o", "eth0", "-j", "MASQUERADE")
        fate = fate_of(kernel(("nat", "POSTROUTING", rule)))
        assert isinstance(fate, NotUnderstood)
        assert "by which interface it leaves" in fate.what

    def test_chains_that_could_not_be_read(self) -> None:
        state = kernel()
        del state.rulesets[Family.IPV4]
        state.lacks["IPv4 chains"] = "iptables-save is missing"
        fate = fate_of(state)
        assert isinstance(fate, NotUnderstood)
        assert "iptables-save is missing" in fate.what

    def test_chains_that_call_each_other_come_to_an_end(self) -> None:
        chains = (Chain("filter", "A", (("-j", "A"),)),)
        fate = fate_of(kernel(("filter", "INPUT", ("-j", "A")), chains=chains))
        assert isinstance(fate, NotUnderstood)


class TestWords:
    def test_a_rule_is_taken_apart(self) -> None:
        words = "! -s 10.0.0.0/8 -p tcp -m tcp ! --dport 80:90 -m set ! --match-set A dst,dst -g B"
        parsed = parse(tuple(words.split()))
        assert parsed.matches == (
            Match("-s", ("10.0.0.0/8",), negated=True),
            Match("-p", ("tcp",)),
            Match("--dport", ("80:90",), negated=True),
            Match("--match-set", ("A", "dst,dst"), negated=True),
        )
        assert (parsed.target, parsed.goto) == ("B", True)
        assert str(parsed.matches[0]) == "! -s 10.0.0.0/8"

    def test_its_text_is_without_comment(self) -> None:
        words = ("-m", "comment", "--comment", "-j DROP, they say", "-j", "RETURN")
        assert rule_text(words) == "-j RETURN"
        assert parse(words).target == "RETURN"

    @pytest.mark.parametrize(
        ("text", "holds"),
        [("80", True), ("81", False), ("79:81", True), (":79", False), ("80:", True)],
    )
    def test_ports_can_be_ranges(self, text: str, holds: bool) -> None:
        rule = ("-p", "tcp", "-m", "tcp", "--dport", text, "-j", "DROP")
        assert isinstance(fate_of(kernel(("filter", "INPUT", rule))), Dropped) == holds
