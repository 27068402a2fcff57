"""Tells conditions as Warning Events: what an operator sees in `kubectl describe service`.

Knows when an Event is sent, how often it is tried and what an answer means; what it says is
`announcement`'s affair. Events are a courtesy: they hold up nothing and fail nothing. Too many at
once, or an API server that is away, and they are dropped; the condition stands all the same, in
`status`, in the log and in a metric.

Each is sent after a pause of its own, so that of the nodes that find the same at the same time one
is first and most others get a 409, which means that it has been told.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from ipvsproxy.sources.kubernetes.announcement import Announcement, Memory, announce
from ipvsproxy.sources.kubernetes.client import ApiConnection
from ipvsproxy.sources.kubernetes.errors import (
    ApiError,
    BadRequest,
    Conflict,
    Forbidden,
    Rejected,
)
from ipvsproxy.sources.kubernetes.pace import Backoff, Timing
from ipvsproxy.telemetry import Condition

SPREAD_SECONDS = 30.0
"""Within so long each node tries, at a time of its own."""
PAUSE_SECONDS = 0.5
"""Between two requests of one node."""
MOST_WAITING = 100
"""Events that wait; what comes on top is dropped."""
TRIES = 3

_RULE = '{apiGroups: ["events.k8s.io"], resources: ["events"], verbs: ["create"]}'

_log = structlog.get_logger(__name__)


class Events:
    """Events through one API server; `run` sends what `tell` was given."""

    def __init__(
        self,
        connection: ApiConnection,
        node_name: str,
        *,
        timing: Timing,
        wall_clock: Callable[[], float],
    ) -> None:
        """Take the connection and, beside `timing`, a clock in seconds since the epoch."""
        self._connection = connection
        self._node_name = node_name
        self._timing = timing
        self._wall_clock = wall_clock
        self._memory = Memory()
        self._queue: asyncio.Queue[Announcement] = asyncio.Queue()
        self._waiting = 0
        """Told to us, and neither sent nor given up."""
        self._dropping = False
        """The latest condition was dropped, and that was logged."""
        self._turn = asyncio.Lock()
        self._complained: set[str] = set()
        """Failures that were logged since the API server last took an Event."""

    def tell(self, condition: Condition, uid: str) -> None:
        """Have a condition told, soon, if it is about a Service or the Node. Never waits.

        `uid` is the Service's. What was told within the last hour is not told again. From the event
        loop only.
        """
        found = announce(condition, uid=uid, node_name=self._node_name, now=self._wall_clock())
        if found is None:
            return
        if self._waiting >= MOST_WAITING:
            if not self._dropping:
                _log.warning("Events dropped, too many wait", waiting=self._waiting)
            self._dropping = True
            return
        self._dropping = False
        if self._memory.admit(found, self._timing.now()):
            self._waiting += 1
            self._queue.put_nowait(found)

    async def run(self) -> None:
        """Send until cancelled; what waits then is not sent. Nothing that the API does ends it."""
        async with asyncio.TaskGroup() as group:
            while True:
                announcement = await self._queue.get()
                group.create_task(self._deliver(announcement), name=f"Event {announcement.name}")

    async def _deliver(self, announcement: Announcement) -> None:
        await self._timing.sleep(self._timing.random() * SPREAD_SECONDS)
        failure = await self._try(announcement)
        self._waiting -= 1
        if failure is None:
            self._complained.clear()
        else:
            self._memory.forget(announcement)
            self._complain(announcement, failure)

    async def _try(self, announcement: Announcement) -> str | None:
        """Send an Event, a few times if need be; return why it could not be told."""
        path = f"/apis/events.k8s.io/v1/namespaces/{announcement.namespace}/events"
        backoff = Backoff(self._timing.random)
        failure, delay = "", 0.0
        for _ in range(TRIES):
            if delay:
                await self._timing.sleep(delay)
            try:
                async with self._turn:
                    await self._timing.sleep(PAUSE_SECONDS)
                    await self._connection.create(path, announcement.body)
            except Conflict:
                return None
            except (BadRequest, Rejected) as error:
                return str(error)
            except ApiError as error:
                # 403 too: an API server that has just started has not read the roles yet.
                failure, delay = _for_operator(error), backoff.next(error.retry_after)
            else:
                return None
        return failure

    def _complain(self, announcement: Announcement, failure: str) -> None:
        if failure not in self._complained:
            self._complained.add(failure)
            _log.warning("Event could not be told", about=announcement.about, error=failure)


def _for_operator(error: ApiError) -> str:
    if isinstance(error, Forbidden):
        return f"{error}; the role needs the rule {_RULE}"
    return str(error)
