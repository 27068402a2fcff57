"""Slow start: a real server that is new climbs to its weight in steps.

Knows weights, found and wanted, and when a climb began; the memory is the caller's. New is what
takes connections from now on, where another one of the same virtual server does already: a
virtual server that is new as a whole, and one all of whose servers are replaced at once, has nobody
who could take their share. After a restart the weights in the kernel say how far a climb had got.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from math import floor

from ipvsproxy.model import RealServer, RealServerKey

_STEPS = (19, 17, 13, 11, 7, 5, 3)
"""Primes: with equal weights nothing but the climbing one changes from step to step."""


def steps(duration: int) -> int:
    """Say in how many steps a climb of so many seconds goes, the first and the full weight too.

    At most 19, and none sooner than a second after another; a climb lasts 2 seconds at least.
    """
    return next(count for count in _STEPS if count <= max(3, duration + 1))


def step(elapsed: float, duration: int) -> int:
    """Say which step a climb has reached after so many seconds: from 1 to `steps`."""
    count = steps(duration)
    # A little early rather than once more: the due time is a sum of floating point numbers.
    reached = 1 + floor((elapsed + 0.001) * (count - 1) / duration)
    return max(1, min(count, reached))


def next_step(elapsed: float, duration: int) -> float:
    """Say how many seconds of a climb have passed at its next step."""
    return step(elapsed, duration) * duration / (steps(duration) - 1)


def climbs(
    wanted: Mapping[RealServerKey, int],
    found: Mapping[RealServerKey, RealServer],
    began: Mapping[RealServerKey, float],
    *,
    duration: int,
    now: float,
) -> dict[RealServerKey, float]:
    """Say who climbs now, and since when (s); `began` is the same as it was before."""

    def takes(member: RealServerKey) -> bool:
        return member in found and found[member].weight > 0

    serving = {member for member, weight in wanted.items() if weight and takes(member)}
    climbing = {}
    for member, weight in wanted.items():
        if not weight:
            continue
        if member in began:
            climbing[member] = began[member]
        elif not takes(member) and serving:
            climbing[member] = now
    return {member: since for member, since in climbing.items() if now - since < duration}


def resumed(
    full: Mapping[RealServerKey, int],
    found: Mapping[RealServerKey, RealServer],
    *,
    duration: int,
    now: float,
) -> dict[RealServerKey, float]:
    """Say who was climbing before a restart, by the weights in the kernel.

    `full` are those that the kernel would have if nobody climbed. Who has less of his than another
    one climbs, from the step that comes nearest.
    """
    reached = {
        member: Fraction(found[member].weight, weight)
        for member, weight in full.items()
        if weight and member in found and found[member].weight
    }
    most = max(reached.values(), default=Fraction(1))
    count = steps(duration)
    began = {}
    for member, part in reached.items():
        at = max(1, round(part / most * count))
        if at < count:
            began[member] = now - (at - 1) * duration / (count - 1)
    return began
