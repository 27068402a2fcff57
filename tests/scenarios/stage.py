"""A stage on which scenario pages are played: a folder, an agent and a kernel, all in memory.

The agent is the real one, wired up as its commands do it, with a clock that stands still until it
is moved. The folder is read by the folder source's own rules, without files. The kernel is the
fake, behind whatever the stage is told to put between.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import msgspec

from ipvsproxy.agent.wiring import Wiring, wire
from ipvsproxy.cli.render import status_text
from ipvsproxy.config import Settings, load
from ipvsproxy.core.ledger import Ownership
from ipvsproxy.core.operations import (
    CreateLink,
    CreateSet,
    Operation,
    ReplaceChains,
    SetSysctl,
    SetTimeouts,
    describe,
)
from ipvsproxy.core.probing import Target, Verdict
from ipvsproxy.dataplane import Dataplane, Refusal
from ipvsproxy.kernel.balance import Connection
from ipvsproxy.kernel.fake import (
    ALL_SCHEDULERS,
    FakeDataplane,
    FaultyDataplane,
    copy_state,
    random_refusals,
)
from ipvsproxy.model import Address, Network
from ipvsproxy.objects import ServiceName
from ipvsproxy.sources.manifests import Manifest, UnreadableManifest, read_manifest
from ipvsproxy.sources.picture import Picture, Reading, advance
from ipvsproxy.store import Judged
from ipvsproxy.telemetry import ConditionType, status_table
from tests.scenarios.kernel_lines import change_node_address, do_to, frontend
from tests.scenarios.pages import OWN_SETTINGS, Page, Section, Step

MOST_CYCLES = 200
PASSING = (Refusal.BUSY, Refusal.FAILED, Refusal.FULL, Refusal.INVALID, Refusal.CONTRADICTED)
"""Refusals that fault injection may give. UNSUPPORTED is none: it changes what is wanted, since
another scheduler is taken, and has scenarios of its own."""
_FOUNDATION = (CreateLink, CreateSet, ReplaceChains, SetSysctl, SetTimeouts)


class Clock:
    """Seconds that pass only when they are told to."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def settings_of(page: Page) -> Settings:
    """Give the settings that a page asks for; raises ConfigurationError."""
    said = page.settings
    file = "".join(f"{name}: {text}\n" for name, text in said.items() if name not in OWN_SETTINGS)
    read = load({}, {}, file or None, host_name=said.get("node", "node-a")).settings
    return msgspec.structs.replace(
        read,
        cluster_cidrs=_networks(said.get("cluster-cidr", "10.244.0.0/16 fd00:10:244::/48")),
        exclude_cidrs=_networks(said.get("exclude-cidrs", "")),
        # Less than a file may say: a page is to be read.
        set_capacity=int(said.get("set-capacity", read.set_capacity)),
    )


def nothing_between(fake: FakeDataplane) -> Dataplane:
    """Let the agent have the kernel as it is."""
    return fake


@dataclass(slots=True)
class Stage:
    """A folder, a kernel, and the agent between them."""

    settings: Settings
    fake: FakeDataplane = field(default_factory=FakeDataplane)
    between: Callable[[FakeDataplane], Dataplane] = nothing_between
    clock: Clock = field(default_factory=Clock)
    files: dict[str, str] = field(default_factory=dict)
    connections: dict[str, Connection | None] = field(default_factory=dict)
    started: bool = False
    _wiring: Wiring | None = None
    _picture: Picture = field(default_factory=Picture)

    @property
    def agent(self) -> Wiring:
        """The agent that runs now."""
        assert self._wiring is not None, "not started"
        return self._wiring

    async def start(self) -> None:
        """Start an agent on what the kernel has; one that ran before has died."""
        dataplane = self.between(self.fake)
        self._wiring = wire(self.settings, dataplane, clock=self.clock, wall_clock=self.clock)
        self._picture = Picture()
        await self.synchronise()

    async def synchronise(self) -> None:
        """Read the folder and run cycles until there is nothing left to do."""
        self._picture, events = advance(self._picture, self._read())
        for event in events:
            self.agent.take(event)
        await self.settle()

    async def settle(self) -> None:
        """Run cycles while they find something to do; give what was refused the time it needs.

        So has what drains: it is looked at with what has drained within half a second.
        """
        rested = False
        for _ in range(MOST_CYCLES):
            await self.agent.reconciler.cycle()
            if not self.agent.reconciler.busy and not rested:
                self.clock.now, rested = self.clock.now + 0.5, True
            if self.agent.reconciler.busy:
                continue
            if not self._refused() or self.between is nothing_between:
                return
            self.clock.now += 1
        raise AssertionError(f"not quiet after {MOST_CYCLES} cycles: {list(self.agent.conditions)}")

    async def wait(self, seconds: float) -> None:
        """Let time pass, in steps as short as the agent's own."""
        end = self.clock.now + seconds
        while self.clock.now < end:
            self.clock.now = min(end, self.clock.now + max(0.5, seconds / 200))
            if self.agent.reconciler.busy:
                await self.settle()

    async def wait_until_done(self) -> None:
        """Let time pass until nothing is refused any more."""
        for _ in range(MOST_CYCLES):
            if not self._refused():
                return
            await self.wait(1)
        raise AssertionError(f"still refused: {list(self.agent.conditions)}")

    async def act(self, step: Step) -> None:
        """Do what a step says; files that follow each other change at the same time."""
        unread = not self.started
        for action in step.actions:
            kind, _, name = action.heading.partition(" ")
            if kind in {"file", "delete"}:
                unread = True
                self._change(kind, name, action.text)
                continue
            if unread:
                await self._catch_up()
                unread = False
            await self._act_otherwise(kind, action)
        if unread:
            await self._catch_up()

    def read_all(self) -> Iterator[str]:
        """Say where each connection is."""
        for name, connection in self.connections.items():
            if connection is None:
                yield f"{name} refused"
            elif connection in self.fake.traffic.broken:
                yield f"{name} broken"
            else:
                yield f"{name} {connection.member}"

    async def _catch_up(self) -> None:
        if self.started:
            await self.synchronise()
        else:
            self.started = True
            await self.start()

    async def _act_otherwise(self, kind: str, action: Section) -> None:
        if kind == "kernel":
            do_to(self.fake.state, action.lines)
            self.fake.traffic.settle()
            return
        for line in action.lines:
            await self._command(line.split())

    async def _command(self, words: list[str]) -> None:
        match words:
            case ["connect", name, place, "from", client]:
                taken = self.fake.connect(frontend(place), Address.parse(client))
                self.connections[name] = taken
            case ["disconnect", name]:
                connection = self.connections.pop(name)
                assert connection is not None, f"{name} was refused"
                self.fake.disconnect(connection)
            case ["wait", seconds]:
                await self.wait(float(seconds))
            case ["restart"]:
                await self.start()
            case ["lack", scheduler]:
                self.fake.schedulers -= {scheduler}
            case ["have", scheduler]:
                self.fake.schedulers |= {scheduler}
            case ["node-address", verb, address, interface]:
                change_node_address(self.fake.state, verb, address, interface)
                self.agent.reconciler.network_changed()
                await self.wait(1)
            case ["probes", service, server, verdict]:
                self._judge(service, server, Verdict(verdict))
                await self.settle()
            case _:
                raise AssertionError(f"not understood: {' '.join(words)}")

    def _judge(self, service: str, server: str, verdict: Verdict) -> None:
        """Tell the agent what probes have come to; of what is not probed none comes to anything."""
        name, found = ServiceName(*service.split("/")), self.agent.reconciler.desired.probings
        targets = found[name].targets if name in found else frozenset[Target]()
        for target in targets:
            if str(target.server) == server:
                self.agent.take(Judged(target, verdict))

    def _change(self, kind: str, name: str, text: str) -> None:
        if kind == "file":
            self.files[name] = text
        else:
            del self.files[name]

    def _read(self) -> Reading:
        manifests: dict[str, Manifest] = {}
        problems: dict[str, str] = {}
        for name, text in self.files.items():
            try:
                manifests[name] = read_manifest(text.encode(), name)
            except UnreadableManifest as error:
                problems[name] = str(error)
        return Reading(manifests, problems)

    def _refused(self) -> bool:
        kinds = {condition.type for condition in self.agent.conditions}
        return ConditionType.OPERATION_REFUSED in kinds


async def set_up(page: Page, faults: random.Random | None = None) -> Stage:
    """Set the stage for a page; with `faults` three in ten operations are refused."""
    lacks = frozenset(page.settings.get("lacks", "").split())
    fake = FakeDataplane(schedulers=ALL_SCHEDULERS - lacks)
    between = nothing_between if faults is None else _faulty(faults)
    stage = Stage(settings_of(page), fake, between)
    if page.kernel is not None:
        do_to(fake.state, page.kernel.lines)
    else:
        stage.started = True
        await stage.start()
        fake.applied.clear()
    return stage


def _faulty(source: random.Random) -> Callable[[FakeDataplane], Dataplane]:
    return lambda fake: FaultyDataplane(fake, random_refusals(source, 0.3, kinds=PASSING))


async def outcome(stage: Stage, page: Page, step: Step) -> dict[str, str]:
    """Say what has come of a step, in the form of its expectations; empty ones too."""
    operations = [one for one in stage.fake.applied if not isinstance(one, _left_out(page))]
    stage.fake.applied.clear()
    texts = {
        "operations": _lines(_described(operations)),
        "ipvsadm": stage.fake.text(),
        "redirects": _lines(_redirects(stage)),
        "connections": _lines(stage.read_all()),
        "conditions": _lines(
            f"{one.subject}: {one.type}: {one.message}" for one in stage.agent.conditions
        ),
        "status": await _status(stage) if "status" in step.expected else "",
    }
    return {heading: text.strip() for heading, text in texts.items()}


def _left_out(page: Page) -> tuple[type[Operation], ...]:
    """Give the kinds of operations that a page does not show."""
    if page.settings.get("foundation") == "shown":
        return ()
    shown = (ReplaceChains,) if page.settings.get("chains") == "shown" else ()
    return tuple(kind for kind in _FOUNDATION if kind not in shown)


def _redirects(stage: Stage) -> Iterator[str]:
    for _, ruleset in sorted(stage.fake.state.rulesets.items()):
        for chain in ruleset.chains:
            if chain.name == "KUBE-SPLIT":
                yield from (" ".join(rule) for rule in chain.rules if "DNAT" in rule)


def end_of(stage: Stage) -> tuple[object, ...]:
    """Give everything that two runs of a page must agree in."""
    return copy_state(stage.fake.state), sorted(stage.read_all())


async def _status(stage: Stage) -> str:
    state = stage.fake.state
    ours = Ownership(state)
    readings = await stage.fake.read([key for key in state.virtual_servers if key in ours])
    found = {key: reading for key, reading in readings.items() if reading is not None}
    text = status_text(status_table(found, await stage.agent.status()))
    return "\n".join(line.rstrip() for line in text.splitlines() if "ipvsproxy " not in line)


def _described(operations: list[Operation]) -> Iterator[str]:
    return (describe(operation) for operation in operations)


def _lines(lines: Iterator[str]) -> str:
    return "\n".join(lines)


def _networks(text: str) -> tuple[Network, ...]:
    return tuple(map(Network.parse, text.split()))
