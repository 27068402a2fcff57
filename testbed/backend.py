"""What a pod answers: one line with its name and the source that it saw.

A backend listens for TCP, UDP and SCTP on one port, IPv4 and IPv6. For every line or datagram that
it receives it answers `NAME ADDRESS PORT`; a connection stays open until the client closes it.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import TYPE_CHECKING

from testbed import namespaces

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterable

    from testbed.layout import Pod

PORT = 8080
ALL_ADDRESSES = ("::",)
BACKLOG = 512
_STREAMS = (socket.IPPROTO_TCP, socket.IPPROTO_SCTP)
_LINE = 200
_MAPPED = "::ffff:"


class Backend:
    """The server of one pod. Its methods run on the event loop of the traffic."""

    def __init__(
        self, pod: Pod, *, port: int = PORT, addresses: Iterable[str] = ALL_ADDRESSES
    ) -> None:
        self.pod = pod
        self._places = tuple((address, port) for address in addresses)
        self.delay = 0.0
        """Seconds that it takes over every answer: a busy pod."""
        self._listeners: list[tuple[socket.socket, asyncio.Task[None]]] = []
        self._serving: set[asyncio.Task[None]] = set()

    async def listen(self) -> None:
        """Take connections and datagrams; nothing happens where it does so already."""
        if self._listeners:
            return
        for place in self._places:
            for protocol in _STREAMS:
                listener = self._bound(place, socket.SOCK_STREAM, protocol)
                listener.listen(BACKLOG)
                self._start(listener, self._accept(listener))
            datagrams = self._bound(place, socket.SOCK_DGRAM, socket.IPPROTO_UDP)
            self._start(datagrams, self._receive(datagrams))

    async def refuse(self) -> None:
        """Take no new connection, as a pod that is going; open ones are served until they end."""
        listeners, self._listeners = self._listeners, []
        for _, task in listeners:
            task.cancel()
        await asyncio.gather(*(task for _, task in listeners), return_exceptions=True)
        for listener, _ in listeners:
            listener.close()

    async def close(self) -> None:
        """End everything, open connections too."""
        await self.refuse()
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)

    def _bound(self, place: tuple[str, int], kind: int, protocol: int) -> socket.socket:
        family = socket.AF_INET6 if ":" in place[0] else socket.AF_INET
        created = namespaces.open_socket(self.pod.namespace, family, kind, protocol)
        created.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            created.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        created.bind(place)
        return created

    def _start(self, listener: socket.socket, work: Coroutine[None, None, None]) -> None:
        self._listeners.append((listener, asyncio.get_running_loop().create_task(work)))

    async def _accept(self, listener: socket.socket) -> None:
        """Serve whoever connects, by a callback: a cancelled `sock_accept` loses connections."""
        loop = asyncio.get_running_loop()
        loop.add_reader(listener, self._take, listener)
        try:
            await loop.create_future()
        finally:
            loop.remove_reader(listener)

    def _take(self, listener: socket.socket) -> None:
        try:
            connection, source = listener.accept()
        except OSError:  # it has gone again
            return
        connection.setblocking(False)
        task = asyncio.get_running_loop().create_task(self._serve(connection, self._line(source)))
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)
        task.add_done_callback(lambda _: connection.close())

    async def _serve(self, connection: socket.socket, line: bytes) -> None:
        loop = asyncio.get_running_loop()
        with connection, contextlib.suppress(OSError):
            while await loop.sock_recv(connection, _LINE):
                if self.delay:
                    await asyncio.sleep(self.delay)
                await loop.sock_sendall(connection, line)

    async def _receive(self, datagrams: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            _, source = await loop.sock_recvfrom(datagrams, _LINE)
            with contextlib.suppress(OSError):
                await loop.sock_sendto(datagrams, self._line(source), source)

    def _line(self, source: tuple[str, int, int, int]) -> bytes:
        address = source[0].removeprefix(_MAPPED)
        return f"{self.pod.name} {address} {source[1]}\n".encode()
