"""Whether a node is ready to be switched over: what preflight and plan say of a predecessor."""

from __future__ import annotations

import msgspec

from ipvsproxy.agent.switching import readiness_checks
from ipvsproxy.cli.render import plan_text
from ipvsproxy.config import NodePortAddresses, Settings
from ipvsproxy.core.foreign import NftTable, RuleTable, Traces
from ipvsproxy.core.take_over import lost_node_port_addresses, predecessors
from ipvsproxy.kernel.fake import fresh_state
from ipvsproxy.kernel.iptables_text import parse_save, parse_tables
from ipvsproxy.model import Address, Family, Network, NodeNetwork, State
from ipvsproxy.objects import Node
from ipvsproxy.telemetry import Check, PlanReport, Verdict
from tests.parity.recording import read_case
from tests.parity.test_take_over import CASES, found
from tests.scenarios.kernel_lines import do_to
from tests.unit.test_foreign import IPTABLES_MODE, taken_over

SETTINGS = Settings(node_name="n")
ONE_OF_TWO = Settings(
    node_name="n",
    node_port_addresses=NodePortAddresses(networks=(Network.parse("192.168.50.0/24"),)),
)
PRIMARY = Settings(node_name="n", node_port_addresses=NodePortAddresses(primary=True))
NETWORK = NodeNetwork(
    {
        "eth0": frozenset({Address.parse("192.168.50.11")}),
        "docker0": frozenset({Address.parse("172.17.0.1")}),
    }
)


def of_iptables_mode() -> State:
    state = fresh_state()
    state.network = NETWORK
    state.rulesets[Family.IPV4] = parse_save(IPTABLES_MODE)
    return state


def checks(state: State, traces: Traces, settings: Settings = SETTINGS) -> dict[str, list[Check]]:
    told: dict[str, list[Check]] = {}
    for check in readiness_checks(settings, state, traces):
        told.setdefault(check.name, []).append(check)
    return told


def test_on_a_fresh_node_and_on_one_of_ours_nobody_served_before() -> None:
    for state in (fresh_state(), taken_over()):
        assert predecessors(state, Traces()) == ()
        (only,) = checks(state, Traces())["predecessor"]
        assert only.finding.startswith("none")


def test_each_predecessor_is_known_by_what_it_leaves() -> None:
    recorded = found(read_case(CASES[0].parent / "nodeport-tcp"))
    traces = Traces(
        interfaces=frozenset({"kube-dummy-if"}),
        nft_tables=frozenset({NftTable(Family.IPV4, "kube-proxy")}),
    )
    assert predecessors(recorded, Traces()) == ("kube-proxy-ipvs",)
    assert predecessors(of_iptables_mode(), Traces()) == ("kube-proxy-iptables",)
    assert predecessors(fresh_state(), traces) == ("kube-proxy-nftables", "kube-router")
    told = checks(fresh_state(), traces)["predecessor"]
    assert [check.verdict for check in told] == [Verdict.OK, Verdict.OK]
    assert "cleanup --foreign kube-router" in told[1].finding


def test_service_rules_in_the_other_backend_stand_in_the_way() -> None:
    (nat, *_) = parse_tables(IPTABLES_MODE)
    table = RuleTable("legacy", False, Family.IPV4, *nat)
    (check,) = checks(fresh_state(), Traces((table,)))["iptables backend"]
    assert check.verdict is Verdict.FAIL
    assert "--iptables-backend legacy" in check.mend
    assert "iptables backend" not in checks(fresh_state(), Traces((table._replace(in_use=True),)))


def test_virtual_servers_of_others_are_named() -> None:
    state = fresh_state()
    do_to(state, [f"-A -t 203.0.113.{number}:25 -s wlc" for number in range(1, 8)])
    (check,) = checks(state, Traces())["other virtual servers"]
    assert check.finding.startswith("7 are others' and stay as they are: 203.0.113.1:25/TCP, ")
    assert check.finding.endswith(", ...")


def test_node_port_addresses_that_would_be_lost_are_named() -> None:
    lost = lost_node_port_addresses(ONE_OF_TWO, of_iptables_mode(), None)
    assert list(map(str, lost)) == ["127.0.0.1", "172.17.0.1"]
    (check,) = checks(of_iptables_mode(), Traces(), ONE_OF_TWO)["NodePort addresses"]
    assert check.finding == "NodePorts will no longer be served on 127.0.0.1, 172.17.0.1"
    text = plan_text(PlanReport(lost_node_port_addresses=tuple(map(str, lost))))
    assert "NodePorts would no longer be served on 172.17.0.1\n" in text


def test_those_of_primary_are_known_with_the_node_only() -> None:
    state = found(read_case(CASES[0].parent / "nodeport-tcp"))
    assert lost_node_port_addresses(PRIMARY, state, None) == ()
    (check,) = checks(state, Traces(), PRIMARY)["NodePort addresses"]
    assert "InternalIPs only" in check.finding
    assert "NodePort addresses" not in checks(taken_over(), Traces(), PRIMARY)


def test_those_of_primary_are_what_bind_address_says() -> None:
    eth0, docker0 = (Address.parse(text) for text in ("192.168.50.11", "172.17.0.1"))
    bound = msgspec.structs.replace(PRIMARY, bind_address=docker0)
    for node in (None, Node("n", addresses=(eth0,))):
        lost = lost_node_port_addresses(bound, of_iptables_mode(), node)
        assert list(map(str, lost)) == ["127.0.0.1", "192.168.50.11"]
    of_ipv6 = msgspec.structs.replace(PRIMARY, bind_address=Address.parse("2001:db8::1"))
    assert lost_node_port_addresses(of_ipv6, of_iptables_mode(), None) == ()


def test_where_ours_serves_already_nothing_is_lost() -> None:
    state = taken_over()
    state.network = NETWORK
    assert lost_node_port_addresses(ONE_OF_TWO, state, None) == ()
