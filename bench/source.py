"""An API source for measurements: lists and watches, and next to no work of its own.

`python -m bench.source SERVICES ENDPOINTS` serves a `Cluster` on loopback, says on which port, and
reads changes from its standard input: a line of JSON for each batch, answered with the time
(seconds, CLOCK_MONOTONIC) at which the batch was handed to the sockets of all watches. Lists come
plain or as a stream (KEP-3157), watches from any version, with a bookmark a minute.

It shares a processor with the agent that is measured, so nothing is parsed or encoded at a request.
For the protocol's other corners, and its faults, the tests have a server of their own
(`tests/api/fake_server.py`), which is exact where this one is cheap.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import msgspec
from aiohttp import web

from bench.cluster import NODES, SERVICE, SLICE, Cluster, Written
from bench.workload import Size

_PATHS = {
    "/api/v1/services": (SERVICE, "Service", "v1"),
    "/apis/discovery.k8s.io/v1/endpointslices": (SLICE, "EndpointSlice", "discovery.k8s.io/v1"),
    "/api/v1/nodes": (NODES, "Node", "v1"),
    "/apis/networking.k8s.io/v1/servicecidrs": ("", "ServiceCIDR", "networking.k8s.io/v1"),
}
_BOOKMARK_SECONDS = 60.0
_WATCH_SECONDS = 1800.0
_LONGEST_LINE = 1 << 26
_OTHERS = "metadata.name!="


@dataclass(eq=False, slots=True)
class _Watch:
    """A watch that is open."""

    kind: str
    response: web.StreamResponse
    held_back: list[bytes] | None = field(default_factory=list)
    """What comes while the first events are being sent."""
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    async def tell(self, line: bytes) -> None:
        """Send events, unless the other side is gone."""
        if self.held_back is not None:
            self.held_back.append(line)
            return
        try:
            await self.response.write(line)
        except ConnectionError:
            self.ended.set()


class Source:
    """Objects, their history, and who watches them."""

    def __init__(self, cluster: Cluster) -> None:
        self._version = cluster.version
        self._objects: dict[str, dict[str, bytes]] = {"": {}, SERVICE: {}, SLICE: {}, NODES: {}}
        for one in cluster.objects():
            self._objects[one.kind][one.name] = bytes(one.body)
        self._history: list[tuple[int, str, bytes]] = []
        self._watches: set[_Watch] = set()

    async def publish(self, batch: Iterable[Written]) -> None:
        """Take in changes, and tell all watches of them."""
        lines: dict[str, list[bytes]] = {}
        for one in batch:
            line = self._take(one)
            self._version = one.version
            self._history.append((one.version, one.kind, line))
            lines.setdefault(one.kind, []).append(line)
        for watch in [one for one in self._watches if one.kind in lines]:
            await watch.tell(b"".join(lines[watch.kind]))

    def _take(self, one: Written) -> bytes:
        objects, body = self._objects[one.kind], bytes(one.body)
        if one.deleted:
            objects.pop(one.name, None)
            return _event(b"DELETED", body)
        known = one.name in objects
        objects[one.name] = body
        return _event(b"MODIFIED" if known else b"ADDED", body)

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request."""
        if request.method == "POST":  # an Event is taken and forgotten
            body = await request.read()
            return web.Response(status=201, body=body, content_type="application/json")
        known = _PATHS.get(request.path)
        if known is None:
            return web.json_response({"kind": "Status", "code": 404}, status=404)
        kind, called, group = known
        chosen = "" if _OTHERS in request.query.get("fieldSelector", "") and kind == NODES else kind
        if "watch" in request.query:
            return await self._watch(request, chosen, called, group)
        head = b'{"kind":"%sList","apiVersion":"%s","metadata":{"resourceVersion":"%d"},"items":['
        body = head % (called.encode(), group.encode(), self._version)
        body += b",".join(self._objects[chosen].values()) + b"]}"
        return web.Response(body=body, content_type="application/json")

    async def _watch(
        self, request: web.BaseRequest, kind: str, called: str, group: str
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        response.enable_chunked_encoding()
        await response.prepare(request)
        watch = _Watch(kind, response)
        self._watches.add(watch)
        try:
            await response.write(b"".join(self._beginning(request, kind, called, group)))
            while watch.held_back:
                held, watch.held_back = watch.held_back, []
                await response.write(b"".join(held))
            watch.held_back = None
            ends = time.monotonic() + float(request.query.get("timeoutSeconds", _WATCH_SECONDS))
            while (left := ends - time.monotonic()) > 0 and not watch.ended.is_set():
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(watch.ended.wait(), min(left, _BOOKMARK_SECONDS))
                    break
                await watch.tell(self._bookmark(called, group))
        except ConnectionError:
            pass
        finally:
            self._watches.discard(watch)
        return response

    def _beginning(
        self, request: web.BaseRequest, kind: str, called: str, group: str
    ) -> Iterator[bytes]:
        if "sendInitialEvents" in request.query:
            yield from (_event(b"ADDED", body) for body in self._objects[kind].values())
            yield self._bookmark(
                called, group, b',"annotations":{"k8s.io/initial-events-end":"true"}'
            )
            return
        since = int(request.query.get("resourceVersion") or self._version)
        for version, changed, line in self._history:
            if version > since and changed == kind:
                yield line

    def _bookmark(self, called: str, group: str, more: bytes = b"") -> bytes:
        text = b'{"kind":"%s","apiVersion":"%s","metadata":{"resourceVersion":"%d"%s}}'
        return _event(b"BOOKMARK", text % (called.encode(), group.encode(), self._version, more))


def _event(kind: bytes, body: bytes) -> bytes:
    return b'{"type":"%s","object":%s}\n' % (kind, body)


async def _serve(size: Size) -> None:
    source = Source(Cluster(size))
    loop = asyncio.get_running_loop()
    server = web.Server(source.handle)
    listening = await loop.create_server(server, "127.0.0.1", 0)
    print(listening.sockets[0].getsockname()[1], flush=True)
    commands = asyncio.StreamReader(limit=_LONGEST_LINE)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    batches = msgspec.json.Decoder(list[Written])
    while line := await commands.readline():
        await source.publish(batches.decode(line))
        print(time.monotonic(), flush=True)
    listening.close()


if __name__ == "__main__":
    asyncio.run(_serve(Size(int(sys.argv[1]), int(sys.argv[2]))))
