"""What becomes of packets by our chains, followed by the tracer; and what the chains name."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
import pytest

from ipvsproxy.config import DetectLocalMode, NoLocalEndpoints, Settings
from ipvsproxy.core.detect_local import local_pods
from ipvsproxy.core.firewall import OWN_CHAINS, ruleset
from ipvsproxy.core.foundation import foundation
from ipvsproxy.core.packet import (
    Balanced,
    Dropped,
    Fate,
    Forwarded,
    Kept,
    Local,
    Masqueraded,
    Packet,
    Refused,
    Sender,
    SenderKind,
    Stopped,
)
from ipvsproxy.core.redirect import Redirect
from ipvsproxy.core.redirect_rules import redirect_rule, with_present_redirects
from ipvsproxy.core.sets import LEDGER, set_specs
from ipvsproxy.core.trace import trace
from ipvsproxy.kernel.fake import fresh_state
from ipvsproxy.model import (
    Address,
    Family,
    IpMember,
    IpPortIpMember,
    IpPortMember,
    IpPortNetMember,
    Jump,
    Listener,
    Member,
    Network,
    NodeNetwork,
    PortMember,
    Protocol,
    RealServer,
    RealServerKey,
    Rule,
    Ruleset,
    VirtualServer,
    VirtualServerKey,
)
from ipvsproxy.objects import Node
from tests.unit.builders import pods_in

TCP, UDP, SCTP = Protocol.TCP, Protocol.UDP, Protocol.SCTP
OWN, CLUSTER, EXTERNAL = map(Address.parse, ("192.0.2.10", "10.96.0.10", "203.0.113.5"))
HERE, AWAY = (RealServerKey(Address.parse(text), 8080) for text in ("10.244.1.5", "10.244.2.5"))
POD = Sender(SenderKind.POD, Address.parse("10.244.1.77"), "cbr0")
PODS_BEHIND = Sender(SenderKind.POD, HERE.address, "cbr0")
AFAR = Sender(SenderKind.POD, Address.parse("10.244.2.77"), "eth0")
OUTSIDE = Sender(SenderKind.OUTSIDE, Address.parse("198.51.100.77"), "eth0")
NODE = Sender(SenderKind.NODE)
SENDERS = {"pod": POD, "afar": AFAR, "outside": OUTSIDE, "node": NODE}
SETTINGS = Settings(node_name="n", cluster_cidrs=(Network.parse("10.244.0.0/16"),))
UNKNOWN = Settings(node_name="n")
"""Nothing is known of pods."""
MASQUERADE_ALL = msgspec.structs.replace(SETTINGS, masquerade_all=True)
NETWORK = NodeNetwork(
    {"eth0": frozenset({OWN}), "cbr0": frozenset({Address.parse("10.244.1.1")})},
    listeners=frozenset({Listener(TCP, Address(bytes(4)), 22)}),
)
NODE_OBJECT = Node("n", addresses=(OWN,))


class Kernel:
    """A kernel with our chains and sets; what Services put there is added one by one."""

    def __init__(self, settings: Settings = SETTINGS, *redirects: Redirect) -> None:
        self.state = fresh_state()
        self.state.network = NETWORK
        wanted = foundation(settings, self.state, NODE_OBJECT, redirects)
        self.state.link = True
        self.state.sets = dict(wanted.sets)
        self.state.members = {name: set() for name in wanted.sets}
        self.state.rulesets = dict(wanted.rulesets)

    def serve(self, key: VirtualServerKey, *members: RealServerKey, bind: bool = True) -> None:
        """Add a virtual server with real servers."""
        self.state.virtual_servers[key] = VirtualServer("rr")
        self.state.real_servers[key] = dict.fromkeys(members, RealServer(1))
        if bind:
            self.state.addresses.add(key.address)
            self.put("KUBE-IPVS-IPS", IpMember(key.address))

    def put(self, name: str, *members: Member) -> None:
        """Add members to a set."""
        self.state.members[name].update(members)

    def fate(self, sender: Sender, key: VirtualServerKey) -> Fate:
        """Follow a packet."""
        return trace(self.state, Packet(sender, key.protocol, key.address, key.port)).fate

    def seen(self, sender: Sender, key: VirtualServerKey) -> dict[RealServerKey, str]:
        """Follow a packet that is served; give whom each real server sees."""
        fate = self.fate(sender, key)
        assert isinstance(fate, Balanced), fate
        return {one.member: _seen(one.seen, sender) for one in fate.candidates}


def _seen(seen: Kept | Masqueraded | Stopped, sender: Sender) -> str:
    match seen:
        case Masqueraded():
            return "the node"
        case Kept(address):
            return "itself" if address == sender.address else str(address)
        case Stopped():
            return "nobody"


def port(key: VirtualServerKey) -> IpPortMember:
    return IpPortMember(key.address, key.protocol, key.port)


def rules_of(family: Family, *local: str, **how: int) -> Ruleset:
    return ruleset(family, pods=pods_in(family, *local), masquerade_bit=how.get("bit", 14))


def names_of_sets(rules: Iterable[Rule]) -> set[str]:
    return {rule[at + 1] for rule in rules for at, word in enumerate(rule) if word == "--match-set"}


CLUSTER_KEY = VirtualServerKey(TCP, CLUSTER, 80)
EXTERNAL_KEY = VirtualServerKey(TCP, EXTERNAL, 80)
NODE_PORT_KEY = VirtualServerKey(TCP, OWN, 30080)


def cluster_ip(kernel: Kernel, *members: RealServerKey) -> Kernel:
    kernel.serve(CLUSTER_KEY, *members)
    kernel.put("KUBE-CLUSTER-IP", port(CLUSTER_KEY))
    return kernel


class TestMasquerading:
    """Who is masqueraded: all whose answers would otherwise not come back by this node."""

    @pytest.mark.parametrize(
        ("settings", "seen"),
        [
            (SETTINGS, {"pod": "itself", "afar": "itself", "outside": "the node"}),
            (UNKNOWN, {"pod": "itself", "afar": "itself", "outside": "itself"}),
            (MASQUERADE_ALL, {"pod": "the node", "afar": "the node", "outside": "the node"}),
        ],
        ids=["known pods", "unknown pods", "masqueradeAll"],
    )
    def test_a_cluster_ip(self, settings: Settings, seen: dict[str, str]) -> None:
        kernel = cluster_ip(Kernel(settings), HERE, AWAY)
        for name, expected in {**seen, "node": "the node"}.items():
            found = kernel.seen(SENDERS[name], CLUSTER_KEY)
            assert found == {HERE: expected, AWAY: expected}, name

    @pytest.mark.parametrize(
        ("local", "sender", "seen"),
        [
            (("10.244.0.0/16", "10.245.0.0/16"), POD, "itself"),
            (("10.245.0.0/16", "10.244.0.0/16"), OUTSIDE, "the node"),
            (("10.244.0.0/16", "0.0.0.0/0"), OUTSIDE, "itself"),
            (("fd00:244::/56",), OUTSIDE, "itself"),
        ],
    )
    def test_pods_of_several_networks(
        self, local: tuple[str, ...], sender: Sender, seen: str
    ) -> None:
        networks = tuple(map(Network.parse, local))
        settings = msgspec.structs.replace(SETTINGS, cluster_cidrs=networks)
        kernel = cluster_ip(Kernel(settings), AWAY)
        assert kernel.seen(sender, CLUSTER_KEY) == {AWAY: seen}

    @pytest.mark.parametrize(
        ("mode", "name"),
        [
            (DetectLocalMode.BRIDGE_INTERFACE, {"pod_bridge_interface": "cbr0"}),
            (DetectLocalMode.INTERFACE_NAME_PREFIX, {"pod_interface_name_prefix": "cbr"}),
        ],
    )
    def test_pods_by_their_interface(self, mode: DetectLocalMode, name: dict[str, str]) -> None:
        settings = msgspec.structs.replace(SETTINGS, detect_local_mode=mode, **name)
        kernel = cluster_ip(Kernel(settings), AWAY)
        assert kernel.seen(POD, CLUSTER_KEY) == {AWAY: "itself"}
        assert kernel.seen(OUTSIDE, CLUSTER_KEY) == {AWAY: "the node"}
        assert kernel.seen(AFAR, CLUSTER_KEY) == {AWAY: "the node"}

    def test_a_pod_that_reaches_itself_and_no_other_hairpin(self) -> None:
        kernel = cluster_ip(Kernel(), HERE, AWAY)
        hairpin = IpPortIpMember(HERE.address, TCP, HERE.port, HERE.address)
        kernel.put("KUBE-LOOP-BACK", hairpin)
        assert kernel.seen(PODS_BEHIND, CLUSTER_KEY) == {HERE: "the node", AWAY: "itself"}

    @pytest.mark.parametrize("sender", ["afar", "outside", "node"])
    @pytest.mark.parametrize("base", ["KUBE-EXTERNAL-IP", "KUBE-LOAD-BALANCER"])
    def test_external_addresses_of_policy_cluster(self, base: str, sender: str) -> None:
        kernel = Kernel()
        kernel.serve(EXTERNAL_KEY, AWAY)
        kernel.put(base, port(EXTERNAL_KEY))
        seen = "itself" if sender == "afar" else "the node"
        assert kernel.seen(SENDERS[sender], EXTERNAL_KEY) == {AWAY: seen}
        assert kernel.seen(POD, EXTERNAL_KEY) == {AWAY: "itself"}, "unlike with kube-proxy"

    def test_an_external_address_of_the_node_itself_masquerades_pods_too(self) -> None:
        """It is nobody's but this node's, so pods of others come to it too."""
        kernel, key = Kernel(), EXTERNAL_KEY._replace(address=OWN)
        kernel.serve(key, AWAY, bind=False)
        kernel.put("KUBE-EXTERNAL-IP", port(key))
        for sender in SENDERS.values():
            assert kernel.seen(sender, key) == {AWAY: "the node"}

    @pytest.mark.parametrize("base", ["KUBE-EXTERNAL-IP-LOCAL", "KUBE-LOAD-BALANCER-LOCAL"])
    def test_policy_local_keeps_the_clients_address(self, base: str) -> None:
        kernel = Kernel()
        kernel.serve(EXTERNAL_KEY, HERE)
        kernel.put(base, port(EXTERNAL_KEY))
        if "BALANCER" in base:
            kernel.put("KUBE-LOAD-BALANCER", port(EXTERNAL_KEY))
        assert kernel.seen(OUTSIDE, EXTERNAL_KEY) == {HERE: "itself"}

    @pytest.mark.parametrize("protocol", Protocol)
    @pytest.mark.parametrize(("local", "seen"), [(False, "the node"), (True, "itself")])
    def test_node_ports(self, protocol: Protocol, local: bool, seen: str) -> None:
        kernel, key = Kernel(), NODE_PORT_KEY._replace(protocol=protocol)
        kernel.serve(key, HERE, bind=False)
        kernel.put("KUBE-NODE-IP", IpMember(OWN))
        suffix = "SCTP-HASH" if protocol is SCTP else protocol.name
        member = port(key) if protocol is SCTP else PortMember(key.port)
        kernel.put(f"KUBE-NODE-PORT-{suffix}", member)
        if local:
            kernel.put(f"KUBE-NODE-PORT-LOCAL-{suffix}", member)
        assert kernel.seen(OUTSIDE, key) == {HERE: seen}

    def test_the_number_of_a_node_port_elsewhere_means_nothing(self) -> None:
        """As of kube-proxy: it masquerades what comes to that port of any local address."""
        kernel, key = Kernel(), CLUSTER_KEY._replace(port=30080)
        kernel.serve(key, AWAY)
        kernel.put("KUBE-CLUSTER-IP", port(key))
        kernel.put("KUBE-NODE-IP", IpMember(OWN))
        kernel.put("KUBE-NODE-PORT-TCP", PortMember(30080))
        assert kernel.seen(POD, key) == {AWAY: "itself"}
        other = key._replace(address=Address.parse("10.244.1.1"))
        kernel.serve(other, AWAY, bind=False)
        assert kernel.seen(OUTSIDE, other) == {AWAY: "itself"}

    def test_the_mark_is_the_bit_that_was_asked_for(self) -> None:
        words = {
            word
            for chain in rules_of(Family.IPV4, bit=31).chains
            for rule in chain.rules
            for word in rule
        }
        assert {"0x80000000/0x80000000", "0x80000000/0x0"} <= words
        assert not any("0x4000" in word for word in words)

    def test_other_bits_of_the_mark_stay(self) -> None:
        (chain,) = [one for one in rules_of(Family.IPV4).chains if one.name == "KUBE-POSTROUTING"]
        assert chain.rules[2] == ("-j", "MARK", "--set-xmark", "0x4000/0x0")
        assert "--random-fully" in chain.rules[-1]


class TestSplit:
    """Clients inside are sent to the ClusterIP; those outside get what is here."""

    def kernel(self, settings: Settings = SETTINGS, key: VirtualServerKey = EXTERNAL_KEY) -> Kernel:
        target = CLUSTER_KEY._replace(protocol=key.protocol)
        address = None if key.address == OWN else key.address
        kernel = Kernel(settings, Redirect(key.protocol, address, key.port, target))
        kernel.serve(target, HERE, AWAY)
        kernel.put("KUBE-CLUSTER-IP", port(target))
        kernel.serve(key, HERE, bind=key.address != OWN)
        kernel.put("KUBE-SPLIT", port(key))
        if key.address == OWN:
            kernel.put("KUBE-NODE-IP", IpMember(OWN))
            suffix = "SCTP-HASH" if key.protocol is SCTP else key.protocol.name
            member = port(key) if key.protocol is SCTP else PortMember(key.port)
            kernel.put(f"KUBE-NODE-PORT-{suffix}", member)
            kernel.put(f"KUBE-NODE-PORT-LOCAL-{suffix}", member)
        else:
            kernel.put("KUBE-LOAD-BALANCER", port(key))
            kernel.put("KUBE-LOAD-BALANCER-LOCAL", port(key))
        return kernel

    @pytest.mark.parametrize("protocol", Protocol)
    @pytest.mark.parametrize("key", [EXTERNAL_KEY, NODE_PORT_KEY], ids=["address", "node port"])
    def test_who_gets_what(self, key: VirtualServerKey, protocol: Protocol) -> None:
        key = key._replace(protocol=protocol)
        kernel = self.kernel(key=key)
        assert kernel.seen(OUTSIDE, key) == {HERE: "itself"}
        assert kernel.seen(POD, key) == {HERE: "itself", AWAY: "itself"}
        assert kernel.seen(NODE, key) == {HERE: "the node", AWAY: "the node"}
        assert kernel.seen(AFAR, key) == {HERE: "the node", AWAY: "the node"}, (
            "a server elsewhere would answer another node's pod past this node"
        )

    def test_masquerade_all_holds_for_pods_that_are_redirected(self) -> None:
        kernel = self.kernel(MASQUERADE_ALL)
        assert kernel.seen(POD, EXTERNAL_KEY) == {HERE: "the node", AWAY: "the node"}

    def test_only_the_node_is_redirected_where_pods_are_not_known(self) -> None:
        kernel = self.kernel(UNKNOWN)
        assert kernel.seen(POD, EXTERNAL_KEY) == {HERE: "itself"}
        assert kernel.seen(NODE, EXTERNAL_KEY) == {HERE: "the node", AWAY: "the node"}

    @pytest.mark.parametrize("key", [EXTERNAL_KEY, NODE_PORT_KEY], ids=["address", "node port"])
    def test_without_a_server_here_the_outside_is_dropped_and_the_inside_served(
        self, key: VirtualServerKey
    ) -> None:
        kernel = self.kernel(key=key)
        kernel.put("KUBE-NO-LOCAL", port(key))
        kernel.state.real_servers[key] = {}
        fate = kernel.fate(OUTSIDE, key)
        assert isinstance(fate, Dropped)
        assert fate.by.chain == "KUBE-IPVS-FILTER"
        assert kernel.seen(POD, key) == {HERE: "itself", AWAY: "itself"}
        assert kernel.seen(NODE, key) == {HERE: "the node", AWAY: "the node"}

    def test_reject_is_a_setting(self) -> None:
        settings = msgspec.structs.replace(SETTINGS, no_local_endpoints=NoLocalEndpoints.REJECT)
        kernel = self.kernel(settings)
        kernel.put("KUBE-NO-LOCAL", port(EXTERNAL_KEY))
        fate = kernel.fate(OUTSIDE, EXTERNAL_KEY)
        assert isinstance(fate, Refused)
        assert fate.by.chain == "KUBE-IPVS-FILTER"

    def test_an_address_comes_before_a_node_port_of_the_same_number(self) -> None:
        here = VirtualServerKey(TCP, OWN, 30080)
        other = VirtualServerKey(TCP, Address.parse("10.96.0.11"), 80)
        rules = Kernel(
            SETTINGS,
            Redirect(TCP, None, here.port, CLUSTER_KEY),
            Redirect(TCP, OWN, here.port, other),
        )
        rules.serve(other, AWAY)
        rules.serve(CLUSTER_KEY, HERE)
        rules.put("KUBE-CLUSTER-IP", port(other), port(CLUSTER_KEY))
        rules.put("KUBE-SPLIT", port(here))
        fate = rules.fate(POD, here)
        assert isinstance(fate, Balanced)
        assert fate.key == other

    def test_a_redirection_stays_in_the_chain_until_its_member_is_gone(self) -> None:
        going = Redirect(TCP, EXTERNAL, 80, CLUSTER_KEY)
        coming = Redirect(TCP, EXTERNAL, 81, CLUSTER_KEY)
        pods = pods_in(Family.IPV4, "10.244.0.0/16")
        found = ruleset(Family.IPV4, pods=pods, redirects=[going])
        wanted = ruleset(Family.IPV4, pods=pods, redirects=[coming])
        bridged = with_present_redirects(wanted, found, led_elsewhere=False)
        split = next(chain.rules for chain in bridged.chains if chain.name == "KUBE-SPLIT")
        assert set(split[1:]) == {redirect_rule(coming), redirect_rule(going)}
        assert with_present_redirects(wanted, wanted, led_elsewhere=False) == wanted

    def test_one_that_leads_elsewhere_stays_where_it_is_until_that_stands(self) -> None:
        pods = pods_in(Family.IPV4, "10.244.0.0/16")
        before = Redirect(TCP, EXTERNAL, 80, CLUSTER_KEY)
        after = before._replace(target=CLUSTER_KEY._replace(port=81))
        found = ruleset(Family.IPV4, pods=pods, redirects=[before])
        wanted = ruleset(Family.IPV4, pods=pods, redirects=[after])
        assert with_present_redirects(wanted, found, led_elsewhere=True) == found
        assert with_present_redirects(wanted, found, led_elsewhere=False) == wanted


class TestSourceRanges:
    """Closed to all but the ranges: from outside, for pods, for the node, redirected or not."""

    INSIDE, STRANGER = OUTSIDE, Sender(SenderKind.OUTSIDE, Address.parse("192.0.2.99"), "eth0")

    def kernel(self, *ranges: str, split: bool = False) -> Kernel:
        redirects = [Redirect(TCP, EXTERNAL, 80, CLUSTER_KEY)] if split else []
        kernel = cluster_ip(Kernel(SETTINGS, *redirects), HERE, AWAY)
        kernel.serve(EXTERNAL_KEY, HERE)
        itself = port(EXTERNAL_KEY)
        kernel.put("KUBE-LOAD-BALANCER", itself)
        kernel.put("KUBE-LOAD-BALANCER-FW", itself)
        if split:
            kernel.put("KUBE-SPLIT", itself)
            kernel.put("KUBE-LOAD-BALANCER-LOCAL", itself)
        for text in ranges:
            member = IpPortNetMember(EXTERNAL, TCP, 80, Network.parse(text))
            kernel.put("KUBE-LOAD-BALANCER-SOURCE-CIDR", member)
        return kernel

    @pytest.mark.parametrize("split", [False, True])
    def test_who_is_in_them_is_served_and_who_is_not_is_dropped(self, split: bool) -> None:
        kernel = self.kernel("198.51.100.0/24", split=split)
        assert isinstance(kernel.fate(self.INSIDE, EXTERNAL_KEY), Balanced)
        for sender in (self.STRANGER, POD, AFAR, NODE):
            assert isinstance(kernel.fate(sender, EXTERNAL_KEY), Dropped), sender
        for sender in (self.STRANGER, POD, NODE):
            assert isinstance(kernel.fate(sender, CLUSTER_KEY), Balanced), "that has no ranges"

    @pytest.mark.parametrize("split", [False, True])
    def test_a_pod_in_them_is_served(self, split: bool) -> None:
        kernel = self.kernel("10.244.1.0/24", split=split)
        expected = {HERE, AWAY} if split else {HERE}
        assert kernel.seen(POD, EXTERNAL_KEY).keys() == expected
        assert isinstance(kernel.fate(AFAR, EXTERNAL_KEY), Dropped)

    @pytest.mark.parametrize("split", [False, True])
    def test_the_node_comes_with_the_frontends_own_address(self, split: bool) -> None:
        kernel = self.kernel(split=split)
        assert isinstance(kernel.fate(NODE, EXTERNAL_KEY), Dropped)
        itself = IpPortIpMember(EXTERNAL, TCP, 80, EXTERNAL)
        kernel.put("KUBE-LOAD-BALANCER-SOURCE-IP", itself)
        assert set(kernel.seen(NODE, EXTERNAL_KEY).values()) == {"the node"}
        assert isinstance(kernel.fate(self.STRANGER, EXTERNAL_KEY), Dropped)

    def test_nobody_is_let_in_where_there_is_none(self) -> None:
        kernel = self.kernel()
        for sender in (*SENDERS.values(), self.STRANGER):
            assert isinstance(kernel.fate(sender, EXTERNAL_KEY), Dropped)


@pytest.mark.parametrize("family", Family)
def test_a_service_address_answers_its_frontends_and_ping_and_refuses_the_rest(
    family: Family,
) -> None:
    kernel = Kernel()
    address, source = CLUSTER, OUTSIDE.address
    if family is Family.IPV6:
        address, source = Address.parse("fd00::a"), Address.parse("2001:db8::7")
    sender = Sender(SenderKind.OUTSIDE, source, "eth0")
    kernel.state.addresses.add(address)
    kernel.put("KUBE-IPVS-IPS" if family is Family.IPV4 else "KUBE-6-IPVS-IPS", IpMember(address))
    for sent_by in (sender, NODE):
        fate = kernel.fate(sent_by, VirtualServerKey(TCP, address, 22))
        assert isinstance(fate, Refused)
        assert fate.by.chain == "KUBE-IPVS-FILTER"
        assert trace(kernel.state, Packet(sent_by, None, address)).fate == Local()
    name = "KUBE-CLUSTER-IP" if family is Family.IPV4 else "KUBE-6-CLUSTER-IP"
    frontend = VirtualServerKey(TCP, address, 80)
    kernel.put(name, port(frontend))
    assert kernel.fate(sender, frontend) == Local(), "the filter lets it through to IPVS"


def test_the_nodes_own_ports_and_what_passes_through_go_on_untouched() -> None:
    kernel = cluster_ip(Kernel(), AWAY)
    kernel.put("KUBE-NODE-IP", IpMember(OWN))
    for key in (CLUSTER_KEY._replace(address=OWN), VirtualServerKey(TCP, OWN, 22)):
        assert isinstance(kernel.fate(OUTSIDE, key), Local)
    passing = VirtualServerKey(TCP, Address.parse("10.244.1.9"), 80)
    assert kernel.fate(OUTSIDE, passing) == Forwarded(passing.address, 80)
    assert isinstance(kernel.fate(OUTSIDE, CLUSTER_KEY._replace(port=81)), Refused)


def test_a_health_check_port_is_let_in_at_every_address_of_the_node() -> None:
    kernel = cluster_ip(Kernel(), AWAY)
    key = CLUSTER_KEY._replace(port=32080)
    assert isinstance(kernel.fate(OUTSIDE, key), Refused)
    kernel.put("KUBE-HEALTH-CHECK-NODE-PORT", PortMember(32080))
    for address in (CLUSTER, OWN):
        assert isinstance(kernel.fate(OUTSIDE, key._replace(address=address)), Local)
    assert isinstance(kernel.fate(OUTSIDE, key._replace(protocol=UDP)), Refused)


@pytest.mark.parametrize(
    ("base", "key"),
    [
        ("KUBE-CLUSTER-IP", CLUSTER_KEY),
        ("KUBE-EXTERNAL-IP", EXTERNAL_KEY),
        ("KUBE-EXTERNAL-IP-LOCAL", EXTERNAL_KEY),
        ("KUBE-LOAD-BALANCER", EXTERNAL_KEY),
        ("KUBE-NODE-PORT-TCP", NODE_PORT_KEY),
        ("KUBE-NODE-PORT-LOCAL-TCP", NODE_PORT_KEY),
    ],
)
@pytest.mark.parametrize("hook", ["PREROUTING", "OUTPUT"])
def test_a_host_port_behind_our_rules_takes_no_service_traffic(
    base: str, key: VirtualServerKey, hook: str
) -> None:
    """kubernetes/kubernetes#61938: CNI's portmap matches every local address."""
    kernel = Kernel()
    kernel.serve(key, HERE, bind=key.address != OWN)
    kernel.put(base, PortMember(key.port) if "NODE" in base else port(key))
    kernel.put("KUBE-NODE-IP", IpMember(OWN))
    words = ("-p", "tcp", "-m", "tcp", "--dport", str(key.port))
    local = ("-m", "addrtype", "--dst-type", "LOCAL")
    host_port = (*words, *local, "-j", "DNAT", "--to-destination", "10.244.1.9:80")
    found = kernel.state.rulesets[Family.IPV4]
    kernel.state.rulesets[Family.IPV4] = found._replace(
        jumps=(*found.jumps, Jump("nat", hook, host_port))
    )
    sender = OUTSIDE if hook == "PREROUTING" else NODE
    assert kernel.seen(sender, key).keys() == {HERE}
    free = key._replace(address=Address.parse("10.244.1.1"))
    assert isinstance(kernel.fate(sender, free), Forwarded), "the host port itself works"


def test_marked_traffic_and_answers_pass_a_closed_forward_chain() -> None:
    (chain,) = [one for one in rules_of(Family.IPV4).chains if one.name == "KUBE-FORWARD"]
    asked = [(rule[rule.index("-m", 2) + 1], rule[-1]) for rule in chain.rules]
    assert asked == [("mark", "ACCEPT"), ("conntrack", "ACCEPT")]
    assert "RELATED,ESTABLISHED" in chain.rules[1]


class TestNames:
    @pytest.mark.parametrize("family", Family)
    @pytest.mark.parametrize("mode", DetectLocalMode)
    def test_only_sets_that_are_made_and_chains_that_are_ours_are_named(
        self, family: Family, mode: DetectLocalMode
    ) -> None:
        settings = msgspec.structs.replace(SETTINGS, detect_local_mode=mode)
        pods = local_pods(family, settings, NODE_OBJECT, NETWORK)
        found = ruleset(family, pods=pods)
        assert found.chains == tuple(sorted(found.chains))
        assert found.jumps == tuple(sorted(found.jumps, key=lambda jump: jump[:2]))
        assert all(chain.name in OWN_CHAINS[chain.table] for chain in found.chains)
        assert all(jump.rule[-1] in OWN_CHAINS[jump.table] for jump in found.jumps)
        rules = [rule for chain in found.chains for rule in chain.rules]
        assert names_of_sets(rules) == set_specs([family], 65536).keys() - {LEDGER, f"{LEDGER}-6"}

    def test_no_rule_names_the_ledger(self) -> None:
        assert all(LEDGER not in str(rules_of(family)) for family in Family)

    def test_a_redirection_names_its_target_with_its_port(self) -> None:
        target = VirtualServerKey(SCTP, Address.parse("fd00::a"), 80)
        node_port = redirect_rule(Redirect(SCTP, None, 30080, target))
        assert " ".join(node_port) == (
            "-p sctp -m sctp --dport 30080 -j DNAT --to-destination [fd00::a]:80"
        )
        address = redirect_rule(Redirect(TCP, EXTERNAL, 80, CLUSTER_KEY))
        assert " ".join(address) == (
            "-d 203.0.113.5/32 -p tcp -m tcp --dport 80 -j DNAT --to-destination 10.96.0.10:80"
        )
