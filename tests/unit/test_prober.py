"""When endpoints are probed and what is told of them, in virtual time."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise

import pytest

from ipvsproxy.config import Settings
from ipvsproxy.core.annotations.health_check import Check, Probe, TcpProbe, UdpProbe
from ipvsproxy.core.probing import Probing, Target, Verdict
from ipvsproxy.model import Address, Protocol, RealServerKey, VirtualServerKey
from ipvsproxy.objects import ServiceName
from ipvsproxy.probe import Outcome, Prober
from ipvsproxy.store import Judged

pytestmark = pytest.mark.looptime

WEB = ServiceName("default", "web")
SHOP = ServiceName("default", "shop")
CHECK = Check(TcpProbe(), interval=10.0, timeout=1.0, rise=2, fall=3, jitter=0.0)


def target(number: int, service: ServiceName = WEB) -> Target:
    return Target(service, Protocol.TCP, RealServerKey(Address(number.to_bytes(4)), 80))


def probing(
    targets: Iterable[Target], check: Check = CHECK, suspects: Iterable[Target] = ()
) -> Probing:
    return Probing(check, frozenset(targets), frozenset(suspects))


@dataclass
class World:
    """Endpoints that answer as they are told to, and what a prober makes of it."""

    chance: float = 0.5
    takes: float = 0.0
    room: int = 1 << 16
    outcome: Callable[[Target], Outcome] = field(default=lambda _: Outcome.SUCCESS)
    asked: list[tuple[float, Target]] = field(default_factory=list)
    told: list[tuple[float, Judged]] = field(default_factory=list)
    open: int = 0
    most_open: int = 0
    cancelled: int = 0
    prober: Prober = field(init=False)
    named: dict[RealServerKey, Target] = field(default_factory=dict)

    def __post_init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.prober = Prober(
            ask=self.ask,
            observe=lambda _: None,
            clock=loop.time,
            chance=lambda: self.chance,
            room=self.room,
        )
        self.prober.tell = lambda judged: self.told.append((loop.time(), judged))

    def ask(
        self,
        server: RealServerKey,
        _probe: Probe,
        timeout: float,
        answered: Callable[[Outcome], None],
    ) -> Callable[[], None]:
        loop = asyncio.get_running_loop()
        asked = self.named[server]
        self.asked.append((loop.time(), asked))
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        outcome = self.outcome(asked)
        takes = timeout if outcome is Outcome.TIMEOUT else self.takes

        def end() -> None:
            self.open -= 1
            answered(outcome)

        handle = loop.call_later(takes, end)

        def cancel() -> None:
            self.open -= 1
            self.cancelled += 1
            handle.cancel()

        return cancel

    def update(
        self, probings: dict[ServiceName, Probing], stretch: float = 1, most: int = 1000
    ) -> None:
        for one in probings.values():
            self.named |= {found.server: found for found in one.targets}
        self.prober.update(probings, stretch=stretch, most=most)

    async def pass_time(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.prober.run()

    def times(self, one: Target) -> list[float]:
        return [when for when, asked in self.asked if asked == one]

    def verdicts(self) -> list[Verdict | None]:
        return [judged.verdict for _, judged in self.told]


async def test_an_endpoint_is_probed_at_its_interval_and_nothing_is_told_while_it_is_well() -> None:
    world = World()
    world.update({WEB: probing([target(1)])})
    await world.pass_time(100)
    times = world.times(target(1))
    assert times[0] == pytest.approx(5, abs=0.1)
    assert [later - before for before, later in pairwise(times)] == pytest.approx(
        [10] * (len(times) - 1), abs=0.1
    )
    assert len(times) == 10
    assert world.told == []


async def test_it_is_unhealthy_after_fall_failures_and_well_after_rise_successes() -> None:
    world = World()
    world.update({WEB: probing([target(1)])})
    await world.pass_time(20)
    world.outcome = lambda _: Outcome.TIMEOUT
    failed_at = asyncio.get_running_loop().time()
    await world.pass_time(40)
    ((when, judged),) = world.told
    assert judged == Judged(target(1), Verdict.UNHEALTHY)
    assert when - failed_at <= CHECK.fall * CHECK.interval + CHECK.timeout + 0.1
    world.outcome = lambda _: Outcome.SUCCESS
    back_at = asyncio.get_running_loop().time()
    await world.pass_time(40)
    assert world.verdicts() == [Verdict.UNHEALTHY, Verdict.HEALTHY]
    assert world.told[-1][0] - back_at <= CHECK.rise * CHECK.interval + 0.1


async def test_one_that_flaps_is_left_as_it_is() -> None:
    world = World()
    world.update({WEB: probing([target(1)])})
    turns = iter(range(1000))
    world.outcome = lambda _: Outcome.REFUSED if next(turns) % 3 else Outcome.SUCCESS
    await world.pass_time(300)
    assert world.told == []


async def test_a_probe_that_could_not_be_tried_says_nothing() -> None:
    world = World()
    world.update({WEB: probing([target(1)])})
    world.outcome = lambda _: Outcome.NOT_TRIED
    await world.pass_time(200)
    assert world.told == []
    assert world.prober.outcomes[Outcome.NOT_TRIED] == 20


async def test_jitter_makes_pauses_longer_and_shorter() -> None:
    world = World(chance=1.0)
    world.update({WEB: probing([target(1)], CHECK._replace(jitter=0.5))})
    await world.pass_time(56)
    assert world.times(target(1)) == pytest.approx([10, 25, 40, 55], abs=0.2)


async def test_intervals_are_stretched_and_the_timeout_is_not() -> None:
    world = World()
    world.outcome = lambda _: Outcome.TIMEOUT
    world.update({WEB: probing([target(1)])}, stretch=3)
    await world.pass_time(80)
    assert world.times(target(1)) == pytest.approx([15, 45, 75], abs=0.2)
    assert world.told[0][0] == pytest.approx(76, abs=0.2)


async def test_no_more_than_so_many_are_under_way_and_late_ones_are_told() -> None:
    world = World(chance=0.0, takes=0.5)
    targets = [target(number) for number in range(40)]
    world.update({WEB: probing(targets)}, most=10)
    await world.pass_time(0.4)
    assert world.most_open == 10
    assert world.prober.late == pytest.approx(0.4, abs=0.05)
    await world.pass_time(3)
    assert world.most_open == 10
    assert {one for _, one in world.asked} == set(targets)
    assert world.prober.late == 0


async def test_all_of_many_are_probed_within_an_interval() -> None:
    world = World()
    spread = iter(range(10**6))
    world.prober._chance = lambda: next(spread) % 1000 / 1000
    world.outcome = lambda one: Outcome.SUCCESS if one != target(7) else Outcome.REFUSED
    world.update({WEB: probing(target(number) for number in range(5000))}, most=100)
    await world.pass_time(31)
    assert world.verdicts() == [Verdict.UNHEALTHY]
    counts = {one: len(world.times(one)) for one in map(target, range(0, 5000, 100))}
    assert set(counts.values()) <= {3, 4}


async def test_one_that_was_unhealthy_before_a_restart_is_asked_at_once_and_again() -> None:
    world = World()
    one = target(1)
    world.update({WEB: probing([one], suspects=[one])})
    await world.pass_time(3)
    assert world.times(one)[:2] == pytest.approx([0, 1], abs=0.1)
    assert world.told[0][1] == Judged(one, Verdict.HEALTHY)
    assert world.told[0][0] == pytest.approx(1, abs=0.1)


async def test_but_at_its_interval_once_it_has_failed() -> None:
    world = World()
    one = target(1)
    world.outcome = lambda _: Outcome.REFUSED
    world.update({WEB: probing([one], suspects=[one])})
    await world.pass_time(25)
    assert world.times(one) == pytest.approx([0, 5, 15], abs=0.2), "first when a new one would be"
    assert world.told == []


@pytest.mark.parametrize(("rises", "later"), [(True, 0.0), (False, 50.0)])
async def test_one_that_may_have_recovered_goes_on_at_once_with_another_check(
    rises: bool, later: float
) -> None:
    """But not when a probe has failed since: then it is spread as all others are."""
    world, one = World(), target(1)
    world.outcome = lambda _: Outcome.SUCCESS if rises else Outcome.REFUSED
    world.update({WEB: probing([one], suspects=[one])})
    await world.pass_time(0.5)
    assert world.times(one) == pytest.approx([0], abs=0.1)
    changed_at = asyncio.get_running_loop().time()
    changed = CHECK._replace(interval=100.0)
    world.update({WEB: probing([one], changed, suspects=[one])})
    await world.pass_time(60)
    assert world.times(one)[1] - changed_at == pytest.approx(later, abs=0.1)
    assert (world.verdicts() == [Verdict.HEALTHY]) is rises


async def test_an_endpoint_that_leaves_is_forgotten_and_its_verdict_with_it() -> None:
    world = World(chance=0.0)
    world.outcome = lambda _: Outcome.REFUSED
    world.update({WEB: probing([target(1), target(2)]), SHOP: probing([target(3, SHOP)])})
    await world.pass_time(25)
    assert world.verdicts() == [Verdict.UNHEALTHY] * 3
    world.update({WEB: probing([target(2)])})
    assert [judged for _, judged in world.told[3:]] == [
        Judged(target(3, SHOP), None),
        Judged(target(1), None),
    ]
    assert world.prober.targets == 1
    asked = len(world.asked)
    await world.pass_time(20)
    assert {one for _, one in world.asked[asked:]} == {target(2)}


async def test_a_probe_that_is_under_way_ends_with_its_endpoint_and_with_the_prober() -> None:
    world = World(chance=0.0, takes=5.0)
    world.update({WEB: probing([target(1), target(2)])})
    await world.pass_time(1)  # ends with both under way
    assert (world.open, world.cancelled, world.prober.under_way) == (0, 2, 0)
    world = World(chance=0.0, takes=5.0)
    world.update({WEB: probing([target(1), target(2)])})
    running = asyncio.create_task(world.prober.run())
    await asyncio.sleep(1)
    world.update({WEB: probing([target(2)])})
    assert (world.open, world.prober.under_way) == (1, 1)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert world.told == []


async def test_another_check_takes_the_place_of_the_old_one_and_the_verdict_stays() -> None:
    world = World(chance=0.0)
    world.outcome = lambda _: Outcome.REFUSED
    world.update({WEB: probing([target(1)])})
    await world.pass_time(25)
    assert world.verdicts() == [Verdict.UNHEALTHY]
    world.outcome = lambda _: Outcome.SUCCESS
    world.update({WEB: probing([target(1)], CHECK._replace(probe=UdpProbe(b"x"), rise=1))})
    await world.pass_time(0.1)
    assert world.verdicts() == [Verdict.UNHEALTHY, Verdict.HEALTHY]


async def test_the_same_again_changes_nothing() -> None:
    world = World()
    world.update({WEB: probing([target(1)])})
    await world.pass_time(50)
    world.update({WEB: probing([target(1)])})
    await world.pass_time(50)
    assert len(world.times(target(1))) == 10


FRONT = VirtualServerKey(Protocol.TCP, Address.parse("10.96.0.10"), 80)
OTHER_FRONT = FRONT._replace(port=81)
ONLY_TRAFFIC = CHECK._replace(only_with_traffic=True)


def behind_two() -> Probing:
    """One target behind each of two virtual servers."""
    fronts = {FRONT: frozenset({target(1)}), OTHER_FRONT: frozenset({target(2)})}
    return probing([target(1), target(2)], ONLY_TRAFFIC)._replace(fronts=fronts)


async def test_only_what_has_traffic_is_probed_where_that_is_asked_for() -> None:
    world = World()
    world.update({WEB: behind_two(), SHOP: probing([target(9, SHOP)])})
    await world.pass_time(30)
    assert {asked for _, asked in world.asked} == {target(9, SHOP)}
    assert (world.prober.targets, world.prober.resting) == (1, 2)
    world.prober.traffic(frozenset({FRONT}))
    await world.pass_time(30)
    assert len(world.times(target(1))) == 3
    assert world.times(target(2)) == []
    assert (world.prober.targets, world.prober.resting) == (2, 1)
    assert world.prober.resting_of(WEB) == 1
    assert world.prober.resting_of(SHOP) == 0
    world.asked.clear()
    world.prober.traffic(frozenset())
    await world.pass_time(60)
    assert {asked for _, asked in world.asked} == {target(9, SHOP)}


async def test_one_that_is_unhealthy_is_probed_without_traffic_until_it_has_risen() -> None:
    world = World()
    world.prober.traffic(frozenset({FRONT}))
    world.update({WEB: behind_two()})
    world.outcome = lambda _: Outcome.REFUSED
    await world.pass_time(40)
    assert world.verdicts() == [Verdict.UNHEALTHY]
    world.prober.traffic(frozenset())
    await world.pass_time(60)
    assert world.verdicts() == [Verdict.UNHEALTHY], "what it was, it stays"
    assert world.prober.resting_of(WEB) == 1
    world.outcome = lambda _: Outcome.SUCCESS
    await world.pass_time(30)
    assert world.verdicts() == [Verdict.UNHEALTHY, Verdict.HEALTHY]
    world.asked.clear()
    await world.pass_time(60)
    assert world.asked == []
    assert world.prober.resting_of(WEB) == 2


async def test_one_that_rises_and_rests_makes_room_for_who_waits() -> None:
    world = World(takes=0.5)
    probings = {
        WEB: behind_two()._replace(suspects=frozenset({target(2)})),
        SHOP: probing([target(9, SHOP)], suspects=[target(9, SHOP)]),
    }
    world.update(probings, most=1)
    await world.pass_time(9)
    assert world.verdicts() == [Verdict.HEALTHY] * 2
    assert world.prober.resting_of(WEB) == 2
    assert world.most_open == 1


async def test_others_have_their_turn_while_many_are_begun() -> None:
    world = World(takes=0.5)
    world.update({WEB: probing(map(target, range(1000)), suspects=map(target, range(1000)))})
    running = asyncio.create_task(world.prober.run())
    turns = [world.open]
    while world.open < 1000:
        await asyncio.sleep(0)
        turns.append(world.open)
        assert len(turns) < 100
    running.cancel()
    assert max(later - sooner for sooner, later in pairwise(turns)) == 100


async def test_one_that_was_unhealthy_at_the_start_is_asked_at_once_without_traffic() -> None:
    world = World()
    world.update({WEB: behind_two()._replace(suspects=frozenset({target(2)}))})
    await world.pass_time(5)
    assert world.verdicts() == [Verdict.HEALTHY]
    world.asked.clear()
    await world.pass_time(60)
    assert world.asked == []


async def test_failures_before_a_rest_do_not_count_after_it() -> None:
    world = World()
    world.prober.traffic(frozenset({FRONT}))
    world.update({WEB: behind_two()})
    world.outcome = lambda _: Outcome.REFUSED
    await world.pass_time(20)
    assert len(world.times(target(1))) == 2
    world.prober.traffic(frozenset())
    world.prober.traffic(frozenset({FRONT}))
    await world.pass_time(20)
    assert world.told == [], "two and two failures, and three in a row are needed"
    await world.pass_time(10)
    assert world.verdicts() == [Verdict.UNHEALTHY]


async def test_a_probe_that_is_under_way_ends_when_its_target_rests() -> None:
    world = World(takes=5.0)
    world.prober.traffic(frozenset({FRONT}))
    world.update({WEB: behind_two()})
    running = asyncio.create_task(world.prober.run())
    await asyncio.sleep(6)
    assert (world.open, world.prober.under_way) == (1, 1)
    world.prober.traffic(frozenset())
    assert (world.open, world.prober.under_way, world.cancelled) == (0, 0, 1)
    await asyncio.sleep(60)
    assert len(world.asked) == 1
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running


async def test_the_option_may_come_and_go() -> None:
    world = World()
    world.update({WEB: behind_two()})
    await world.pass_time(30)
    assert world.asked == []
    world.update({WEB: probing([target(1), target(2)])})
    await world.pass_time(20)
    assert {asked for _, asked in world.asked} == {target(1), target(2)}
    assert world.prober.resting == 0
    world.update({WEB: behind_two()})
    world.asked.clear()
    await world.pass_time(60)
    assert world.asked == []


async def test_targets_that_come_where_there_is_traffic_are_probed() -> None:
    world = World()
    world.prober.traffic(frozenset({FRONT}))
    world.update({WEB: behind_two()})
    more = frozenset({target(1), target(3)})
    grown = behind_two()
    world.update({WEB: grown._replace(targets=grown.targets | more, fronts={FRONT: more})})
    await world.pass_time(20)
    assert {asked for _, asked in world.asked} == more


async def test_ten_thousand_that_hang_are_found_when_their_check_says() -> None:
    """The bound on what is under way at a time is no part of that: 2,000 would be needed here."""
    world = World(takes=0.001)
    spread = iter(range(10**7))
    world.prober._chance = lambda: next(spread) * 7919 % 10_007 / 10_007
    world.outcome = lambda _: Outcome.TIMEOUT
    check = Check(TcpProbe(), interval=5.0, timeout=1.0, rise=2, fall=3, jitter=0.1)
    world.update(
        {WEB: probing((target(number) for number in range(10_000)), check)},
        most=Settings(node_name="n").health_check_concurrency,
    )
    assert world.prober.worst == 2000
    await world.pass_time(3 * 5 * 1.1 + 1.1)
    assert world.verdicts() == [Verdict.UNHEALTHY] * 10_000
    assert 1900 < world.most_open < 2600


async def test_no_more_are_under_way_than_there_is_room_for() -> None:
    world = World(chance=0.0, takes=0.5, room=10)
    world.update({WEB: probing(target(number) for number in range(40))}, most=30)
    await world.pass_time(0.4)
    assert (world.most_open, world.prober.most) == (10, 10)


async def test_thousands_that_were_unhealthy_before_a_restart_are_not_asked_together_again() -> (
    None
):
    world = World()
    spread = iter(range(10**6))
    world.prober._chance = lambda: next(spread) % 1000 / 1000
    world.outcome = lambda _: Outcome.REFUSED
    some = [target(number) for number in range(1000)]
    world.update({WEB: probing(some, suspects=some)})
    await world.pass_time(11)
    asked = Counter(int(when) for when, _ in world.asked)
    assert asked[0] > 1000
    assert max(asked[second] for second in range(1, 10)) < 220


async def test_a_probe_that_began_late_makes_the_next_one_no_later() -> None:
    world = World(chance=0.0)
    world.update({WEB: probing([target(1)])})
    await world.pass_time(1)
    await asyncio.sleep(12)  # busy with something else
    await world.pass_time(30)
    assert world.times(target(1)) == pytest.approx([0, 13, 20, 30, 40], abs=0.2)


async def test_but_it_is_not_made_up_for_without_a_pause() -> None:
    world = World(chance=0.0)
    world.update({WEB: probing([target(1)])})
    await world.pass_time(1)
    await asyncio.sleep(100)
    await world.pass_time(20)
    assert world.times(target(1)) == pytest.approx([0, 101, 106, 116], abs=0.2)
