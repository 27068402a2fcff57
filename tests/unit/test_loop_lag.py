"""How long the event loop keeps things waiting, and that nothing is woken to find out."""

from __future__ import annotations

import asyncio

import pytest
from prometheus_client import generate_latest

from ipvsproxy.agent.loop import MeasuredLoop, TimedSelector, lag_of_running_loop
from ipvsproxy.telemetry import Conditions, LoopLag, Metrics


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_turns_are_counted_by_how_long_they_took() -> None:
    lag = LoopLag()
    for seconds in (0.0004, 0.02, 0.021, 7.0):
        lag.take(seconds, 10.0)
    counts = dict(lag.cumulative())
    assert (counts[0.001], counts[0.01], counts[0.02], counts[0.05]) == (1, 1, 2, 3)
    assert (counts[5.0], counts[float("inf")]) == (3, 4)
    assert lag.total == pytest.approx(7.0414)


def test_the_longest_turn_is_forgotten_when_a_whole_minute_has_passed_since_its_own() -> None:
    lag = LoopLag()
    lag.take(0.5, 65.0)
    lag.take(0.1, 119.0)
    assert lag.longest(119.0) == 0.5
    lag.take(0.2, 121.0)
    assert lag.longest(179.0) == 0.5
    assert lag.longest(181.0) == 0.2
    lag.take(0.3, 185.0)
    assert lag.longest(400.0) == 0.0


def test_what_a_turn_does_counts_and_not_how_long_the_loop_has_slept() -> None:
    clock, lag = Clock(), LoopLag()
    with TimedSelector(lag, clock) as selector:
        selector.select(0)
        clock.now += 0.25
        selector.select(0)
        selector.select(0)
    assert lag.total == pytest.approx(0.25)
    assert dict(lag.cumulative())[float("inf")] == 2


def test_a_timer_that_comes_late_counts_by_how_late_it_is() -> None:
    lag, times = LoopLag(), iter([10.0, 10.5, 10.5, 10.5])
    with TimedSelector(lag, lambda: next(times)) as selector:
        selector.select(0.001)  # returns at 10.5 by its clock
        selector.select(0)
    assert lag.total == pytest.approx(0.499)


def test_the_agents_loop_is_measured_and_shown() -> None:
    clock = Clock()

    async def work() -> LoopLag:
        clock.now += 0.03
        return lag_of_running_loop()

    with asyncio.Runner(loop_factory=lambda: MeasuredLoop(clock)) as runner:
        lag = runner.run(work())
    assert lag.longest(clock.now) == pytest.approx(0.03)
    text = generate_latest(Metrics(Conditions(), version="1", loop_lag=lag).registry).decode()
    assert 'ipvsproxy_event_loop_lag_seconds_bucket{le="0.05"} ' in text


async def test_of_another_loop_nothing_is_known() -> None:
    assert lag_of_running_loop().total == 0.0
