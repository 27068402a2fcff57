"""Weights that nobody remembers after a restart, and that the kernel still has.

Knows weights found in the kernel and those of other real servers that are known; not why one is not
known (`weighing`). The kernel's numbers are in a proportion of their own: divided by what they have
in common, or made to fit a table. What a number was worth is deduced from real servers of which
both are known, what is found and what is wanted:

- Each that is known says a ratio, wanted to found. The one with which most agree counts, within
  what rounding makes; of several the one by which most of a weight is found, for who has less may
  be climbing. So a weight that was changed while no agent ran does not change the others'.
- A preference gives the own zone another proportion than the others: each has a ratio of its own.
- To a scheduler that counts connections a weight is a number, and the ratio is 1.
- Where there is nobody to compare with, there is no ratio, and nothing is deduced.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from fractions import Fraction
from math import lcm
from types import MappingProxyType
from typing import NamedTuple

from ipvsproxy.core.weights.normal import COUNTING
from ipvsproxy.core.weights.shaping import WITHOUT_PREFERENCE, Shaping
from ipvsproxy.model import RealServerKey, VirtualServerKey

_CANDIDATES = 16
"""So many ratios are tried at most; more there are only where numbers are rounded."""
_MOST_DOUBT = 0.05
"""More is no rounding, but that too little is known to tell."""


class KeptWeights(NamedTuple):
    """What is known of the weights of one virtual server from the kernel alone."""

    weights: Mapping[RealServerKey, Fraction]
    compared: bool = False
    """Whether they are worth what the weights are that are known; else they are as found."""
    doubt: float = 0.0
    """By how much that may be off where numbers were rounded, as a part of all weights."""

    def without_draining(self, serving: Collection[RealServerKey]) -> KeptWeights:
        """Leave out what is at 0 because it does not serve."""
        weights = self.weights.items()
        return self._replace(weights={one: at for one, at in weights if at or one in serving})


Kept = Mapping[VirtualServerKey, KeptWeights]
NOTHING_KEPT: Kept = MappingProxyType({})


def compared(
    kept: KeptWeights,
    known: Mapping[RealServerKey, int],
    unknown: Collection[RealServerKey],
    *,
    shaping: Shaping,
    scheduler: str,
) -> KeptWeights:
    """Say what those are worth that are not known; the same, where nothing can be deduced."""
    if kept.compared:
        return kept
    found = kept.weights
    wanted = {member: found[member] for member in unknown if member in found}
    if scheduler in COUNTING:
        return KeptWeights(wanted, compared=True)
    prefers = shaping.preference and scheduler not in WITHOUT_PREFERENCE
    own = shaping.own_zone if prefers else frozenset[RealServerKey]()
    worth: dict[RealServerKey, Fraction] = {}
    doubt, total = 0.0, sum(found.values())
    for here in (True, False):
        group = {member: at for member, at in wanted.items() if (member in own) == here}
        pairs = [
            (weight, found[member])
            for member, weight in known.items()
            if weight and found.get(member) and (member in own) == here
        ]
        if any(group.values()) and not pairs:
            return kept
        ratio, error = _ratio(pairs)
        worth |= {member: at * ratio for member, at in group.items()}
        if any(group.values()):
            doubt = max(doubt, float(error * sum(group.values()) / total))
    return KeptWeights(worth, compared=True, doubt=min(doubt, _MOST_DOUBT))


def _ratio(pairs: Collection[tuple[int, Fraction]]) -> tuple[Fraction, Fraction]:
    """Give what one of the kernel's is worth, of pairs of what is wanted and what is found.

    And by what part of it that may be off, if each number was rounded by one at most.
    """

    def agreeing(ratio: Fraction) -> list[tuple[int, Fraction]]:
        return [(weight, at) for weight, at in pairs if abs(weight / ratio - at) < 1]

    ratios = Counter(weight / at for weight, at in pairs).most_common(_CANDIDATES)
    if not ratios:
        return Fraction(1), Fraction()
    best = max((agreeing(ratio) for ratio, _ in ratios), key=_rank)
    at_all = sum((at for _, at in best), Fraction())
    return sum(weight for weight, _ in best) / at_all, len(best) / at_all


def _rank(pairs: Collection[tuple[int, Fraction]]) -> tuple[int, Fraction]:
    return len(pairs), sum((at for _, at in pairs), Fraction()) / sum(weight for weight, _ in pairs)


def whole(weights: Mapping[RealServerKey, Fraction]) -> dict[RealServerKey, int]:
    """Give whole numbers in the same proportions; those that are whole stay."""
    divisor = lcm(*(weight.denominator for weight in weights.values()))
    return {member: int(weight * divisor) for member, weight in weights.items()}
