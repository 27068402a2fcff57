"""The rolling audit: all of the kernel's tables in small parts, at a pace that never changes.

Knows the parts, what each costs, and how much may be read by when; who reads them and what comes
of it, it does not know. The cost is about that of the time it takes, a real server being 1. A round
begins with the dummy interface and the list of virtual servers, goes on with the sets, and ends
with the real servers of each virtual server.

How it works: with time comes credit, `PER_PERIOD` in a sync period and never more than a round
costs, so a round takes a sync period at least and the work does not grow with the tables. A part
is given out while there is credit; one that costs more than is left is paid off before the next.
What has come since a round began is read at its end, so nothing waits for two rounds.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Container, Iterable, Iterator
from itertools import cycle

from ipvsproxy.core.parts import Addresses, Members, Part, RealServers, VirtualServers
from ipvsproxy.model import State, VirtualServerKey
from ipvsproxy.reconciler.doubts import watched_sets

PER_PERIOD = 10_000
"""Real servers that are read in a sync period, at the most."""
_LIGHT = 0.25
"""An address, a member of a set or a listed virtual server, beside a real server."""
_SET = 4.0
"""What a set costs without its members, for its listing is three system calls."""
_MOST_KEYS = 50
_MOST_REAL_SERVERS = 250.0
"""Virtual servers and real servers of one part: some milliseconds, for which a change waits."""


class Rounds:
    """Gives out what is to be read next, round after round."""

    def __init__(self, now: float) -> None:
        self.finished = 0
        """Rounds that came to their end."""
        self._parts: deque[tuple[float, Part]] = deque()
        """What of the round is still to be read, each with its cost."""
        self._covered: set[VirtualServerKey] = set()
        self._cost = 0.0
        self._credit = 0.0
        self._credited = now
        self._begun = False
        self._keys: list[Iterator[VirtualServerKey]] = []
        """Of each family."""

    def restart(self, now: float) -> None:
        """Forget the round: everything was read just now. The next begins when it is asked for."""
        self._parts.clear()
        self._begun = False
        self._credited = now

    def earn(self, state: State, now: float, period: float) -> None:
        """Add the credit of the time since the last call; `period` is the sync period (s)."""
        if not self._begun:
            self._begin(state)
        most = min(self._cost, PER_PERIOD)
        elapsed = now - self._credited
        self._credited = now
        self._credit = min(self._credit + most * elapsed / period, most)

    def take(self, state: State) -> Part | None:
        """Give the next part; None when there is no credit. After the last a round begins."""
        if not self._parts:
            self._add(_of_real_servers(state, self._covered))  # what has come meanwhile
        if not self._parts:
            self.finished += 1
            self._begin(state)
        if self._credit <= 0:
            return None
        cost, part = self._parts.popleft()
        self._credit -= cost
        return part

    def samples(self) -> list[VirtualServerKey]:
        """Give a virtual server of each family, others each time."""
        return [next(keys) for keys in self._keys]

    def _begin(self, state: State) -> None:
        self._begun = True
        self._cost = self._credit = 0.0
        self._covered.clear()
        self._add(_before_real_servers(state))
        self._add(_of_real_servers(state, self._covered))
        by_length: defaultdict[int, list[VirtualServerKey]] = defaultdict(list)
        for key in state.virtual_servers:
            by_length[len(key.address)].append(key)
        self._keys = [cycle(keys) for keys in by_length.values()]

    def _add(self, parts: Iterable[tuple[float, Part]]) -> None:
        for cost, part in parts:
            self._parts.append((cost, part))
            self._cost += cost
            if isinstance(part, RealServers):
                self._covered.update(part.keys)


def _before_real_servers(state: State) -> Iterator[tuple[float, Part]]:
    """Give what a round begins with, each with its cost."""
    yield 1 + _LIGHT * len(state.addresses), Addresses()
    yield 1 + _LIGHT * len(state.virtual_servers), VirtualServers()
    for name in watched_sets(state):
        yield _SET + _LIGHT * len(state.members[name]), Members(name)


def _of_real_servers(
    state: State, covered: Container[VirtualServerKey]
) -> Iterator[tuple[float, Part]]:
    """Give the rest part by part, but what is covered already."""
    keys: list[VirtualServerKey] = []
    cost = 0.0
    for key, members in state.real_servers.items():
        if key in covered:
            continue
        keys.append(key)
        cost += max(1, len(members))
        if len(keys) == _MOST_KEYS or cost >= _MOST_REAL_SERVERS:
            yield cost, RealServers(tuple(keys))
            keys, cost = [], 0.0
    if keys:
        yield cost, RealServers(tuple(keys))
