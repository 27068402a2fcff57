"""An HTTP server of the agent on one address and port, and what all of its answers have in common.

Knows nothing of what is answered. A port that is taken is no reason to stop serving traffic: the
server says so in a condition and tries again (kube-proxy does the same unless bindAddressHardFail
is set).
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable

import structlog
from aiohttp import web

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

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Server:
    """One port: listens, tries again while it cannot, and stops when it is cancelled."""

    def __init__(
        self,
        bind_address: str,
        application: web.Application,
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
        runner = web.AppRunner(
            self._application,
            shutdown_timeout=1.0,
        )
        await runner.setup()
        assert runner.server is not None, "it has been set up"
        try:
            listener = await self._listen(runner.server)
            try:
                self.listening.set()
                await asyncio.get_running_loop().create_future()
            finally:
                self.listening.clear()
                listener.close()
        finally:
            await runner.cleanup()

    async def _listen(self, server: web.Server) -> asyncio.Server:
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


async def accept(opened: socket.socket, server: web.Server) -> asyncio.Server:
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


class _Connection(web.RequestHandler):
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


def asked(request: web.BaseRequest) -> None:
    """Take note of a request, before it is answered: its connection is the library's to close."""
    if isinstance(request.protocol, _Connection):
        request.protocol.asked()


def application(handlers: dict[str, Handler]) -> web.Application:
    """Answer GET on these paths, and 404 on all others; at debug every answer is a log line."""
    made = web.Application(middlewares=[_note])
    made.on_response_prepare.append(_sign)
    made.add_routes([web.get(path, handler) for path, handler in handlers.items()])
    return made


@web.middleware
async def _note(request: web.Request, handler: Handler) -> web.StreamResponse:
    asked(request)
    return await handler(request)


async def _sign(request: web.Request, response: web.StreamResponse) -> None:
    response.headers["Server"] = SIGNATURE
    response.headers["X-Content-Type-Options"] = "nosniff"
    log.debug("answered", path=request.path, status=response.status, client=request.remote)
