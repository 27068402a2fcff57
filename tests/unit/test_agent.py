"""The agent's commands, from a folder to a kernel in memory: what they do, and what they answer."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from ipvsproxy.agent import (
    AnotherAgentError,
    cleanup,
    commands,
    lock,
    plan,
    run,
    run_once,
    running,
    status,
)
from ipvsproxy.agent.lock import only_agent
from ipvsproxy.config import Settings
from ipvsproxy.core.operations import AddVirtualServer, Operation, ReplaceChains
from ipvsproxy.dataplane import Dataplane, DataplaneError, Outcome, Refusal
from ipvsproxy.http import Neighbour
from ipvsproxy.kernel.fake import FakeDataplane, FaultyDataplane, copy_state, fresh_state
from ipvsproxy.model import Address, Network, RealServer, State, VirtualServer
from tests.unit.builders import frontend, member

WEB = """\
apiVersion: v1
kind: Service
metadata: {name: web, namespace: default}
spec: {clusterIP: 10.96.0.10, ports: [{port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, namespace: default, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{port: 8080}]
endpoints: [{addresses: [10.244.1.5]}]
"""
OTHER = """\
apiVersion: v1
kind: Service
metadata: {name: other, namespace: default, annotations: {ipvsproxy.io/scheduler: SCHEDULER}}
spec: {clusterIP: 10.96.0.11, ports: [{port: 80}]}
"""
SERVED, FOREIGN = frontend(), frontend("198.51.100.7", 25)


class Node:
    """A node: its kernel, and a folder of manifests."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.fake = FakeDataplane()
        self.kernel: Dataplane = self.fake
        self.settings = Settings(
            node_name="node-a",
            manifests=str(folder),
            healthz_bind_address="",
            metrics_bind_address="",
            take_over=True,
        )

    def write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text)

    def refuse(self, kind: type[Operation]) -> None:
        self.kernel = FaultyDataplane(
            self.fake, lambda one: Refusal.FAILED if isinstance(one, kind) else None
        )


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Node:
    node = Node(tmp_path)
    for module in (commands, running):
        monkeypatch.setattr(module, "LinuxDataplane", lambda *_, **_named: node.kernel)
    monkeypatch.setattr(lock, "_NAME", f"\0ipvsproxy-test-{os.getpid()}-{id(node)}")
    return node


class TestRunOnce:
    async def test_what_is_asked_for_is_there_and_a_second_time_nothing_is_written(
        self, node: Node
    ) -> None:
        node.write("web.yaml", WEB)
        assert await run_once(node.settings) == 0
        assert node.fake.state.real_servers == {SERVED: {member("10.244.1.5"): RealServer(1)}}
        assert node.fake.state.addresses == {SERVED.address}
        assert node.fake.closed
        writes = node.fake.writes
        assert await run_once(node.settings) == 0
        assert node.fake.writes == writes

    async def test_an_empty_folder_is_an_answer_and_a_missing_one_is_not(
        self, node: Node, capsys: pytest.CaptureFixture[str]
    ) -> None:
        node.write("web.yaml", WEB)
        await run_once(node.settings)
        served, writes = copy_state(node.fake.state), node.fake.writes
        (node.folder / "web.yaml").rename(node.folder / "web.txt")
        node.folder.rename(node.folder.with_name("elsewhere"))
        assert await run_once(node.settings) == 1
        assert (node.fake.state, node.fake.writes) == (served, writes)
        assert f"Source {node.folder}" in capsys.readouterr().out
        node.folder.with_name("elsewhere").rename(node.folder)
        assert await run_once(node.settings) == 0
        assert node.fake.state.virtual_servers == {}

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("kind: [", "bad.yaml"),
            (OTHER.replace("10.96.0.11", "10.96.0.1100"), "spec.clusterIP"),
            (OTHER.replace("SCHEDULER", "fastest"), "'fastest' is no scheduler"),
            (OTHER.replace("SCHEDULER", "lc"), "no scheduler lc"),
        ],
        ids=["broken", "nonsense", "wrong-annotation", "lacking-scheduler"],
    )
    async def test_one_thing_wrong_is_said_and_the_rest_is_served(
        self, node: Node, capsys: pytest.CaptureFixture[str], text: str, said: str
    ) -> None:
        node.fake.schedulers -= {"lc"}
        node.write("web.yaml", WEB)
        node.write("bad.yaml", text)
        assert await run_once(node.settings) == 1
        assert SERVED in node.fake.state.virtual_servers
        assert said in capsys.readouterr().out

    @pytest.mark.parametrize(
        ("right", "wrong"),
        [("10.96.0.10", "10.96.0.1000"), ("{kubernetes.io/service-name: web}", "[web]")],
        ids=["address", "slice-label"],
    )
    async def test_what_becomes_nonsense_between_two_runs_stays_as_it_was(
        self, node: Node, right: str, wrong: str
    ) -> None:
        node.write("web.yaml", WEB)
        await run_once(node.settings)
        served = copy_state(node.fake.state)
        node.write("web.yaml", WEB.replace(right, wrong))
        assert await run_once(node.settings) == 1
        assert node.fake.state == served

    async def test_without_the_default_scheduler_services_are_served_by_rr(
        self, node: Node, capsys: pytest.CaptureFixture[str]
    ) -> None:
        node.fake.schedulers -= {"lc"}
        node.write("web.yaml", WEB)
        settings = msgspec.structs.replace(node.settings, default_scheduler="lc")
        assert await run_once(settings) == 1
        assert [one.scheduler for one in node.fake.state.virtual_servers.values()] == ["rr"]
        assert node.fake.state.addresses == {SERVED.address}
        assert "no scheduler lc, the default; rr stays" in capsys.readouterr().out

    async def test_a_lacking_scheduler_is_replaced_in_the_same_run(self, node: Node) -> None:
        node.fake.schedulers -= {"lc"}
        node.write("other.yaml", OTHER.replace("SCHEDULER", "lc"))
        await run_once(node.settings)
        assert [one.scheduler for one in node.fake.state.virtual_servers.values()] == ["rr"]

    async def test_what_the_kernel_refuses_is_a_failure(self, node: Node) -> None:
        node.write("web.yaml", WEB)
        node.refuse(AddVirtualServer)
        assert await run_once(node.settings) == 1
        assert node.fake.state.addresses == set()

    async def test_a_second_agent_touches_nothing(self, node: Node) -> None:
        node.write("web.yaml", WEB)
        with only_agent(), pytest.raises(AnotherAgentError):
            await run_once(node.settings)
        assert (node.fake.writes, node.fake.dumps) == (0, 0)


class TestPlan:
    async def test_it_says_what_a_run_does_and_does_nothing(self, node: Node) -> None:
        node.write("web.yaml", WEB)
        report = await plan(node.settings)
        assert node.fake.writes == 0
        assert report.problems == ()
        assert report.operations[-3:] == (
            "add virtual server 10.96.0.10:80/TCP scheduler rr",
            "add real server 10.244.1.5:8080 weight 1 to 10.96.0.10:80/TCP",
            "bind address 10.96.0.10",
        )
        await run_once(node.settings)
        assert len(node.fake.applied) == len(report.operations)
        assert (await plan(node.settings)).operations == ()

    async def test_it_names_what_is_wrong(self, node: Node) -> None:
        node.write("bad.yaml", "kind: [")
        report = await plan(node.settings)
        assert len(report.problems) == 1
        assert report.problems[0].startswith(f"Source {node.folder}/bad.yaml: line ")
        assert not report.whole


class TestCleanup:
    async def test_all_that_is_ours_goes_and_nothing_else(self, node: Node) -> None:
        node.fake.state.virtual_servers[FOREIGN] = VirtualServer("wlc")
        node.fake.state.real_servers[FOREIGN] = {}
        node.write("web.yaml", WEB)
        await run_once(node.settings)
        before, writes = copy_state(node.fake.state), node.fake.writes
        would = await cleanup(node.settings, dry_run=True)
        assert (node.fake.state, node.fake.writes) == (before, writes)

        assert await cleanup(node.settings) == would
        expected = fresh_state()
        expected.virtual_servers[FOREIGN] = VirtualServer("wlc")
        expected.real_servers[FOREIGN] = {}
        expected.sysctls = before.sysctls
        assert node.fake.state == expected
        assert (await cleanup(node.settings)).operations == ()

    async def test_beside_a_kube_proxy_it_is_refused_unless_told_and_looking_is_not(
        self, node: Node, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def find(_: str) -> Neighbour:
            return Neighbour("ipvs", "127.0.0.1:10249", is_ours=False)

        monkeypatch.setattr(lock, "find_neighbour", find)
        node.write("web.yaml", WEB)
        await run_once(node.settings)
        before = copy_state(node.fake.state)
        with pytest.raises(AnotherAgentError, match=r"kube-proxy in ipvs mode .*--take-over"):
            await cleanup(Settings(node_name="node-a"))
        assert node.fake.state == before
        assert (await cleanup(Settings(node_name="node-a"), dry_run=True)).operations
        assert (await cleanup(node.settings)).operations
        assert node.fake.state.virtual_servers == {}

    async def test_excluded_networks_stay(self, node: Node) -> None:
        node.write("web.yaml", WEB)
        await run_once(node.settings)
        excluding = Settings(
            node_name="node-a", exclude_cidrs=(Network.parse("10.96.0.0/16"),), take_over=True
        )
        await cleanup(excluding)
        assert SERVED in node.fake.state.virtual_servers

    async def test_what_was_refused_or_given_up_is_not_said_to_be_done(self, node: Node) -> None:
        node.write("web.yaml", WEB)
        await run_once(node.settings)
        node.refuse(ReplaceChains)
        report = await cleanup(node.settings)
        assert report.operations == (
            "remove the dummy interface",
            "remove virtual server 10.96.0.10:80/TCP",
        )
        assert len([line for line in report.refused if "chains" in line]) == 2
        assert len([line for line in report.refused if line.startswith("destroy set")]) == 42
        assert len(node.fake.state.sets) == 42


class TestStatus:
    async def test_without_an_agent_it_shows_what_the_kernel_has_of_ours(self, node: Node) -> None:
        node.write("web.yaml", WEB)
        await run_once(node.settings)
        node.fake.state.virtual_servers[FOREIGN] = VirtualServer("wlc")
        node.fake.state.real_servers[FOREIGN] = {}
        table = await status(node.settings)
        assert table.agent is None
        assert [(row.service, row.address) for row in table.rows] == [("", "10.96.0.10:80")]


class TestRun:
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    async def test_it_follows_the_folder_until_told_to_stop_and_leaves_the_kernel_as_it_is(
        self, node: Node, number: signal.Signals
    ) -> None:
        node.write("web.yaml", WEB)
        applied = Applied()
        node.kernel = applied
        task = asyncio.create_task(run(node.settings))
        await applied.until_bound(SERVED.address)
        os.kill(os.getpid(), number)
        assert await asyncio.wait_for(task, 10) == 0
        assert applied.closed
        assert SERVED in applied.state.virtual_servers

    async def test_a_kernel_that_cannot_be_read_ends_it_with_the_reason(self, node: Node) -> None:
        node.kernel = Applied(unreadable="no IPVS in this kernel")
        reason = pytest.RaisesExc(DataplaneError, match="no IPVS in this kernel")
        with pytest.RaisesGroup(reason):
            await asyncio.wait_for(run(node.settings), 10)


class Applied(FakeDataplane):
    """A kernel that says when something was done to it, or one that cannot be read."""

    def __init__(self, unreadable: str = "") -> None:
        super().__init__()
        self.unreadable = unreadable
        self.changed = asyncio.Condition()

    async def dump(self) -> State:
        if self.unreadable:
            raise DataplaneError(self.unreadable)
        return await super().dump()

    async def apply(self, operations: Sequence[Operation]) -> Sequence[Outcome]:
        outcomes = await super().apply(operations)
        async with self.changed:
            self.changed.notify_all()
        return outcomes

    async def until_bound(self, address: Address) -> None:
        async with asyncio.timeout(10), self.changed:
            await self.changed.wait_for(lambda: address in self.state.addresses)
