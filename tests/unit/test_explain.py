"""`explain`: how it is asked, what it answers, and how that looks."""

from __future__ import annotations

import asyncio
import json
import re
import sys
import types
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import ipvsproxy
from ipvsproxy.cli import main
from ipvsproxy.cli.explain_text import explain_text
from ipvsproxy.config import DetectLocalMode, Settings
from ipvsproxy.core.packet import SenderKind
from ipvsproxy.core.question import (
    SOME_INTERFACE,
    SOME_POD_INTERFACE,
    Place,
    Who,
    packet_of,
    parse_place,
    parse_who,
)
from ipvsproxy.model import Address, Network, NodeNetwork, Protocol, State
from ipvsproxy.telemetry import AgentStatus, FrontendStatus, ServiceStatus
from ipvsproxy.telemetry.explanations import ExplainReport, Explanation, explain_report
from tests.parity.recording import read_case

CASES = Path(__file__).resolve().parents[1] / "parity" / "cases"
SETTINGS = Settings(
    node_name="node-a",
    cluster_cidrs=(Network.parse("10.244.0.0/16"), Network.parse("fd00:10:244::/56")),
)
FRONTENDS = ("10.96.0.10:80/TCP", "203.0.113.10:80/TCP", "192.168.50.11:30080/TCP")
AGENT = AgentStatus(
    version="1",
    node="node-a",
    services=(
        ServiceStatus(
            name="default/web",
            frontends=tuple(
                FrontendStatus(virtual_server=key, port="http", scheduler="rr") for key in FRONTENDS
            ),
        ),
    ),
)


def kernel(case: str) -> State:
    return read_case(CASES / case).theirs


def explained(case: str, who: str | None, target: Place | str) -> ExplainReport:
    sender = parse_who(who) if who is not None else None
    return explain_report(kernel(case), SETTINGS, sender, target, AGENT)


def only(case: str, who: str, place: str) -> Explanation:
    (found,) = explained(case, who, parse_place(place)).explanations
    return found


class TestQuestion:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("192.0.2.1:80", (Protocol.TCP, "192.0.2.1", 80)),
            ("192.0.2.1:53/udp", (Protocol.UDP, "192.0.2.1", 53)),
            ("[fd00::1]:80/SCTP", (Protocol.SCTP, "fd00::1", 80)),
            ("192.0.2.1/icmp", (None, "192.0.2.1", 0)),
            ("fd00::1/icmp", (None, "fd00::1", 0)),
        ],
    )
    def test_a_place(self, text: str, expected: tuple[Protocol | None, str, int]) -> None:
        protocol, address, port = expected
        assert parse_place(text) == Place(protocol, Address.parse(address), port)

    @pytest.mark.parametrize(
        "text",
        ["192.0.2.1", "192.0.2.1:0", "192.0.2.1:65536", "fd00::1:80", "192.0.2.1:80/x", "web:80"],
    )
    def test_no_place(self, text: str) -> None:
        with pytest.raises(ValueError, match=r"\w"):
            parse_place(text)

    @pytest.mark.parametrize(
        ("text", "answer"),
        [
            ("192.0.2.1:http", "has no port from 1 to 65535: give ADDRESS:PORT"),
            ("web.shop:80", "'web.shop' is no address; names are not looked up (ask for a Service"),
            ("web/icmp", "'web' is no address"),
        ],
    )
    def test_what_is_no_place_is_answered_with_what_to_give(self, text: str, answer: str) -> None:
        with pytest.raises(ValueError, match=re.escape(answer)):
            parse_place(text)

    @pytest.mark.parametrize("service", ["web", "/web", "shop/", "shop/web/80"])
    def test_a_service_is_asked_for_with_its_namespace(self, service: str) -> None:
        result = CliRunner().invoke(main, ["explain", "--service", service])
        assert result.exit_code == 2
        assert f"{service!r} is not NAMESPACE/NAME, such as default/web" in result.stderr

    def test_who(self) -> None:
        assert parse_who("pod") == Who(SenderKind.POD)
        assert parse_who("10.244.1.7") == Who(None, Address.parse("10.244.1.7"))
        with pytest.raises(ValueError, match="none of outside, pod, node"):
            parse_who("me")

    @pytest.mark.parametrize(
        ("text", "kind"),
        [
            ("10.244.1.7", SenderKind.POD),
            ("192.168.50.11", SenderKind.NODE),
            ("10.96.0.10", SenderKind.NODE),
            ("127.0.0.1", SenderKind.NODE),
            ("192.168.50.12", SenderKind.OUTSIDE),
        ],
    )
    def test_an_address_says_who_it_is(self, text: str, kind: SenderKind) -> None:
        place = parse_place("10.96.0.10:80")
        packet = packet_of(parse_who(text), place, SETTINGS, kernel("clusterip-tcp"))
        assert packet.sender.kind is kind

    def test_what_is_left_open_is_chosen(self) -> None:
        state = kernel("clusterip-tcp")
        place = parse_place("10.96.0.10:80")
        pod = packet_of(Who(SenderKind.POD), place, SETTINGS, state).sender
        assert pod == (SenderKind.POD, Address.parse("10.244.255.254"), SOME_POD_INTERFACE)
        outside = packet_of(Who(SenderKind.OUTSIDE), place, SETTINGS, state).sender
        assert outside == (SenderKind.OUTSIDE, Address.parse("198.51.100.77"), "eth0")
        named = Who(SenderKind.POD, None, "eth1")
        assert packet_of(named, place, SETTINGS, state).sender.interface == "eth1"

    def test_a_pod_is_no_endpoint(self) -> None:
        settings = Settings(node_name="a", cluster_cidrs=(Network.parse("10.244.1.4/30"),))
        place = parse_place("10.96.0.10:80")
        pod = packet_of(Who(SenderKind.POD), place, settings, kernel("hairpin")).sender
        assert pod.address not in {Address.parse("10.244.1.5"), Address.parse("10.244.1.6")}

    def test_pods_of_which_nothing_is_known_must_be_given(self) -> None:
        place = parse_place("[fd00::1]:80")
        settings = Settings(node_name="a", cluster_cidrs=(Network.parse("10.244.0.0/16"),))
        with pytest.raises(ValueError, match="give a pod's address"):
            packet_of(Who(SenderKind.POD), place, settings, State())

    def test_pods_that_are_known_by_their_interface(self) -> None:
        place = parse_place("10.96.0.10:80")
        own = {"cbr0": "10.244.1.1", "eth0": "192.0.2.1", "lo": "127.0.0.1"}
        interfaces = {name: frozenset({Address.parse(one)}) for name, one in own.items()}
        state = State(network=NodeNetwork(interfaces))
        bridge = Settings(
            node_name="a",
            cluster_cidrs=SETTINGS.cluster_cidrs,
            detect_local_mode=DetectLocalMode.BRIDGE_INTERFACE,
            pod_bridge_interface="cbr0",
        )
        assert packet_of(Who(SenderKind.POD), place, bridge, state).sender.interface == "cbr0"
        prefix = Settings(
            node_name="a",
            cluster_cidrs=SETTINGS.cluster_cidrs,
            detect_local_mode=DetectLocalMode.INTERFACE_NAME_PREFIX,
            pod_interface_name_prefix="cali",
        )
        assert packet_of(Who(SenderKind.POD), place, prefix, state).sender.interface == "cali0"
        outside = packet_of(Who(SenderKind.OUTSIDE), place, bridge, state).sender
        assert outside.interface == "eth0"
        nowhere = packet_of(Who(SenderKind.OUTSIDE), place, SETTINGS, State()).sender
        assert nowhere.interface == SOME_INTERFACE
        by = Who(None, Address.parse("192.0.2.9"), "cbr0")
        assert packet_of(by, place, bridge, state).sender.kind is SenderKind.POD


class TestAnswer:
    def test_who_serves_it_and_what_they_see(self) -> None:
        found = only("external-local", "outside", "203.0.113.10:80")
        assert (found.fate, found.served) == ("balanced", True)
        assert (found.service, found.port, found.scheduler) == ("default/web", "http", "rr")
        assert [(row.address, row.weight, row.source) for row in found.candidates] == [
            ("10.244.1.5:8080", 1, "198.51.100.77")
        ]

    def test_who_masquerades(self) -> None:
        found = only("loadbalancer", "outside", "203.0.113.10:80")
        assert {row.source for row in found.candidates} == {None}
        assert {row.by.chain for row in found.candidates if row.by} == {"KUBE-POSTROUTING"}

    @pytest.mark.parametrize(
        ("case", "who", "place", "fate", "reason"),
        [
            ("source-ranges", "192.0.2.1", "203.0.113.10:80", "dropped", "SourceRanges"),
            ("source-ranges", "node", "203.0.113.10:80", "dropped", "SourceRanges"),
            ("clusterip-tcp", "pod", "10.96.0.10:81", "refused", "no Service has this port"),
            ("no-endpoints", "pod", "10.96.0.10:80", "refused", "it has no real server"),
            ("clusterip-tcp", "pod", "203.0.113.9:80", "forwarded", "no address of this node"),
            ("clusterip-tcp", "pod", "192.168.50.11:22", "local", "nothing is known to listen"),
        ],
    )
    def test_who_refuses_it(self, case: str, who: str, place: str, fate: str, reason: str) -> None:
        found = only(case, who, place)
        assert (found.fate, found.served) == (fate, False)
        assert reason in found.reason

    def test_a_service_is_explained_from_everywhere(self) -> None:
        report = explained("loadbalancer", None, "default/web")
        asked = [(one.sender, one.destination) for one in report.explanations]
        assert asked == [(kind, key) for key in FRONTENDS for kind in ("outside", "pod", "node")]
        assert all(one.served for one in report.explanations)

    def test_a_service_is_explained_to_a_sender_of_its_family(self) -> None:
        assert len(explained("loadbalancer", "10.244.1.7", "default/web").explanations) == 3
        assert explained("loadbalancer", "fd00::1", "default/web").problems

    def test_a_service_that_no_agent_knows(self) -> None:
        report = explain_report(kernel("loadbalancer"), SETTINGS, None, "default/web", None)
        (problem,) = report.problems
        assert problem.startswith("default/web: no agent answers")
        (problem,) = explained("loadbalancer", None, "default/other").problems
        assert "no frontend" in problem

    def test_what_is_not_understood_is_said(self) -> None:
        state = kernel("clusterip-tcp")
        del state.sets["KUBE-CLUSTER-IP"]
        place = parse_place("10.96.0.10:80")
        report = explain_report(state, SETTINGS, Who(SenderKind.NODE), place, None)
        (found,) = report.explanations
        assert (found.fate, found.served) == ("not understood", False)
        assert "not known: the set KUBE-CLUSTER-IP: there is no such set" in found.reason


class TestText:
    def test_it_says_what_happens_and_why(self) -> None:
        text = explain_text(explained("external-local", "node", parse_place("203.0.113.10:80")))
        assert text.splitlines()[:5] == [
            "node 203.0.113.10 -> 203.0.113.10:80/TCP: served",
            "  virtual server 203.0.113.10:80/TCP sends it to 1 real server",
            "  203.0.113.10:80/TCP is of Service default/web, port http; scheduler rr",
            "    10.244.1.5:8080  weight 1  sees 203.0.113.10",
            "  because:",
        ]
        rule = "-m set --match-set KUBE-LOAD-BALANCER dst,dst -j KUBE-LOAD-BALANCER"
        assert f"    OUTPUT       nat KUBE-SERVICES: {rule}" in text
        assert "                   203.0.113.10,tcp:80 is in KUBE-LOAD-BALANCER" in text

    def test_persistence_is_told(self) -> None:
        text = explain_text(explained("affinity-timeout", "pod", parse_place("10.96.0.10:80")))
        assert "a client keeps its real server for 600 s" in text

    def test_problems_come_last(self) -> None:
        text = explain_text(explained("loadbalancer", None, "default/other"))
        told = "default/other: the agent knows no frontend of it; see ipvsproxy status"
        assert text == f"problem: {told}\n"


class StandInAgent(types.ModuleType):
    """In the place of the package `ipvsproxy.agent`."""

    MeasuredLoop = asyncio.SelectorEventLoop

    class AnotherAgentError(Exception):
        pass

    def __init__(self, report: ExplainReport) -> None:
        super().__init__("ipvsproxy.agent")
        self.report = report
        self.asked: list[tuple[Who | None, Place | str]] = []

    async def explain(
        self, settings: Settings, who: Who | None, target: Place | str
    ) -> ExplainReport:
        assert settings.node_name == "node-a"
        self.asked.append((who, target))
        return self.report


@pytest.fixture
def agent(monkeypatch: pytest.MonkeyPatch) -> StandInAgent:
    stand_in = StandInAgent(explained("loadbalancer", None, "default/web"))
    monkeypatch.setitem(sys.modules, "ipvsproxy.agent", stand_in)
    monkeypatch.setattr(ipvsproxy, "agent", stand_in, raising=False)
    monkeypatch.setenv("NODE_NAME", "node-a")
    return stand_in


def call(*arguments: str) -> Result:
    return CliRunner().invoke(main, ("explain", *arguments))


class TestCommand:
    def test_it_asks_for_a_packet(self, agent: StandInAgent) -> None:
        result = call("--from", "10.244.1.7", "--to", "203.0.113.5:80/tcp", "--interface", "cni0")
        assert result.exit_code == 0, result.output
        who = Who(None, Address.parse("10.244.1.7"), "cni0")
        assert agent.asked == [(who, Place(Protocol.TCP, Address.parse("203.0.113.5"), 80))]
        assert result.stdout == explain_text(agent.report)

    def test_it_asks_for_a_service_from_everywhere(self, agent: StandInAgent) -> None:
        result = call("--service", "default/web", "--output", "json")
        assert agent.asked == [(None, "default/web")]
        shown = json.loads(result.stdout)["explanations"]
        assert [one["destination"] for one in shown[::3]] == list(FRONTENDS)

    def test_what_is_not_served_is_its_exit_status(self, agent: StandInAgent) -> None:
        agent.report = explained("source-ranges", "192.0.2.1", parse_place("203.0.113.10:80"))
        assert call("--to", "203.0.113.10:80").exit_code == 1
        agent.report = ExplainReport(problems=("nothing is known",))
        assert call("--to", "203.0.113.10:80").exit_code == 1

    @pytest.mark.parametrize(
        "arguments",
        [
            (),
            ("--to", "192.0.2.1:80", "--service", "default/web"),
            ("--to", "192.0.2.1"),
            ("--from", "me", "--to", "192.0.2.1:80"),
            ("--from", "fd00::1", "--to", "192.0.2.1:80"),
            ("--interface", "eth0", "--to", "192.0.2.1:80"),
        ],
    )
    def test_wrong_usage(self, agent: StandInAgent, arguments: tuple[str, ...]) -> None:
        assert call(*arguments).exit_code == 2
        assert agent.asked == []
