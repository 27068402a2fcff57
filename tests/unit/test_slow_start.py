"""A real server that is new climbs to its weight, and goes on after a restart."""

from __future__ import annotations

import pytest

from ipvsproxy.core.weights.climbing import Climbing
from ipvsproxy.core.weights.shaping import Shaping, shaped
from ipvsproxy.core.weights.slow_start import climbs, next_step, resumed, step, steps
from ipvsproxy.kernel.fake import FakeDataplane
from ipvsproxy.model import Address, Protocol, RealServer, RealServerKey, VirtualServerKey
from ipvsproxy.objects import Capacity, Node, Service
from ipvsproxy.store import Listed
from tests.unit.builders import Agent, frontend, part, service

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
    full = shaped(weights, MINUTE, scheduler, {})
    began = resumed(full, kernel, duration=60, now=500.0)
    found = {one: step(500.0 - since, 60) for one, since in began.items()}
    assert found.keys() == at.keys() or scheduler != "wrr"
    assert abs(found.get(B, 19) - reached) <= (0 if scheduler != "sh" else 1)


def test_a_restart_without_a_climb_finds_none() -> None:
    for scheduler in ("wrr", "sh", "mh", "ovf"):
        full = shaped({A: 100, B: 70, C: 7}, MINUTE, scheduler, {})
        kernel = {one: RealServer(weight) for one, weight in full.items()}
        assert resumed(full, kernel, duration=60, now=500.0) == {}


def test_the_memory_says_when_the_next_step_is_due() -> None:
    climbing = Climbing()
    weights, found = {A: 1, B: 1}, real(a=1)

    def at(now: float) -> dict[RealServerKey, int]:
        return climbing.steps(KEY, weights, found, shaping=MINUTE, scheduler="wrr", now=now)

    assert at(100.0) == {B: 1}
    due = climbing.next_due or 0.0
    assert due == pytest.approx(100 + 60 / 18)
    assert climbing.due(due - 0.1) == set()
    assert climbing.due(due) == {KEY}
    assert at(due) == {B: 2}
    found |= real(b=2)
    assert at(160.0) == {}
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
