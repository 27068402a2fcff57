"""More changes than one cycle takes: a few Services at a time, nobody overtaken, nothing lost."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from ipvsproxy.config import Settings
from ipvsproxy.core.operations import RemoveRealServer
from ipvsproxy.kernel.fake import FakeDataplane
from ipvsproxy.model import RealServer
from ipvsproxy.store import Gone
from tests.unit.builders import Agent, frontend, member, part, service, service_reference

MANY = 600
MOST = 256
"""Services of a cycle."""
ALL = range(1, MANY + 1)


def address(index: int) -> str:
    return f"10.96.{1 + index // 200}.{1 + index % 200}"


def pod(index: int, generation: int) -> str:
    return f"10.{generation}.{1 + index // 200}.{1 + index % 200}"


def change(agent: Agent, indices: Iterable[int]) -> None:
    """Give Services another endpoint in the place of the one they have."""
    agent.put(*(part(f"s{index}", pod(index, 2)) for index in indices))


def changed(fake: FakeDataplane) -> list[int]:
    """Name the Services of which the other endpoint is there."""
    return [
        index
        for index in ALL
        if member(pod(index, 2)) in fake.state.real_servers[frontend(address(index))]
    ]


async def at_rest(settings: Settings | None = None) -> tuple[Agent, FakeDataplane]:
    fake = FakeDataplane()
    agent = Agent(fake, settings=settings)
    agent.list_all(service(f"s{index}", address(index)) for index in ALL)
    agent.put(*(part(f"s{index}", pod(index, 1)) for index in ALL))
    await agent.settle()
    assert changed(fake) == []
    return agent, fake


async def looked(agent: Agent) -> None:
    """Have those looked at that are left: all that waits is looked at together, a little later."""
    agent.clock.now += 0.5
    await agent.settle()


async def test_a_start_takes_all_services_at_once() -> None:
    fake = FakeDataplane()
    agent = Agent(fake)
    agent.list_all(service(f"s{index}", address(index)) for index in ALL)
    await agent.reconciler.cycle()  # those that all others wait for
    assert agent.reconciler.applied_revision == -1
    await agent.reconciler.cycle()
    assert (agent.store.dirty, agent.reconciler.applied_revision) == (0, agent.store.revision)


async def test_those_that_have_waited_longest_come_first() -> None:
    agent, fake = await at_rest()
    change(agent, reversed(ALL))
    await agent.reconciler.cycle()
    assert changed(fake) == list(ALL[-MOST:])
    assert agent.reconciler.pending >= MANY - MOST


async def test_it_is_known_how_far_the_kernel_has_come() -> None:
    agent, fake = await at_rest()
    before = agent.store.revision
    change(agent, ALL)
    report = await agent.reconciler.cycle()
    assert agent.reconciler.applied_revision == report.covers == before + MOST
    change(agent, ALL[:MOST])
    assert agent.store.revision == before + MANY, "the same again is no change"
    await agent.settle()
    assert agent.reconciler.applied_revision == agent.store.revision
    await looked(agent)
    assert all(
        fake.state.real_servers[frontend(address(index))] == {member(pod(index, 2)): RealServer(1)}
        for index in ALL
    )


async def test_who_changes_all_the_time_keeps_nobody_waiting() -> None:
    agent, fake = await at_rest()
    noisy = ALL[:MOST]
    change(agent, ALL)
    for turn in range(MANY // MOST + 1):
        await agent.reconciler.cycle()
        agent.put(*(part(f"s{one}", pod(one, 3 + turn)) for one in noisy))
    assert set(ALL) - set(noisy) <= set(changed(fake))


async def test_who_was_deleted_meanwhile_is_not_served_first() -> None:
    agent, fake = await at_rest()
    change(agent, ALL)
    agent.store.apply(Gone(service_reference(f"s{MANY}")))
    await agent.settle()
    await looked(agent)
    assert frontend(address(MANY)) not in fake.state.virtual_servers
    assert len(fake.state.virtual_servers) == MANY - 1


async def test_what_is_compared_as_a_whole_is_not_kept_waiting_by_a_storm() -> None:
    agent, fake = await at_rest()
    fake.state.real_servers[frontend(address(1))].clear()
    agent.reconciler.audit_soon()
    change(agent, ALL[1:])
    await agent.reconciler.cycle()
    assert changed(fake) == list(ALL[1:])
    assert fake.state.real_servers[frontend(address(1))]


async def test_a_pause_between_cycles_has_all_changes_carried_out_at_its_end() -> None:
    agent, fake = await at_rest(Settings(node_name="node-a", min_sync_period=1.0))
    change(agent, ALL)
    await agent.reconciler.cycle()
    assert changed(fake) == list(ALL)


async def test_what_is_left_in_a_storm_is_looked_at_together() -> None:
    agent, fake = await at_rest()
    fake.applied.clear()
    for index in ALL[:10]:
        agent.clock.now += 0.04
        change(agent, [index])
        await agent.settle()
    removed = [one.key for one in fake.applied if isinstance(one, RemoveRealServer)]
    assert removed == [frontend(address(1))], "the first comes after quiet"
    agent.clock.now += 0.5
    await agent.reconciler.cycle()
    removed = [one.key for one in fake.applied if isinstance(one, RemoveRealServer)]
    assert removed == [frontend(address(index)) for index in ALL[:10]]
    assert agent.reconciler.draining == {}


@pytest.mark.parametrize("pause", [0.0, 1.0])
async def test_a_great_many_that_are_left_are_looked_at_in_turns(pause: float) -> None:
    """Without a pause between them; where cycles are far between, all at once."""
    agent, _ = await at_rest(Settings(node_name="node-a", min_sync_period=1.0))
    change(agent, ALL)
    await agent.reconciler.cycle()
    assert len(agent.reconciler.draining) == MANY
    agent.reconciler.configure(Settings(node_name="node-a", min_sync_period=pause))
    for left in (344, 88, 0) if not pause else (0,):
        assert agent.reconciler.busy
        await agent.reconciler.cycle()
        assert len(agent.reconciler.draining) == left
