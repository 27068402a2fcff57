"""The command line, with an agent that only remembers what it was asked."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import os
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest
import structlog
from click.testing import CliRunner, Result

import ipvsproxy
from ipvsproxy.cli import logs, main, render
from ipvsproxy.cli.cleanup import PREDECESSORS
from ipvsproxy.cli.kube_proxy_flags import SWITCHES, VALUES
from ipvsproxy.config import LogFormat, Resolved, Settings, effective, load
from ipvsproxy.core.predecessors import Predecessor
from ipvsproxy.dataplane import DataplaneError
from ipvsproxy.kernel import initial
from ipvsproxy.sources.kubernetes.errors import Unavailable
from ipvsproxy.telemetry import (
    Check,
    CleanupReport,
    PlanReport,
    RealServerRow,
    StatusRow,
    StatusTable,
    Verdict,
)


class AnotherAgentError(Exception):
    """As in ipvsproxy.agent."""


class StandInFile(NamedTuple):
    """As `ConfigFile` in ipvsproxy.agent."""

    path: Path
    read: Callable[[], Resolved]
    took: Callable[[Settings], None]


class StandInAgent(types.ModuleType):
    """In the place of the package `ipvsproxy.agent`."""

    AnotherAgentError = AnotherAgentError
    ConfigFile = StandInFile
    MeasuredLoop = asyncio.SelectorEventLoop
    memory = types.SimpleNamespace(begin=lambda: None)

    def __init__(self) -> None:
        super().__init__("ipvsproxy.agent")
        self.settings: Settings | None = None
        self.file: StandInFile | None = None
        self.called = ""
        self.answer = 0
        self.error: Exception | None = None
        self.plan_report = PlanReport()
        self.cleanup_report = CleanupReport()
        self.table = StatusTable()

    def _note(self, called: str, settings: Settings) -> None:
        self.called, self.settings = called, settings
        if self.error is not None:
            raise self.error

    async def run(self, settings: Settings, file: StandInFile | None = None) -> int:
        self._note("run", settings)
        self.file = file
        return self.answer

    async def run_once(self, settings: Settings) -> int:
        self._note("run_once", settings)
        return self.answer

    async def plan(self, settings: Settings) -> PlanReport:
        self._note("plan", settings)
        return self.plan_report

    async def cleanup(self, settings: Settings, *, dry_run: bool) -> CleanupReport:
        self._note(f"cleanup dry_run={dry_run}", settings)
        return self.cleanup_report

    async def hand_over(self, settings: Settings, *, dry_run: bool) -> CleanupReport:
        self._note(f"hand_over dry_run={dry_run}", settings)
        return self.cleanup_report

    async def clean_up_after(
        self, settings: Settings, predecessor: str, *, dry_run: bool
    ) -> CleanupReport:
        self._note(f"clean_up_after {predecessor} dry_run={dry_run}", settings)
        return self.cleanup_report

    async def status(self, settings: Settings) -> StatusTable:
        self._note("status", settings)
        return self.table


@pytest.fixture
def agent(monkeypatch: pytest.MonkeyPatch) -> StandInAgent:
    stand_in = StandInAgent()
    monkeypatch.setitem(sys.modules, "ipvsproxy.agent", stand_in)
    monkeypatch.setattr(ipvsproxy, "agent", stand_in, raising=False)
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setenv("NODE_NAME", "node-a")
    return stand_in


def call(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def said(result: Result) -> str:
    """Return the last line on standard error: the one that says what is wrong."""
    return result.stderr.strip().splitlines()[-1]


class TestHelp:
    @pytest.mark.parametrize(
        "command", ["run", "status", "explain", "plan", "preflight", "cleanup", "version"]
    )
    def test_every_command_explains_itself(self, command: str) -> None:
        result = call(command, "--help")

        assert result.exit_code == 0
        if command != "version":
            assert f"\n  Examples:\n    ipvsproxy {command}" in result.stdout
            assert "\\b" not in result.stdout
            assert "exit status" in result.stdout

    def test_no_command_lists_all_of_them(self) -> None:
        result = call("--help")

        assert "ipvsproxy run --manifests ./services --once" in result.stdout
        assert "2  wrong usage" in result.stdout

    def test_the_version_is_told(self) -> None:
        assert json.loads(call("version", "--output", "json").stdout)["ipvsproxy"]
        assert call("version").stdout.startswith(f"ipvsproxy {ipvsproxy.__version__}\n")


class TestRun:
    def test_every_setting_has_a_flag(self) -> None:
        run = main.commands["run"]

        assert {parameter.name for parameter in run.params} >= set(Settings.__struct_fields__)

    def test_flags_become_settings(self, agent: StandInAgent) -> None:
        result = call(
            "run",
            *("--kubeconfig", "/k", "--master", "https://192.0.2.1"),
            *("--hostname-override", "Node-B", "--cluster-cidr", "10.0.0.0/8"),
            *("--ipvs-scheduler", "lc", "--ipvs-exclude-cidrs", "192.0.2.0/24"),
            *("--ipvs-sync-period", "1m", "--masquerade-all", "--iptables-backend=legacy"),
            *("--healthz-bind-address", "", "--metrics-bind-address", "[::1]:1"),
            *("--nodeport-addresses", "primary", "--ipvs-strict-arp", "--set-hash-size", "2048"),
            *("--detect-local-mode", "BridgeInterface", "--pod-bridge-interface", "cni0"),
            *("--log-format", "json", "-v=4"),
        )

        assert result.exit_code == 0, result.stderr
        assert agent.called == "run"
        read = agent.settings
        assert read is not None
        assert (read.kubeconfig, read.master) == ("/k", "https://192.0.2.1")
        assert (read.node_name, read.default_scheduler, read.verbosity) == ("node-b", "lc", 4)
        assert (read.masquerade_all, read.sync_period) == (True, 60)
        assert (read.healthz_bind_address, read.metrics_bind_address) == ("", "[::1]:1")
        assert (read.node_port_addresses.primary, read.strict_arp) == (True, True)
        assert (read.detect_local_mode, read.pod_bridge_interface) == ("BridgeInterface", "cni0")
        assert read.set_hash_size == 2048
        assert [str(network) for network in read.exclude_cidrs] == ["192.0.2.0/24"]

    @pytest.mark.parametrize(
        ("arguments", "expected"),
        [((), 2), (("-v", "5"), 5), (("--v=3",), 3), (("-v6",), 6), (("-v=7",), 7)],
    )
    def test_verbosity_is_written_as_for_klog(
        self, agent: StandInAgent, arguments: tuple[str, ...], expected: int
    ) -> None:
        assert call("run", "--manifests", "/m", *arguments).exit_code == 0
        assert agent.settings is not None
        assert agent.settings.verbosity == expected

    def test_a_switch_can_be_given_a_value_as_in_go(self, agent: StandInAgent) -> None:
        call("run", "--manifests", "/m", "--masquerade-all=false", "--once")

        assert agent.settings is not None
        assert not agent.settings.masquerade_all
        assert agent.called == "run_once"

    @pytest.mark.parametrize("answer", [0, 1])
    def test_once_exits_with_the_agent_s_answer(self, agent: StandInAgent, answer: int) -> None:
        agent.answer = answer

        assert call("run", "--manifests", "/m", "--once").exit_code == answer

    def test_nothing_to_follow_is_wrong_usage(self, agent: StandInAgent) -> None:
        result = call("run")

        assert result.exit_code == 2
        assert said(result).startswith("Error: nothing to follow: give --manifests DIR")
        assert agent.called == ""

    def test_an_api_server_address_that_was_left_empty_is_named(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "")
        result = call("run")
        assert result.exit_code == 2
        assert "kubernetesServiceHost of the ConfigMap ipvsproxy" in said(result)

    def test_a_folder_by_flag_goes_before_the_api_server_of_the_file(
        self, agent: StandInAgent, tmp_path: Path
    ) -> None:
        path = tmp_path / "config.conf"
        path.write_text("kubeconfig: /k\n", "utf-8")

        assert call("run", "--config", str(path), "--manifests", "/m").exit_code == 0
        assert agent.called == "run"

    @pytest.mark.parametrize(
        ("flags", "environment"),
        [
            (("--manifests", "/m", "--kubeconfig", "/k"), {}),
            (("--kubeconfig", "/k"), {"IPVSPROXY_MANIFESTS": "/m"}),
            (("--master", "https://192.0.2.1"), {"IPVSPROXY_MANIFESTS": "/m"}),
        ],
    )
    def test_two_sources_are_wrong_usage(
        self,
        agent: StandInAgent,
        monkeypatch: pytest.MonkeyPatch,
        flags: tuple[str, ...],
        environment: dict[str, str],
    ) -> None:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)

        result = call("run", *flags)

        assert result.exit_code == 2
        assert result.stderr.startswith("Error: two sources: give either --manifests")
        assert agent.called == ""

    def test_in_a_pod_nothing_need_be_given(
        self, agent: StandInAgent, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")

        assert call("run").exit_code == 0
        assert agent.called == "run"

    @pytest.mark.usefixtures("agent")
    def test_a_wrong_value_is_one_line_and_2(self) -> None:
        result = call("run", "--manifests", "/m", "--default-scheduler", "fast")

        assert result.exit_code == 2
        assert result.stderr.startswith("Error: flag --default-scheduler: 'fast': one of rr, wrr,")
        assert result.stderr.count("\n") == 1

    @pytest.mark.usefixtures("agent")
    def test_a_file_that_cannot_be_read_is_wrong_usage(self, tmp_path: Path) -> None:
        result = call("run", "--config", str(tmp_path / "none.yaml"))

        assert result.exit_code == 2
        assert "none.yaml: cannot be read (No such file or directory)" in said(result)

    def test_the_file_is_read_and_what_it_asks_in_vain_is_logged(
        self, agent: StandInAgent, tmp_path: Path
    ) -> None:
        path = tmp_path / "config.conf"
        path.write_text(
            "kind: KubeProxyConfiguration\nipvs: {scheduler: sh}\nconfigSyncPeriod: 5m\n", "utf-8"
        )

        result = call("run", "--config", str(path), "--manifests", "/m", "--log-format", "json")

        assert agent.settings is not None
        assert agent.settings.default_scheduler == "sh"
        line = json.loads(result.stderr)
        assert line["level"] == "warning"
        assert line["node"] == "node-a"
        assert "configSyncPeriod" in line["warning"]

    @pytest.mark.usefixtures("agent")
    def test_at_debug_it_says_which_setting_came_from_where(self, tmp_path: Path) -> None:
        path = tmp_path / "config.yaml"
        path.write_text("syncPeriod: 1m\n", "utf-8")
        words = ("run", "--config", str(path), "--manifests", "/m", "--log-format", "json", "-v=4")

        lines = [json.loads(line) for line in call(*words).stderr.splitlines()]

        told = {line["setting"]: (line["value"], line["source"]) for line in lines}
        assert {line["level"] for line in lines} == {"debug"}
        assert told.keys() == {*effective(Settings(node_name="node-a"))}
        assert told["sync_period"] == (60.0, "file")
        assert told["manifests"] == ("/m", "flag")
        assert told["node_name"] == ("node-a", "environment")

    @pytest.mark.parametrize(
        "error",
        [
            DataplaneError("no IPVS: modprobe ip_vs"),
            AnotherAgentError("stop it first"),
            Unavailable("cannot reach https://192.0.2.1:6443: Connection refused"),
        ],
    )
    def test_what_an_operator_can_meet_is_one_line_and_1(
        self, agent: StandInAgent, error: Exception
    ) -> None:
        agent.error = error

        result = call("run", "--manifests", "/m")

        assert result.exit_code == 1
        assert result.stderr == f"Error: {error}\n"

    def test_an_error_of_a_task_is_told_like_any_other(self, agent: StandInAgent) -> None:
        agent.error = ExceptionGroup("", [ExceptionGroup("", [DataplaneError("no IPVS")])])

        assert call("run", "--manifests", "/m").stderr == "Error: no IPVS\n"

    def test_a_mistake_of_ours_is_not_made_one_line(self, agent: StandInAgent) -> None:
        agent.error = ExceptionGroup("", [DataplaneError("no IPVS"), TypeError("mistake")])

        assert call("run", "--manifests", "/m").exception is agent.error


KUBE_PROXY = (
    "--v=2 --config-sync-period=15m --proxy-mode=ipvs --feature-gates=A=true,B=false "
    "--kubeconfig=/k --cluster-cidr=10.244.0.0/16 --hostname-override=node-b --masquerade-all "
    "--conntrack-max-per-core=1000 --conntrack-min=2000 --conntrack-tcp-timeout-established=1h "
    "--conntrack-tcp-timeout-close-wait=5m --conntrack-tcp-be-liberal --conntrack-udp-timeout=10s "
    "--conntrack-udp-timeout-stream=20s --ipvs-scheduler=lc --ipvs-strict-arp=true "
    "--ipvs-exclude-cidrs=192.0.2.0/24 --ipvs-sync-period=1m --ipvs-min-sync-period=1s "
    "--ipvs-tcp-timeout=2h --ipvs-tcpfin-timeout=1m --ipvs-udp-timeout=30s --profiling=false "
    "--iptables-masquerade-bit=13 --iptables-sync-period=30s --nodeport-addresses=primary "
    "--healthz-bind-address=0.0.0.0:10256 --metrics-bind-address=127.0.0.1:10249 "
    "--bind-address=192.0.2.7 --oom-score-adj=-998 --logging-format=text --logtostderr=true "
    "--kube-api-qps=50 --detect-local-mode=ClusterCIDR --cleanup=false --alsologtostderr"
)


class TestKubeProxyFlags:
    def test_a_command_line_of_kube_proxy_starts_the_agent(self, agent: StandInAgent) -> None:
        result = call("run", *KUBE_PROXY.split(), "--log-format=json")

        assert (result.exit_code, agent.called) == (0, "run")
        read = agent.settings
        assert read is not None
        assert read.node_name == "node-b"
        assert (read.conntrack_max_per_core, read.conntrack_min) == (1000, 2000)
        assert (read.ipvs_tcp_timeout, read.ipvs_tcp_fin_timeout) == (7200, 60)
        assert (read.masquerade_bit, read.oom_score_adj, str(read.bind_address)) == (
            13,
            -998,
            "192.0.2.7",
        )
        (line,) = map(json.loads, result.stderr.splitlines())
        for name in ("--config-sync-period", "--feature-gates", "--profiling", "--logtostderr"):
            assert name in line["warning"]
        assert "--proxy-mode" not in line["warning"]
        assert agent.file is None

    @pytest.mark.parametrize("name", [*VALUES, *SWITCHES])
    def test_each_without_effect_is_accepted_and_named(
        self, agent: StandInAgent, name: str
    ) -> None:
        result = call("run", "--manifests=/m", "--log-format=json", f"{name}=true")
        assert agent.called == "run"
        assert f"{name} ({ {**VALUES, **SWITCHES}[name] })" in json.loads(result.stderr)["warning"]

    @pytest.mark.parametrize("flag", ["--cleanup", "--cleanup=true", "--cleanup-ipvs"])
    def test_a_clean_up_is_a_command_here(self, agent: StandInAgent, flag: str) -> None:
        result = call("run", "--manifests=/m", flag)
        assert (result.exit_code, agent.called) == (2, "")
        assert "run `ipvsproxy cleanup` instead" in result.stderr

    def test_the_configuration_is_written_and_means_the_same(self, tmp_path: Path) -> None:
        path = tmp_path / "written.yaml"
        flags = ("--hostname-override=n", "--ipvs-tcp-timeout=2h", "--drain-deadline=0.5s")
        assert call("run", f"--write-config-to={path}", *flags).exit_code == 0
        read = load({}, {}, path.read_text()).settings
        assert (read.ipvs_tcp_timeout, read.drain_deadline, read.node_name) == (7200, 0.5, "n")

    def test_the_configuration_file_is_followed(self, agent: StandInAgent, tmp_path: Path) -> None:
        path = tmp_path / "config.yaml"
        path.write_text("syncPeriod: 1m\n")
        call("run", "--config", str(path), "--manifests=/m", "--min-sync-period=2s")
        assert agent.file is not None
        assert agent.file.path == path
        path.write_text("syncPeriod: 2m\n")
        read = agent.file.read().settings
        assert (read.sync_period, read.min_sync_period) == (120, 2)


class TestInitOnly:
    @pytest.mark.parametrize(("verdict", "status"), [("ok", 0), ("warn", 0), ("fail", 1)])
    def test_what_was_done_is_said_and_no_source_is_needed(
        self, agent: StandInAgent, monkeypatch: pytest.MonkeyPatch, verdict: str, status: int
    ) -> None:
        check = Check("sysctl a.b", Verdict(verdict), "set to 1, was 0")
        monkeypatch.setattr(initial, "prepare", lambda _: (check,))
        result = call("run", "--init-only", "--strict-arp")
        assert (result.exit_code, agent.called) == (status, "")
        assert result.stdout == f"{verdict:<4}  sysctl a.b  set to 1, was 0\n"


class TestPlan:
    def test_without_all_of_the_source_nothing_to_change_is_no_answer(
        self, agent: StandInAgent
    ) -> None:
        agent.plan_report = PlanReport(problems=("Source /m: no such folder",), whole=False)

        result = call("plan", "--manifests", "/m")

        assert result.exit_code == 1
        assert "problem: Source /m: no such folder" in result.stdout

    @pytest.mark.usefixtures("agent")
    def test_nothing_to_change_is_0(self) -> None:
        result = call("plan", "--manifests", "/m")

        assert (result.exit_code, result.stdout) == (0, "0 changes would be made\n")

    def test_something_to_change_is_2_in_its_order(self, agent: StandInAgent) -> None:
        agent.plan_report = PlanReport(operations=("b", "a"), problems=("File x: bad",))

        result = call("plan", "--manifests", "/m")

        assert result.exit_code == 2
        assert result.stdout == "b\na\nproblem: File x: bad\n2 changes would be made\n"

    def test_as_json(self, agent: StandInAgent) -> None:
        agent.plan_report = PlanReport(operations=("a",))

        result = call("plan", "--manifests", "/m", "--output", "json")

        assert json.loads(result.stdout) == {
            "operations": ["a"],
            "problems": [],
            "whole": True,
            "lost_node_port_addresses": [],
        }

    @pytest.mark.parametrize("arguments", [(), ("--nonsense",), ("--manifests", "/m", "-v", "x")])
    def test_wrong_usage_is_1_as_2_means_changes(
        self, agent: StandInAgent, arguments: tuple[str, ...]
    ) -> None:
        assert call("plan", *arguments).exit_code == 1
        assert agent.called == ""


class TestCleanup:
    def test_it_tells_what_it_did(self, agent: StandInAgent) -> None:
        agent.cleanup_report = CleanupReport(operations=("remove x",))

        result = call("cleanup")

        assert agent.called == "cleanup dry_run=False"
        assert (result.exit_code, result.stdout) == (0, "remove x\n1 change made\n")

    def test_it_can_be_told_that_a_kube_proxy_runs(self, agent: StandInAgent) -> None:
        assert call("cleanup", "--take-over").exit_code == 0
        assert agent.settings is not None
        assert agent.settings.take_over

    def test_a_dry_run_tells_what_it_would_do(self, agent: StandInAgent) -> None:
        agent.cleanup_report = CleanupReport(operations=("remove x",))

        result = call("cleanup", "--dry-run")

        assert agent.called == "cleanup dry_run=True"
        assert result.stdout.endswith("1 change would be made\n")

    def test_what_stays_is_said_and_1(self, agent: StandInAgent) -> None:
        agent.cleanup_report = CleanupReport(refused=("destroy set A: in use",))

        result = call("cleanup")

        assert result.exit_code == 1
        assert "refused: destroy set A: in use\n" in result.stdout

    def test_it_hands_over_or_cleans_up_after_another(self, agent: StandInAgent) -> None:
        assert call("cleanup", "--hand-over", "--dry-run").exit_code == 0
        assert agent.called == "hand_over dry_run=True"
        for predecessor in Predecessor:
            assert call("cleanup", "--foreign", str(predecessor)).exit_code == 0
            assert agent.called == f"clean_up_after {predecessor} dry_run=False"
        assert set(PREDECESSORS) == set(Predecessor)

    def test_one_or_the_other(self, agent: StandInAgent) -> None:
        result = call("cleanup", "--hand-over", "--foreign", "kube-router")
        assert result.exit_code == 2
        assert "either --foreign or --hand-over" in result.stderr
        assert agent.called == ""

    @pytest.mark.usefixtures("agent")
    def test_a_clean_node_is_said_to_be_one(self) -> None:
        assert call("cleanup").stdout == "nothing to remove\n"
        assert call("cleanup", "--dry-run").stdout == "nothing to remove\n"


TABLE = StatusTable(
    rows=(
        StatusRow(
            service="default/web",
            port="http",
            protocol="TCP",
            address="10.0.0.1:80",
            scheduler="fo",
            annotated="dh",
            persistence=10800,
            real_servers=(
                RealServerRow(address="10.1.0.1:8080", weight=1, active=12, inactive=3),
                RealServerRow(
                    address="10.1.0.2:8080", weight=0, active=1, inactive=0, draining=True
                ),
            ),
            problems=("annotation is wrong",),
        ),
        StatusRow(
            service="default/web",
            port="https",
            protocol="TCP",
            address="10.0.0.1:443",
            scheduler="rr",
            problems=("annotation is wrong",),
        ),
    ),
    problems=("File [x].yaml: bad",),
    notes=("default/web: 1 of 2 endpoints probed",),
    agent="ipvsproxy 1 on node n, in step",
)
TEXT = """\
SERVICE      PORT   PROTOCOL  ADDRESS       SCHEDULER       PERSISTENCE  REAL SERVER    WEIGHT  ACTIVE  INACTIVE  STATE
default/web  http   TCP       10.0.0.1:80   fo (asked: dh)  10800s       10.1.0.1:8080       1      12         3
                                                                         10.1.0.2:8080       0       1         0  draining
default/web  https  TCP       10.0.0.1:443  rr              -            -

problem: File [x].yaml: bad
problem: default/web: annotation is wrong
note: default/web: 1 of 2 endpoints probed
ipvsproxy 1 on node n, in step
"""  # noqa: E501 - as it is printed

KINDS = StatusTable(
    rows=(
        StatusRow(
            service="default/web",
            port="http",
            protocol="TCP",
            address="10.0.0.1:80",
            scheduler="rr",
        ),
        StatusRow(
            service="default/web",
            port="http",
            kind="LoadBalancer",
            protocol="TCP",
            address="203.0.113.1:80",
            scheduler="rr",
        ),
        StatusRow(
            service="", port="53", kind="", protocol="UDP", address="10.0.0.9:53", scheduler="rr"
        ),
    ),
    agent="ipvsproxy 1 on node n, in step",
)
KINDS_TEXT = """\
SERVICE      PORT  PROTOCOL  KIND          ADDRESS         SCHEDULER  PERSISTENCE  REAL SERVER  WEIGHT  ACTIVE  INACTIVE  STATE
default/web  http  TCP       ClusterIP     10.0.0.1:80     rr         -            -
default/web  http  TCP       LoadBalancer  203.0.113.1:80  rr         -            -
-            53    UDP       -             10.0.0.9:53     rr         -            -

ipvsproxy 1 on node n, in step
"""  # noqa: E501 - as it is printed


class TestStatus:
    def test_the_table_has_a_line_for_each_real_server_and_problems_below(
        self, agent: StandInAgent
    ) -> None:
        agent.table = TABLE

        result = call("status")

        assert result.stdout == TEXT
        assert result.exit_code == 1

    def test_a_file_that_has_become_wrong_hides_nothing_where_only_the_environment_names_it(
        self, agent: StandInAgent, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        path = tmp_path / "config.yaml"
        path.write_text("syncPeriod: never\n", "utf-8")
        monkeypatch.setenv("IPVSPROXY_CONFIG", str(path))
        agent.table = TABLE

        result = call("status")

        assert result.stdout == TEXT
        assert said(result).startswith("Warning: configuration file, line 1, syncPeriod: ")
        assert call("status", "--config", str(path)).exit_code == 2

    @pytest.mark.usefixtures("agent")
    def test_without_an_agent_it_says_so(self) -> None:
        result = call("status")

        assert result.exit_code == 1
        assert result.stdout == f"no virtual server of ours\n\n{render.NO_AGENT}\n"

    @pytest.mark.parametrize(("in_step", "expected"), [(True, 0), (False, 1)])
    def test_an_agent_that_is_not_in_step_is_something_wrong(
        self, agent: StandInAgent, in_step: bool, expected: int
    ) -> None:
        agent.table = msgspec.structs.replace(KINDS, in_step=in_step)

        assert call("status").exit_code == expected

    def test_on_a_terminal_it_shows_the_same_words(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("COLUMNS", "200")
        stream = io.StringIO()
        monkeypatch.setattr(sys, "stdout", stream)

        render.status_on_terminal(TABLE)

        assert stream.getvalue().split() == TEXT.split()

    @pytest.mark.parametrize("width", [80, 120, 300])
    def test_no_address_is_broken_or_changed_on_a_terminal(
        self, monkeypatch: pytest.MonkeyPatch, width: int
    ) -> None:
        monkeypatch.setenv("COLUMNS", str(width))
        stream = io.StringIO()
        monkeypatch.setattr(sys, "stdout", stream)
        server = RealServerRow(
            address="[fd00:10:244:1234::5]:8080", weight=1, active=2, inactive=3, draining=True
        )
        row = StatusRow(
            service=f"production/{'a' * 40}",
            port="http",
            protocol="TCP",
            address="[fd00:10:96:1234::5]:80",
            scheduler="rr",
            real_servers=(server,),
        )

        render.status_on_terminal(StatusTable(rows=(row,)))

        shown = stream.getvalue()
        assert all(text in shown for text in (row.service, row.address, server.address, "draining"))
        assert len(shown.splitlines()[1]) <= max(width, 80)

    def test_kinds_are_a_column_where_there_is_more_than_one(self, agent: StandInAgent) -> None:
        agent.table = KINDS

        assert call("status").stdout == KINDS_TEXT

    def test_a_narrow_terminal_tells_kinds_too(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("COLUMNS", "60")
        stream = io.StringIO()
        monkeypatch.setattr(sys, "stdout", stream)

        render.status_on_terminal(KINDS)

        assert stream.getvalue().splitlines()[:2] == [
            "default/web http  10.0.0.1:80/TCP  rr",
            "default/web http  203.0.113.1:80/TCP  LoadBalancer  rr",
        ]

    def test_as_json(self, agent: StandInAgent) -> None:
        agent.table = TABLE

        shown = json.loads(call("status", "--output", "json").stdout)

        assert shown["rows"][0]["real_servers"][1]["draining"] is True
        assert shown["problems"] == ["File [x].yaml: bad"]


class TestLogs:
    def test_libraries_lines_have_our_form_and_their_debug_is_not_shown(self) -> None:
        stream = io.StringIO()
        logs.configure(LogFormat.AUTO, 4, node="n", stream=stream)

        structlog.get_logger().debug("ours", service="a/b")
        logging.getLogger("kubernetes_asyncio.client").debug("secret body")
        logging.getLogger("kubernetes_asyncio.client").warning("theirs %s", 1)

        ours, theirs = map(json.loads, stream.getvalue().splitlines())
        assert (ours["event"], ours["level"], ours["service"]) == ("ours", "debug", "a/b")
        assert (theirs["event"], theirs["level"]) == ("theirs 1", "warning")
        assert theirs["logger"] == "kubernetes_asyncio.client"
        assert ours.keys() >= {"ts", "node"}

    def test_beside_an_answer_only_errors_are_shown(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        logs.quiet()

        structlog.get_logger().warning("condition", problem="is in the answer too")
        structlog.get_logger().error("internal error")

        shown = capsys.readouterr().err
        assert "internal error" in shown
        assert "condition" not in shown

    def test_below_four_debug_is_not_shown(self) -> None:
        stream = io.StringIO()
        logs.configure(LogFormat.CONSOLE, 3, node="n", stream=stream)

        structlog.get_logger().debug("hidden")
        structlog.get_logger().info("shown", at="x")

        assert "hidden" not in stream.getvalue()
        assert "shown" in stream.getvalue()
        assert "at=x" in stream.getvalue()

    def test_a_name_that_is_not_utf_8_is_a_line_of_ascii(self) -> None:
        stream = io.StringIO()
        logs.configure(LogFormat.JSON, 2, node="n", stream=stream)

        structlog.get_logger().info("found", file=os.fsdecode(b"/m/\xff.yaml"), at=Path("/m"))

        assert stream.getvalue().isascii()
        assert json.loads(stream.getvalue())["file"] == "/m/\udcff.yaml"

    def test_a_traceback_is_part_of_the_line(self) -> None:
        stream = io.StringIO()
        logs.configure(LogFormat.JSON, 2, node="n", stream=stream)

        try:
            raise ValueError("broken")  # noqa: TRY301
        except ValueError:
            structlog.get_logger().exception("internal error")

        assert "ValueError: broken" in json.loads(stream.getvalue())["exception"]
