"""The own zone is preferred as far as it can bear it."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import pytest

from ipvsproxy.core.weights.zones import prefer, share


@pytest.mark.parametrize(
    ("own", "others", "zones", "expected"),
    [
        # Three zones of four endpoints; the own one shrinks. The table of docs/operations.md.
        (4, 8, 3, Fraction(90, 100)),
        (3, 8, 3, Fraction(9, 11)),
        (2, 8, 3, Fraction(6, 10)),
        (1, 8, 3, Fraction(3, 9)),
        (4, 4, 2, Fraction(90, 100)),
        (1, 4, 2, Fraction(2, 5)),
        (19, 1, 2, Fraction(19, 20)),
        (3, 9, 1, Fraction(1, 4)),
    ],
)
def test_the_share_of_the_own_zone(own: int, others: int, zones: int, expected: Fraction) -> None:
    assert share(own, own + others, per_cent=90, zones=zones) == expected
    weights = {f"own{i}": 1 for i in range(own)} | {f"other{i}": 1 for i in range(others)}
    names = [name for name in weights if name.startswith("own")]
    told = prefer(weights, names, per_cent=90, zones=zones)
    assert Fraction(sum(told[name] for name in names), sum(told.values())) == expected


def test_proportions_within_a_zone_and_outside_stay() -> None:
    told = prefer({"a": 1, "b": 3, "c": 2, "d": 4, "e": 0}, {"a", "b"}, per_cent=90, zones=2)
    assert told["b"] == 3 * told["a"]
    assert told["d"] == 2 * told["c"]
    assert told["e"] == 0


@pytest.mark.parametrize("own", [(), ("a", "b"), ("c",)])
def test_without_a_choice_nothing_changes(own: tuple[str, ...]) -> None:
    weights = {"a": 1, "b": 2, "c": 0}
    assert prefer(weights, own, per_cent=90, zones=2) == weights


def test_the_share_falls_smoothly() -> None:
    shares = [share(own, own + 200, per_cent=90, zones=3) for own in range(101)]
    steps = [after - before for before, after in pairwise(shares)]
    assert shares[0] == 0
    assert all(0 <= step < Fraction(2, 100) for step in steps)
