"""Which Services have changed since they were last taken, in order of change.

Knows names and under which revision each has first changed; nothing of what a change was.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from itertools import islice

from ipvsproxy.objects import ServiceName


class Dirty:
    """Names of Services, the one that has waited longest first."""

    def __init__(self) -> None:
        self._since: dict[ServiceName, int] = {}

    def __len__(self) -> int:
        """Say how many wait."""
        return len(self._since)

    def mark(self, names: Iterable[ServiceName], revision: int) -> None:
        """Note that Services have changed with a revision; who waits already keeps its turn."""
        for name in names:
            self._since.setdefault(name, revision)

    def take(
        self, only: Collection[ServiceName] | None = None, most: int | None = None
    ) -> list[ServiceName]:
        """Take out those that have waited longest: all, `most` of them, or `only` some."""
        if only is not None:
            names = [name for name in only if name in self._since]
        else:
            names = list(islice(self._since, most))
        for name in names:
            del self._since[name]
        return names

    def before(self, revision: int) -> int:
        """Give the last revision of which nobody waits, given the present one.

        What was marked while an event was taken in belongs to the revision that comes of it.
        """
        return min(next(iter(self._since.values()), revision + 1) - 1, revision)
