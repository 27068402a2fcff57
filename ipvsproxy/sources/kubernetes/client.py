"""Requests to the API servers of one cluster: which one is asked, and what its answers mean.

Every request has time limits, HTTP statuses are checked, lines are split without a limit of the
library's making, and every failure becomes one of `errors`. A server that fails is the last to be
asked again; when all of them are, is the caller's to say.

Credentials age in three ways. A token file is looked at before each request. When a file that the
session was made from has changed (a rotated certificate or CA, another kubeconfig), the next
request is made in a new one; and so it is after a 401 and a TLS failure, for there are credentials
whose age no file tells, such as the token of an exec plugin. Streams that still run on the old
session keep it until they end.

A peer may vanish without a word, and the connection stays open for ever. The kernel asks after the
peer of a stream (keep-alive), and gives up what is sent and not acknowledged.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections import Counter, deque
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, contextmanager
from typing import NamedTuple
from urllib.parse import urlsplit

import aiohttp
import structlog

from ipvsproxy.sources.kubernetes.access import Access
from ipvsproxy.sources.kubernetes.errors import (
    AccessError,
    ApiError,
    Unauthorized,
    Unavailable,
    Unreachable,
    of_response,
)
from ipvsproxy.sources.kubernetes.sending import JSON, Request
from ipvsproxy.sources.kubernetes.session import Session, load

_log = structlog.get_logger(__name__)

LONGEST_LINE = 32 << 20
"""Bytes of one line of a stream; etcd takes objects of 1.5 MiB, as JSON a few times that."""

_CONNECT_SECONDS = 5.0
_SILENCE_SECONDS = 60.0
"""How long an answer to a list may pause; the API server itself gives up after 60 s."""
_ANSWER_SECONDS = 60.0
"""How long the beginning of an answer may take, of a watch too."""
_LIST_SECONDS = 300.0
_READ_AT_ONCE = 1 << 16
"""Bytes of a stream that are made into lines at a time: of a list, all that has come would be
megabytes, and its lines as much again."""
_LONGEST_ERROR = 64 << 10
_CREATE_SECONDS = 30.0
_OK, _CREATED, _UNAUTHORIZED = 200, 201, 401
_NO_ANSWER = "<error>"
"""The code of a request without an answer, client-go's word."""

_HUNG_UP = "the connection was closed at once; does an API server listen there?"

KEEP_ALIVE_IDLE, KEEP_ALIVE_INTERVAL, KEEP_ALIVE_COUNT = 30, 10, 3
"""A stream's peer is asked after so many seconds of silence, again each so many, and given up after
so many unanswered ones: a minute in all. client-go's figures, which asks by HTTP/2 pings, are
30 s and 15 s."""


class _Answer(NamedTuple):
    response: aiohttp.ClientResponse
    server: str


class Lines:
    """The lines of a stream, as an iterator; a list brings thousands, many of them at once."""

    def __init__(self, chunks: AsyncIterator[list[bytes]]) -> None:
        self._chunks = chunks
        self._come: deque[bytes] = deque()

    def __aiter__(self) -> Lines:
        return self

    async def __anext__(self) -> bytes:
        while not self._come:
            self._come.extend(await anext(self._chunks))
        return self._come.popleft()

    def at_once(self) -> bytes | None:
        """Give the next line if it has come already; None: it has to be waited for."""
        return self._come.popleft() if self._come else None


class ApiConnection:
    """Requests to the API servers of one cluster; made by `connect`, to be closed."""

    def __init__(
        self, access: Access, session: Session, requests: Counter[tuple[str, str, str]]
    ) -> None:
        self._access = access
        self._requests = requests
        self._session = session
        self._turn = 0
        """Which server is asked, counted on with each that has failed."""
        self._stale = False
        self._unusable = ""
        """What was logged of files that have changed and cannot be used."""
        self._renewing = asyncio.Lock()

    @property
    def url(self) -> str:
        """Where the API server is that is asked now."""
        servers = self._session.servers
        return servers[self._turn % len(servers)]

    async def get(self, path: str, params: Mapping[str, str], *, accept: str = JSON) -> bytes:
        """Read a whole answer, such as a page of a list. Raises ApiError."""
        limits = aiohttp.ClientTimeout(
            total=_LIST_SECONDS, sock_connect=_CONNECT_SECONDS, sock_read=_SILENCE_SECONDS
        )
        async with self._answer(Request(path, params, limits, accept=accept)) as answer:
            with self._explained(answer.server):
                return await answer.response.read()

    async def create(self, path: str, body: Mapping[str, object]) -> None:
        """Make an object in a collection. Raises ApiError, and so Conflict if it is there already.

        After any other error it may have been made or not.
        """
        limits = aiohttp.ClientTimeout(total=_CREATE_SECONDS, sock_connect=_CONNECT_SECONDS)
        async with self._answer(Request(path, {}, limits, body)):
            pass

    @asynccontextmanager
    async def stream(
        self, path: str, params: Mapping[str, str], *, silence: float, accept: str = JSON
    ) -> AsyncIterator[Lines]:
        """Read an answer line by line; entered once the server has accepted the request.

        `silence` is how many seconds may pass without a byte. The iteration ends when the server
        ends the answer. Raises ApiError, in the middle of the iteration too. What the block raises
        of Unavailable counts against the server.
        """
        limits = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS, sock_read=silence)
        async with (
            self._answer(Request(path, params, limits, accept=accept)) as answer,
            aclosing(self._chunks(answer)) as chunks,
        ):
            yield Lines(chunks)

    async def close(self) -> None:
        """Close the connections; streams must have ended before."""
        await self._session.retire()

    @asynccontextmanager
    async def _answer(self, request: Request) -> AsyncIterator[_Answer]:
        async with AsyncExitStack() as stack:
            answer = await self._reach(stack, request)
            try:
                yield answer
            except Unavailable:
                self._pass_on(answer.server)
                raise

    async def _reach(self, stack: AsyncExitStack, request: Request) -> _Answer:
        """Ask one server after the other; `stack` releases the answer and the session."""
        others = len(self._session.servers) - 1
        while True:
            server = self.url
            try:
                with self._explained(server):
                    return _Answer(await self._ask(stack, server, request), server)
            except Unavailable:
                self._pass_on(server)
                if not others:
                    raise
            others -= 1
            await stack.aclose()

    def _pass_on(self, server: str) -> None:
        """Have the next server asked; of several requests that fail at one only the first does."""
        if self.url == server:
            self._turn += 1

    async def _ask(
        self, stack: AsyncExitStack, server: str, request: Request
    ) -> aiohttp.ClientResponse:
        """Ask a server, after a 401 with credentials that are loaded anew."""
        response = await self._send(stack, server, request)
        if response.status == _UNAUTHORIZED:
            self._stale = True
            await stack.aclose()
            response = await self._send(stack, server, request)
        await _check(response)
        return response

    async def _send(
        self, stack: AsyncExitStack, server: str, request: Request
    ) -> aiohttp.ClientResponse:
        session = await self._current()
        await stack.enter_async_context(session.used())
        code = _NO_ANSWER
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                response = await session.send(server, request)
            code = str(response.status)
        finally:
            host = urlsplit(server).netloc.rpartition("@")[2]
            self._requests[code, request.method, host] += 1
        stack.callback(response.close)
        if request.limits.total is None:
            _ask_after_the_peer(response)
        return response

    @contextmanager
    def _explained(self, server: str) -> Iterator[None]:
        """Turn what the HTTP library raises into an `ApiError`."""
        try:
            yield
        except (aiohttp.ClientError, OSError, ValueError) as error:
            self._stale = self._stale or _is_about_tls(error)
            raise _explain(error, server) from error

    async def _chunks(self, answer: _Answer) -> AsyncGenerator[list[bytes], None]:
        """Split into lines, whatever the boundaries of the chunks; empty lines are left out.

        Those that have come together are given together.
        """
        rest: list[bytes] = []
        size = 0
        with self._explained(answer.server):
            async for chunk in answer.response.content.iter_chunked(_READ_AT_ONCE):
                first, *others = chunk.split(b"\n")
                rest.append(first)
                size += len(first)
                if others:
                    whole = [b"".join(rest), *others[:-1]]
                    rest = [others[-1]]
                    size = len(others[-1])
                    yield [line for line in whole if line]
                if size > LONGEST_LINE:
                    limit = f"{LONGEST_LINE} bytes"
                    raise Unavailable(f"the API server sent a line of more than {limit}")
        if size:
            raise Unreachable("the API server ended a watch in the middle of an object")

    async def _current(self) -> Session:
        """Give the session, with the credentials loaded anew where they are not what they were.

        Files that cannot be used are perhaps half written: the old session goes on for as long as
        servers take it. Raises Unauthorized when they do not.
        """
        async with self._renewing:
            if self._stale or self._session.outdated:
                try:
                    session = await load(self._access)
                except AccessError as error:
                    if self._stale:
                        raise Unauthorized(str(error)) from error
                    if self._unusable != str(error):
                        self._unusable = str(error)
                        _log.warning("new credentials cannot be used yet", error=str(error))
                    return self._session
                self._stale, self._unusable = False, ""
                retired, self._session = self._session, session
                await retired.retire()
            return self._session


async def connect(
    access: Access, requests: Counter[tuple[str, str, str]] | None = None
) -> ApiConnection:
    """Load configuration and credentials; no request is made yet.

    In `requests` each is counted, as in `Watches`. Raises AccessError, whose message says what is
    missing and where.
    """
    return ApiConnection(access, await load(access), Counter() if requests is None else requests)


def _ask_after_the_peer(response: aiohttp.ClientResponse) -> None:
    """Have the kernel find out that the peer of a stream is gone (tcp(7))."""
    transport = response.connection.transport if response.connection is not None else None
    found = transport.get_extra_info("socket") if transport is not None else None
    if found is None:
        return
    longest = KEEP_ALIVE_IDLE + KEEP_ALIVE_INTERVAL * KEEP_ALIVE_COUNT
    found.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (
        (socket.TCP_KEEPIDLE, KEEP_ALIVE_IDLE),
        (socket.TCP_KEEPINTVL, KEEP_ALIVE_INTERVAL),
        (socket.TCP_KEEPCNT, KEEP_ALIVE_COUNT),
        (socket.TCP_USER_TIMEOUT, longest * 1000),
    ):
        found.setsockopt(socket.IPPROTO_TCP, option, value)


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
            return Unreachable(
                f"the certificate of {url} is not trusted: {reason}; give its certificate "
                "authority in a kubeconfig, and a name or address that the certificate has"
            )
        case aiohttp.ClientSSLError():
            reason = _system_reason(error.os_error)
            return Unreachable(f"no TLS with {url}: {reason}; does an API server listen there?")
        case aiohttp.ClientConnectorError():
            return Unreachable(f"cannot reach {url}: {_system_reason(error.os_error)}")
        case TimeoutError():
            return Unreachable(f"no answer from {url} within the time limit")
        case aiohttp.ClientPayloadError():
            # aiohttp has put what the system said into the text, and not into the cause.
            silent = ": timed out" if "timed out" in str(error) else ""
            return Unreachable(f"connection to {url} lost in the middle of an answer{silent}")
        case _:
            return Unreachable(f"connection to {url} lost: {str(error) or type(error).__name__}")


def _is_about_tls(error: BaseException) -> bool:
    """Whether TLS is behind an error; a server may refuse a certificate after the handshake too."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLError | aiohttp.ClientSSLError):
            return True
        cause = cause.__cause__ or cause.__context__
    return False


def _system_reason(error: OSError) -> str:
    if error.errno is not None and error.errno > 0 and type(error).__module__ != "ssl":
        return os.strerror(error.errno)
    return error.strerror or str(error) or _HUNG_UP
