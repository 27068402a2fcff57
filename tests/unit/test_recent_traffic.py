"""Which virtual servers have had traffic of late, as readings of their counters say."""

from __future__ import annotations

import pytest

from ipvsproxy.core.annotations.health_check import Check, TcpProbe
from ipvsproxy.core.probing import Probing, Target
from ipvsproxy.core.recent_traffic import QUIET_READINGS, RecentTraffic, pace
from ipvsproxy.model import Protocol
from ipvsproxy.objects import ServiceName
from tests.unit.builders import frontend, member

WEB = frontend()
OTHER = WEB._replace(port=81)
CHECK = Check(TcpProbe(), only_with_traffic=True)
NAME = ServiceName("default", "web")
ONE = Target(NAME, Protocol.TCP, member("10.244.1.1"))
TWO = Target(NAME, Protocol.TCP, member("10.244.1.2"))


def probing(check: Check = CHECK) -> Probing:
    targets = frozenset({ONE, TWO})
    return Probing(check, targets, fronts={WEB: frozenset({ONE}), OTHER: frozenset({TWO})})


def following(check: Check = CHECK, stretch: float = 1.0) -> RecentTraffic:
    made = RecentTraffic()
    made.follow({NAME: probing(check)}, stretch=stretch, now=0.0)
    return made


def test_nobody_asks_for_a_reading_where_no_service_goes_by_traffic() -> None:
    recent = RecentTraffic()
    every = Probing(Check(TcpProbe()), frozenset({ONE}))
    recent.follow({NAME: every}, stretch=1.0, now=0.0)
    assert recent.next_due is None
    assert recent.due(1000.0) == ()


@pytest.mark.parametrize(
    ("interval", "stretch", "seconds"),
    [(1.0, 1.0, 20.0), (10.0, 1.0, 20.0), (10.0, 5.0, 50.0), (60.0, 1.0, 60.0)],
)
def test_counters_are_read_once_in_an_interval_and_not_more_often_than_each_20_s(
    interval: float, stretch: float, seconds: float
) -> None:
    check = CHECK._replace(interval=interval)
    assert pace(check, stretch) == seconds
    recent = following(check, stretch)
    assert recent.next_due == 0.0
    recent.take(recent.due(0.0), {WEB: (0,)}, 0.0)
    assert recent.next_due == seconds
    assert recent.due(seconds - 3) == ()
    assert set(recent.due(seconds - 1)) == {WEB, OTHER}, "a little early, to be read together"


def test_what_has_counted_something_is_busy_until_three_readings_find_nothing_new() -> None:
    recent = following()
    recent.take([WEB, OTHER], {WEB: (7, 100), OTHER: (0, 0)}, 0.0)
    assert recent.busy == {WEB}, "what was counted at first sight is traffic"
    for reading in range(QUIET_READINGS):
        assert recent.busy == {WEB}
        recent.take([WEB, OTHER], {WEB: (7, 100), OTHER: (0, 0)}, 20.0 * (reading + 1))
    assert recent.busy == frozenset()
    recent.take([WEB], {WEB: (7, 101)}, 80.0)
    assert recent.busy == {WEB}, "a packet of an open connection is traffic"


def test_a_virtual_server_that_is_gone_or_made_again_has_no_traffic_by_that() -> None:
    recent = following()
    recent.take([WEB], {}, 0.0)
    assert recent.busy == frozenset()
    recent.take([WEB], {WEB: (5,)}, 20.0)
    for now in (40.0, 60.0, 80.0):
        recent.take([WEB], {WEB: (0,)}, now)
    assert recent.busy == frozenset()
    recent.take([WEB], {WEB: (5,)}, 100.0)
    assert recent.busy == {WEB}


def test_what_cannot_be_read_counts_as_busy() -> None:
    recent = following()
    recent.take([WEB, OTHER], {WEB: (0,), OTHER: (0,)}, 0.0)
    recent.take([WEB], None, 20.0)
    assert recent.busy == {WEB}


def test_what_is_asked_for_no_longer_is_forgotten_and_a_shorter_interval_counts_at_once() -> None:
    recent = following(CHECK._replace(interval=600.0))
    recent.take([WEB, OTHER], {WEB: (1,)}, 0.0)
    recent.follow({NAME: probing()._replace(fronts={WEB: frozenset({ONE})})}, stretch=1, now=5.0)
    assert recent.next_due == 25.0
    assert recent.busy == {WEB}
    recent.take([OTHER], {OTHER: (1,)}, 6.0)
    assert recent.busy == {WEB}, "a reading that was under way"
    recent.follow({}, stretch=1.0, now=7.0)
    assert recent.due(1000.0) == ()
    assert recent.busy == frozenset()


def test_what_two_services_want_is_read_at_the_shorter_pace() -> None:
    recent = RecentTraffic()
    slow = probing(CHECK._replace(interval=100.0))
    shop = ServiceName("default", "shop")
    recent.follow({NAME: probing(), shop: slow}, stretch=1.0, now=0.0)
    recent.take([WEB], {}, 0.0)
    recent.take([OTHER], {}, 0.0)
    assert recent.next_due == 20.0


def test_a_target_has_the_traffic_of_the_virtual_servers_it_stands_behind() -> None:
    one = probing()
    assert one.with_traffic(frozenset()) == frozenset()
    assert one.with_traffic({WEB}) == {ONE}
    assert one.with_traffic({WEB, OTHER}) == {ONE, TWO}
    every = one._replace(check=Check(TcpProbe()))
    assert every.with_traffic(frozenset()) == {ONE, TWO}
