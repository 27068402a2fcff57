"""What a client sees: who answered, from which source, and what failed.

A short request is a new connection (or a new UDP socket), one line out, one line back, close. A
failure is a value, not an exception: tests and the demonstration count them.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import socket
import struct
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

from testbed import namespaces

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator

    from testbed.layout import Host

ANSWER_SECONDS = 5.0
"""How long a client waits for a connection and its answer, together."""
MOST_REQUESTS = 50_000
"""The bound of any load."""
SILENCE = "no answer"
"""How the reason of a failure begins where nothing at all came back."""
REFUSAL = "Connection refused"
"""The reason where somebody said no."""
DENIAL = "Operation not permitted"
"""The reason where the client's own kernel threw a datagram away."""
PORTS = range(11_000, 30_000)
"""The source ports of clients: below the node ports, above the agent's."""
_PORTS: defaultdict[str, Iterator[int]] = defaultdict(lambda: itertools.cycle(PORTS))
"""By namespace. No port is used again before all others were: IPVS does not change a client's port,
so of two connections from one port, through two Services to one pod, the older is lost, for IPVS
takes its answers for the newer one's (kubernetes/kubernetes#90042). Left to itself, the kernel
gives connections to different addresses the same port now and then."""
_LINE = 200
_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER of 0 (socket(7))."""
_QUESTION = b"?\n"


class Protocol(Enum):
    """A protocol as sockets know it: type and number."""

    TCP = (socket.SOCK_STREAM, socket.IPPROTO_TCP)
    UDP = (socket.SOCK_DGRAM, socket.IPPROTO_UDP)
    SCTP = (socket.SOCK_STREAM, socket.IPPROTO_SCTP)


@dataclass(frozen=True, slots=True)
class Target:
    """Where a client asks."""

    address: str
    port: int = 80
    protocol: Protocol = Protocol.TCP

    @property
    def family(self) -> int:
        """The socket family of its address."""
        return socket.AF_INET6 if ":" in self.address else socket.AF_INET


@dataclass(frozen=True, slots=True)
class Answer:
    """A backend's answer: its name, and the client's address and port as the backend saw them."""

    pod: str
    source: str
    port: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Failure:
    """A request that got no answer."""

    reason: str
    seconds: float


Reply = Answer | Failure


def answers(replies: Iterable[Reply]) -> list[Answer]:
    """Return the answers among the replies."""
    return [reply for reply in replies if isinstance(reply, Answer)]


def failures(replies: Iterable[Reply]) -> list[Failure]:
    """Return the failures among the replies."""
    return [reply for reply in replies if isinstance(reply, Failure)]


def distribution(replies: Iterable[Reply]) -> Counter[str]:
    """Count the answers by pod."""
    return Counter(answer.pod for answer in answers(replies))


class Connection:
    """One connection (or UDP socket) of a client."""

    def __init__(self, host: Host, target: Target) -> None:
        self.target = target
        self._host = host
        kind, number = target.protocol.value
        self._socket = namespaces.open_socket(host.namespace, target.family, kind, number)

    async def open(self) -> None:
        """Connect; OSError where that fails.

        Not the loop's own sock_connect, which resolves names in a thread for SCTP.
        """
        self._bind()
        try:
            self._socket.connect((self.target.address, self.target.port))
        except BlockingIOError:
            await self._writable()
            code = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code:
                raise OSError(code, os.strerror(code)) from None

    def _bind(self) -> None:
        port = next(_PORTS[self._host.namespace])
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if self.target.protocol is Protocol.SCTP:
            # On all addresses it would offer all that its host has: of a node, every Service's.
            self._socket.bind((_source_of(self._host, self.target), port))
        else:
            self._socket.bind(("", port))

    async def _writable(self) -> None:
        loop = asyncio.get_running_loop()
        ready = asyncio.Event()
        loop.add_writer(self._socket, ready.set)
        try:
            await ready.wait()
        finally:
            loop.remove_writer(self._socket)

    async def talk(self) -> tuple[str, str, int]:
        """Send a line; return pod, source address and source port of the answer, else OSError."""
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(self._socket, _QUESTION)
        line = await loop.sock_recv(self._socket, _LINE)
        if not line:
            raise ConnectionResetError("closed without an answer")
        pod, source, port = line.decode().split()
        return pod, source, int(port)

    async def reply(self) -> Reply:
        """Send a line and wait for the answer, a bounded time."""
        return await _timed(self.talk)

    async def open_and_reply(self, seconds: float = ANSWER_SECONDS) -> Reply:
        """Connect, send a line and wait for the answer, so many seconds for all."""

        async def both() -> tuple[str, str, int]:
            await self.open()
            return await self.talk()

        return await _timed(both, seconds)

    def reset(self) -> None:
        """Have it end by a reset when it is closed."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)

    def close(self) -> None:
        """Close it."""
        self._socket.close()


def _source_of(host: Host, target: Target) -> str:
    """Return the address from which a host would ask; nothing is sent for that."""
    with namespaces.open_socket(host.namespace, target.family, socket.SOCK_DGRAM) as probe:
        probe.connect((target.address, target.port))
        return str(probe.getsockname()[0])


async def _timed(
    work: Callable[[], Awaitable[tuple[str, str, int]]], seconds: float = ANSWER_SECONDS
) -> Reply:
    loop = asyncio.get_running_loop()
    started = loop.time()
    try:
        async with asyncio.timeout(seconds):
            pod, source, port = await work()
    except TimeoutError:
        return Failure(f"{SILENCE} within {seconds:g} s", loop.time() - started)
    except OSError as error:
        return Failure(error.strerror or str(error), loop.time() - started)
    return Answer(pod, source, port, loop.time() - started)


async def ask_once(host: Host, target: Target) -> Reply:
    """One short request."""
    connection = Connection(host, target)
    try:
        return await connection.open_and_reply()
    finally:
        connection.close()


async def ask(host: Host, target: Target, times: int, *, at_once: int = 1) -> list[Reply]:
    """Make `times` short requests, `at_once` of them at any time."""
    replies: list[Reply] = []
    left = iter(range(min(times, MOST_REQUESTS)))

    async def worker() -> None:
        for _ in left:
            replies.append(await ask_once(host, target))  # noqa: PERF401 (other workers append too)

    await asyncio.gather(*(worker() for _ in range(at_once)))
    return replies


@dataclass(slots=True)
class Load:
    """Short requests without end, until `stop` is called."""

    host: Host
    target: Target
    pause: float = 0.02
    """Seconds between two requests of one worker: on one CPU the agents must get their share."""
    replies: list[Reply] = field(default_factory=list)
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)
    _stopping: bool = False

    async def start(self, workers: int) -> None:
        """Start asking."""
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._work()) for _ in range(workers)]

    async def stop(self) -> None:
        """Let the requests that are under way end, and stop."""
        self._stopping = True
        await asyncio.gather(*self._tasks)

    async def _work(self) -> None:
        while not self._stopping and len(self.replies) < MOST_REQUESTS:
            self.replies.append(await ask_once(self.host, self.target))
            await asyncio.sleep(self.pause)


@dataclass(slots=True)
class Steady:
    """Long connections that talk without end, until `stop` is called; one that fails is over."""

    host: Host
    target: Target
    pause: float = 1.0
    """Seconds between two lines on one connection."""
    replies: list[list[Reply]] = field(default_factory=list)
    """Those on each connection."""
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)
    _stopping: asyncio.Event = field(default_factory=asyncio.Event)

    async def start(self, connections: int) -> None:
        """Open the connections; each has talked once when this returns."""
        for _ in range(connections):
            connection = Connection(self.host, self.target)
            replies = [await connection.open_and_reply()]
            self.replies.append(replies)
            self._tasks.append(asyncio.create_task(self._talk(connection, replies)))

    async def stop(self) -> None:
        """Talk once more on every connection, and close it."""
        self._stopping.set()
        await asyncio.gather(*self._tasks)

    async def _talk(self, connection: Connection, replies: list[Reply]) -> None:
        try:
            while isinstance(replies[-1], Answer) and len(replies) < MOST_REQUESTS:
                last = self._stopping.is_set()
                replies.append(await connection.reply())
                if last:
                    break
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stopping.wait(), self.pause)
        finally:
            connection.close()
