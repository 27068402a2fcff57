"""Requests to the API server: the one module that touches kubernetes_asyncio.

The library reads the kubeconfig, makes the TLS context and keeps the HTTP session; its watch, its
typed models and its retries are not used. What it leaves out is done here: HTTP statuses are
checked, every request has time limits, token files are read again when they change, lines are
split without a limit of its making, and every failure becomes one of `errors`.

Credentials age in three ways. A token file is looked at before each request. After a 401, and
after a TLS failure, everything is loaded anew before the next request: rotated client
certificates, a rotated CA, the token of an exec plugin. Streams that still run on the old session
keep it until they end.

The import of the library takes 0.4 s and tens of MiB, so it happens in `connect`, not before.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import os
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, assert_never

import aiohttp

from ipvsproxy.sources.kubernetes.access import Access, InCluster, Kubeconfig, Server, token_file
from ipvsproxy.sources.kubernetes.errors import (
    AccessError,
    ApiError,
    Unauthorized,
    Unavailable,
    of_response,
)

if TYPE_CHECKING:
    from kubernetes_asyncio.client import ApiClient, Configuration

LONGEST_LINE = 32 << 20
"""Bytes of one line of a stream; etcd takes objects of 1.5 MiB, as JSON a few times that."""

_CONNECT_SECONDS = 5.0
_SILENCE_SECONDS = 60.0
"""How long an answer to a list may pause; the API server itself gives up after 60 s."""
_LIST_SECONDS = 300.0
_LONGEST_ERROR = 64 << 10
_CREATE_SECONDS = 30.0
_OK, _CREATED, _UNAUTHORIZED = 200, 201, 401


class _Request(NamedTuple):
    """A request, whatever session it is made in; one with a body makes an object."""

    path: str
    params: Mapping[str, str]
    limits: aiohttp.ClientTimeout
    body: Mapping[str, object] | None = None

    @property
    def method(self) -> str:
        return "GET" if self.body is None else "POST"


class _TokenFile:
    """A bearer token in a file that somebody else replaces, as kubelet does every hour."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, int, int] | None = None
        self._token = ""

    def header(self) -> str:
        """Give the header's value; a file that is missing or empty leaves the last good token.

        Raises OSError or ValueError when there has never been a good one.
        """
        try:
            found = self._path.stat()
            seen = (found.st_mtime_ns, found.st_ino, found.st_size)
            if seen != self._seen:
                token = self._path.read_text(encoding="ascii").strip()
                if not token:
                    raise ValueError("the file is empty")  # noqa: TRY301 - joins the other causes
                self._token, self._seen = token, seen
        except (OSError, ValueError):
            if not self._token:
                raise
        return f"Bearer {self._token}"

    def refresh(self, configuration: Configuration) -> None:
        """Be kubernetes_asyncio's `refresh_api_key_hook`, which it calls before each request."""
        configuration.api_key["BearerToken"] = self.header()


class _Session:
    """A client with the credentials of one moment; closed when retired and no longer used."""

    def __init__(self, client: ApiClient) -> None:
        self.client = client
        self._users = 0
        self._retired = False

    @asynccontextmanager
    async def used(self) -> AsyncIterator[None]:
        self._users += 1
        try:
            yield
        finally:
            self._users -= 1
            await self._close_if_done()

    async def retire(self) -> None:
        self._retired = True
        await self._close_if_done()

    async def _close_if_done(self) -> None:
        if self._retired and not self._users:
            await self.client.close()


class ApiConnection:
    """Requests to one API server; made by `connect`, to be closed."""

    def __init__(self, access: Access, session: _Session) -> None:
        self._access = access
        self._session = session
        self._stale = False
        self._renewing = asyncio.Lock()

    @property
    def url(self) -> str:
        """Where the API server is."""
        return str(self._session.client.configuration.host)

    async def get(self, path: str, params: Mapping[str, str]) -> bytes:
        """Read a whole answer, such as a page of a list. Raises ApiError."""
        limits = aiohttp.ClientTimeout(
            total=_LIST_SECONDS, sock_connect=_CONNECT_SECONDS, sock_read=_SILENCE_SECONDS
        )
        async with self._answer(_Request(path, params, limits)) as response:
            with self._explained():
                return await response.read()

    async def create(self, path: str, body: Mapping[str, object]) -> None:
        """Make an object in a collection. Raises ApiError, and so Conflict if it is there already.

        After any other error it may have been made or not.
        """
        limits = aiohttp.ClientTimeout(total=_CREATE_SECONDS, sock_connect=_CONNECT_SECONDS)
        async with self._answer(_Request(path, {}, limits, body)):
            pass

    @asynccontextmanager
    async def stream(
        self, path: str, params: Mapping[str, str], *, silence: float
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """Read an answer line by line; entered once the server has accepted the request.

        `silence` is how many seconds may pass without a byte. The iteration ends when the server
        ends the answer. Raises ApiError, in the middle of the iteration too.
        """
        limits = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS, sock_read=silence)
        async with (
            self._answer(_Request(path, params, limits)) as response,
            aclosing(self._lines(response.content.iter_any())) as lines,
        ):
            yield lines

    async def close(self) -> None:
        """Close the connections; streams must have ended before."""
        await self._session.retire()

    @asynccontextmanager
    async def _answer(self, request: _Request) -> AsyncIterator[aiohttp.ClientResponse]:
        async with AsyncExitStack() as stack:
            with self._explained():
                response = await self._send(stack, request)
                if response.status == _UNAUTHORIZED:
                    self._stale = True
                    await stack.aclose()
                    response = await self._send(stack, request)
                await _check(response)
            yield response

    async def _send(self, stack: AsyncExitStack, request: _Request) -> aiohttp.ClientResponse:
        """Make a request; `stack` releases the answer and the session."""
        session = await self._current()
        await stack.enter_async_context(session.used())
        response: aiohttp.ClientResponse = await session.client.call_api(
            request.path,
            request.method,
            query_params=list(request.params.items()),
            header_params={"Accept": "application/json"},
            body=request.body,
            auth_settings=["BearerToken"],
            _preload_content=False,
            _return_http_data_only=True,
            _request_timeout=request.limits,
        )
        stack.callback(response.close)
        return response

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn what the HTTP library raises into an `ApiError`."""
        try:
            yield
        except aiohttp.ClientSSLError as error:
            self._stale = True
            raise _explain(error, self.url) from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise _explain(error, self.url) from error

    async def _lines(self, chunks: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
        """Split into lines, whatever the boundaries of the chunks; empty lines are left out."""
        rest: list[bytes] = []
        size = 0
        with self._explained():
            async for chunk in chunks:
                *whole, last = chunk.split(b"\n")
                for line in whole:
                    joined = b"".join((*rest, line)) if rest else line
                    rest.clear()
                    size = 0
                    if joined:
                        yield joined
                if last:
                    rest.append(last)
                    size += len(last)
                    if size > LONGEST_LINE:
                        limit = f"{LONGEST_LINE} bytes"
                        raise Unavailable(f"the API server sent a line of more than {limit}")
        if rest:
            raise Unavailable("the API server ended a watch in the middle of an object")

    async def _current(self) -> _Session:
        """Give the session, with the credentials loaded anew where they have proved stale."""
        async with self._renewing:
            if self._stale:
                try:
                    session = _Session(await _load(self._access))
                except AccessError as error:
                    raise Unauthorized(str(error)) from error
                self._stale = False
                retired, self._session = self._session, session
                await retired.retire()
            return self._session


async def connect(access: Access) -> ApiConnection:
    """Load configuration and credentials; no request is made yet.

    Raises AccessError, whose message says what is missing and where.
    """
    return ApiConnection(access, _Session(await _load(access)))


async def _load(access: Access) -> ApiClient:
    library = importlib.import_module("kubernetes_asyncio.client")
    # At DEBUG it logs whole answers.
    logging.getLogger("kubernetes_asyncio").setLevel(logging.INFO)
    configuration: Configuration = library.Configuration()
    match access:
        case Kubeconfig():
            await _use_kubeconfig(access, configuration)
        case InCluster():
            _use_service_account(access, configuration)
        case Server(url):
            configuration.host = url
        case _:
            assert_never(access)
    try:
        client: ApiClient = library.ApiClient(configuration)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        files = (configuration.ssl_ca_cert, configuration.cert_file, configuration.key_file)
        named = ", ".join(str(file) for file in files if file)
        raise AccessError(f"certificate files {named}: {error}") from None
    client.user_agent = "ipvsproxy"
    return client


async def _use_kubeconfig(access: Kubeconfig, configuration: Configuration) -> None:
    library = importlib.import_module("kubernetes_asyncio.config")
    token = token_file(access.path)
    try:
        await library.load_kube_config(
            config_file=str(access.path),
            client_configuration=configuration,
            persist_config=False,
        )
    except OSError as error:
        reason = f"{error.filename}: {error.strerror}"
        raise AccessError(f"kubeconfig {access.path}: {reason}") from None
    except (library.ConfigException, LookupError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split()).removeprefix("Invalid kube-config file. ")
        raise AccessError(f"kubeconfig {access.path}: {reason}") from None
    if access.server is not None:
        configuration.host = access.server
    if token is not None:
        _use_token_file(token, configuration)


def _use_service_account(access: InCluster, configuration: Configuration) -> None:
    authority = access.folder / "ca.crt"
    if not authority.is_file():
        raise AccessError(
            f"{authority} is missing: the pod needs a ServiceAccount with "
            "automountServiceAccountToken; outside of a pod give --kubeconfig FILE"
        )
    host = f"[{access.host}]" if ":" in access.host else access.host
    configuration.host = f"https://{host}:{access.port}"
    configuration.ssl_ca_cert = str(authority)
    _use_token_file(access.folder / "token", configuration)


def _use_token_file(path: Path, configuration: Configuration) -> None:
    token = _TokenFile(path)
    try:
        token.refresh(configuration)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise AccessError(f"token file {path}: {reason}") from None
    configuration.refresh_api_key_hook = token.refresh


async def _check(response: aiohttp.ClientResponse) -> None:
    """Raise the error that the status tells; the library leaves that to its caller."""
    if response.status in (_OK, _CREATED):
        return
    body = await response.content.read(_LONGEST_ERROR)
    raise of_response(response.status, body, retry_after=response.headers.get("Retry-After"))


def _explain(error: Exception, url: str) -> ApiError:
    match error:
        case aiohttp.ClientConnectorCertificateError():
            cause = error.certificate_error
            reason = getattr(cause, "verify_message", "") or str(cause)
            return Unavailable(
                f"the certificate of {url} is not trusted: {reason}; check the certificate "
                "authority in the kubeconfig, or the server's name"
            )
        case aiohttp.ClientSSLError():
            return Unavailable(f"no TLS with {url}: {_system_reason(error.os_error)}")
        case aiohttp.ClientConnectorError():
            return Unavailable(f"cannot reach {url}: {_system_reason(error.os_error)}")
        case TimeoutError():
            return Unavailable(f"no answer from {url} within the time limit")
        case _:
            return Unavailable(f"connection to {url} lost: {str(error) or type(error).__name__}")


def _system_reason(error: OSError) -> str:
    if error.errno is not None and error.errno > 0 and type(error).__module__ != "ssl":
        return os.strerror(error.errno)
    return error.strerror or str(error)
