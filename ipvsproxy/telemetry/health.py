"""Whether the agent does its work: healthy means working, not that every Service is right.

kube-proxy's rule (pkg/proxy/healthcheck/proxy_health.go): unhealthy when a change has waited for
twice the sync period without a cycle that completed. A refused Service completes its cycle, so it
never takes the node out of the load balancers. Time is an argument, in seconds of any clock that
only runs forward; the same one in all calls.

An agent that starts while the API server is away has nothing to carry out, so it is healthy, though
not ready: the kernel serves on as it was left.
"""

from __future__ import annotations


class Health:
    """Since when changes wait, when a cycle last completed, and whether the Node leaves."""

    __slots__ = ("_carried", "_waiting", "last_completed", "leaving", "limit", "synced")

    def __init__(self, *, sync_period: float, now: float) -> None:
        self.limit = 2 * sync_period
        """Seconds for which changes may wait."""
        self.last_completed = now
        """When a cycle last completed; before the first, the start."""
        self.synced = False
        """Everything of the initial lists has been carried out, or refused and said."""
        self.leaving = False
        """The Node is being deleted or removed by the autoscaler (KEP-3836)."""
        self._waiting: float | None = None
        self._carried: float | None = None

    @property
    def pending_since(self) -> float | None:
        """Since when the oldest change waits that no completed cycle has carried out."""
        return self._carried if self._carried is not None else self._waiting

    def queued(self, now: float) -> None:
        """Take note of a change to carry out."""
        if self._waiting is None:
            self._waiting = now

    def cycle_started(self) -> None:
        """Take note that a cycle takes on what is queued; what comes now waits for the next."""
        if self._carried is None:
            self._carried = self._waiting
        self._waiting = None

    def in_step(self) -> None:
        """Take note that everything of the initial lists has been carried out or refused."""
        self.synced = True

    def cycle_completed(self, now: float) -> None:
        """Take note that a cycle went through all it took on, whatever the kernel answered."""
        self._carried = None
        self.last_completed = now

    def is_working(self, now: float) -> bool:
        """Answer /livez: changes do not wait for longer than twice the sync period."""
        since = self.pending_since
        return since is None or now - since < self.limit

    def is_ready(self, now: float) -> bool:
        """Answer /readyz: working, and the initial lists are in the kernel."""
        return self.synced and self.is_working(now)

    def is_eligible(self, now: float) -> bool:
        """Answer /healthz: working, and the Node is to get traffic."""
        return self.is_working(now) and not self.leaving
