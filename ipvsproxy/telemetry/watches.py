"""How the watches and requests of a source do, as plain data: what metrics are made of.

A source writes, `metrics` reads; a folder has none of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field


@dataclass(slots=True)
class WatchHealth:
    """One watch; times are seconds since the epoch, None for never."""

    connected: bool = False
    """Whether the server has accepted the latest request for a watch, which still runs."""
    listed_at: float | None = None
    heard_at: float | None = None
    """When the latest list, event or bookmark came."""
    objects: int = 0
    lists: int = 0
    """Complete lists since the start: each after the first had to be read again."""
    failures: int = 0
    """Tries that have failed since the server was last heard; a watch that begins is not enough."""
    failing_since: float | None = None
    error: str = ""
    """The latest failure, in one line; empty while all is well."""
    errors: Counter[str] = field(default_factory=Counter)
    """Failures since the start, by reason."""


class Watches:
    """The watches that there are, by name."""

    __slots__ = ("_watches", "requests")

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, str, str]] = Counter()
        """All requests to API servers, by client-go's code, method and host."""
        self._watches: dict[str, WatchHealth] = {}

    def of(self, name: str) -> WatchHealth:
        """Give what is known of a watch; one that was not there begins."""
        return self._watches.setdefault(name, WatchHealth())

    def remove(self, name: str) -> None:
        """Forget a watch that has no object: the server has no such resource."""
        self._watches.pop(name, None)

    @property
    def by_name(self) -> Mapping[str, WatchHealth]:
        """All of them."""
        return self._watches

    def __iter__(self) -> Iterator[tuple[str, WatchHealth]]:
        """Iterate by name."""
        return iter(sorted(self._watches.items()))
