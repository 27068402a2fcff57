"""Who was climbing before a restart, by the weights in the kernel: there is no other memory.

Knows weights, wanted and found, and what makes of the ones the others (`shaping`). Steps are
sought that give just what is found: guesses by how much of its weight each real server has, beside
one of its group that is taken to be at the last step, then at the one before, and so on. Groups are
the own zone and the others, for a preference gives each a proportion of its own. A step that is
found so may be another one than it was, where numbers are so small that both give the same.

Where the kernel's numbers are rounded it may be that no steps give just them. Those count then that
come near enough, of several those by which the fewest climb, and what is found stays until the next
step: a restart writes nothing. Where none come near, something was changed while nobody was there,
and the nearest count.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice, product
from math import inf
from typing import NamedTuple

from ipvsproxy.core.annotations import MAX_WEIGHT
from ipvsproxy.core.weights.normal import COUNTING, MH_LEAST_SUM, SH_BUCKETS
from ipvsproxy.core.weights.shaping import WITHOUT_PREFERENCE, Shaping, shaped
from ipvsproxy.core.weights.slow_start import steps
from ipvsproxy.core.weights.zones import share
from ipvsproxy.model import RealServer, RealServerKey, Scheduler

_Steps = dict[RealServerKey, int]
_MOST_WORK = 60_000
"""So many weights are worked out at most, or some few guesses: a quarter of a second at worst."""
_FEW = 20
_NEAR = 3.0
"""By so many parts may a weight be off that was rounded, and those of others with it."""
_PARTS: Mapping[str, int] = {Scheduler.SH: SH_BUCKETS, Scheduler.MH: MH_LEAST_SUM}
"""Into so many parts at least a scheduler's weights are divided, where they are divided."""
_NEAR_SHARE = 0.02
_LEAST = 1e-6
"""How far the same proportions are in other numbers, which mh is given."""


class Resumed(NamedTuple):
    """Which climbs were under way."""

    steps: _Steps
    """The step of each real server that climbs; never the last one."""
    stays: bool = False
    """Whether what is found stays for now: these steps come near to it only."""


def resumed(
    weights: Mapping[RealServerKey, int],
    found: Mapping[RealServerKey, RealServer],
    *,
    shaping: Shaping,
    scheduler: str,
) -> Resumed:
    """Say who was climbing, of real servers of which `weights` are wanted."""
    past = _Past(weights, found, shaping, scheduler)
    best, rank = _Steps(), (True, 0, inf)
    for guess in past.candidates():
        distance = past.distance(guess)
        if not distance:
            return Resumed(guess)
        far = distance > past.tolerance
        if (rank_now := (far, 0 if far else len(guess), distance)) < rank:
            best, rank = guess, rank_now
    return Resumed(best, stays=not rank[0])


def is_near(
    weights: Mapping[RealServerKey, int],
    found: Mapping[RealServerKey, RealServer],
    *,
    shaping: Shaping,
    scheduler: str,
) -> bool:
    """Whether the kernel has what these weights give without any climb, but for rounding."""
    past = _Past(weights, found, shaping, scheduler)
    return past.distance({}) <= past.tolerance


class _Past:
    """What was there before the restart, as far as it is wanted now."""

    def __init__(
        self,
        weights: Mapping[RealServerKey, int],
        found: Mapping[RealServerKey, RealServer],
        shaping: Shaping,
        scheduler: str,
    ) -> None:
        self._shaping, self._scheduler = shaping, scheduler
        self.found = {member: real.weight for member, real in found.items()}
        present = {m: weights[m] for m, at in self.found.items() if at and weights.get(m)}
        self._weights = {member: present.get(member, 0) for member in self.found}
        self._present = present
        wanted = {member for member, weight in weights.items() if weight}
        self.complete = wanted == present.keys() and all(
            at == 0 for member, at in self.found.items() if member not in present
        )
        """Whether the same real servers take connections as are to take them."""
        own = shaping.own_zone & present.keys()
        prefers = shaping.preference and scheduler not in WITHOUT_PREFERENCE
        self._own = own if prefers and len(own) < len(present) else frozenset[RealServerKey]()
        self._count = steps(shaping.slow_start)
        heaviest = {member in self._own: member for member in sorted(present, key=self._found_at)}
        self._measure = {group: self.found[m] / present[m] for group, m in heaviest.items()}
        """What of a weight is found, by group, of the one that has most: the least rounded one."""

    def distance(self, climbing: Mapping[RealServerKey, int]) -> float:
        """Say how far what is found is from what these steps give, at that which is farthest.

        As a part of all; 0: they are the same.
        """
        told = shaped(self._weights, self._shaping, self._scheduler, climbing)
        if told == self.found:
            return 0
        sum_told, sum_found = sum(told.values()), sum(self.found.values())
        if not sum_told or not sum_found or self._scheduler in COUNTING:
            return inf
        farthest = max(
            abs(weight / sum_told - self.found[member] / sum_found)
            for member, weight in told.items()
        )
        return max(farthest, _LEAST)

    @property
    def tolerance(self) -> float:
        """By how much what is found may be off for its numbers were rounded, as a part of all.

        Less than nothing where they were not, or where others are to take connections than do.
        """
        parts = _PARTS.get(self._scheduler, sum(self.found.values()))
        rounded = self._scheduler in _PARTS or self._is_fitted
        if not (parts and rounded and self.complete):
            return -1.0
        return _NEAR / parts + self._shaping.doubt

    @property
    def _is_fitted(self) -> bool:
        return max(self.found.values(), default=0) == MAX_WEIGHT

    def candidates(self) -> Iterator[_Steps]:
        """Give guesses, the likeliest first: that nobody climbs."""
        yield {}
        if self._scheduler in COUNTING:
            yield self._of_numbers()
        else:
            yield from islice(self._of_shares(), self._most_tries)

    @property
    def _most_tries(self) -> int:
        """How many guesses are worth it: few, where something was changed for certain."""
        if not self.complete:
            return _FEW
        return max(_FEW, _MOST_WORK // max(1, len(self._present)))

    def _of_shares(self) -> Iterator[_Steps]:
        rounded = self._scheduler in _PARTS or self._is_fitted
        every = range(self._count, 0, -1)
        tops = product(every, every if self._own else (self._count,))
        likely = sorted(tops, key=lambda top: self._count not in top) if self._own else tops
        tries = product(likely, (True, False) if rounded else (False,))
        for (others, own), tolerant in islice(tries, self._most_tries):
            guess = self._guess({True: own, False: others}, tolerant=tolerant)
            if not self._own or self._is_share(guess):
                yield self._climbing(guess)

    def _guess(self, tops: Mapping[bool, int], *, tolerant: bool) -> _Steps:
        """Give steps, if those by which each group is measured are at these.

        `tolerant`: what is off by one at most is not off.
        """
        guess = {}
        for member, weight in self._present.items():
            group = member in self._own
            due, at = self._measure[group] * weight, self.found[member]
            same = tolerant and abs(at - due) <= 1
            reached = tops[group] if same else round(at / due * tops[group])
            guess[member] = min(max(1, reached), self._count)
        return guess

    def _found_at(self, member: RealServerKey) -> tuple[int, RealServerKey]:
        return self.found[member], member

    def _is_share(self, guess: Mapping[RealServerKey, int]) -> bool:
        """Whether the own zone would have about the share that it has; quickly."""
        own = sum(self._present[member] * guess[member] for member in self._own)
        total = sum(weight * guess[member] for member, weight in self._present.items())
        has = sum(self.found[member] for member in self._own) / sum(self.found.values())
        shaping = self._shaping
        wanted = share(own, total, per_cent=shaping.preference, zones=shaping.zones)
        return abs(float(wanted) - has) <= _NEAR_SHARE

    def _climbing(self, guess: _Steps) -> _Steps:
        return {member: at for member, at in guess.items() if at < self._count}

    def _of_numbers(self) -> _Steps:
        """Give steps where a weight is a number, and no share."""
        return self._climbing(
            {
                member: max(1, -(-self.found[member] * self._count // weight))
                for member, weight in self._present.items()
            }
        )
