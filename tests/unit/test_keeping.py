"""What weights in the kernel are worth, beside real servers whose weights are known."""

from __future__ import annotations

from fractions import Fraction

import pytest

from ipvsproxy.core.weights.keeping import KeptWeights, compared, whole
from ipvsproxy.core.weights.shaping import Shaping
from ipvsproxy.model import RealServerKey
from tests.unit.builders import member

A, B, C, D = (member(f"10.244.1.{number}") for number in range(4))
OWN_ZONE = Shaping(preference=80, own_zone=frozenset({A, B}), zones=2)


def kept(**found: int) -> KeptWeights:
    of_name = {"a": A, "b": B, "c": C, "d": D}
    return KeptWeights({of_name[name]: Fraction(weight) for name, weight in found.items()})


@pytest.mark.parametrize(
    ("found", "known", "scheduler", "shaping", "worth"),
    [
        pytest.param(kept(a=1, b=3), {A: 10}, "wrr", Shaping(), {B: 30}, id="in proportion"),
        pytest.param(kept(a=1, b=3), {A: 10}, "ovf", Shaping(), {B: 3}, id="a number"),
        pytest.param(
            kept(a=1, b=2, c=4), {A: 10, B: 10}, "wrr", Shaping(), {C: 20}, id="one of two climbs"
        ),
        pytest.param(
            kept(a=2, b=2, c=9, d=4),
            {A: 10, B: 10, C: 10},
            "wrr",
            Shaping(),
            {D: 20},
            id="one of three was changed",
        ),
        pytest.param(
            kept(a=4, b=4, c=1, d=1), {A: 10, C: 10}, "wrr", OWN_ZONE, {B: 10, D: 10}, id="by zone"
        ),
        pytest.param(
            kept(a=4, b=4, c=1, d=1),
            {A: 10, C: 10},
            "ovf",
            OWN_ZONE,
            {B: 4, D: 1},
            id="where a preference means nothing",
        ),
    ],
)
def test_what_is_found_is_worth(
    found: KeptWeights,
    known: dict[RealServerKey, int],
    scheduler: str,
    shaping: Shaping,
    worth: dict[RealServerKey, int],
) -> None:
    unknown = found.weights.keys() - known.keys()
    now = compared(found, known, unknown, shaping=shaping, scheduler=scheduler)
    assert now == KeptWeights(worth, compared=True, doubt=now.doubt)  # type: ignore[arg-type]
    assert compared(now, known, unknown, shaping=shaping, scheduler=scheduler) is now


@pytest.mark.parametrize(
    ("known", "shaping"), [({}, Shaping()), ({A: 10, B: 10}, OWN_ZONE)], ids=["none", "in its zone"]
)
def test_with_nobody_to_compare_with_nothing_is_deduced(
    known: dict[RealServerKey, int], shaping: Shaping
) -> None:
    found = kept(a=1, b=1, c=3)
    assert compared(found, known, [C], shaping=shaping, scheduler="wrr") is found


def test_what_is_at_zero_stays_only_where_it_serves() -> None:
    found = kept(a=0, b=0, c=1)
    assert found.without_draining([A]).weights == {A: 0, C: 1}


def test_whole_numbers_are_in_the_same_proportions() -> None:
    assert whole({A: Fraction(1, 2), B: Fraction(2, 3)}) == {A: 3, B: 4}
    assert whole({A: Fraction(5), B: Fraction(0)}) == {A: 5, B: 0}


@pytest.mark.parametrize(
    ("found", "known", "doubt"),
    [
        pytest.param(kept(a=10000, b=30000), {A: 10}, 0.75 / 10000, id="many parts"),
        pytest.param(kept(a=100, b=100, c=200), {A: 9, B: 9}, 0.5 / 100, id="two that agree"),
        pytest.param(kept(a=1, b=3), {A: 10}, 0.05, id="too few parts to tell"),
        pytest.param(kept(a=1, b=0), {A: 10}, 0.0, id="nothing is deduced"),
    ],
)
def test_it_may_be_off_by_what_rounding_makes(
    found: KeptWeights, known: dict[RealServerKey, int], doubt: float
) -> None:
    unknown = found.weights.keys() - known.keys()
    now = compared(found, known, unknown, shaping=Shaping(), scheduler="sh")
    assert now.doubt == pytest.approx(doubt)
