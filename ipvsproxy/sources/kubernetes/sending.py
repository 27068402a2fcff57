"""Who sends requests: kubernetes_asyncio's client, or an HTTP session of our own.

A kubeconfig has proxies, client certificates, server names and tokens that age, and the library
knows what each means. A pod's ServiceAccount is a token and one certificate authority, and bare
URLs have less than that: for these the library would be 90 modules, 5 MiB and a tenth of a second
of every start, to add one header. Both make the same requests.

Knows nothing of where credentials are from (`session`), nor what answers mean (`client`).
"""

from __future__ import annotations

import json
import ssl
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple, Protocol
from urllib.parse import urlencode

import aiohttp

if TYPE_CHECKING:
    from pathlib import Path

    from kubernetes_asyncio.client import ApiClient

JSON = "application/json"
_USER_AGENT = "ipvsproxy"
_READ_AT_ONCE = 128 << 10
"""Bytes of an answer after which no more is taken from the system until they are read, or twice as
many. What waits here is memory, and a long list waits in several streams."""


class Request(NamedTuple):
    """A request, whatever session it is made in; one with a body makes an object."""

    path: str
    params: Mapping[str, str]
    limits: aiohttp.ClientTimeout
    body: Mapping[str, object] | None = None
    accept: str = JSON

    @property
    def method(self) -> str:
        """The HTTP method."""
        return "GET" if self.body is None else "POST"


class Sender(Protocol):
    """Sends requests with the credentials of one moment."""

    async def send(self, server: str, request: Request) -> aiohttp.ClientResponse:
        """Make a request of a server; whatever the library and the system raise comes through."""
        ...

    async def close(self) -> None:
        """Close all connections."""
        ...


class LibrarySender:
    """Requests by the library's client, as a kubeconfig has configured it."""

    def __init__(self, client: ApiClient) -> None:
        self.client = client
        client.user_agent = _USER_AGENT

    async def send(self, server: str, request: Request) -> aiohttp.ClientResponse:
        """Make a request of a server."""
        response: aiohttp.ClientResponse = await self.client.call_api(
            request.path,
            request.method,
            query_params=list(request.params.items()),
            header_params={"Accept": request.accept},
            body=request.body,
            auth_settings=["BearerToken"],
            _preload_content=False,
            _return_http_data_only=True,
            _request_timeout=request.limits,
            _host=server,
        )
        return response

    async def close(self) -> None:
        """Close all connections."""
        await self.client.close()


class PlainSender:
    """Requests by an HTTP session, with at most a header for who we are."""

    def __init__(
        self, *, tls: ssl.SSLContext | None, authorization: Callable[[], str] | None = None
    ) -> None:
        """Use `tls` for https (None: there is none), and the value that `authorization` gives.

        That is asked before each request; what it raises comes through.
        """
        self._authorization = authorization
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=True if tls is None else tls),
            headers={"Content-Type": JSON, "User-Agent": _USER_AGENT},
            trust_env=True,  # for proxies
            read_bufsize=_READ_AT_ONCE,
        )

    async def send(self, server: str, request: Request) -> aiohttp.ClientResponse:
        """Make a request of a server."""
        headers = {"Accept": request.accept}
        if self._authorization is not None:
            headers["Authorization"] = self._authorization()
        url = f"{server}{request.path}"
        if request.params:
            url += f"?{urlencode(request.params)}"
        return await self._session.request(
            request.method,
            url,
            headers=headers,
            data=None if request.body is None else json.dumps(request.body),
            timeout=request.limits,
        )

    async def close(self) -> None:
        """Close all connections."""
        await self._session.close()


def tls_by(authority: Path | None) -> ssl.SSLContext:
    """Verify servers by the certificates in a file; None: by the system's authorities.

    Raises OSError or ValueError for a file that has none.
    """
    return ssl.create_default_context(cafile=authority)
