"""A small API server with the protocol's real semantics, and faults on demand.

It lists (pages, resourceVersion "", "0" and N; as a stream, KEP-3157), watches (bookmarks,
timeoutSeconds, 410 in both forms), checks tokens, and misbehaves as told: `faults` are taken by
the next request that fits. Objects are kept by `fake_objects`. Nothing waits in real time except
watches that nobody ends; `second` is how long a second of `timeoutSeconds` and of the bookmark
interval really takes.

Alone: `python -m tests.api.fake_server FOLDER` serves the manifests of a folder; objects are
changed with `curl -X PUT --data @object.json URL/api/v1/namespaces/NAMESPACE/services/NAME`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path
from typing import NamedTuple, Self

import yaml
from aiohttp import web

from tests.api.fake_connections import Connections
from tests.api.fake_events import Events, namespace_of
from tests.api.fake_objects import Collection, Object, Objects, Selector, SelectorError

BOOKMARK_SECONDS = 60
_META = "meta.k8s.io/v1"


class Request(NamedTuple):
    """A request that was received."""

    verb: str
    """list, stream (a list as a watch), watch or create."""
    kind: str
    parameters: dict[str, str]
    accept: str = ""


@dataclass(frozen=True)
class Fault:
    """What goes wrong with one request: the first that fits `verb` and `kind`, empty for any."""

    verb: str = ""
    kind: str = ""
    status: int = 200
    """Answer with this status instead; 200: answer, but badly."""
    body: str = ""
    """Answer with this instead, if it is not empty."""
    headers: dict[str, str] = field(default_factory=dict)
    cut_after: int | None = None
    """Reset the connection after so many bytes of the body, or of an event."""
    sound: int = 0
    """So many events of a watch are sent well before one is cut."""
    end: bool = False
    """End a watch in good order before its first event."""
    error_event: int = 0
    """A watch begins with an ERROR event of this code."""
    gate: asyncio.Event | None = None
    """Answer only when this is set."""
    keep: bool = False
    """Stay for the requests after it."""


class Streams(Enum):
    """What the server does when a list is asked for as a stream."""

    REFUSED = "refused"
    """As servers do that do not offer it, since 1.19."""
    OFFERED = "offered"
    ENDLESS = "endless"
    """All objects come, and the bookmark does not that says so."""


class FakeApiServer:
    """`async with FakeApiServer() as server:` serves at `server.url` on loopback."""

    def __init__(
        self,
        *,
        second: float = 1.0,
        tokens: set[str] | None = None,
        tls: ssl.SSLContext | None = None,
        objects: Objects | None = None,
    ) -> None:
        """Serve these objects, that another server may serve too, or some of its own."""
        self.objects = Objects() if objects is None else objects
        self.streams = Streams.REFUSED
        self.events = Events()
        self.faults: list[Fault] = []
        self.requests: list[Request] = []
        self.tokens = tokens
        """Bearer tokens that are let in; None: everybody is."""
        self.chunk_size = 0
        """Send watches in pieces of so many bytes; 0: line by line."""
        self.offers_metadata = True
        """Send metadata only where that is asked for; False: whole objects, as a server that knows
        no such form."""
        self.gone_as_status = False
        """Answer a watch from a forgotten version with HTTP 410 instead of an ERROR event."""
        self.watching = 0
        """Watches that are open now."""
        self.port = 0
        self._second = second
        self.tls = tls
        self._changed = asyncio.Condition()
        self._epoch = 0
        """Raised to end the open watches."""
        self._bookmark = 0
        self._continuations: dict[str, tuple[int, list[Object]]] = {}
        self._transports: set[asyncio.Transport] = set()
        self._runner: web.AppRunner | None = None
        self._listening: asyncio.Server | None = None
        self._connections: Connections | None = None

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Listen; after a `stop`, on the same port."""
        application = web.Application()
        application.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(application, shutdown_timeout=1.0)
        await self._runner.setup()
        self._connections = Connections(self._runner)
        self._listening = await asyncio.get_running_loop().create_server(
            self._connections.gate, "127.0.0.1", self.port, ssl=self.tls, reuse_address=True
        )
        self.port = self._listening.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Reset all connections and stop listening."""
        if self._listening is not None:
            self._listening.close()
            self._listening = None
        if self._connections is not None:
            self._connections.abort()
        await self.end_watches()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    # ------------------------------------------------------------------ what a test does

    async def put(self, written: Object) -> Object:
        stored = self.objects.put(written)
        await self._notify()
        return stored

    async def delete(self, kind: str, namespace: str, name: str) -> None:
        self.objects.delete(kind, namespace, name)
        await self._notify()

    async def end_watches(self) -> None:
        """End the open watches in good order, as their time limit does."""
        self._epoch += 1
        await self._notify()

    async def cut_watches(self) -> None:
        """Reset the connections of the open watches."""
        for transport in list(self._transports):
            transport.abort()
        await self.end_watches()

    async def bookmark(self) -> None:
        """Send a bookmark to the open watches."""
        self._bookmark += 1
        await self._notify()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until something that the server has received or done fulfils a condition."""
        async with asyncio.timeout(20), self._changed:
            await self._changed.wait_for(condition)

    async def until_watched(self, watches: int) -> None:
        await self.until(lambda: self.watching >= watches)

    def asked(self, verb: str, kind: str) -> list[dict[str, str]]:
        """The parameters of the requests so far."""
        return [one.parameters for one in self.requests if (one.verb, one.kind) == (verb, kind)]

    # --------------------------------------------------------------------------- requests

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        for collection in self.objects.collections.values():
            if request.path == collection.kind.path and request.method == "GET":
                return await self._read(request, collection)
            if (key := _key(request.path, collection)) is not None:
                return await self._write(request, collection, key)
        namespace = namespace_of(request.path)
        if namespace is not None and request.method == "POST":
            return await self._create_event(request, namespace)
        return _status(404, "NotFound", "the server could not find the requested resource")

    async def _admit(self, request: web.Request, verb: str, kind: str) -> Fault | web.Response:
        """Take note of a request; return an answer if that is all that it gets."""
        accept = request.headers.get("Accept", "")
        self.requests.append(Request(verb, kind, dict(request.query), accept))
        await self._notify()
        if self.tokens is not None and request.headers.get("Authorization", "") not in {
            f"Bearer {token}" for token in self.tokens
        }:
            return _status(401, "Unauthorized", "Unauthorized")
        fault = self._take_fault(verb, kind)
        if fault.gate is not None:
            await fault.gate.wait()
        if fault.status != 200 or fault.body:
            return web.Response(status=fault.status, text=fault.body, headers=fault.headers)
        return fault

    async def _create_event(self, request: web.Request, namespace: str) -> web.StreamResponse:
        admitted = await self._admit(request, "create", "Event")
        if isinstance(admitted, web.Response):
            return admitted
        written = await request.json()
        answer = self.events.create(namespace, written)
        await self._notify()
        if answer.status == 201:
            return web.json_response(written, status=201)
        return _status(*answer)

    async def _read(self, request: web.Request, collection: Collection) -> web.StreamResponse:
        parameters = dict(request.query)
        verb = "watch" if parameters.get("watch") in ("1", "true") else "list"
        if verb == "watch" and "sendInitialEvents" in parameters:
            verb = "stream"
        fault = await self._admit(request, verb, collection.kind.name)
        if isinstance(fault, web.Response):
            return fault
        try:
            selects = collection.selector(
                parameters.get("labelSelector", ""), parameters.get("fieldSelector", "")
            )
        except SelectorError as error:
            return _status(400, "BadRequest", str(error))
        if verb == "list":
            return await self._list(request, collection, selects, fault)
        if verb == "stream" and (
            self.streams is Streams.REFUSED
            or parameters.get("resourceVersionMatch") != "NotOlderThan"
            or parameters.get("allowWatchBookmarks") not in ("1", "true")
        ):
            return _status(422, "Invalid", "sendInitialEvents: Forbidden: not offered")
        return await self._watch(request, collection, selects, fault)

    def _take_fault(self, verb: str, kind: str) -> Fault:
        for fault in self.faults:
            if fault.verb in ("", verb) and fault.kind in ("", kind):
                if not fault.keep:
                    self.faults.remove(fault)
                return fault
        return Fault()

    async def _list(
        self, request: web.Request, collection: Collection, selects: Selector, fault: Fault
    ) -> web.StreamResponse:
        version, limit = request.query.get("resourceVersion", ""), request.query.get("limit", "0")
        token = request.query.get("continue", "")
        if token:
            at, rest = self._continuations[token]
            if at < self.objects.compacted:
                return _status(410, "Expired", "The provided continue parameter is too old")
        else:
            at = self.objects.version
            rest = [found for _, found in sorted(collection.objects.items()) if selects(found)]
        if version not in ("", "0") and int(version) > at:
            return _status(504, "Timeout", f"Too large resource version: {version}, current: {at}")
        # A list from the server's cache comes whole, whatever its limit.
        size = len(rest) if version == "0" or limit == "0" else int(limit)
        metadata = {"resourceVersion": str(at)}
        if rest[size:]:
            metadata["continue"] = f"{at}.{len(self._continuations)}"
            self._continuations[metadata["continue"]] = (at, rest[size:])
        kind = collection.kind
        partial = self._wants_metadata(request, "PartialObjectMetadataList")
        body = json.dumps(
            {
                "kind": "PartialObjectMetadataList" if partial else f"{kind.name}List",
                "apiVersion": _META if partial else kind.api_version,
                "metadata": metadata,
                "items": [_partial(one) if partial else _without_type(one) for one in rest[:size]],
            }
        ).encode()
        if fault.cut_after is None:
            return web.Response(body=body, content_type="application/json")
        response = web.StreamResponse()
        response.content_length = len(body)
        await response.prepare(request)
        await self._write_cut(request, response, body[: fault.cut_after])
        return response

    async def _watch(
        self, request: web.Request, collection: Collection, selects: Selector, fault: Fault
    ) -> web.StreamResponse:
        kind, version = collection.kind, request.query.get("resourceVersion", "")
        since = int(version or "0")
        expired = version not in ("", "0") and since < self.objects.compacted
        gone = _status_object(410, "Expired", f"too old resource version: {since}")
        if expired and self.gone_as_status:
            return web.json_response(gone, status=410)
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        response.enable_chunked_encoding()
        await response.prepare(request)
        code = fault.error_event or (410 if expired else 0)
        if code:
            error = gone if expired else _status_object(code, "Failure", "injected")
            await self._send(request, response, {"type": "ERROR", "object": error}, fault)
        elif not fault.end:
            if version in ("", "0"):
                # Sending takes time, in which more may change: that is sent after these.
                since = self.objects.version
                for found in [one for one in collection.objects.values() if selects(one)]:
                    added: Object = {"type": "ADDED", "object": found}
                    await self._send(request, response, added, fault)
                    fault = replace(fault, sound=fault.sound - 1)
            if "sendInitialEvents" in request.query and self.streams is Streams.OFFERED:
                end = _bookmark(kind.name, since, {"k8s.io/initial-events-end": "true"})
                await self._send(request, response, end, fault)
            await self._follow(request, response, _Watch(kind.name, since, selects, fault))
        return response

    async def _follow(
        self, request: web.Request, response: web.StreamResponse, watch: _Watch
    ) -> None:
        epoch, bookmark, since = self._epoch, self._bookmark, watch.since
        seconds = float(request.query.get("timeoutSeconds", "1800")) * self._second
        bookmarks = request.query.get("allowWatchBookmarks") in ("1", "true")
        assert request.transport is not None
        with self._counted(request.transport), contextlib.suppress(TimeoutError, ConnectionError):
            async with asyncio.timeout(seconds):
                await self._notify()
                while True:
                    until = self.objects.version
                    events = list(self.objects.events(watch.kind, since, watch.selects))
                    for event in events:
                        await self._send(request, response, event, watch.fault)
                    since, due, bookmark = until, self._bookmark > bookmark, self._bookmark
                    if due and bookmarks:
                        await self._send(request, response, _bookmark(watch.kind, since), Fault())
                    if self._epoch != epoch:
                        return
                    if not await self._something_changes(since, bookmark, epoch):
                        bookmark -= 1

    async def _something_changes(self, since: int, bookmark: int, epoch: int) -> bool:
        """Wait for a change; False when it is time for a bookmark."""
        state = since, bookmark, epoch
        try:
            async with asyncio.timeout(BOOKMARK_SECONDS * self._second), self._changed:
                await self._changed.wait_for(
                    lambda: (self.objects.version, self._bookmark, self._epoch) != state
                )
        except TimeoutError:
            return False
        return True

    @contextlib.contextmanager
    def _counted(self, transport: asyncio.Transport) -> Iterator[None]:
        self.watching += 1
        self._transports.add(transport)
        try:
            yield
        finally:
            self.watching -= 1
            self._transports.discard(transport)

    def _wants_metadata(self, request: web.Request, kind: str) -> bool:
        """Whether metadata only is sent; the first form that is asked for, and offered, counts."""
        wanted = f"application/json;as={kind};g=meta.k8s.io;v=v1"
        return self.offers_metadata and request.headers.get("Accept", "").split(",")[0] == wanted

    async def _send(
        self, request: web.Request, response: web.StreamResponse, event: Object, fault: Fault
    ) -> None:
        found = event["object"]
        if self._wants_metadata(request, "PartialObjectMetadata") and event["type"] != "ERROR":
            assert isinstance(found, dict)
            event = {**event, "object": _partial(found)}
        line = json.dumps(event, ensure_ascii=False).encode() + b"\n"
        if fault.cut_after is not None and fault.sound <= 0:
            await self._write_cut(request, response, line[: fault.cut_after])
            raise ConnectionResetError
        size = self.chunk_size or len(line)
        for start in range(0, len(line), size):
            await response.write(line[start : start + size])
            await asyncio.sleep(0)

    async def _write_cut(
        self, request: web.Request, response: web.StreamResponse, body: bytes
    ) -> None:
        """Send the beginning of what was promised, then a reset once it is on its way."""
        await response.write(body)
        await asyncio.sleep(0)
        assert request.transport is not None
        request.transport.abort()

    async def _write(
        self, request: web.Request, collection: Collection, key: tuple[str, str]
    ) -> web.StreamResponse:
        namespace, name = key
        if request.method == "PUT":
            written = await request.json()
            return web.json_response(await self.put({**written, "kind": collection.kind.name}))
        if request.method == "DELETE" and key in collection.objects:
            await self.delete(collection.kind.name, namespace, name)
            return _status(200, "", "deleted")
        found = collection.objects.get(key)
        if request.method == "GET" and found is not None:
            return web.json_response(found)
        return _status(404, "NotFound", f'{collection.kind.plural} "{name}" not found')


class _Watch(NamedTuple):
    kind: str
    since: int
    selects: Selector
    fault: Fault


def _key(path: str, collection: Collection) -> tuple[str, str] | None:
    """Namespace and name of an object's own path; None for another path."""
    kind = collection.kind
    words = path.removeprefix(kind.prefix + "/").split("/")
    match words:
        case ["namespaces", namespace, kind.plural, name] if kind.namespaced:
            return namespace, name
        case [kind.plural, name] if not kind.namespaced:
            return "", name
        case _:
            return None


def _without_type(found: Object) -> Object:
    """An object as it stands in a list: kind and apiVersion are left to the list."""
    return {key: value for key, value in found.items() if key not in ("kind", "apiVersion")}


def _partial(found: Object) -> Object:
    """An object's metadata (meta/v1 PartialObjectMetadata)."""
    return {"kind": "PartialObjectMetadata", "apiVersion": _META, "metadata": found["metadata"]}


def _bookmark(kind: str, version: int, annotations: dict[str, str] | None = None) -> Object:
    metadata = {"resourceVersion": str(version), "annotations": annotations or {}}
    return {"type": "BOOKMARK", "object": {"kind": kind, "metadata": metadata}}


def _status_object(code: int, reason: str, message: str) -> Object:
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "status": "Success" if code == 200 else "Failure",
        "message": message,
        "reason": reason,
        "code": code,
    }


def _status(code: int, reason: str, message: str) -> web.Response:
    return web.json_response(_status_object(code, reason, message), status=code)


def _documents(folder: Path) -> list[Object]:
    paths = sorted(folder.glob("*.y*ml"))
    return [found for path in paths for found in yaml.safe_load_all(path.read_text()) if found]


async def _serve(documents: list[Object]) -> None:
    async with FakeApiServer() as server:
        for document in documents:
            await server.put(document)
        sys.stdout.write(f"{server.url}\n")
        sys.stdout.flush()
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_serve(_documents(Path(sys.argv[1]))))
