"""Probes that are late, or cannot be made, are told; in virtual time, with a real prober."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from ipvsproxy.core.annotations.health_check import Check, Probe, TcpProbe
from ipvsproxy.core.probing import Probing, Target
from ipvsproxy.model import Address, Protocol, RealServerKey
from ipvsproxy.objects import ServiceName
from ipvsproxy.probe import Outcome, Prober, Punctuality
from ipvsproxy.telemetry import Condition, Conditions, ConditionType

pytestmark = pytest.mark.looptime

WEB = ServiceName("default", "web")
HANGING = Check(TcpProbe(), interval=10.0, timeout=5.0, jitter=0.0)
TARGETS = frozenset(
    Target(WEB, Protocol.TCP, RealServerKey(Address(number.to_bytes(4)), 80))
    for number in range(100)
)
"""Fifty of them are under way at a time when none answers."""


class World:
    """A prober of endpoints that end as `outcome` says, and what is told of it."""

    def __init__(self, room: int) -> None:
        self.outcome = Outcome.TIMEOUT
        self.conditions = Conditions()
        self.heard: list[Condition] = []
        """Conditions that were told, of which an Event is made."""
        spread = iter(range(10**6))
        self.prober = Prober(
            ask=self.ask,
            observe=lambda _: None,
            clock=asyncio.get_running_loop().time,
            chance=lambda: next(spread) % 100 / 100,
            room=room,
        )

    def ask(
        self,
        _server: RealServerKey,
        _probe: Probe,
        timeout: float,
        answered: Callable[[Outcome], None],
    ) -> Callable[[], None]:
        delay = timeout if self.outcome is Outcome.TIMEOUT else 0.01
        return asyncio.get_running_loop().call_later(delay, answered, self.outcome).cancel

    @asynccontextmanager
    async def probing(self, *, most: int) -> AsyncIterator[None]:
        self.prober.update({WEB: Probing(HANGING, TARGETS)}, stretch=1, most=most)
        told = Punctuality(
            self.prober,
            self.conditions,
            wall_clock=lambda: 1000.0,
            tell=lambda condition, _: self.heard.append(condition),
        )
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self.prober.run()), group.create_task(told.run())]
            yield
            for task in tasks:
                task.cancel()

    def told(self) -> Condition | None:
        found = [*self.conditions]
        assert len(found) <= 1
        assert all(one.subject == "Node" for one in found)
        assert all(one.type is ConditionType.HEALTH_CHECKS_LATE for one in found)
        return found[0] if found else None


async def test_who_can_have_as_many_under_way_as_are_needed_is_never_late() -> None:
    world = World(room=60)
    async with world.probing(most=1000):
        for _ in range(60):
            await asyncio.sleep(1)
            assert world.told() is None
        assert world.prober.worst == 50


@pytest.mark.parametrize(
    ("most", "room", "cause"),
    [(20, 1000, "healthCheckConcurrency"), (1000, 20, "limit of open files")],
)
async def test_who_is_late_by_the_bound_says_which_one_until_it_is_in_time_again(
    most: int, room: int, cause: str
) -> None:
    world = World(room)
    async with world.probing(most=most):
        await asyncio.sleep(30)
        found = world.told()
        assert found is not None
        assert cause in found.message
        assert "20 are under way" in found.message
        assert world.heard == [found]
        world.outcome = Outcome.SUCCESS
        await asyncio.sleep(30)
        assert world.told() is None


async def test_probes_that_cannot_be_made_are_told() -> None:
    world = World(room=60)
    world.outcome = Outcome.NOT_TRIED
    async with world.probing(most=60):
        await asyncio.sleep(20)
        found = world.told()
        assert found is not None
        assert "no open file" in found.message
        world.outcome = Outcome.SUCCESS
        await asyncio.sleep(20)
        assert world.told() is None


async def test_a_moment_of_lateness_is_not_told() -> None:
    world = World(room=60)
    async with world.probing(most=60):
        await asyncio.sleep(20)
        world.prober.most = 1
        await asyncio.sleep(3)
        world.prober.most = 60
        for _ in range(20):
            await asyncio.sleep(1)
            assert world.told() is None


async def test_a_processor_that_does_not_keep_up_is_told() -> None:
    world = World(room=60)
    late = Punctuality(world.prober, world.conditions, wall_clock=lambda: 1000.0)
    world.prober.update({WEB: Probing(HANGING, TARGETS)}, stretch=1, most=60)
    await asyncio.sleep(20)  # the prober does not run
    for _ in range(3):
        late.look()
    found = world.told()
    assert found is not None
    assert "does not keep up with 100 endpoints" in found.message
