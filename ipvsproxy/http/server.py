"""An HTTP server of the agent on one address and port, and what all of its answers have in common.

Knows nothing of what is answered. A port that is taken is no reason to stop serving traffic: the
server says so in a condition and tries again (kube-proxy does the same unless bindAddressHardFail
is set).

Of aiohttp it is the low-level server, by its modules: `aiohttp.web` would import applications,
patterns of paths, files and web sockets at every start, where a few fixed paths are all there is.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import TypeAlias

import structlog
from aiohttp.web_protocol import RequestHandler
from aiohttp.web_request import BaseRequest
from aiohttp.web_response import Response, StreamResponse
from aiohttp.web_server import Server as Answering

from ipvsproxy import __version__
from ipvsproxy.config.values import split_bind_address
from ipvsproxy.telemetry import Conditions, ConditionType

log = structlog.get_logger(__name__)

RETRY_SECONDS = 5.0
"""Between attempts to listen; kube-proxy's."""
_BACKLOG = 128
"""Connections that the kernel keeps until they are accepted; a check is short."""
_ALL_ADDRESSES = frozenset({"0.0.0.0", "::"})  # noqa: S104 - what it stands for
IDLE_SECONDS = 75.0
"""How long a connection stays open between two requests; the library's is above an hour."""
FIRST_REQUEST_SECONDS = 10.0
"""How long a new connection may take for its first request; the library waits for ever."""
SIGNATURE = f"ipvsproxy/{__version__}"
"""The header Server of every answer: whoever asks can tell an ipvsproxy from others."""

Clock = Callable[[], float]
"""Seconds: of `Health`'s clock, or since the epoch (`wall_clock`)."""

Handler: TypeAlias = Callable[[BaseRequest], Awaitable[StreamResponse]]
"""Answers requests: for one path, or for a whole port."""

_METHODS = ("GET", "HEAD")
_END_SECONDS = 1.0
"""How long an answer that is under way at the end may take."""


class Server:
    """One port: listens, tries again while it cannot, and stops when it is cancelled."""

    def __init__(
        self,
        bind_address: str,
        application: Handler,
        *,
        name: str,
        conditions: Conditions,
        wall_clock: Clock,
        retry_seconds: float = RETRY_SECONDS,
    ) -> None:
        self._bind_address = bind_address
        self._application = application
        self._subject = f"Port {bind_address}"
        self._name = name
        self._conditions = conditions
        self._wall_clock = wall_clock
        self._retry_seconds = retry_seconds
        self.listening = asyncio.Event()

    async def run(self) -> None:
        """Serve until cancelled; returns at once when the address is empty."""
        if not self._bind_address:
            return
        server = Answering(self._application)
        try:
            listener = await self._listen(server)
            try:
                self.listening.set()
                await asyncio.get_running_loop().create_future()
            finally:
                self.listening.clear()
                listener.close()
        finally:
            await end(server)

    async def _listen(self, server: Answering) -> asyncio.Server:
        host, port = split_bind_address(self._bind_address)
        while True:
            try:
                opened = open_socket(None if host in _ALL_ADDRESSES else host, port)
                listener = await accept(opened, server)
            except OSError as error:
                self._report(error)
            else:
                self._conditions.clear(self._subject, ConditionType.PORT_TAKEN)
                return listener
            await asyncio.sleep(self._retry_seconds)

    def _report(self, error: OSError) -> None:
        """Make it a condition, and log it once: the next cycle that logs conditions may be far."""
        reason = os.strerror(error.errno or 0).lower()
        message = (
            f"the {self._name} server cannot listen on {self._bind_address} ({reason}): stop "
            f"what listens there or set --{self._name}-bind-address; traffic is not affected"
        )
        self._conditions.set(
            self._subject, ConditionType.PORT_TAKEN, message=message, now=self._wall_clock()
        )
        raised = self._conditions.take_raised_of(self._subject, ConditionType.PORT_TAKEN)
        if raised is not None:
            log.warning(
                "condition", subject=raised.subject, type=str(raised.type), problem=raised.message
            )


def open_socket(address: str | None, port: int) -> socket.socket:
    """Listen on one address, or on all (None), of both families where there are both, as Go does.

    Raises OSError.
    """
    if address is not None:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        return socket.create_server((address, port), family=family, backlog=_BACKLOG)
    if socket.has_dualstack_ipv6():
        return socket.create_server(
            ("", port), family=socket.AF_INET6, backlog=_BACKLOG, dualstack_ipv6=True
        )
    return socket.create_server(("", port), backlog=_BACKLOG)


async def accept(opened: socket.socket, server: Answering) -> asyncio.Server:
    """Have a server answer on a socket; a connection that asks nothing is closed.

    Raises OSError, and the socket is closed. Whoever answers calls `asked`.
    """
    loop = asyncio.get_running_loop()

    def connected() -> asyncio.Protocol:
        return _Connection(
            server,
            loop=loop,
            access_log=None,  # type: ignore[arg-type]  # there is none
            keepalive_timeout=IDLE_SECONDS,
        )

    try:
        return await loop.create_server(connected, sock=opened)
    except BaseException:
        opened.close()
        raise


async def end(server: Answering) -> None:
    """Close all connections: those that wait for a request at once, the others when answered."""
    server.pre_shutdown()
    await server.shutdown(timeout=_END_SECONDS)


class _Connection(RequestHandler):
    """A connection that is closed when its first request does not come in time.

    How long the answer takes is not its affair. Between requests the library waits IDLE_SECONDS.
    """

    __slots__ = ("_waiting",)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        loop = asyncio.get_running_loop()
        self._waiting = loop.call_later(FIRST_REQUEST_SECONDS, self.force_close)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._waiting.cancel()
        super().connection_lost(exc)

    def asked(self) -> None:
        self._waiting.cancel()


def asked(request: BaseRequest) -> None:
    """Take note of a request, before it is answered: its connection is the library's to close."""
    if isinstance(request.protocol, _Connection):
        request.protocol.asked()


def application(handlers: dict[str, Handler]) -> Handler:
    """Answer GET and HEAD on these paths, 404 on all others; at debug each answer is a log line."""

    async def answer(request: BaseRequest) -> StreamResponse:
        asked(request)
        response = await _answer(handlers.get(request.path), request)
        response.headers["Server"] = SIGNATURE
        response.headers["X-Content-Type-Options"] = "nosniff"
        log.debug("answered", path=request.path, status=response.status, client=request.remote)
        return response

    return answer


async def _answer(handler: Handler | None, request: BaseRequest) -> StreamResponse:
    if handler is None:
        return _refusal(HTTPStatus.NOT_FOUND)
    if request.method not in _METHODS:
        return _refusal(HTTPStatus.METHOD_NOT_ALLOWED, Allow=",".join(_METHODS))
    return await handler(request)


def _refusal(status: HTTPStatus, **headers: str) -> Response:
    return Response(status=status, text=f"{status}: {status.phrase}", headers=headers)
