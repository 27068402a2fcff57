"""The connections of a fake API server, so that all of them can be reset."""

from __future__ import annotations

import asyncio
import weakref

from aiohttp import web


class Connections:
    """All connections, those too that have only begun: aiohttp does not know of a TLS handshake."""

    def __init__(self, runner: web.AppRunner) -> None:
        self._runner = runner
        self._open: weakref.WeakSet[asyncio.Transport] = weakref.WeakSet()
        self.aborted = False

    def gate(self) -> asyncio.Protocol:
        return _Gate(self)

    def abort(self) -> None:
        self.aborted = True
        for transport in list(self._open):
            transport.abort()

    def handle(self, transport: asyncio.Transport) -> None:
        """Hand a connection over to aiohttp."""
        if self.aborted or self._runner.server is None:
            transport.abort()
            return
        self._open.add(transport)
        handler = self._runner.server()
        transport.set_protocol(handler)
        handler.connection_made(transport)


class _Gate(asyncio.Protocol):
    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._connections.handle(transport)
