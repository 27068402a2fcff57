"""List and watch of one resource: an endless stream of what is there and what is no longer there.

Knows the protocol of the Kubernetes API (lists in pages and as streams, watches, resource versions,
bookmarks, 410) and nothing of what the objects hold: they pass as JSON. The caller is `source`.

    ┌─▶ list ── Changed* Removed* Complete ─▶ watch ── Changed, Removed ──┐
    │  (no version known)                       ▲   (from the version)    │
    │                                           └── end, cut, failure ◀───┤
    └────────────────── 410, or refused as such ◀─────────────────────────┘

What is known is a resource version for each object. A list is compared with it: what has the same
version is not passed on, and what is missing is passed on as removed, but only after the list's
end: one that was received in part says nothing of what is missing. Versions are compared for
equality only. A failure, of whatever kind, changes nothing of what is known, and is tried again
with backoff (`pace`); nothing but the caller ends the stream.

A list is asked for as a watch that begins with all objects (KEP-3157): the server then holds no
whole list in memory for each of a thousand nodes. Servers that do not offer it say so, since 1.19
by a 4xx; or never say where the list ends, and are waited for so long. Then it is a list, and stays
one for this watch.

References: Kubernetes API concepts, "Efficient detection of changes"; ecosystem of client-go:
tools/cache/reflector.go.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping
from contextlib import aclosing
from enum import Enum
from typing import NamedTuple, TypeAlias

import msgspec
import structlog

from ipvsproxy.sources.kubernetes.client import ApiConnection, Lines
from ipvsproxy.sources.kubernetes.dialect import Dialect
from ipvsproxy.sources.kubernetes.errors import (
    ApiError,
    BadRequest,
    Expired,
    NotFound,
    Rejected,
    Silent,
    Unavailable,
    of_event,
)
from ipvsproxy.sources.kubernetes.health import SourceHealth
from ipvsproxy.sources.kubernetes.messages import (
    Head,
    ObjectName,
    Page,
    WatchEvent,
    read_event,
    read_head,
    read_page,
)
from ipvsproxy.sources.kubernetes.pace import HEALTHY_SECONDS, Backoff, Timing
from ipvsproxy.sources.kubernetes.resources import Resource

PAGE_SIZE = 500
"""Objects of a page: a few milliseconds of decoding."""
LIST_SILENCE_SECONDS = 30.0
"""How long a streamed list may pause; a server that knows none of it pauses at the end for ever."""
BOOKMARK_SILENCE_SECONDS = 180.0
"""How long a watch may be silent once a bookmark has come in it: one follows about each minute
(apiserver's cacher, bookmarkFrequency). Before, nothing says that this server sends any."""
ABSENT_SECONDS = 600.0
"""After how long it is asked again whether a server has a resource that it lacked."""
_YIELD_EVERY = 25
"""Objects after which other tasks get their turn, some milliseconds; a page from the server's cache
has all objects, whatever its limit."""
_SHORTEST_WATCH_SECONDS, _SPREAD_SECONDS = 300, 300
_GRACE_SECONDS = 15.0
"""How much longer than the watch's time limit the connection may be silent."""
_TOO_SHORT_SECONDS = 1.0
"""A watch that ends sooner, even in good order, is followed by a pause."""

_log = structlog.get_logger(__name__)


class Changed(NamedTuple):
    """An object is new, or not as it was."""

    name: ObjectName
    raw: msgspec.Raw


class Removed(NamedTuple):
    """An object is no longer there, or is no longer selected."""

    name: ObjectName


class Complete(NamedTuple):
    """A list has been passed on to its end: what was not in it does not exist."""


Item: TypeAlias = Changed | Removed | Complete


class Freshness(Enum):
    """How old a list may be."""

    CACHED = "cached"
    """From the server's cache, whatever its age: all nodes of a cluster may start at once. Comes as
    one page."""
    LATEST = "latest"
    """Not older than the request."""


class Reflector:
    """List and watch of one resource."""

    def __init__(
        self,
        resource: Resource,
        connection: ApiConnection,
        *,
        timing: Timing,
        health: SourceHealth,
        first_list: Freshness = Freshness.CACHED,
    ) -> None:
        self._resource = resource
        self._connection = connection
        self._timing = timing
        self._health = health
        self._backoff = Backoff(timing.random)
        self._known: dict[ObjectName, str] = {}
        self._version: str | None = None
        """Where to watch from; None: list first."""
        self._next_list = first_list
        """Lists after the first are of the latest version: after a 410 the cache may be behind."""
        self._dialect = Dialect(resource)
        self._began: float | None = None
        """When the present watch began."""

    async def items(self) -> AsyncGenerator[Item, None]:
        """List and watch for ever."""
        while True:
            self._began = None
            try:
                async with aclosing(self._round()) as round_:
                    async for item in round_:
                        yield item
            except ApiError as error:
                if self._is_absence(error):
                    yield Complete()
                delay = self._after_failure(error)
            else:
                delay = self._after_end()
            if delay:
                await self._timing.sleep(delay)

    async def _round(self) -> AsyncGenerator[Item, None]:
        """List where that is needed, and watch until the watch ends. Raises ApiError."""
        if self._version is None and not self._dialect.streams_lists:
            async with aclosing(self._list()) as listed:
                async for item in listed:
                    yield item
        async with aclosing(self._watch(self._version)) as watched:
            async for item in watched:
                yield item

    async def list(self) -> AsyncGenerator[Item, None]:
        """Pass on one complete list, as the difference from what is known.

        Raises ApiError; what was passed on until then is true, and nothing counts as missing.
        """
        for _ in self._resource.paths:
            try:
                async with aclosing(self._list()) as listed:
                    async for item in listed:
                        yield item
            except ApiError as error:
                if self._is_absence(error):
                    self._after_failure(error)
                    yield Complete()
                    return
                if not self._dialect.other_path(error):
                    raise type(error)(self._dialect.for_operator(error)) from error
            else:
                return

    async def _list(self) -> AsyncGenerator[Item, None]:
        missing = dict.fromkeys(self._known)
        continuation = ""
        while True:
            page = await self._page(continuation)
            for count, raw in enumerate(page.items or (), start=1):
                head = read_head(raw)
                if self._counts(head):
                    missing.pop(head.object_name, None)
                    if self._learn(head.object_name, head.resource_version):
                        yield Changed(head.object_name, raw)
                if count % _YIELD_EVERY == 0:
                    await asyncio.sleep(0)
            continuation = page.metadata.continuation
            if not continuation:
                break
        for item in self._complete(missing, page.metadata.resource_version):
            yield item

    def _counts(self, head: Head) -> bool:
        """Whether an object is wanted; nothing is kept of the others, not even that they exist."""
        annotation = self._resource.annotation
        return not annotation or annotation in (head.annotations or {})

    def _learn(self, name: ObjectName, version: str) -> bool:
        """Take note of an object's version; say whether it is another one than before."""
        if self._known.get(name) == version:
            return False
        self._known[name] = version
        return True

    def _complete(self, missing: Iterable[ObjectName], version: str) -> Iterator[Item]:
        """Draw the conclusions from the end of a list."""
        for name in missing:
            del self._known[name]
            yield Removed(name)
        self._version = version
        self._next_list = Freshness.LATEST
        self._health.listed(self._resource.watch, len(self._known))
        yield Complete()

    async def _page(self, continuation: str) -> Page:
        """Read one page of a list; the first one if `continuation` is empty."""
        parameters = {"limit": str(PAGE_SIZE)}
        if continuation:
            parameters["continue"] = continuation
        elif self._next_list is Freshness.CACHED:
            parameters["resourceVersion"] = "0"
        try:
            return await self._get(parameters)
        except BadRequest:
            if not self._dialect.without_optional_selector():
                raise
        return await self._get(parameters)

    async def _get(self, parameters: Mapping[str, str]) -> Page:
        parameters = {**self._dialect.selectors, **parameters}
        accept = self._resource.accept(listing=True)
        body = await self._connection.get(self._dialect.path, parameters, accept=accept)
        return read_page(body, self._resource.list_kinds)

    async def _watch(self, version: str | None) -> AsyncGenerator[Item, None]:
        """Pass on what one watch says; without a version a list comes first. Raises ApiError."""
        seconds = _SHORTEST_WATCH_SECONDS + int(self._timing.random() * _SPREAD_SECONDS)
        parameters = {
            **self._dialect.selectors,
            "watch": "1",
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(seconds),
        }
        if version is None:
            parameters |= {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan"}
        else:
            parameters["resourceVersion"] = version
        watch = self._resource.watch
        async with self._connection.stream(
            self._dialect.path,
            parameters,
            silence=seconds + _GRACE_SECONDS,
            accept=self._resource.accept(listing=False),
        ) as lines:
            self._began = self._timing.now()
            self._health.connected(watch, self._connection.url)
            taking = _Taking(dict.fromkeys(self._known) if version is None else None)
            count = 0
            while True:
                line = lines.at_once()
                if line is None:
                    # Time limits and clocks are for what is waited for: a list has thousands.
                    if count:
                        self._health.heard(watch, len(self._known))
                    line = await _next(lines, taking.patience)
                    if line is None:
                        break
                for item in self._take(line, taking):
                    yield item
                count += 1
                if count % _YIELD_EVERY == 0:
                    await asyncio.sleep(0)
        self._health.ended(watch)

    def _take(self, line: bytes, taking: _Taking) -> Iterator[Item]:
        """Read one event; at most one item comes of it, but at the end of a list."""
        event = read_event(line)
        if event.type == "ERROR":
            raise of_event(event.object)
        head = read_head(event.object)
        if event.type == "BOOKMARK":
            taking.bookmarked = taking.missing is None
            if taking.missing is not None and head.ends_initial_events:
                missing, taking.missing = taking.missing, None
                yield from self._complete(missing, head.resource_version)
        else:
            if taking.missing is not None:
                taking.missing.pop(head.object_name, None)
            yield from self._change(event, head)
        if taking.missing is None:
            self._version = head.resource_version

    def _change(self, event: WatchEvent, head: Head) -> Iterator[Item]:
        name = head.object_name
        match event.type:
            case "ADDED" | "MODIFIED" if not self._counts(head):
                if self._known.pop(name, None) is not None:
                    yield Removed(name)
            case "ADDED" | "MODIFIED":
                if self._learn(name, head.resource_version):
                    yield Changed(name, event.object)
            case "DELETED":
                if self._known.pop(name, None) is not None:
                    yield Removed(name)
            case other:
                raise Unavailable(f"the API server sent an event of unknown type {other!r}")

    def _after_end(self) -> float:
        """Say how long to wait after a watch that ended in good order: not at all, mostly."""
        lived = self._lived()
        if lived >= HEALTHY_SECONDS:
            self._backoff.reset()
        return self._backoff.next() if lived < _TOO_SHORT_SECONDS else 0.0

    def _after_failure(self, error: ApiError) -> float:
        """Draw the conclusions from a failure, and say how long to wait."""
        if self._lived() >= HEALTHY_SECONDS:
            self._backoff.reset()
        watch = self._resource.watch
        if isinstance(error, NotFound) and self._is_absence(error):
            self._dialect.start_anew()
            self._health.absent(watch)
            return ABSENT_SECONDS
        listing = self._version is None
        if self._dialect.other_path(error) or (listing and self._dialect.without_streams(error)):
            return 0.0
        match error:
            case Expired():
                _log.info("watch is behind the API server's history, listing again", watch=watch)
                self._health.expired(watch, error)
                self._version = None
            case BadRequest() | Rejected():
                self._version = None
                self._dialect.start_anew()
                self._health.failed(watch, error, self._dialect.for_operator(error))
            case _:
                self._health.failed(watch, error, self._dialect.for_operator(error))
        return self._backoff.next(error.retry_after)

    def _is_absence(self, error: ApiError) -> bool:
        """Whether an error means that there are no such objects, or that we are shown none.

        Not when there were some: a server does not lose a resource, so something else is wrong.
        """
        return not self._known and self._dialect.means_none(error)

    def _lived(self) -> float:
        return 0.0 if self._began is None else self._timing.now() - self._began


class _Taking:
    """What one watch has brought so far."""

    def __init__(self, missing: dict[ObjectName, None] | None) -> None:
        self.missing = missing
        """While it streams a list: what is known and has not come. None: there is no list, or it
        has ended."""
        self.bookmarked = False
        """Whether a bookmark has come by itself. That at the end of a list does not say that others
        follow: where nothing changes, an API server may send none."""

    @property
    def patience(self) -> float | None:
        """Seconds that it may be silent; None: as long as the connection may."""
        if self.missing is not None:
            return LIST_SILENCE_SECONDS
        return BOOKMARK_SILENCE_SECONDS if self.bookmarked else None


async def _next(lines: Lines, patience: float | None) -> bytes | None:
    """Wait for the next line; None at the end. Raises Silent, and what the iteration raises."""
    try:
        async with asyncio.timeout(patience):
            return await anext(lines, None)
    except TimeoutError:
        raise Silent(f"the API server has been silent for {patience:g} s") from None
