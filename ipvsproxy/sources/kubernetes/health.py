"""What becomes known of how the watches are doing: numbers, a condition, and log lines.

An outage of the API is no event of the source: it changes nothing in the kernel, and it does not
make the agent unhealthy. It is said here: in the log once when it begins (each different message
once) and once when it is over, however many watches it touches; as a condition once it has lasted
for a while. A watch that is cut and resumes at the next try is worth neither.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from ipvsproxy.sources.kubernetes.errors import ApiError, Expired, Forbidden
from ipvsproxy.telemetry import Conditions, ConditionType, Watches

UNREACHABLE_SECONDS = 10.0
"""A watch that has failed for so long makes the condition, at its next try."""
REFUSED_SECONDS = 3.0
"""A right that is missing for so long is told, at the next try: an API server that has just started
refuses everything for a moment, for it listens before it has read the roles."""
SUBJECT = "Source Kubernetes API"

_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Refusal:
    """A right that is missing."""

    since: float
    told: str = ""
    """What was logged of it."""


class SourceHealth:
    """The health of all watches of one source."""

    def __init__(
        self,
        *,
        watches: Watches | None = None,
        conditions: Conditions | None = None,
        wall_clock: Callable[[], float],
    ) -> None:
        """Tell `watches` and `conditions`; `wall_clock` gives seconds since the epoch."""
        self.watches = Watches() if watches is None else watches
        self._conditions = Conditions() if conditions is None else conditions
        self._now = wall_clock
        self._told: set[str] = set()
        """Messages of the present outage that were logged."""
        self._outage_since: float | None = None
        self._refused: dict[str, _Refusal] = {}
        """Watches that fail for want of a right, which is no outage."""

    def begin(self, kind: str) -> None:
        """Take a watch into account, before its first request."""
        self.watches.of(kind)

    def absent(self, kind: str) -> None:
        """Note that nothing is watched, and all is well: no such resource, or no need of it."""
        self.watches.remove(kind)
        self._refused.pop(kind, None)
        self._judge()

    def listed(self, kind: str, objects: int) -> None:
        """Note a complete list."""
        watch = self.watches.of(kind)
        watch.listed_at = watch.heard_at = self._now()
        watch.objects = objects
        watch.lists += 1

    def connected(self, kind: str, url: str) -> None:
        """Note that a watch has begun."""
        watch = self.watches.of(kind)
        watch.connected = True
        watch.failing_since = None
        watch.error = ""
        self._refused.pop(kind, None)
        if self._told and not self._away():
            _log.info("Kubernetes API is back", url=url, outage_seconds=self._outage())
            self._told.clear()
            self._outage_since = None
        self._judge()

    def heard(self, kind: str, objects: int) -> None:
        """Note an event or a bookmark."""
        watch = self.watches.of(kind)
        watch.heard_at = self._now()
        watch.objects = objects
        watch.failures = 0

    def ended(self, kind: str) -> None:
        """Note that the server has ended a watch in good order, as it does every few minutes."""
        watch = self.watches.of(kind)
        watch.connected = False
        watch.failures = 0

    def expired(self, kind: str, error: Expired) -> None:
        """Note that a list is needed again, which is in good order too."""
        self.ended(kind)
        self.watches.of(kind).errors[type(error).__name__] += 1

    def failed(self, kind: str, error: ApiError, text: str) -> None:
        """Note a request that failed, or a watch that was cut; `text` is for the operator."""
        watch = self.watches.of(kind)
        cut, watch.connected = watch.connected, False
        watch.failures += 1
        watch.errors[type(error).__name__] += 1
        watch.error = text
        if watch.failing_since is None:
            watch.failing_since = self._now()
        self._judge()
        if isinstance(error, Forbidden):
            self._refuse(kind, text)
        else:
            self._refused.pop(kind, None)
            self._tell(kind, text, cut=cut)

    def _refuse(self, kind: str, text: str) -> None:
        """Log a missing right, each message once, if it is missing for longer than a moment."""
        refusal = self._refused.setdefault(kind, _Refusal(self._now()))
        if self._now() - refusal.since >= REFUSED_SECONDS and refusal.told != text:
            refusal.told = text
            _log.warning("Kubernetes API does not allow a watch", watch=kind, error=text)

    def _tell(self, kind: str, text: str, *, cut: bool) -> None:
        """Log a failure that may be an outage, where that is worth it."""
        watch = self.watches.of(kind)
        if (cut and watch.failures == 1) or text in self._told:
            return
        self._told.add(text)
        if self._outage_since is None:
            self._outage_since = self._now()
        if watch.listed_at is None:
            _log.warning("waiting for the Kubernetes API", awaited=kind, error=text)
        else:
            _log.warning(
                "Kubernetes API is not available, the kernel's tables stay as they are",
                watch=kind,
                error=text,
            )

    def _away(self) -> bool:
        """Whether a watch fails that does not merely lack a right."""
        return any(
            watch.failing_since is not None and kind not in self._refused
            for kind, watch in self.watches
        )

    def _judge(self) -> None:
        """Raise or clear the condition. It is logged as above, and so not with the next cycle."""
        now = self._now()
        failing: dict[str, list[str]] = defaultdict(list)
        began = now
        for kind, watch in self.watches:
            since = watch.failing_since
            if since is not None and now - since >= UNREACHABLE_SECONDS:
                failing[watch.error].append(kind)
                began = min(began, since)
        if not failing:
            self._conditions.clear(SUBJECT, ConditionType.API_UNREACHABLE)
            return
        told = "; ".join(f"{', '.join(kinds)}: {error}" for error, kinds in failing.items())
        message = f"not watched, what was known stays in force: {told}"
        self._conditions.set(SUBJECT, ConditionType.API_UNREACHABLE, message=message, now=began)
        self._conditions.take_raised_of(SUBJECT, ConditionType.API_UNREACHABLE)

    def _outage(self) -> float:
        since = self._outage_since
        return 0.0 if since is None else round(self._now() - since, 1)
