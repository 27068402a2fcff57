"""Which virtual servers have had traffic of late, as far as health checks go by it.

Knows what Services have probed, and what the kernel has counted of their virtual servers; who reads
the kernel, and what is made of the answer, this module does not know.

- A virtual server is read once in an interval of its check, and not more often than each 20 s
  (`pace`). It is quiet when `QUIET_READINGS` in a row have found nothing new.
- Traffic is whatever the kernel counts: a new connection, or a packet of one that is open. An
  endpoint that is cut off loses those too.
- What a virtual server has counted at first sight is traffic: nobody knows when it was.
- What cannot be read is not quiet. A check that somebody asked for must not end by itself.
- A virtual server that several Services want is read for all of them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from ipvsproxy.core.annotations.health_check import Check
from ipvsproxy.core.probing import Probing
from ipvsproxy.model import VirtualServerKey
from ipvsproxy.objects import ServiceName

QUIET_READINGS = 3
"""So many readings in a row without anything new make a virtual server quiet."""
_SHORTEST_PACE = 20.0
"""Seconds; so the window of `QUIET_READINGS` is a minute or more."""
_TOGETHER = 2.0
"""Seconds by which a reading may be early, to be made with others; the kernel's numbers are as old
(net/netfilter/ipvs/ip_vs_est.c)."""

Counted: TypeAlias = tuple[int, ...]
"""What the kernel counts of a virtual server: numbers that grow, from 0 when it is made."""


def pace(check: Check, stretch: float) -> float:
    """Give the seconds between two readings of a virtual server whose endpoints are checked so."""
    return max(_SHORTEST_PACE, check.interval * stretch)


@dataclass(slots=True)
class _Followed:
    pace: float
    due: float
    counted: Counted = ()
    quiet: int = QUIET_READINGS
    """Readings in a row that have found nothing new."""


class RecentTraffic:
    """The virtual servers that are followed, and what was read of them."""

    def __init__(self) -> None:
        self._followed: dict[VirtualServerKey, _Followed] = {}

    @property
    def next_due(self) -> float | None:
        """When the next reading is to be made, in the seconds of `now`; None: nobody asks."""
        return min((one.due for one in self._followed.values()), default=None)

    @property
    def busy(self) -> frozenset[VirtualServerKey]:
        """Those that are not quiet."""
        followed = self._followed.items()
        return frozenset(key for key, one in followed if one.quiet < QUIET_READINGS)

    def follow(
        self, probings: Mapping[ServiceName, Probing], *, stretch: float, now: float
    ) -> None:
        """Follow what these Services ask for and nothing else; what is new is due at once."""
        paces: dict[VirtualServerKey, float] = {}
        for probing in probings.values():
            if probing.check is None:
                continue
            wanted = pace(probing.check, stretch)
            for key in probing.fronts:
                paces[key] = min(wanted, paces.get(key, wanted))
        for key in self._followed.keys() - paces.keys():
            del self._followed[key]
        for key, seconds in paces.items():
            one = self._followed.setdefault(key, _Followed(seconds, now))
            one.pace, one.due = seconds, min(one.due, now + seconds)

    def due(self, now: float) -> tuple[VirtualServerKey, ...]:
        """Give those that are to be read now."""
        followed = self._followed.items()
        return tuple(key for key, one in followed if one.due <= now + _TOGETHER)

    def take(
        self,
        asked: Collection[VirtualServerKey],
        counted: Mapping[VirtualServerKey, Counted] | None,
        now: float,
    ) -> None:
        """Take in a reading; one that is not in it is not in the kernel. None: it failed."""
        for key in asked:
            if (one := self._followed.get(key)) is None:
                continue
            one.due = now + one.pace
            if counted is None:
                one.quiet = 0
                continue
            found = counted.get(key, ())
            one.quiet = 0 if any(found) and found != one.counted else one.quiet + 1
            one.counted = found
