"""A real server that is new climbs to its weight, and goes on after a restart."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import pytest

from ipvsproxy.config import Settings
from ipvsproxy.core.probing import Target, Verdict
from ipvsproxy.core.weights import resuming
from ipvsproxy.core.weights.climbing import NOBODY_CLIMBS, Climb, Climbing
from ipvsproxy.core.weights.resuming import resumed
from ipvsproxy.core.weights.shaping import Shaping, shaped
from ipvsproxy.core.weights.slow_start import climbs, next_step, step, steps
from ipvsproxy.kernel.fake import FakeDataplane
from ipvsproxy.model import Address, Network, Protocol, RealServer, RealServerKey, VirtualServerKey
from ipvsproxy.objects import Capacity, Node, Service
from ipvsproxy.store import Judged, Listed
from tests.unit.builders import Agent, frontend, member, part, service

A, B, C = (RealServerKey(Address.parse(f"10.1.0.{index}"), 8080) for index in (1, 2, 3))
KEY = VirtualServerKey(Protocol.TCP, Address.parse("10.96.0.1"), 80)
WEB = frontend()
MINUTE = Shaping(slow_start=60)


@pytest.mark.parametrize(
    ("duration", "count"), [(2, 3), (3, 3), (5, 5), (10, 11), (18, 19), (60, 19), (3600, 19)]
)
def test_steps_are_few_and_not_sooner_than_a_second_after_another(
    duration: int, count: int
) -> None:
    assert steps(duration) == count
    assert step(0.0, duration) == 1
    assert step(duration, duration) == count
    elapsed, seen = 0.0, [1]
    while seen[-1] < count:
        due = next_step(elapsed, duration)
        assert due - elapsed >= 1.0 or count == 3
        elapsed = due
        seen.append(step(elapsed, duration))
    assert seen == list(range(1, count + 1))


def real(**weights: int) -> dict[RealServerKey, RealServer]:
    return {{"a": A, "b": B, "c": C}[name]: RealServer(weight) for name, weight in weights.items()}


@pytest.mark.parametrize(
    ("wanted", "found", "began", "climbing"),
    [
        pytest.param({A: 1, B: 1}, real(a=1), {}, {B: 100.0}, id="one that is new"),
        pytest.param({A: 1, B: 1}, real(a=1, b=0), {}, {B: 100.0}, id="one that comes back"),
        pytest.param({A: 1, B: 1}, real(), {}, {}, id="all are new"),
        pytest.param({B: 1}, real(a=1), {}, {}, id="nobody else takes connections"),
        pytest.param({A: 0, B: 1}, real(a=1), {}, {}, id="nobody else is to take them"),
        pytest.param({A: 1, B: 0}, real(a=1), {}, {}, id="one of weight 0"),
        pytest.param({A: 1, B: 1}, real(a=1, b=1), {}, {}, id="nobody is new"),
        pytest.param({A: 1, B: 1}, real(a=1), {B: 50.0}, {B: 50.0}, id="refused, and not anew"),
        pytest.param({A: 1, B: 1}, real(a=9, b=3), {B: 50.0}, {B: 50.0}, id="goes on"),
        pytest.param({A: 1, B: 1}, real(a=9, b=3), {B: 40.0}, {}, id="done"),
        pytest.param({A: 1}, real(a=9, b=3), {B: 50.0}, {}, id="gone"),
        pytest.param(
            {A: 1, B: 1, C: 1}, real(a=9, b=3), {B: 50.0}, {B: 50.0, C: 100.0}, id="a third one"
        ),
    ],
)
def test_who_climbs(
    wanted: dict[RealServerKey, int],
    found: dict[RealServerKey, RealServer],
    began: dict[RealServerKey, float],
    climbing: dict[RealServerKey, float],
) -> None:
    assert climbs(wanted, found, began, duration=60, now=100.0) == climbing


@pytest.mark.parametrize("reached", range(1, 20))
@pytest.mark.parametrize("weights", [{A: 1, B: 1, C: 1}, {A: 3, B: 2, C: 5}, {A: 10, B: 20, C: 0}])
@pytest.mark.parametrize("scheduler", ["wrr", "sh", "mh"])
def test_a_restart_finds_the_step_that_was_reached(
    scheduler: str, weights: dict[RealServerKey, int], reached: int
) -> None:
    at = {B: reached} if reached < 19 else {}
    kernel = {
        one: RealServer(weight) for one, weight in shaped(weights, MINUTE, scheduler, at).items()
    }
    found = resumed(weights, kernel, shaping=MINUTE, scheduler=scheduler).steps
    assert found.keys() == at.keys() or scheduler != "wrr"
    assert abs(found.get(B, 19) - reached) <= (0 if scheduler != "sh" else 1)


@pytest.fixture
def worked_out(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many weights were worked out, by guess."""
    counted: list[int] = []

    def counting(
        weights: Mapping[RealServerKey, int],
        shaping: Shaping,
        scheduler: str,
        climbing: Mapping[RealServerKey, int],
    ) -> dict[RealServerKey, int]:
        counted.append(len(weights))
        return shaped(weights, shaping, scheduler, climbing)

    monkeypatch.setattr(resuming, "shaped", counting)
    return counted


def many(count: int) -> list[RealServerKey]:
    return [RealServerKey(Address((0x0A000000 + index).to_bytes(4)), 80) for index in range(count)]


def test_of_thousands_the_likeliest_guesses_are_made_all_the_same(worked_out: list[int]) -> None:
    """All of them climb, half a step behind the others: with the tenth guess they are found."""
    members = many(6200)
    wanted = dict.fromkeys(members, 1)
    at = {member: 10 - index % 2 for index, member in enumerate(members)}
    kernel = {one: RealServer(told) for one, told in shaped(wanted, MINUTE, "wrr", at).items()}
    assert resumed(wanted, kernel, shaping=MINUTE, scheduler="wrr") == (at, False)
    assert len(worked_out) <= 21


def test_where_others_are_wanted_than_there_were_few_guesses_are_made(
    worked_out: list[int],
) -> None:
    members = many(20)
    own = frozenset(members[:7])
    shaping = Shaping(slow_start=60, preference=90, own_zone=own, zones=3)
    wanted = {member: 3 + index for index, member in enumerate(members)}
    at = dict.fromkeys(members[5:9], 7)
    kernel = {one: RealServer(told) for one, told in shaped(wanted, shaping, "wrr", at).items()}
    del kernel[members[-1]]
    assert not resumed(wanted, kernel, shaping=shaping, scheduler="wrr").stays
    assert len(worked_out) <= 21


def test_guesses_that_give_the_own_zone_another_share_are_not_worked_out(
    worked_out: list[int],
) -> None:
    members = many(20)
    shaping = Shaping(slow_start=60, preference=90, own_zone=frozenset(members[:3]), zones=3)
    wanted = {member: 3 + index for index, member in enumerate(members)}
    kernel = {one: RealServer(told) for one, told in shaped(wanted, shaping, "wrr", {}).items()}
    changed = {**wanted, members[-1]: 900}
    assert not resumed(changed, kernel, shaping=shaping, scheduler="wrr").stays
    assert len(worked_out) < 60, "of 361"


def test_a_restart_without_a_climb_finds_none() -> None:
    for scheduler in ("wrr", "sh", "mh", "ovf"):
        wanted = {A: 100, B: 70, C: 7}
        full = shaped(wanted, MINUTE, scheduler, {})
        kernel = {one: RealServer(weight) for one, weight in full.items()}
        assert resumed(wanted, kernel, shaping=MINUTE, scheduler=scheduler) == ({}, False)


def test_the_memory_says_when_the_next_step_is_due() -> None:
    climbing = Climbing()
    weights, found = {A: 1, B: 1}, real(a=1)

    def at(now: float) -> Climb:
        return climbing.steps(KEY, weights, found, shaping=MINUTE, scheduler="wrr", now=now)

    assert at(100.0) == Climb({B: 1})
    due = climbing.next_due or 0.0
    assert due == pytest.approx(100 + 60 / 18)
    assert climbing.due(due - 0.1) == set()
    assert climbing.due(due) == {KEY}
    assert at(due) == Climb({B: 2})
    found |= real(b=2)
    assert at(160.0) == NOBODY_CLIMBS
    assert climbing.due(1000.0) == set()
    climbing.forget(KEY)


def slow(seconds: str = "60s", *, source: str = "", scheduler: str = "") -> Service:
    others = {"ipvsproxy.io/weight-source": source, "ipvsproxy.io/scheduler": scheduler}
    written = service()
    return Service(
        written.name,
        cluster_ips=written.cluster_ips,
        ports=written.ports,
        annotations=(
            ("ipvsproxy.io/slow-start", seconds),
            *((name, text) for name, text in others.items() if text),
        ),
    )


def weights_of(fake: FakeDataplane) -> dict[str, int]:
    return {str(one.address): found.weight for one, found in fake.state.real_servers[WEB].items()}


async def test_a_new_endpoint_climbs_in_a_running_agent() -> None:
    fake = FakeDataplane()
    agent = Agent(fake)
    agent.list_all([slow(), part("web", "10.244.1.1", "10.244.1.2")])
    await agent.settle()
    assert weights_of(fake) == {"10.244.1.1": 1, "10.244.1.2": 1}
    assert fake.state.virtual_servers[WEB].scheduler == "wrr"
    agent.put(part("web", "10.244.1.1", "10.244.1.2", "10.244.1.3"))
    await agent.settle()
    assert weights_of(fake) == {"10.244.1.1": 19, "10.244.1.2": 19, "10.244.1.3": 1}
    seen = []
    for _ in range(61):
        agent.clock.now += 1
        await agent.settle()
        seen.append(weights_of(fake)["10.244.1.3"])
    assert sorted(set(seen[:59])) == list(range(1, 19))
    assert seen == [*sorted(seen[:59]), 1, 1]
    assert weights_of(fake) == {"10.244.1.1": 1, "10.244.1.2": 1, "10.244.1.3": 1}


async def test_a_climb_goes_on_though_nodes_come_after_a_restart() -> None:
    fake = FakeDataplane()
    agent = Agent(fake)
    nodes = [Node(name, capacity=Capacity(4000)) for name in ("node-a", "node-b")]
    web = slow(source="cpu")
    agent.list_all([*nodes, web, part("web", "10.244.1.1")])
    agent.store.apply(Listed("Nodes"))
    await agent.settle()
    agent.put(part("web", "10.244.1.1", "10.244.1.3"))
    for _ in range(31):
        agent.clock.now += 1
        await agent.settle()
    reached, writes = weights_of(fake), fake.writes
    assert reached == {"10.244.1.1": 19, "10.244.1.3": 10}
    again = Agent(fake)
    again.list_all([*nodes[:1], web, part("web", "10.244.1.1", "10.244.1.3")])
    await again.settle()
    assert "NodesUnknown" in str(again.said())
    again.put(*nodes)
    again.store.apply(Listed("Nodes"))
    await again.settle()
    assert (weights_of(fake), fake.writes) == (reached, writes)
    again.clock.now += 4
    await again.settle()
    assert weights_of(fake) == {"10.244.1.1": 19, "10.244.1.3": 11}


async def test_nobody_climbs_where_the_scheduler_does_not_go_by_weights() -> None:
    fake = FakeDataplane()
    agent = Agent(fake)
    web = slow(scheduler="rr")
    agent.list_all([web, part("web", "10.244.1.1", "10.244.1.2")])
    await agent.settle()
    writes = fake.writes
    agent.put(part("web", "10.244.1.1", "10.244.1.2", "10.244.1.3"))
    for _ in range(61):
        agent.clock.now += 1
        await agent.settle()
    assert set(weights_of(fake).values()) == {1}
    assert fake.writes == writes + 1


async def test_a_climb_survives_the_agent() -> None:
    fake = FakeDataplane()
    agent = Agent(fake)
    agent.list_all([slow(), part("web", "10.244.1.1")])
    await agent.settle()
    agent.put(part("web", "10.244.1.1", "10.244.1.3"))
    for _ in range(31):
        agent.clock.now += 1
        await agent.settle()
    reached = weights_of(fake)
    assert reached == {"10.244.1.1": 19, "10.244.1.3": 10}
    again = Agent(fake)
    again.list_all([slow(), part("web", "10.244.1.1", "10.244.1.3")])
    await again.settle()
    assert weights_of(fake) == reached, "a restart writes nothing"
    again.clock.now += 4
    await again.settle()
    assert weights_of(fake) == {"10.244.1.1": 19, "10.244.1.3": 11}
    again.clock.now += 60
    await again.settle()
    assert weights_of(fake) == {"10.244.1.1": 1, "10.244.1.3": 1}


def test_what_comes_near_stays_until_the_next_step() -> None:
    """Two climb at steps of their own; of 256 buckets it cannot be told which these are."""
    six = [RealServerKey(Address.parse(f"10.1.0.{number}"), 8080) for number in range(6)]
    weights = dict(zip(six, (40, 3, 2, 40, 1, 5), strict=True))
    reached = {six[0]: 2, six[1]: 14}
    told = shaped(weights, MINUTE, "sh", reached)
    kernel = {one: RealServer(weight) for one, weight in told.items()}
    climbing = Climbing()

    def at(now: float, wanted: dict[RealServerKey, int]) -> Climb:
        return climbing.steps(KEY, wanted, kernel, shaping=MINUTE, scheduler="sh", now=now)

    found = at(100.0, weights)
    assert found == Climb({six[0]: 2, six[1]: 13}, told)
    assert at(101.0, weights) == found
    assert not at(102.0, {**weights, six[2]: 3}).stays, "something else is wanted"
    assert not at(102.0, weights).stays
    climbing.forget(KEY)
    assert at(100.0, weights) == found
    due = climbing.next_due or 0.0
    assert at(due, weights) == Climb({six[0]: 3, six[1]: 14})


@pytest.mark.parametrize("scheduler", ["wrr", "sh", "mh"])
@pytest.mark.parametrize("raised", [False, True])
def test_a_weight_that_was_changed_while_nobody_was_there_is_no_rounding(
    scheduler: str, *, raised: bool
) -> None:
    before, now = {A: 3, B: 2, C: 1}, {A: 3, B: 3 if raised else 1, C: 1}
    kernel = {one: RealServer(at) for one, at in shaped(before, MINUTE, scheduler, {}).items()}
    climb = Climbing().steps(KEY, now, kernel, shaping=MINUTE, scheduler=scheduler, now=100.0)
    assert not climb.stays or B in climb.steps, "it is climbed to"
    deduced = Shaping(deduced=True)
    climb = Climbing().steps(KEY, now, kernel, shaping=deduced, scheduler=scheduler, now=100.0)
    assert climb == NOBODY_CLIMBS


async def test_who_is_used_though_it_fails_has_its_whole_weight_at_once() -> None:
    fake = FakeDataplane()
    settings = Settings(node_name="node-a", cluster_cidrs=(Network.parse("10.244.0.0/16"),))
    agent = Agent(fake, settings=settings)
    four = [f"10.244.1.{number}" for number in range(1, 5)]
    web = slow()
    checked = (*web.annotations, ("ipvsproxy.io/health-check", "tcp"))
    agent.list_all([msgspec.structs.replace(web, annotations=checked), part("web", *four)])
    agent.store.apply(Listed("Nodes"))
    await agent.settle()

    async def judge(verdict: Verdict, *addresses: str) -> dict[str, int]:
        for address in addresses:
            target = Target(web.name, Protocol.TCP, member(address))
            agent.store.apply(Judged(target, verdict))
        await agent.settle()
        return weights_of(fake)

    assert await judge(Verdict.UNHEALTHY, *four[:2]) == dict(zip(four, (0, 0, 1, 1), strict=True))
    assert await judge(Verdict.UNHEALTHY, four[2]) == dict.fromkeys(four, 1), "none of them climbs"
    found = await judge(Verdict.HEALTHY, four[2])
    assert found == dict(zip(four, (0, 0, 1, 1), strict=True))
    found = await judge(Verdict.HEALTHY, four[0])
    assert found == dict(zip(four, (1, 0, 19, 19), strict=True)), "who has risen climbs"


@pytest.mark.parametrize("wrong", ["a minute", ""])
async def test_a_climb_goes_on_though_its_text_is_wrong_after_a_restart(wrong: str) -> None:
    fake = FakeDataplane()
    agent = Agent(fake)
    agent.list_all([slow("30s"), part("web", "10.244.1.1")])
    await agent.settle()
    both = part("web", "10.244.1.1", "10.244.1.3")
    agent.put(both)
    for _ in range(16):
        agent.clock.now += 1
        await agent.settle()
    reached = weights_of(fake)
    assert reached == {"10.244.1.1": 19, "10.244.1.3": 10}
    again = Agent(fake)
    again.list_all([slow(wrong), both])
    await again.settle()
    assert weights_of(fake) == reached
    (said,) = again.conditions
    assert said.message.endswith("; '60s' stays")
    again.clock.now += 4
    await again.settle()
    assert weights_of(fake) == {"10.244.1.1": 19, "10.244.1.3": 11}, "a step each 3.3 s"
    again.clock.now += 60
    await again.settle()
    assert weights_of(fake) == {"10.244.1.1": 1, "10.244.1.3": 1}


async def test_a_wrong_text_after_a_restart_makes_no_slow_start_where_weights_are_equal() -> None:
    fake = FakeDataplane()
    agents = [Agent(fake), Agent(fake)]
    for agent, text in zip(agents, ("30s", "a minute"), strict=True):
        agent.list_all([slow(text), part("web", "10.244.1.1", "10.244.1.2")])
        await agent.settle()
    agents[1].put(part("web", "10.244.1.1", "10.244.1.2", "10.244.1.3"))
    await agents[1].settle()
    assert set(weights_of(fake).values()) == {1}
