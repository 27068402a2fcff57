"""From weights that are wanted to those that the kernel is given: one rule after the other.

Knows the order: a climb first, for a real server that has just begun is little to rely on; then the
preference for the own zone, which goes by what that can bear now; numbers for the kernel last.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from ipvsproxy.core.weights.normal import COUNTING, WEIGHTLESS, common, normal_weights
from ipvsproxy.core.weights.slow_start import steps
from ipvsproxy.core.weights.zones import prefer
from ipvsproxy.model import RealServerKey, Scheduler

WITHOUT_PREFERENCE = WEIGHTLESS | COUNTING | {Scheduler.FO}
"""Schedulers under which weights are no shares."""


class Shaping(NamedTuple):
    """What becomes of the weights of one virtual server."""

    slow_start: int = 0
    """Seconds; 0: none."""
    preference: int = 0
    """Per cent of the connections that are to stay in the own zone; 0: none."""
    own_zone: frozenset[RealServerKey] = frozenset()
    zones: int = 1
    """In so many zones there are real servers."""
    of_kernel: bool = False
    """Whether the weights are those that were found in the kernel: what they came to, and nobody
    climbs to them."""
    deduced: bool = False
    """Whether some weight is deduced from the kernel's numbers, which may have been rounded."""
    doubt: float = 0.0
    """By how much these may be off then, as a part of all weights."""


UNSHAPED = Shaping()


def shaped(
    weights: Mapping[RealServerKey, int],
    shaping: Shaping,
    scheduler: str,
    climbing: Mapping[RealServerKey, int],
) -> dict[RealServerKey, int]:
    """Give the weights for the kernel; `climbing` says which step those are at that climb."""
    if climbing:
        weights = _climbed(weights, shaping, scheduler, climbing)
    prefers = shaping.preference and scheduler not in WITHOUT_PREFERENCE
    if prefers:
        weights = prefer(
            weights, shaping.own_zone, per_cent=shaping.preference, zones=shaping.zones
        )
    return normal_weights(weights, scheduler)


def _climbed(
    weights: Mapping[RealServerKey, int],
    shaping: Shaping,
    scheduler: str,
    climbing: Mapping[RealServerKey, int],
) -> dict[RealServerKey, int]:
    """Give weights of which those that climb have only so many steps."""
    count = steps(shaping.slow_start)
    if scheduler in COUNTING:
        return {
            member: max(1, weight * climbing[member] // count)
            if weight and member in climbing
            else weight
            for member, weight in weights.items()
        }
    divisor = common(weights.values())
    return {
        member: weight // divisor * climbing.get(member, count)
        for member, weight in weights.items()
    }
