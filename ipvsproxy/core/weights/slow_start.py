"""Slow start: a real server that is new climbs to its weight in steps.

Knows weights, found and wanted, and when a climb began; the memory is the caller's. New is what
takes connections from now on, where another one of the same virtual server does already: a
virtual server that is new as a whole, and one all of whose servers are replaced at once, has nobody
who could take their share. What a restart makes of it is `resuming`'s.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
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
    urgent: Collection[RealServerKey] = (),
) -> dict[RealServerKey, float]:
    """Say who climbs now, and since when (s); `began` is the same as it was before.

    Of those that are `urgent` none does.
    """

    def takes(member: RealServerKey) -> bool:
        return member in found and found[member].weight > 0

    serving = {member for member, weight in wanted.items() if weight and takes(member)}
    climbing = {}
    for member, weight in wanted.items():
        if not weight or member in urgent:
            continue
        if member in began:
            climbing[member] = began[member]
        elif not takes(member) and serving:
            climbing[member] = now
    return {member: since for member, since in climbing.items() if now - since < duration}


def began_at(reached: int, duration: int, now: float) -> float:
    """Say when a climb began (s) that has just reached a step."""
    return now - (reached - 1) * duration / (steps(duration) - 1)
