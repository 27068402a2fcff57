"""A preference for the own zone, as far as that can bear it.

Knows weights and who is in the own zone. The rule, with `plain` the share of all weights that the
own zone has and `zones` the number of zones with real servers:

    share of the own zone = max(plain, min(preference, zones * plain))

Clients being spread evenly over the zones, zones * plain is what the own zone can bear of its own
clients before its real servers have more than their plain share of all. So it is not overloaded
by its clients, and as it shrinks its share of them falls in proportion, to nothing with the last
one. Where it has more than the preference by its weights alone, these count.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from fractions import Fraction
from typing import TypeVar

Name = TypeVar("Name")


def share(own: int, total: int, *, per_cent: int, zones: int) -> Fraction:
    """Give the own zone's share, of weights that are `own` there and `total` everywhere."""
    plain = Fraction(own, total)
    return max(plain, min(Fraction(per_cent, 100), zones * plain))


def prefer(
    weights: Mapping[Name, int], own: Collection[Name], *, per_cent: int, zones: int
) -> dict[Name, int]:
    """Give whole weights of which `own` have the share that `share` says.

    Within the own zone, and outside of it, the proportions stay.
    """
    total = sum(weights.values())
    here = sum(weight for name, weight in weights.items() if name in own)
    if not here or here == total:
        return dict(weights)
    wanted = share(here, total, per_cent=per_cent, zones=zones)
    inside = wanted.numerator * (total - here)
    outside = (wanted.denominator - wanted.numerator) * here
    return {name: weight * (inside if name in own else outside) for name, weight in weights.items()}
