"""List and watch of one resource: an endless stream of what is there and what is no longer there.

Knows the protocol of the Kubernetes API (lists in pages, watches, resource versions, bookmarks,
410) and nothing of what the objects hold: they pass as JSON. The caller is `source`.

    ┌─▶ list ── Changed* Removed* Complete ─▶ watch ── Changed, Removed ──┐
    │  (no version known)                       ▲   (from the version)    │
    │                                           └── end, cut, failure ◀───┤
    └────────────────── 410, or refused as such ◀─────────────────────────┘

What is known is a resource version for each object. A list is compared with it: what has the same
version is not passed on, and what is missing is passed on as removed, but only after the last page:
a list that was received in part says nothing of what is missing. Versions are compared for
equality only. A failure, of whatever kind, changes nothing of what is known, and is tried again
with backoff (`pace`); nothing but the caller ends the stream.

References: Kubernetes API concepts, "Efficient detection of changes"; ecosystem of client-go:
tools/cache/reflector.go.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from enum import Enum
from typing import NamedTuple, TypeAlias

import msgspec
import structlog

from ipvsproxy.sources.kubernetes.client import ApiConnection
from ipvsproxy.sources.kubernetes.errors import (
    ApiError,
    BadRequest,
    Expired,
    Forbidden,
    Rejected,
    Unavailable,
    of_event,
)
from ipvsproxy.sources.kubernetes.health import SourceHealth
from ipvsproxy.sources.kubernetes.pace import HEALTHY_SECONDS, Backoff, Timing

PAGE_SIZE = 500
"""Objects of a page: a few milliseconds of decoding."""
_YIELD_EVERY = 100
"""Objects of a page after which other tasks get their turn; a page from the server's cache has
all objects, whatever its limit."""
_SHORTEST_WATCH_SECONDS, _SPREAD_SECONDS = 300, 300
_GRACE_SECONDS = 15.0
"""How much longer than the watch's time limit the connection may be silent."""
_TOO_SHORT_SECONDS = 1.0
"""A watch that ends sooner, even in good order, is followed by a pause."""

_log = structlog.get_logger(__name__)


class Resource(NamedTuple):
    """What is listed and watched."""

    kind: str
    path: str
    """Of the collection, as in /api/v1/services."""
    plural: str
    """As in an RBAC rule."""
    group: str = ""
    label_selector: str = ""
    field_selector: str = ""
    optional_field_selector: str = ""
    """Used where the server knows the field; else the caller gets more objects than it needs."""
    name: str = ""
    """Of the watch, where a kind has several; empty: the kind's."""

    @property
    def watch(self) -> str:
        """By what the watch is known to health, to the log and to `store.Listed`."""
        return self.name or self.kind


class ObjectName(NamedTuple):
    """What names an object within its kind."""

    namespace: str
    name: str


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
        self._optional_selector = resource.optional_field_selector
        self._began: float | None = None
        """When the present watch began."""

    async def items(self) -> AsyncGenerator[Item, None]:
        """List and watch for ever."""
        while True:
            self._began = None
            try:
                if self._version is None:
                    async with aclosing(self.list()) as listed:
                        async for item in listed:
                            yield item
                async with aclosing(self._watch(self._version or "")) as watched:
                    async for item in watched:
                        yield item
            except ApiError as error:
                delay = self._after_failure(error)
            else:
                delay = self._after_end()
            if delay:
                await self._timing.sleep(delay)

    async def list(self) -> AsyncGenerator[Item, None]:
        """Pass on one complete list, as the difference from what is known.

        Raises ApiError; what was passed on until then is true, and nothing counts as missing.
        """
        missing = dict.fromkeys(self._known)
        continuation = ""
        while True:
            page = await self._page(continuation)
            for count, raw in enumerate(page.items or (), start=1):
                name, version = _head(raw)
                missing.pop(name, None)
                if self._known.get(name) != version:
                    self._known[name] = version
                    yield Changed(name, raw)
                if count % _YIELD_EVERY == 0:
                    await asyncio.sleep(0)
            continuation = page.metadata.continuation
            if not continuation:
                break
        for name in missing:
            del self._known[name]
            yield Removed(name)
        self._version = page.metadata.resource_version
        self._next_list = Freshness.LATEST
        self._health.listed(self._resource.watch, len(self._known))
        yield Complete()

    async def _page(self, continuation: str) -> _Page:
        """Read one page of a list; the first one if `continuation` is empty."""
        parameters = {"limit": str(PAGE_SIZE)}
        if continuation:
            parameters["continue"] = continuation
        elif self._next_list is Freshness.CACHED:
            parameters["resourceVersion"] = "0"
        path = self._resource.path
        try:
            return self._read_page(await self._connection.get(path, self._selectors() | parameters))
        except BadRequest:
            if not self._optional_selector:
                raise
        _log.info(
            "API server does not know a field selector, asking without",
            watch=self._resource.watch,
            selector=self._optional_selector,
        )
        self._optional_selector = ""
        return self._read_page(await self._connection.get(path, self._selectors() | parameters))

    def _read_page(self, body: bytes) -> _Page:
        """Read a page; what else a proxy in between may send must not pass for an empty list."""
        expected = f"{self._resource.kind}List"
        try:
            page = _pages.decode(body)
        except ValueError:
            raise Unavailable(f"the API server sent no {expected}: {_start(body)}") from None
        if page.kind != expected or not page.metadata.resource_version:
            raise Unavailable(f"the API server sent no {expected}: {_start(body)}")
        return page

    async def _watch(self, version: str) -> AsyncGenerator[Item, None]:
        """Pass on what one watch says. Raises ApiError."""
        seconds = _SHORTEST_WATCH_SECONDS + int(self._timing.random() * _SPREAD_SECONDS)
        parameters = self._selectors() | {
            "watch": "1",
            "resourceVersion": version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(seconds),
        }
        watch = self._resource.watch
        async with self._connection.stream(
            self._resource.path, parameters, silence=seconds + _GRACE_SECONDS
        ) as lines:
            self._began = self._timing.now()
            self._health.connected(watch)
            async for line in lines:
                for item in self._take(line):
                    yield item
                self._health.heard(watch, len(self._known))
        self._health.ended(watch)

    def _take(self, line: bytes) -> Iterator[Item]:
        """Read one event; at most one item comes of it."""
        event = _decode_event(line)
        if event.type == "ERROR":
            raise of_event(event.object)
        name, version = _head(event.object)
        match event.type:
            case "ADDED" | "MODIFIED":
                if self._known.get(name) != version:
                    self._known[name] = version
                    yield Changed(name, event.object)
            case "DELETED":
                if self._known.pop(name, None) is not None:
                    yield Removed(name)
            case "BOOKMARK":
                pass
            case other:
                raise Unavailable(f"the API server sent an event of unknown type {other!r}")
        self._version = version

    def _selectors(self) -> dict[str, str]:
        fields = (self._resource.field_selector, self._optional_selector)
        selectors = {
            "labelSelector": self._resource.label_selector,
            "fieldSelector": ",".join(field for field in fields if field),
        }
        return {key: value for key, value in selectors.items() if value}

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
        match error:
            case Expired():
                _log.info("watch is behind the API server's history, listing again", watch=watch)
                self._health.ended(watch)
                self._version = None
            case BadRequest() | Rejected():
                self._version = None
                self._health.failed(watch, str(error))
            case _:
                self._health.failed(watch, self._for_operator(error))
        return self._backoff.next(error.retry_after)

    def _lived(self) -> float:
        return 0.0 if self._began is None else self._timing.now() - self._began

    def _for_operator(self, error: ApiError) -> str:
        if not isinstance(error, Forbidden):
            return str(error)
        resource = self._resource
        rule = f'apiGroups: ["{resource.group}"], resources: ["{resource.plural}"]'
        return f'{error}; the role needs the rule {{{rule}, verbs: ["list", "watch"]}}'


class _ListMeta(msgspec.Struct):
    resource_version: str = msgspec.field(name="resourceVersion")
    continuation: str = msgspec.field(default="", name="continue")


class _Page(msgspec.Struct):
    kind: str
    metadata: _ListMeta
    items: list[msgspec.Raw] | None = None


class _ObjectMeta(msgspec.Struct):
    resource_version: str = msgspec.field(name="resourceVersion")
    name: str = ""
    """Empty in a bookmark."""
    namespace: str = ""


class _Object(msgspec.Struct):
    metadata: _ObjectMeta


class _Event(msgspec.Struct):
    type: str
    object: msgspec.Raw


_pages = msgspec.json.Decoder(_Page)
_objects = msgspec.json.Decoder(_Object)
_events = msgspec.json.Decoder(_Event)


def _decode_event(line: bytes) -> _Event:
    try:
        return _events.decode(line)
    except ValueError:
        raise Unavailable(f"the API server sent no watch event: {_start(line)}") from None


def _head(raw: msgspec.Raw) -> tuple[ObjectName, str]:
    """Read an object's name and version, which the API server gives to each."""
    try:
        metadata = _objects.decode(raw).metadata
    except ValueError:
        raise Unavailable(f"the API server sent no object: {_start(bytes(raw))}") from None
    return ObjectName(metadata.namespace, metadata.name), metadata.resource_version


def _start(body: bytes) -> str:
    return repr(body[:80].decode(errors="replace"))
