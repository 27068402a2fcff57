"""What the kernel is given has the proportions that were wanted, in its tables too."""

from __future__ import annotations

from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from ipvsproxy.core.annotations import MAX_WEIGHT
from ipvsproxy.core.weights.normal import (
    COUNTING,
    MH_ENTRIES,
    SH_BUCKETS,
    TABLES,
    common,
    normal_weights,
)
from ipvsproxy.core.weights.zones import prefer, share
from ipvsproxy.model import Scheduler

weight = st.one_of(st.integers(0, 10), st.integers(0, MAX_WEIGHT), st.integers(0, 10**9))
many = st.dictionaries(st.integers(0, 400), weight, max_size=40)
schedulers = st.sampled_from(sorted(Scheduler))


@given(many, schedulers)
def test_nothing_and_something_stay_so_and_all_is_in_range(
    wanted: dict[int, int], scheduler: Scheduler
) -> None:
    told = normal_weights(wanted, scheduler)
    assert told.keys() == wanted.keys()
    for name, weight in told.items():
        assert 0 <= weight <= MAX_WEIGHT
        assert (weight > 0) == (wanted[name] > 0)


@given(many, schedulers)
def test_a_second_time_changes_nothing(wanted: dict[int, int], scheduler: Scheduler) -> None:
    """So a restart that goes by what the kernel has writes nothing."""
    told = normal_weights(wanted, scheduler)
    assert normal_weights(told, scheduler) == told


@given(many, schedulers)
def test_the_order_of_names_does_not_matter(wanted: dict[int, int], scheduler: Scheduler) -> None:
    backwards = dict(reversed(wanted.items()))
    assert normal_weights(backwards, scheduler) == normal_weights(wanted, scheduler)


@given(many, st.sampled_from(sorted(set(Scheduler) - COUNTING - TABLES.keys())))
def test_proportions_are_exact_where_the_kernels_numbers_suffice(
    wanted: dict[int, int], scheduler: Scheduler
) -> None:
    told = normal_weights(wanted, scheduler)
    divisor = common(wanted.values())
    greatest = max(wanted.values(), default=0) // divisor
    for name, weight in told.items():
        exact = Fraction(wanted[name], divisor)
        if greatest <= MAX_WEIGHT:
            assert weight == exact
        elif weight > 1:  # and what is less than one in 65535 is one
            scaled = told[max(told, key=told.__getitem__)] * exact / greatest
            assert abs(weight - scaled) <= 1


def filled(weights: dict[int, int], entries: int) -> dict[int, int]:
    """Fill a table as ip_vs_sh_reassign and ip_vs_mh_populate do, in rounds."""
    counted = dict.fromkeys(weights, 0)
    left = entries
    while left:
        for name, weight in weights.items():
            turn = min(max(1, weight), left)
            counted[name] += turn
            left -= turn
    return counted


@given(
    st.dictionaries(st.integers(0, 400), st.integers(1, MAX_WEIGHT), min_size=1, max_size=40),
    st.sampled_from([(Scheduler.SH, SH_BUCKETS), (Scheduler.MH, MH_ENTRIES)]),
)
def test_a_table_is_filled_in_proportion(
    wanted: dict[int, int], table: tuple[Scheduler, int]
) -> None:
    """To one part in 32 of the whole, where everybody is due an entry."""
    scheduler, entries = table
    total = sum(wanted.values())
    if min(wanted.values()) * entries < total:
        return
    told = normal_weights(wanted, scheduler)
    divisor = common(told.values())
    counted = filled({name: weight // divisor for name, weight in told.items()}, entries)
    for name, count in counted.items():
        assert abs(Fraction(count, entries) - Fraction(wanted[name], total)) <= Fraction(1, 31)


@given(
    st.dictionaries(st.integers(0, 40), st.integers(0, 1000), min_size=1),
    st.sets(st.integers(0, 40)),
    st.integers(1, 99),
    st.integers(1, 5),
)
def test_the_own_zone_has_the_share_that_the_rule_says(
    wanted: dict[int, int], own: set[int], per_cent: int, zones: int
) -> None:
    told = prefer(wanted, own, per_cent=per_cent, zones=zones)
    total = sum(wanted.values())
    here = sum(weight for name, weight in wanted.items() if name in own)
    if 0 < here < total:
        got = Fraction(sum(told[name] for name in told if name in own), sum(told.values()))
        assert got == share(here, total, per_cent=per_cent, zones=zones)
        assert got >= Fraction(here, total)
    for name, weight in told.items():
        assert (weight > 0) == (wanted[name] > 0)
