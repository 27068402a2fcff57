"""One probe of one endpoint, over a socket of its own, from the node's own address.

Knows sockets and as much of HTTP as the first line of an answer; nothing of Services, intervals or
verdicts. No task and no stream stands behind a probe, only callbacks of the event loop: there may
be a thousand in a second (measured in docs/performance.md, beside a client library).

The event loop is given numbers of files, never sockets: of one that it does not know yet it makes a
text, for an error that nobody sees, and asks the kernel for both addresses to that end. That was
more than a third of what an HTTP probe costs.

A connection is closed by a reset (SO_LINGER of 0): it leaves no TIME_WAIT behind, here or there,
and no port of this node is used up.
"""

from __future__ import annotations

import asyncio
import errno
import re
import socket
import struct
from collections.abc import Callable
from enum import StrEnum
from typing import Protocol, TypeAlias, assert_never

from ipvsproxy import __version__
from ipvsproxy.core.annotations.health_check import HttpProbe, Probe, TcpProbe, UdpProbe
from ipvsproxy.model import Family, RealServerKey


class Outcome(StrEnum):
    """How a probe ended."""

    SUCCESS = "success"
    REFUSED = "refused"
    """Nobody listens: a reset, or port unreachable."""
    TIMEOUT = "timeout"
    """No connection, or no answer, in time."""
    RESET = "reset"
    """The connection ended before an answer."""
    STATUS = "status"
    """An HTTP status that is none of those asked for."""
    MALFORMED = "malformed"
    """An answer that is no HTTP."""
    UNREACHABLE = "unreachable"
    """No way leads there from this node."""
    NOT_TRIED = "not_tried"
    """This node had no file, port or memory left for it: it says nothing of the endpoint."""


Answered: TypeAlias = Callable[[Outcome], None]
Cancel: TypeAlias = Callable[[], None]


class Ask(Protocol):
    """Probes one endpoint."""

    def __call__(
        self, server: RealServerKey, probe: Probe, timeout: float, answered: Answered, /
    ) -> Cancel:
        """Begin a probe; `answered` is called once and later, unless what is given is called."""
        ...


def ask(server: RealServerKey, probe: Probe, timeout: float, answered: Answered) -> Cancel:
    """Probe an endpoint once, in the running event loop; see `Ask`."""
    return _Probing(server, probe, timeout, answered).cancel


_RESET_AT_CLOSE = struct.pack("ii", 1, 0)
_LATE = 0.05
"""Seconds. When the event loop comes to a deadline later than this, it was busy with something
else, and what has been answered meanwhile has a moment to be read."""
_STATUS_LINE = re.compile(rb"HTTP/1\.[01] ([1-5]\d\d)[ \r\n]")
_ENOUGH = len(b"HTTP/1.1 200 ")
_MOST_READ = 512
_OURS = frozenset(
    {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL, errno.EAGAIN}
)
"""Errors that are this node's own."""


class _Probing:
    """One probe that is under way."""

    __slots__ = (
        "_answered",
        "_deadline",
        "_loop",
        "_patient",
        "_probe",
        "_read",
        "_server",
        "_socket",
        "_timer",
    )

    def __init__(
        self, server: RealServerKey, probe: Probe, timeout: float, answered: Answered
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._server = server
        self._probe = probe
        self._answered = answered
        self._read = b""
        self._socket: socket.socket | None = None
        self._patient = False
        self._deadline = self._loop.time() + timeout
        self._timer = self._loop.call_at(self._deadline, self._too_late)
        try:
            self._begin()
        except OSError as error:
            self._later(_outcome_of(error.errno))

    def cancel(self) -> None:
        """End it; nobody is told."""
        self._timer.cancel()
        if self._socket is not None:
            number = self._socket.fileno()
            self._loop.remove_writer(number)
            self._loop.remove_reader(number)
            self._socket.close()
            self._socket = None

    def _begin(self) -> None:
        address = self._server.address
        family = socket.AF_INET if address.family is Family.IPV4 else socket.AF_INET6
        place = (str(address), self._server.port)
        match self._probe:
            case TcpProbe() | HttpProbe():
                made = self._socket = socket.socket(
                    family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK
                )
                made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_AT_CLOSE)
                found = made.connect_ex(place)
                if found not in (0, errno.EINPROGRESS):
                    self._later(_outcome_of(found))
                    return
                self._loop.add_writer(made.fileno(), self._connected)
            case UdpProbe(payload):
                made = self._socket = socket.socket(
                    family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK
                )
                made.connect(place)
                made.send(payload)
                self._loop.add_reader(made.fileno(), self._readable)
            case _:
                assert_never(self._probe)

    def _connected(self) -> None:
        made = self._socket
        assert made is not None
        if found := made.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self._end(_outcome_of(found))
            return
        match self._probe:
            case HttpProbe():
                self._loop.remove_writer(made.fileno())
                try:
                    made.send(_request(self._probe, self._server))
                except OSError as error:
                    self._end(_outcome_of(error.errno))
                    return
                self._loop.add_reader(made.fileno(), self._readable)
            case TcpProbe() | UdpProbe():
                self._end(Outcome.SUCCESS)
            case _:
                assert_never(self._probe)

    def _readable(self) -> None:
        assert self._socket is not None
        try:
            found = self._socket.recv(_MOST_READ)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._end(_outcome_of(error.errno))
            return
        match self._probe:
            case HttpProbe():
                self._read += found
                self._judge(self._probe, ended=not found)
            case TcpProbe() | UdpProbe():
                self._end(Outcome.SUCCESS)
            case _:
                assert_never(self._probe)

    def _judge(self, probe: HttpProbe, *, ended: bool) -> None:
        found = _STATUS_LINE.match(self._read)
        if found:
            right = probe.lowest <= int(found[1]) <= probe.highest
            self._end(Outcome.SUCCESS if right else Outcome.STATUS)
        elif len(self._read) >= _ENOUGH:
            self._end(Outcome.MALFORMED)
        elif ended:
            self._end(Outcome.MALFORMED if self._read else Outcome.RESET)

    def _too_late(self) -> None:
        late = self._loop.time() - self._deadline
        if late > _LATE and not self._patient:
            self._patient = True
            self._timer = self._loop.call_later(min(late, 1.0), self._too_late)
            return
        self._end(Outcome.TIMEOUT)

    def _later(self, outcome: Outcome) -> None:
        self._timer.cancel()
        self._timer = self._loop.call_at(self._loop.time(), self._end, outcome)

    def _end(self, outcome: Outcome) -> None:
        self.cancel()
        self._answered(outcome)


def _request(probe: HttpProbe, server: RealServerKey) -> bytes:
    return (
        f"GET {probe.path} HTTP/1.1\r\nHost: {probe.host or server}\r\n"
        f"User-Agent: ipvsproxy/{__version__}\r\nAccept: */*\r\nConnection: close\r\n\r\n"
    ).encode()


def _outcome_of(number: int | None) -> Outcome:
    match number:
        case errno.ECONNREFUSED:
            return Outcome.REFUSED
        case errno.ECONNRESET | errno.EPIPE | errno.ECONNABORTED:
            return Outcome.RESET
        case errno.ETIMEDOUT:
            return Outcome.TIMEOUT
        case None:
            return Outcome.NOT_TRIED
        case _:
            return Outcome.NOT_TRIED if number in _OURS else Outcome.UNREACHABLE
