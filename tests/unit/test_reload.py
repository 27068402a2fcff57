"""The configuration file, followed: what counts at once, what needs a restart, what is wrong."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from ipvsproxy.agent.reload import ConfigFile, Reloader, _watch
from ipvsproxy.agent.wiring import Wiring, wire
from ipvsproxy.config import Resolved, Settings, load
from ipvsproxy.config.fields import NEED_RESTART, READERS
from ipvsproxy.core.operations import Operation, SetSysctl, SetTimeouts
from ipvsproxy.dataplane import Outcome
from ipvsproxy.kernel.fake import FakeDataplane
from ipvsproxy.model import Scheduler, Timeouts
from ipvsproxy.sources.directory import DirectorySource
from ipvsproxy.telemetry import status_table
from tests.unit.test_agent import SERVED, WEB


class WatchedDataplane(FakeDataplane):
    """A fake that tells of its writes."""

    def __init__(self) -> None:
        super().__init__()
        self.written = asyncio.Event()

    async def apply(self, operations: Sequence[Operation]) -> Sequence[Outcome]:
        outcomes = await super().apply(operations)
        self.written.set()
        return outcomes


class Agent:
    """An agent in step with one Service, and its configuration file."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "config.yaml"
        self.fake = WatchedDataplane()
        self.took: list[Settings] = []
        self.path.write_text("defaultScheduler: rr\n")
        settings = self.read().settings
        self.wiring: Wiring = wire(settings, self.fake, wall_clock=lambda: 1000.0)
        file = ConfigFile(self.path, read=self.read, took=self.took.append)
        self.reloader = Reloader(file, self.wiring, lambda: 2000.0)

    def read(self) -> Resolved:
        return load({"verbosity": "3"}, {}, self.path.read_text(), host_name="node-a")

    async def start(self, manifests: Path) -> None:
        async for event in DirectorySource(manifests).once():
            self.wiring.take(event)
        await self.settle()

    async def settle(self) -> None:
        for _ in range(5):
            await self.wiring.reconciler.cycle()

    async def look(self, text: str) -> list[str]:
        """Write the file, have it looked at, carry out what follows; return the log's events."""
        self.path.write_text(text)
        with capture_logs() as lines:
            self.reloader.look()
        await self.settle()
        return [str(line["event"]) for line in lines]

    @property
    def successful(self) -> float:
        return self.value("ipvsproxy_config_last_reload_successful")

    @property
    def restart_needed(self) -> float:
        return self.value("ipvsproxy_config_restart_needed")

    def value(self, name: str) -> float:
        value = self.wiring.metrics.registry.get_sample_value(name)
        assert value is not None
        return value


def with_web(folder: Path) -> Path:
    folder.mkdir()
    (folder / "web.yaml").write_text(WEB)
    return folder


@pytest.fixture
async def agent(tmp_path: Path) -> Agent:
    made = Agent(tmp_path)
    await made.start(with_web(tmp_path / "manifests"))
    return made


async def test_what_can_change_live_counts_from_the_next_cycle_on(agent: Agent) -> None:
    assert agent.fake.state.virtual_servers[SERVED].scheduler == "rr"
    written = len(agent.fake.applied)

    events = await agent.look("defaultScheduler: lc\nipvsTcpTimeout: 2h\nstrictARP: true\n")

    assert events == ["configuration read anew"]
    assert agent.fake.state.virtual_servers[SERVED].scheduler == "lc"
    assert agent.fake.state.timeouts == Timeouts(7200, 120, 300)
    later = agent.fake.applied[written:]
    assert SetTimeouts(Timeouts(7200, 120, 300)) in later
    assert not any(isinstance(one, SetSysctl) for one in later)  # the fake has no arp_ignore
    assert agent.wiring.settings.default_scheduler is Scheduler.LC
    assert agent.took == [agent.wiring.settings]
    assert agent.wiring.settings.verbosity == 3  # by flag, still


async def test_the_health_limit_follows_the_sync_period(agent: Agent) -> None:
    await agent.look("syncPeriod: 5s\n")
    assert agent.wiring.health.limit == 10


async def test_the_same_settings_are_no_change(agent: Agent) -> None:
    written = agent.fake.writes
    assert await agent.look("# a comment\ndefaultScheduler: 'rr'\n") == []
    assert (agent.fake.writes, agent.took) == (written, [])


async def test_what_needs_a_restart_is_named_and_keeps_its_value(agent: Agent) -> None:
    agent.path.write_text("metricsBindAddress: ''\ndefaultScheduler: lc\nwatchNodes: never\n")
    with capture_logs() as lines:
        agent.reloader.look()
        agent.reloader.look()
    anew, restart = lines
    assert anew["changed"] == "defaultScheduler"
    assert (restart["event"], restart["fields"]) == (
        "a restart is needed",
        "watchNodes, metricsBindAddress",
    )
    assert agent.wiring.settings.metrics_bind_address == "127.0.0.1:10249"
    assert agent.restart_needed == 2
    told = status_table({}, await agent.wiring.status()).agent
    assert told is not None
    assert told.endswith("a restart is needed for watchNodes, metricsBindAddress")

    await agent.look("defaultScheduler: lc\n")
    assert agent.restart_needed == 0
    assert (await agent.wiring.status()).restart_needed == ()


async def test_two_changes_before_a_cycle_end_with_the_last(agent: Agent) -> None:
    agent.path.write_text("defaultScheduler: lc\n")
    agent.reloader.look()
    await agent.look("defaultScheduler: rr\n")
    assert agent.wiring.settings.default_scheduler is Scheduler.RR
    assert agent.fake.state.virtual_servers[SERVED].scheduler == "rr"


async def test_a_wrong_file_keeps_the_settings_and_is_told_once(agent: Agent) -> None:
    agent.path.write_text("defaultScheduler: lc\nsyncPeriod: soon\n")
    with capture_logs() as lines:
        agent.reloader.look()
        agent.reloader.look()
    (line,) = lines
    assert line["log_level"] == "error"
    assert "configuration file, line 2, syncPeriod: 'soon'" in line["problem"]
    (condition,) = agent.wiring.conditions
    assert (condition.subject, condition.type) == ("Configuration", "InvalidConfiguration")
    assert agent.wiring.settings.default_scheduler is Scheduler.RR
    assert agent.successful == 0

    assert await agent.look("defaultScheduler: rr\n") == ["configuration read anew"]
    assert len(agent.wiring.conditions) == 0
    assert agent.successful == 1


def test_every_field_that_needs_a_restart_is_a_setting() -> None:
    assert READERS.keys() >= NEED_RESTART


# ------------------------------------------------------------------------------ a real file


@contextlib.asynccontextmanager
async def followed(agent: Agent) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(agent.reloader.run()),
            group.create_task(agent.wiring.reconciler.run()),
        ]
        yield
        for task in tasks:
            task.cancel()


async def until_scheduler(agent: Agent, scheduler: str) -> None:
    """Wait for what is in the kernel, woken by each write."""
    async with asyncio.timeout(20):
        while agent.fake.state.virtual_servers[SERVED].scheduler != scheduler:
            agent.fake.written.clear()
            await agent.fake.written.wait()


async def test_a_file_that_is_renamed_over_it_is_read(agent: Agent) -> None:
    async with followed(agent):
        for scheduler in ("lc", "sh"):
            new = agent.path.with_suffix(".new")
            new.write_text(f"defaultScheduler: {scheduler}\n")
            new.replace(agent.path)
            await until_scheduler(agent, scheduler)


async def test_a_name_that_is_not_utf_8_beside_it_ends_nothing(agent: Agent) -> None:
    folder = agent.path.parent
    changed, stop = asyncio.Event(), asyncio.Event()
    watch = asyncio.create_task(_watch(folder, changed, stop))
    await asyncio.sleep(0)
    with capture_logs() as lines:
        os.mknod(os.fsencode(folder) + b"/\xff")
        await asyncio.wait_for(watch, 20)
    (line,) = lines
    assert line["event"].startswith("the configuration's folder cannot be watched")
    assert "\\xFF" in line["reason"]


async def test_a_mounted_config_map_is_read_when_its_link_is_swapped(tmp_path: Path) -> None:
    volume = tmp_path / "volume"
    for name, scheduler in (("..one", "rr"), ("..two", "mh")):
        (volume / name).mkdir(parents=True)
        (volume / name / "config.yaml").write_text(f"defaultScheduler: {scheduler}\n")
    (volume / "..data").symlink_to("..one")
    agent = Agent(tmp_path)
    agent.path.unlink()
    agent.path = volume / "config.yaml"
    agent.path.symlink_to("..data/config.yaml")
    file = ConfigFile(agent.path, read=agent.read, took=agent.took.append)
    agent.reloader = Reloader(file, agent.wiring, lambda: 2000.0)
    await agent.start(with_web(tmp_path / "manifests"))
    async with followed(agent):
        (volume / "..new").symlink_to("..two")
        (volume / "..new").replace(volume / "..data")
        await until_scheduler(agent, "mh")
