"""From a probe to the kernel's table: the whole agent but its sockets, in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import pytest

from ipvsproxy.agent.wiring import Wiring, wire
from ipvsproxy.config import Settings, WatchNodes
from ipvsproxy.core.annotations.health_check import Probe
from ipvsproxy.core.probing import NODES_GIVEN_UP, NODES_MISSED
from ipvsproxy.dataplane import Counters, DataplaneError
from ipvsproxy.kernel.fake import FakeDataplane
from ipvsproxy.model import Address, Network, NodeNetwork, RealServerKey, VirtualServerKey
from ipvsproxy.objects import Node, Service
from ipvsproxy.probe import Outcome
from ipvsproxy.store import KINDS, Gone, Listed, Put
from ipvsproxy.telemetry import ConditionType, status_table
from tests.unit.builders import frontend, member, part, service, service_reference

pytestmark = pytest.mark.looptime

FOUR = ("10.244.1.1", "10.244.1.2", "10.244.1.3", "10.244.1.4")
INTERVAL, TIMEOUT, RISE, FALL = 5.0, 1.0, 2, 3
DETECTION = FALL * INTERVAL * 1.1 + TIMEOUT + 0.1
RECOVERY = RISE * INTERVAL * 1.1 + 0.1


class Kernel(FakeDataplane):
    """Remembers whose counters were read, and can be out of order."""

    def __init__(self) -> None:
        super().__init__()
        self.counted: list[VirtualServerKey] = []
        self.unreadable = False

    async def counters_of(
        self, keys: Collection[VirtualServerKey]
    ) -> Mapping[VirtualServerKey, Counters]:
        self.counted += keys
        if self.unreadable:
            raise DataplaneError("no netlink today")
        return await super().counters_of(keys)


@dataclass
class World:
    """An agent on a kernel in memory; endpoints do what `outcomes` says, else well."""

    fake: Kernel = field(default_factory=Kernel)
    outcomes: dict[RealServerKey, Outcome] = field(default_factory=dict)
    asked: list[RealServerKey] = field(default_factory=list)

    def ask(
        self,
        server: RealServerKey,
        _probe: Probe,
        timeout: float,
        answered: Callable[[Outcome], None],
    ) -> Callable[[], None]:
        self.asked.append(server)
        outcome = self.outcomes.get(server, Outcome.SUCCESS)
        delay = timeout if outcome is Outcome.TIMEOUT else 0.01
        return asyncio.get_running_loop().call_later(delay, answered, outcome).cancel

    @asynccontextmanager
    async def agent(self, **settings: object) -> AsyncIterator[Wiring]:
        loop = asyncio.get_running_loop()
        made = Settings(
            node_name="node-a",
            cluster_cidrs=(Network.parse("10.244.0.0/16"),),
            **settings,  # type: ignore[arg-type]
        )
        wiring = wire(made, self.fake, clock=loop.time, wall_clock=loop.time)
        wiring.prober._ask = self.ask
        for kind in KINDS:
            wiring.take(Listed(kind))
        tasks = [
            asyncio.create_task(wiring.reconciler.run()),
            asyncio.create_task(wiring.prober.run()),
            asyncio.create_task(wiring.probed_traffic.run()),
        ]
        try:
            yield wiring
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def weights(self) -> list[int]:
        found = self.fake.state.real_servers.get(frontend(), {})
        return [found[member(one)].weight if member(one) in found else -1 for one in FOUR]

    async def seconds_until(self, weights: list[int], *, within: float) -> float:
        loop = asyncio.get_running_loop()
        began = loop.time()
        with suppress(TimeoutError):
            async with asyncio.timeout(within):
                while self.weights() != weights:  # noqa: ASYNC110 - virtual time
                    await asyncio.sleep(0.05)
        assert self.weights() == weights
        return loop.time() - began


def checked(on_failure: str = "keep", more: str = "") -> Service:
    made = service()
    options = f"interval=5s, timeout=1s, rise=2, fall=3, on-failure={on_failure}{more}"
    return Service(
        made.name,
        cluster_ips=made.cluster_ips,
        ports=made.ports,
        annotations=(
            ("ipvsproxy.io/health-check", "tcp"),
            ("ipvsproxy.io/health-check-options", options),
        ),
    )


def publish(wiring: Wiring, what: Service) -> None:
    wiring.take(Put(what, "a.yaml"))
    wiring.take(Put(part("web", *FOUR), "a.yaml"))
    wiring.take(Listed("Nodes"))


@pytest.mark.parametrize(
    "outcome", [Outcome.TIMEOUT, Outcome.REFUSED, Outcome.RESET, Outcome.STATUS, Outcome.MALFORMED]
)
async def test_one_that_fails_is_out_in_the_time_that_is_configured_and_back(
    outcome: Outcome,
) -> None:
    world = World()
    async with world.agent() as wiring:
        publish(wiring, checked())
        await asyncio.sleep(60)
        assert world.weights() == [1, 1, 1, 1]
        world.outcomes[member(FOUR[1])] = outcome
        await world.seconds_until([1, 0, 1, 1], within=DETECTION)
        status = await wiring.status()
        assert status.services[0].frontends[0].unhealthy == ("10.244.1.2:8080",)
        await wiring.scrape()
        sample = wiring.metrics.registry.get_sample_value
        assert (
            sample("ipvsproxy_unhealthy_endpoints", {"namespace": "default", "service": "web"}) == 1
        )
        assert (sample("ipvsproxy_health_checks_total", {"outcome": str(outcome)}) or 0) >= FALL
        assert sample("ipvsproxy_health_check_targets") == len(FOUR)
        world.outcomes.clear()
        await world.seconds_until([1, 1, 1, 1], within=RECOVERY)


async def test_the_whole_service_failing_leaves_it_as_it_is_and_says_so() -> None:
    world = World()
    async with world.agent() as wiring:
        publish(wiring, checked())
        await asyncio.sleep(20)
        world.outcomes = {member(one): Outcome.TIMEOUT for one in FOUR}
        await asyncio.sleep(DETECTION)
        assert world.weights() == [1, 1, 1, 1]
        (told,) = wiring.conditions
        assert told.type is ConditionType.HEALTH_CHECKS_IGNORED
        world.outcomes.clear()
        await asyncio.sleep(RECOVERY)
        assert list(wiring.conditions) == []


async def test_one_that_flaps_is_written_no_more_often_than_rise_and_fall_allow() -> None:
    world = World()
    async with world.agent() as wiring:
        publish(wiring, checked())
        await asyncio.sleep(20)
        before = len(world.fake.applied)
        for turn in range(60):
            world.outcomes[member(FOUR[0])] = Outcome.RESET if turn % 2 else Outcome.SUCCESS
            await asyncio.sleep(INTERVAL)
        assert len(world.fake.applied) - before <= 60 * INTERVAL / (INTERVAL * (RISE + FALL)) * 2


async def test_a_restart_writes_nothing_and_remembers_by_the_weight() -> None:
    world = World()
    world.outcomes[member(FOUR[2])] = Outcome.REFUSED
    async with world.agent() as wiring:
        publish(wiring, checked())
        await world.seconds_until([1, 1, 0, 1], within=DETECTION + INTERVAL)
    before = len(world.fake.applied)
    async with world.agent() as wiring:
        publish(wiring, checked())
        await asyncio.sleep(60)
        assert world.weights() == [1, 1, 0, 1]
        assert len(world.fake.applied) == before
    world.outcomes.clear()
    async with world.agent() as wiring:
        publish(wiring, checked())
        took = await world.seconds_until([1, 1, 1, 1], within=RECOVERY)
        assert took < INTERVAL


async def test_where_nodes_never_come_it_is_said_who_is_out_and_ends_after_a_time() -> None:
    world = World()
    world.outcomes[member(FOUR[2])] = Outcome.REFUSED
    async with world.agent() as wiring:
        publish(wiring, checked())
        await world.seconds_until([1, 1, 0, 1], within=DETECTION + INTERVAL)
    world.asked.clear()
    async with world.agent() as wiring:
        wiring.take(Put(checked(), "a.yaml"))
        wiring.take(Put(part("web", *FOUR), "a.yaml"))
        await asyncio.sleep(NODES_MISSED - 1)
        assert list(wiring.conditions) == []
        await asyncio.sleep(2)
        (told,) = wiring.conditions
        assert told.type is ConditionType.NODES_UNKNOWN
        assert FOUR[2] in told.message
        await asyncio.sleep(NODES_GIVEN_UP - NODES_MISSED - 2)
        assert world.weights() == [1, 1, 0, 1]
        await world.seconds_until([1, 1, 1, 1], within=3)
        assert world.asked == []


async def test_connections_are_cut_and_the_server_comes_back() -> None:
    world = World()
    async with world.agent() as wiring:
        publish(wiring, checked("cut"))
        await asyncio.sleep(20)
        world.outcomes[member(FOUR[3])] = Outcome.REFUSED
        await world.seconds_until([1, 1, 1, -1], within=DETECTION)
        world.outcomes.clear()
        await world.seconds_until([1, 1, 1, 1], within=RECOVERY)


async def test_nobody_is_probed_before_all_nodes_are_known_nor_after_the_service_is_gone() -> None:
    world = World()
    async with world.agent() as wiring:
        wiring.take(Put(checked(), "a.yaml"))
        wiring.take(Put(part("web", *FOUR), "a.yaml"))
        assert wiring.store.needs_nodes
        await asyncio.sleep(30)
        assert world.asked == []
        other = Node("node-b", addresses=(member(FOUR[0]).address,))
        wiring.take(Put(other, "n.yaml"))
        wiring.take(Listed("Nodes"))
        await asyncio.sleep(30)
        assert set(world.asked) == {member(one) for one in FOUR[1:]}
        wiring.take(Gone(service_reference()))
        await asyncio.sleep(1)
        world.asked.clear()
        await asyncio.sleep(60)
        assert world.asked == []
        assert not wiring.store.needs_nodes


async def test_a_node_that_takes_the_address_of_an_endpoint_is_probed_no_longer() -> None:
    world = World()
    async with world.agent() as wiring:
        publish(wiring, checked())
        await asyncio.sleep(20)
        wiring.take(Put(Node("node-b", addresses=(member(FOUR[0]).address,)), "n.yaml"))
        await asyncio.sleep(1)
        world.asked.clear()
        await asyncio.sleep(30)
        assert set(world.asked) == {member(one) for one in FOUR[1:]}


async def test_an_endpoint_whose_address_becomes_this_nodes_is_probed_no_longer() -> None:
    world = World()
    async with world.agent() as wiring:
        publish(wiring, checked())
        await asyncio.sleep(20)
        own = frozenset({member(FOUR[0]).address})
        world.fake.state.network = NodeNetwork({"eth1": own})
        wiring.reconciler.network_changed()
        await asyncio.sleep(1)
        world.asked.clear()
        await asyncio.sleep(30)
        assert set(world.asked) == {member(one) for one in FOUR[1:]}
        (told,) = wiring.conditions
        assert "10.244.1.1 (an address of this node)" in told.message


async def test_a_probe_under_way_to_an_endpoint_that_leaves_is_ended_and_says_nothing() -> None:
    world = World()
    world.outcomes[member(FOUR[0])] = Outcome.TIMEOUT
    async with world.agent() as wiring:
        publish(wiring, checked())
        await world.seconds_until([0, 1, 1, 1], within=DETECTION)
        while not wiring.prober.under_way:  # noqa: ASYNC110 - virtual time
            await asyncio.sleep(0.05)
        wiring.take(Put(part("web", *FOUR[1:]), "a.yaml"))
        async with asyncio.timeout(0.5):  # others may be under way, each for a hundredth
            while wiring.prober.under_way:  # noqa: ASYNC110 - virtual time
                await asyncio.sleep(0.05)
        world.asked.clear()
        await asyncio.sleep(30)
        assert set(world.asked) == {member(one) for one in FOUR[1:]}
        wiring.take(Put(part("web", *FOUR), "a.yaml"))
        await world.seconds_until([1, 1, 1, 1], within=0.5)


async def test_without_a_watch_of_nodes_only_what_is_named_is_probed() -> None:
    world = World()
    own = Node("node-a", pod_cidrs=(Network.parse("10.244.1.0/30"),))
    async with world.agent(watch_nodes=WatchNodes.NEVER) as wiring:
        wiring.take(Put(own, "n.yaml"))
        wiring.take(Put(checked(), "a.yaml"))
        wiring.take(Put(part("web", *FOUR), "a.yaml"))
        await asyncio.sleep(20)
        assert set(world.asked) == {member(one) for one in FOUR[:3]}
        (told,) = wiring.conditions
        assert told.type is ConditionType.ENDPOINTS_NOT_PROBED


async def test_settings_count_at_once() -> None:
    world = World()
    world.outcomes[member(FOUR[0])] = Outcome.REFUSED
    async with world.agent() as wiring:
        publish(wiring, checked())
        await world.seconds_until([0, 1, 1, 1], within=DETECTION + INTERVAL)
        wiring.configure(
            Settings(
                node_name="node-a",
                cluster_cidrs=(Network.parse("10.244.0.0/16"),),
                health_checks=False,
            )
        )
        await world.seconds_until([1, 1, 1, 1], within=1)
        world.asked.clear()
        await asyncio.sleep(30)
        assert world.asked == []


CLIENT = Address.parse("10.244.1.99")
LOOK = 20.0
"""Seconds between two readings of counters, as the interval is shorter."""


async def notes(wiring: Wiring) -> tuple[str, ...]:
    return status_table({}, await wiring.status()).notes


async def test_only_a_service_with_traffic_is_probed_and_no_other_counters_are_read() -> None:
    world = World()
    async with world.agent() as wiring:
        publish(wiring, checked(more=", only=traffic"))
        other = service("other", "10.96.0.11")
        wiring.take(Put(other, "a.yaml"))
        wiring.take(Put(part("other", "10.244.1.9"), "a.yaml"))
        await asyncio.sleep(100)
        assert world.asked == []
        assert set(world.fake.counted) == {frontend()}
        assert 4 <= len(world.fake.counted) <= 6, "at the pace of the window"
        said = "0 of 4 endpoints probed, the others have no traffic from here"
        assert await notes(wiring) == (f"default/web: {said}",)

        assert world.fake.connect(frontend(), CLIENT) is not None
        await asyncio.sleep(LOOK + 1 + INTERVAL)
        assert set(world.asked) == {member(one) for one in FOUR}
        assert await notes(wiring) == ()
        world.outcomes[member(FOUR[1])] = Outcome.REFUSED
        await world.seconds_until([1, 0, 1, 1], within=DETECTION)

        await asyncio.sleep(5 * LOOK)
        world.asked.clear()
        await asyncio.sleep(60)
        assert set(world.asked) == {member(FOUR[1])}, "or it would never rise"
        assert world.weights() == [1, 0, 1, 1]
        await wiring.scrape()
        sample = wiring.metrics.registry.get_sample_value
        assert sample("ipvsproxy_health_check_targets") == 1
        assert sample("ipvsproxy_health_check_resting_targets") == 3
        world.outcomes.clear()
        await world.seconds_until([1, 1, 1, 1], within=RECOVERY)
        world.asked.clear()
        await asyncio.sleep(60)
        assert world.asked == []


async def test_a_quiet_service_remembers_over_a_restart_who_was_unhealthy() -> None:
    world = World()
    world.outcomes[member(FOUR[2])] = Outcome.REFUSED
    async with world.agent() as wiring:
        publish(wiring, checked(more=", only=traffic"))
        await asyncio.sleep(1)
        world.fake.connect(frontend(), CLIENT)
        await world.seconds_until([1, 1, 0, 1], within=LOOK + INTERVAL + DETECTION)
        await asyncio.sleep(5 * LOOK)
    async with world.agent() as wiring:
        publish(wiring, checked(more=", only=traffic"))
        await asyncio.sleep(5 * LOOK)
        assert world.weights() == [1, 1, 0, 1]
        world.asked.clear()
        await asyncio.sleep(60)
        assert set(world.asked) == {member(FOUR[2])}
        world.outcomes.clear()
        await world.seconds_until([1, 1, 1, 1], within=RECOVERY)


async def test_counters_are_not_read_while_no_service_goes_by_them() -> None:
    world = World()
    async with world.agent() as wiring:
        publish(wiring, checked())
        await asyncio.sleep(100)
        assert world.fake.counted == []
        publish(wiring, checked(more=", only=traffic"))
        await asyncio.sleep(100)
        assert world.fake.counted
        wiring.take(Gone(service_reference()))
        await asyncio.sleep(1)
        world.fake.counted.clear()
        await asyncio.sleep(100)
        assert world.fake.counted == []


async def test_where_counters_cannot_be_read_everything_is_probed() -> None:
    world = World()
    world.fake.unreadable = True
    async with world.agent() as wiring:
        publish(wiring, checked(more=", only=traffic"))
        await asyncio.sleep(1 + INTERVAL)
        assert set(world.asked) == {member(one) for one in FOUR}
        world.fake.unreadable = False
        await asyncio.sleep(5 * LOOK)
        world.asked.clear()
        await asyncio.sleep(60)
        assert world.asked == []
