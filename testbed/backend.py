"""What a pod answers: one line with its name and the source that it saw.

A backend listens for TCP, UDP and SCTP on one port, IPv4 and IPv6. For every line or datagram that
it receives it answers `NAME ADDRESS PORT`; a connection stays open until the client closes it. To a
request of HTTP on the same port it answers as it is told to (`pages`), or else with the same line.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

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
_REQUEST = b"GET "
MISDIRECTED = 421
"""HTTP's status for a host that is not served here (RFC 9110)."""

Source: TypeAlias = tuple[str, int, int, int]
"""Address and port that something came from, and what else a socket says of it."""


@dataclass(frozen=True, slots=True)
class Web:
    """An answer to a request of HTTP."""

    status: int = 200
    """0: the connection is closed without an answer."""
    host: str = ""
    """Another host is answered with 421; empty: none is."""
    seconds: float = 0.0
    """How long it takes."""

    def text(self, request: bytes) -> bytes:
        """Write the answer to a request."""
        known = not self.host or f"\r\nHost: {self.host}\r\n".encode() in request
        status = self.status if known else MISDIRECTED
        return f"HTTP/1.1 {status} Said\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode()


class Backend:
    """The server of one pod. Its methods run on the event loop of the traffic."""

    def __init__(
        self, pod: Pod, *, port: int = PORT, addresses: Iterable[str] = ALL_ADDRESSES
    ) -> None:
        self.pod = pod
        self._places = tuple((address, port) for address in addresses)
        self.delay = 0.0
        """Seconds that it takes over every answer: a busy pod."""
        self.pages: tuple[Web, ...] = ()
        """How requests of HTTP are answered, in turn to each client. Empty: it speaks none."""
        self.unheard = b""
        """The datagram that it does not answer; empty: it answers all."""
        self.seen: Counter[str] = Counter()
        """Connections and datagrams, by the address that they came from."""
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
        self.seen[_address(source)] += 1
        task = asyncio.get_running_loop().create_task(self._serve(connection, source))
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)
        task.add_done_callback(lambda _: connection.close())

    async def _serve(self, connection: socket.socket, source: Source) -> None:
        loop, line = asyncio.get_running_loop(), self._line(source)
        with connection, contextlib.suppress(OSError):
            while question := await loop.sock_recv(connection, _LINE):
                if self.pages and question.startswith(_REQUEST):
                    await self._answer(connection, question, self._page_for(source))
                    return
                if self.delay:
                    await asyncio.sleep(self.delay)
                await loop.sock_sendall(connection, line)

    def _page_for(self, source: Source) -> Web:
        return self.pages[self.seen[_address(source)] % len(self.pages)]

    async def _answer(self, connection: socket.socket, request: bytes, page: Web) -> None:
        if page.seconds:
            await asyncio.sleep(page.seconds)
        if page.status:
            await asyncio.get_running_loop().sock_sendall(connection, page.text(request))

    async def _receive(self, datagrams: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            question, source = await loop.sock_recvfrom(datagrams, _LINE)
            self.seen[_address(source)] += 1
            if self.unheard and question == self.unheard:
                continue
            with contextlib.suppress(OSError):
                await loop.sock_sendto(datagrams, self._line(source), source)

    def _line(self, source: Source) -> bytes:
        return f"{self.pod.name} {_address(source)} {source[1]}\n".encode()


def _address(source: Source) -> str:
    return source[0].removeprefix(_MAPPED)
