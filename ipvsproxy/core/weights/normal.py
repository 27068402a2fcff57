"""Weights that the kernel's schedulers can do with: small, and as many as their tables have room.

Knows how each scheduler of the kernel reads weights; knows nothing of who wants them. 0 stays 0,
and what is above 0 stays above it. Pure, and a second time changes nothing: what a restart finds in
the kernel is what it would write.

    sh              256 buckets, filled in rounds of so many for each as it weighs (ip_vs_sh.c,
                    IP_VS_SH_TAB_SIZE); one of weight 0 takes one bucket all the same
    mh              4093 entries, filled in rounds likewise (ip_vs_mh.c, IP_VS_MH_TAB_SIZE with
                    CONFIG_IP_VS_MH_TAB_INDEX=12, the default); divides by itself
    ovf lblc lblcr  a weight is a number of connections, and no share
    all others      only proportions count

A table that is not filled in whole rounds gives the first ones too much, by one round at most. So
weights stay as they are where there are many rounds, and are else divided so that they come out
even.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from math import gcd
from typing import TypeVar

from ipvsproxy.core.annotations import MAX_WEIGHT
from ipvsproxy.model import Scheduler

Name = TypeVar("Name")

SH_BUCKETS = 256
MH_ENTRIES = 4093
_SH_SMALL = 8
"""A sum of weights with which sh makes 32 rounds: at most 3.1 per cent too much for the first."""
_MH_SMALL = 132
"""The same of mh, with 31 rounds."""
_MH_SUMS = (341, 1023, MH_ENTRIES - 1)
"""Divisors of 4092: in 12, 4 or 1 rounds all entries are filled but one."""
MH_LEAST_SUM = _MH_SUMS[0]
_MH_LEAST = 10
"""The least weight should be such, to be rounded by no more than 5 per cent."""

TABLES: Mapping[str, int] = {Scheduler.SH: SH_BUCKETS, Scheduler.MH: MH_ENTRIES}
"""How many real servers a scheduler's table has room for."""
WEIGHTLESS = frozenset({Scheduler.RR, Scheduler.LC, Scheduler.DH})
"""Schedulers that only tell 0 from what is above."""
COUNTING = frozenset({Scheduler.OVF, Scheduler.LBLC, Scheduler.LBLCR})
"""Schedulers to which a weight is a number of connections."""


def normal_weights(weights: Mapping[Name, int], scheduler: str) -> dict[Name, int]:
    """Give the weights (0-65535) that stand for these, of any size, under a scheduler."""
    above = {name: weight for name, weight in weights.items() if weight > 0}
    zeros = len(weights) - len(above)
    if scheduler in COUNTING:
        told = {name: min(weight, MAX_WEIGHT) for name, weight in above.items()}
    elif scheduler == Scheduler.SH:
        told = _for_sh(_reduced(above), SH_BUCKETS - zeros)
    elif scheduler == Scheduler.MH:
        told = _for_mh(above)
    else:
        told = _reduced(_fitted(_reduced(above)))
    return {name: told.get(name, 0) for name in weights}


def common(weights: Collection[int]) -> int:
    """Give the greatest common divisor of those above 0; 1 where there are none."""
    return gcd(*(weight for weight in weights if weight > 0)) or 1


def _reduced(weights: Mapping[Name, int]) -> dict[Name, int]:
    divisor = common(weights.values())
    return {name: weight // divisor for name, weight in weights.items()}


def _fitted(weights: Mapping[Name, int]) -> dict[Name, int]:
    greatest = max(weights.values(), default=0)
    if greatest <= MAX_WEIGHT:
        return dict(weights)
    return {name: max(1, weight * MAX_WEIGHT // greatest) for name, weight in weights.items()}


def _for_sh(weights: dict[Name, int], buckets: int) -> dict[Name, int]:
    if sum(weights.values()) <= _SH_SMALL or _equal(weights):
        return weights
    return _reduced(_divided(weights, buckets))


def _for_mh(weights: dict[Name, int]) -> dict[Name, int]:
    """Leave weights as they were written, where that is possible.

    The kernel divides by itself, and goes on counting what a draining server has weighed: other
    numbers in the same proportion would move clients whenever one leaves.
    """
    small = _reduced(weights)
    total = sum(small.values())
    if total <= _MH_SMALL or _equal(small) or (MH_ENTRIES - 1) % total == 0:
        return weights if max(weights.values(), default=0) <= MAX_WEIGHT else small
    least = min(small.values())
    sums = (one for one in _MH_SUMS if one * least >= _MH_LEAST * total)
    return _divided(small, next(sums, _MH_SUMS[-1]))


def _equal(weights: Mapping[Name, int]) -> bool:
    return len(set(weights.values())) <= 1


def _divided(weights: Mapping[Name, int], parts: int) -> dict[Name, int]:
    """Divide `parts` in proportion, at least one for each, by largest remainders (Hamilton's).

    Of equal remainders the first by name counts. Where there are too few parts, one for each.
    """
    spare = parts - len(weights)
    if spare <= 0:
        return dict.fromkeys(weights, 1)
    total = sum(weights.values())
    # Who is due less than one has one; the others share the rest.
    poor = {name for name, weight in weights.items() if weight * parts <= total}
    while poor:
        rest = parts - len(poor)
        sharing = sum(weight for name, weight in weights.items() if name not in poor)
        more = {name for name, weight in weights.items() if weight * rest <= sharing} | poor
        if more == poor:
            break
        poor = more
    rich = {name: weight for name, weight in weights.items() if name not in poor}
    return {**dict.fromkeys(poor, 1), **_by_remainders(rich, parts - len(poor))}


def _by_remainders(weights: Mapping[Name, int], parts: int) -> dict[Name, int]:
    total = sum(weights.values())
    shares = {name: weight * parts // total for name, weight in weights.items()}
    order = sorted(weights, key=lambda name: (-(weights[name] * parts % total), _key(name)))
    for name in order[: parts - sum(shares.values())]:
        shares[name] += 1
    return shares


def _key(name: object) -> str:
    return repr(name)
