"""How the watches are doing, as plain data, and the log lines when that changes.

An outage of the API is no event of the source: it changes nothing in the kernel. It is said here,
once when it begins (each different message once) and once when it is over, however many watches
it touches; a watch that is cut and resumes at the next try is not worth a line.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import structlog

_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class WatchHealth:
    """One watch; times are seconds of the source's clock, None for never."""

    connected: bool = False
    """Whether the server has accepted the latest request for a watch, which still runs."""
    listed_at: float | None = None
    heard_at: float | None = None
    """When the latest list, event or bookmark came."""
    objects: int = 0
    failures: int = 0
    """Tries that have failed since the server was last heard; a watch that begins is not enough."""
    failing_since: float | None = None
    error: str = ""
    """The latest failure, in one line; empty while all is well."""


class SourceHealth:
    """The health of all watches of one source."""

    def __init__(self, kinds: Iterable[str], *, url: str, now: Callable[[], float]) -> None:
        self._watches = {kind: WatchHealth() for kind in kinds}
        self._url = url
        self._now = now
        self._told: set[str] = set()
        """Messages of the present outage that were logged."""
        self._outage_since: float | None = None

    @property
    def watches(self) -> Mapping[str, WatchHealth]:
        """By kind."""
        return self._watches

    def begin(self, kind: str) -> None:
        """Take a watch into account that was not there from the start."""
        self._watches.setdefault(kind, WatchHealth())

    def listed(self, kind: str, objects: int) -> None:
        """Note a complete list."""
        watch = self._watches[kind]
        watch.listed_at = watch.heard_at = self._now()
        watch.objects = objects

    def connected(self, kind: str) -> None:
        """Note that a watch has begun."""
        watch = self._watches[kind]
        watch.connected = True
        watch.failing_since = None
        watch.error = ""
        if self._told and all(other.connected for other in self._watches.values()):
            _log.info("Kubernetes API is back", url=self._url, outage_seconds=self._outage())
            self._told.clear()
            self._outage_since = None

    def heard(self, kind: str, objects: int) -> None:
        """Note an event or a bookmark."""
        watch = self._watches[kind]
        watch.heard_at = self._now()
        watch.objects = objects
        watch.failures = 0

    def ended(self, kind: str) -> None:
        """Note that the server has ended a watch in good order, as it does every few minutes."""
        watch = self._watches[kind]
        watch.connected = False
        watch.failures = 0

    def failed(self, kind: str, error: str) -> None:
        """Note a request that failed, or a watch that was cut."""
        watch = self._watches[kind]
        cut, watch.connected = watch.connected, False
        watch.failures += 1
        watch.error = error
        if watch.failing_since is None:
            watch.failing_since = self._now()
        if (cut and watch.failures == 1) or error in self._told:
            return
        self._told.add(error)
        if self._outage_since is None:
            self._outage_since = self._now()
        if watch.listed_at is None:
            _log.warning("waiting for the Kubernetes API", awaited=kind, error=error)
        else:
            _log.warning(
                "Kubernetes API is not available, the kernel's tables stay as they are",
                watch=kind,
                error=error,
            )

    def _outage(self) -> float:
        since = self._outage_since
        return 0.0 if since is None else round(self._now() - since, 1)
