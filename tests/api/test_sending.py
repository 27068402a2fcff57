"""What goes over the wire: the same, whoever sends it."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from ipvsproxy.sources.kubernetes.library import library
from ipvsproxy.sources.kubernetes.sending import LibrarySender, PlainSender, Request, Sender

LIMITS = aiohttp.ClientTimeout(total=20)
REQUESTS = [
    Request("/api/v1/services", {}, LIMITS),
    Request(
        "/api/v1/services",
        {"labelSelector": "!service.kubernetes.io/headless,a in (b, c)", "continue": "a+b/c=="},
        LIMITS,
        accept="application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1",
    ),
    Request("/api/v1/namespaces/default/events", {}, LIMITS, body={"note": 'ä "b"', "count": 1}),
]


class Seen(list[tuple[str, str, dict[str, str], bytes]]):
    """Requests as the server has had them."""

    async def take(self, request: web.Request) -> web.Response:
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.append((request.method, request.raw_path, headers, await request.read()))
        return web.Response(text="{}")


@asynccontextmanager
async def server(seen: Seen) -> AsyncIterator[str]:
    pages = web.Application()
    pages.router.add_route("*", "/{path:.*}", seen.take)
    async with TestServer(pages) as running:
        yield str(running.make_url("")).rstrip("/")


@pytest.mark.parametrize("token", ["Bearer secret", None])
@pytest.mark.parametrize("request_", REQUESTS, ids=["list", "page", "creation"])
async def test_both_send_the_same(request_: Request, token: str | None) -> None:
    seen = Seen()
    configuration = library().configuration()
    if token is not None:
        configuration.api_key["BearerToken"] = token
    authorization = None if token is None else lambda: token
    senders: list[Sender] = [
        LibrarySender(library().api_client(configuration)),
        PlainSender(tls=None, authorization=authorization),
    ]
    async with server(seen) as url, contextlib.AsyncExitStack() as stack:
        for sender in senders:
            stack.push_async_callback(sender.close)
            async with await sender.send(url, request_) as response:
                assert await response.read() == b"{}"
    by_library, plain = seen
    assert plain == by_library
    assert plain[2].get("authorization") == token


async def test_the_token_is_asked_for_before_each_request() -> None:
    seen, tokens = Seen(), iter(["one", "two"])
    sender = PlainSender(tls=None, authorization=lambda: next(tokens))
    try:
        async with server(seen) as url:
            for _ in range(2):
                async with await sender.send(url, REQUESTS[0]):
                    pass
            with pytest.raises(RuntimeError):
                await sender.send(url, REQUESTS[0])
    finally:
        await sender.close()
    assert [one[2]["authorization"] for one in seen] == ["one", "two"]
