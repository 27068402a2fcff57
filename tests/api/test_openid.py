"""A kubeconfig whose tokens come from an OpenID server, whatever that does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import yaml
from aiohttp import web
from aiohttp.test_utils import TestServer

from ipvsproxy.sources.kubernetes.access import Kubeconfig
from ipvsproxy.sources.kubernetes.errors import AccessError
from ipvsproxy.sources.kubernetes.session import load
from tests.api.support import bearer_token

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the library's

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def openid_config(folder: Path, issuer: str, **config: object) -> Kubeconfig:
    options = {
        "idp-issuer-url": issuer,
        "client-id": "agent",
        "client-secret": "secret",
        "refresh-token": "again",
        **config,
    }
    user = {"auth-provider": {"name": "oidc", "config": options}}
    content = {
        "current-context": "here",
        "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": "https://192.0.2.1"}}],
        "users": [{"name": "u", "user": user}],
    }
    path = folder / "kubeconfig"
    path.write_text(yaml.safe_dump(content))
    return Kubeconfig(path)


@asynccontextmanager
async def openid_server(token: Handler) -> AsyncIterator[str]:
    async def well_known(request: web.Request) -> web.Response:
        return web.json_response({"token_endpoint": str(request.url.with_path("/token"))})

    pages = web.Application()
    pages.router.add_get("/.well-known/openid-configuration", well_known)
    pages.router.add_post("/token", token)
    async with TestServer(pages) as server:
        yield str(server.make_url(""))


async def gives(_: web.Request) -> web.Response:
    return web.json_response({"id_token": "fresh", "refresh_token": "again"})


async def hangs_up(request: web.Request) -> web.Response:
    assert request.transport is not None
    request.transport.close()
    await asyncio.Event().wait()
    raise AssertionError


async def breaks_off(request: web.Request) -> web.StreamResponse:
    answer = web.StreamResponse(headers={"Content-Type": "application/json"})
    answer.content_length = 100
    await answer.prepare(request)
    await answer.write(b"{")
    assert request.transport is not None
    request.transport.close()
    return answer


async def refuses(_: web.Request) -> web.Response:
    return web.Response(status=401)


async def talks_nonsense(_: web.Request) -> web.Response:
    return web.Response(text="<html>")


async def test_a_token_is_asked_for(tmp_path: Path) -> None:
    async with openid_server(gives) as issuer:
        loaded = await load(openid_config(tmp_path, issuer))
    assert bearer_token(loaded) == "Bearer fresh"
    await loaded.retire()


@pytest.mark.parametrize("token", [hangs_up, breaks_off, refuses, talks_nonsense])
async def test_a_server_that_gives_none_is_told(tmp_path: Path, token: Handler) -> None:
    async with openid_server(token) as issuer:
        with pytest.raises(AccessError) as raised:
            await load(openid_config(tmp_path, issuer))
    assert len(str(raised.value)) < len(str(tmp_path)) + 400


@pytest.mark.parametrize(
    ("issuer", "config"),
    [
        ("http://127.0.0.1:1", {}),
        ("nonsense", {}),
        ("http://127.0.0.1:1", {"id-token": 5}),
        ("http://127.0.0.1:1", {"id-token": "a.b.c"}),
        ("http://127.0.0.1:1", {"refresh-token": None, "id-token": "a.eyJleHAiOjF9.c"}),
        ("http://127.0.0.1:1", {"idp-certificate-authority-data": "?"}),
    ],
)
async def test_what_cannot_be_used_is_told(
    tmp_path: Path, issuer: str, config: dict[str, object]
) -> None:
    with pytest.raises(AccessError, match=r"kubeconfig: .+"):
        await load(openid_config(tmp_path, issuer, **config))
