"""Whatever a source says between two turns of a cycle, the end is as if it had said so before."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import partial

import pytest

from ipvsproxy.core.portions import portions
from ipvsproxy.kernel.fake import FakeDataplane, copy_state
from ipvsproxy.model import State, VirtualServerKey
from ipvsproxy.objects import KubernetesObject
from ipvsproxy.reconciler import planning, translation, turns, writer
from ipvsproxy.store import Event, Gone, Put, Readable, Unreadable
from tests.unit.builders import (
    Agent,
    frontend,
    part,
    service,
    service_reference,
    slice_reference,
)

SIZE = 6
MOST_TURNS = 2000
AN_HOUR = 3600.0


def objects() -> list[KubernetesObject]:
    return [one for number in range(SIZE) for one in web(number)]


def web(number: int, *pods: str, port: int = 80) -> tuple[KubernetesObject, KubernetesObject]:
    addresses = pods or (f"10.1.0.{number + 1}", f"10.2.0.{number + 1}")
    one = service(f"web-{number}", f"10.96.0.{number + 1}", port)
    return one, part(f"web-{number}", *addresses)


def key(number: int, port: int = 80) -> VirtualServerKey:
    return frontend(f"10.96.0.{number + 1}", port)


EVENTS: Mapping[str, tuple[Event, ...]] = {
    "another Service": tuple(Put(one, "a.yaml") for one in web(SIZE)),
    "another port": (Put(web(2, port=81)[0], "a.yaml"),),
    "another endpoint": (Put(web(3, "10.1.0.4", "10.3.0.4")[1], "a.yaml"),),
    "a Service less": (Gone(service_reference("web-4")), Gone(slice_reference("web-4-1"))),
    "a slice less": (Gone(slice_reference("web-5-1")),),
    "a leftover's address": (
        Put(service("late", "10.96.0.99"), "a.yaml"),
        Put(part("late", "10.1.0.99"), "a.yaml"),
    ),
}


@pytest.fixture(autouse=True)
def _smallest_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give way as often as may be."""
    monkeypatch.setattr(turns, "A_TURN", 1)
    monkeypatch.setattr(translation, "_AT_A_TIME", 1)
    monkeypatch.setattr(writer, "_ANSWERS", 1)
    monkeypatch.setattr(planning, "portions", partial(portions, at_once=1))


async def kernel_of_before() -> FakeDataplane:
    """Give a kernel with some of the Services, one that is no more, and a real server too many."""
    fake = FakeDataplane()
    agent = Agent(fake)
    agent.list_all((*web(0), *web(1), *web(2, "10.1.0.3", "10.9.9.9")))
    agent.put(service("old", "10.96.0.99"), part("old", "10.1.0.98"))
    await at_rest(agent)
    return fake


async def at_rest(agent: Agent) -> None:
    """Let an hour go by, in which all that drains is gone."""
    for _ in range(4):
        await agent.settle()
        agent.clock.now += AN_HOUR


async def stepped(agent: Agent, events: tuple[Event, ...], turn: int) -> int:
    """Run a cycle with events after so many turns; give how many turns it took."""
    cycle = asyncio.create_task(agent.reconciler.cycle())
    for number in range(MOST_TURNS):
        if number == turn:
            for event in events:
                agent.store.apply(event)
        if cycle.done():
            await cycle
            return number
        await asyncio.sleep(0)
    raise AssertionError("a cycle does not end")


def tables(state: State) -> tuple[object, ...]:
    return (
        state.virtual_servers,
        state.real_servers,
        state.addresses,
        state.members,
        state.rulesets,
    )


@pytest.mark.parametrize("what", EVENTS)
async def test_the_end_does_not_depend_on_when_an_event_comes(what: str) -> None:
    before = await kernel_of_before()
    expected = FakeDataplane(copy_state(before.state))
    agent = Agent(expected)
    agent.list_all(objects())
    for event in EVENTS[what]:
        agent.store.apply(event)
    await at_rest(agent)
    turn, longest = 0, 1
    while turn < longest:
        fake = FakeDataplane(copy_state(before.state))
        agent = Agent(fake)
        agent.list_all(objects())
        longest = await stepped(agent, EVENTS[what], turn)
        await at_rest(agent)
        assert tables(fake.state) == tables(expected.state), turn
        turn += 1 + longest // 40
    assert longest > 40


async def test_what_is_wanted_stands_in_every_turn_though_a_file_is_broken_and_mended() -> None:
    before = await kernel_of_before()
    standing = {key(0), key(1), key(2)}
    turn, longest = 0, 1
    while turn < longest:
        fake = FakeDataplane(copy_state(before.state))
        agent = Agent(fake)
        agent.list_all(objects())
        longest = await stepped(agent, (Unreadable("b.yaml", "no YAML"),), turn)
        assert fake.state.virtual_servers.keys() >= standing
        await at_rest(agent)
        assert fake.state.virtual_servers.keys() >= standing
        await stepped(agent, (Readable("b.yaml"),), 0)
        await at_rest(agent)
        assert fake.state.virtual_servers.keys() == {key(number) for number in range(SIZE)}
        turn += 1 + longest // 40
