"""Weights for the kernel: small, in proportion, and as many as its tables have room for."""

from __future__ import annotations

import pytest

from ipvsproxy.core.weights.normal import MH_ENTRIES, SH_BUCKETS, normal_weights
from ipvsproxy.model import Scheduler


def told(scheduler: str, *weights: int) -> list[int]:
    return list(normal_weights(dict(enumerate(weights)), scheduler).values())


@pytest.mark.parametrize(
    ("scheduler", "wanted", "weights"),
    [
        pytest.param("wrr", [], [], id="nobody"),
        pytest.param("wrr", [0, 0], [0, 0], id="nobody above 0"),
        pytest.param("wrr", [10, 30, 0], [1, 3, 0], id="divided"),
        pytest.param("wlc", [7, 7], [1, 1], id="equal"),
        pytest.param("sed", [1, 3], [1, 3], id="as they are"),
        pytest.param("wrr", [1, 1_000_000], [1, 65535], id="too great; what is above 0 stays so"),
        pytest.param("rr", [2, 4], [1, 2], id="a scheduler without weights"),
        pytest.param("ovf", [10, 20, 70000], [10, 20, 65535], id="ovf counts connections"),
        pytest.param("lblc", [10, 20], [10, 20], id="so does lblc"),
        pytest.param("sh", [10, 30], [1, 3], id="sh: small ones stay"),
        pytest.param("sh", [50, 50, 50], [1, 1, 1], id="sh: equal ones too"),
        pytest.param("sh", [100, 99], [129, 127], id="sh: else all buckets are divided"),
        pytest.param("sh", [1, 2, 3, 4], [26, 51, 77, 102], id="sh: by largest remainders"),
        pytest.param("sh", [1, 65535], [1, 255], id="sh: one bucket for the least"),
        pytest.param("sh", [1, 65535, 0, 0], [1, 253, 0, 0], id="sh: weight 0 takes a bucket"),
        pytest.param("mh", [10, 30], [10, 30], id="mh divides by itself"),
        pytest.param("mh", [1, 200], [20, 4072], id="mh: the whole table"),
        pytest.param("mh", [200, 300, 501], [68, 102, 171], id="mh: twelve rounds"),
        pytest.param("mh", [1000, 999], [171, 170], id="mh: nearly equal"),
        pytest.param("mh", [70000, 70000], [1, 1], id="mh: what the kernel does not take"),
    ],
)
def test_what_the_kernel_is_given(scheduler: str, wanted: list[int], weights: list[int]) -> None:
    assert told(scheduler, *wanted) == weights


@pytest.mark.parametrize(("scheduler", "room"), [("sh", SH_BUCKETS), ("mh", MH_ENTRIES)])
def test_more_servers_than_a_table_has_room_for_have_one_place_each(
    scheduler: str, room: int
) -> None:
    assert set(told(scheduler, *range(1, room + 50))) == {1}


@pytest.mark.parametrize("scheduler", list(Scheduler))
def test_what_weighs_the_same_is_told_as_one_each(scheduler: Scheduler) -> None:
    assert told(scheduler, 1, 1, 1, 0) == [1, 1, 1, 0]
