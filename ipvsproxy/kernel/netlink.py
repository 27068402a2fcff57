"""A blocking netlink socket for a worker thread: batches of requests, and dumps.

Knows sockets, sequence numbers and time limits; what is in the messages is the caller's. One socket
does one thing at a time and is used from one thread.

How it works: requests go out in batches. The kernel carries out a batch within the send call,
message by message, and goes on after one that failed. It tells of each failure, and of a success
only where that was asked for (netlink_rcv_skb in net/netlink/af_netlink.c): the last request of a
batch asks, and its acknowledgement says that all before it were carried out of which no failure was
told. That is one receive call instead of a hundred. nfnetlink refuses a whole batch for want of
CAP_NET_ADMIN, and answers its first message only (nfnetlink_rcv in net/netfilter/nfnetlink.c): that
answer is then everyone's. An answer that does not fit in the receive
buffer is lost, and the next call told so; so a batch must fit: a failure takes 768 bytes there, a
report well over 1 KiB. The buffer is made larger where that is allowed, and who asks for reports
asks in batches of `REPORTS`. Still, whatever goes wrong
with the socket itself (no answer in time, an overrun buffer) leaves requests of which nobody knows
whether they were carried out: they are `UNANSWERED`, and the socket is thrown away with whatever it
may still hold; the next use opens another. After a wait in vain no further batch is sent, so that
an exchange waits for one time limit at most.
"""

from __future__ import annotations

import errno
import math
import socket
import struct
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from ipvsproxy.kernel import message
from ipvsproxy.kernel.message import CodecError, Message
from ipvsproxy.kernel.refusals import UNANSWERED

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = [
    "NETFILTER",
    "REPORTS",
    "Answer",
    "DumpInterruptedError",
    "NetlinkSocket",
    "Request",
    "not_told",
]

REPORTS = 25
"""How many requests that are each answered by a report make a batch."""
NETFILTER = 12
"""NETLINK_NETFILTER, a protocol of netlink sockets that the socket module has no name for."""
_BATCH = 100
_RECEIVE_BUFFER = 1 << 20
_SO_RCVBUFFORCE = 33  # as SO_RCVBUF, beyond net.core.rmem_max; needs CAP_NET_ADMIN
_BUFFER = 65536
_KERNEL = 0  # the port of the kernel; anybody may send to a netlink socket
_SOL_NETLINK = 270
_CAP_ACK = 10  # NETLINK_CAP_ACK: an error does not repeat the request that failed
_STRICT_CHECK = 12  # NETLINK_GET_STRICT_CHK, Linux 4.20: a dump leaves out what is not asked for
_SEQUENCES = 1 << 31
_DUMP_ATTEMPTS = 5


class DumpInterruptedError(OSError):
    """The table changed during every attempt to read it."""


class Request(NamedTuple):
    """A request without its header; `flags` beside REQUEST and ACK."""

    kind: int
    payload: bytes
    flags: int = 0
    acknowledged: bool = True
    """False: no acknowledgement is asked for. The answer is that all is well, or an error; after
    that the rest of the batch is waited for no longer."""


class Answer(NamedTuple):
    """What the kernel said to one request."""

    error: int
    """0, an errno, or `UNANSWERED`."""
    payloads: tuple[bytes, ...] = ()
    """What it reported before its acknowledgement."""


class _WaitedInVainError(Exception):
    """The kernel did not answer a batch in time."""

    def __init__(self, answers: list[Answer]) -> None:
        super().__init__()
        self.answers = answers
        """What is known of each request of the batch."""


_DONE = Answer(0)
_UNANSWERED = Answer(UNANSWERED)


_ASKING = message.REQUEST | message.ACK


def not_told() -> float:
    """Stand for a clock (s) where there is none."""
    return 0.0


class NetlinkSocket:
    """A connection to the kernel that opens itself when used, and anew after an error."""

    def __init__(
        self,
        protocol: int,
        *,
        timeout: float = 5.0,
        longest_batch: float = math.inf,
        used: Callable[[], float] = not_told,
    ) -> None:
        """Talk a protocol, as in NETLINK_ROUTE; wait at most `timeout` seconds for an answer.

        A batch may take `longest_batch` seconds of processor, as far as those before it tell:
        the kernel carries it out without a pause, and nobody else has that processor meanwhile.
        `used` (s) says what this thread has had, the kernel's work for it included; where that is
        not told, no batch is too long.
        """
        self._protocol = protocol
        self._timeout = timeout
        self._longest_batch = longest_batch
        self._used = used
        self._at_once = math.inf
        """How many requests may be sent at once, by the batches that took longer."""
        self._socket: socket.socket | None = None
        self._sequence = 0

    def exchange(self, requests: Sequence[Request], *, batch: int = _BATCH) -> list[Answer]:
        """Send requests, in batches; return one answer for each, in order. Never raises OSError.

        Batches after one that was not answered in time are not sent, and `UNANSWERED` too. `batch`
        is how many requests make one at most; fewer do where the kernel has become slow.
        """
        answers: list[Answer] = []
        while len(answers) < len(requests):
            begun = self._used()
            some = requests[len(answers) : len(answers) + int(min(batch, self._at_once))]
            try:
                answers += self._exchange_batch(some)
            except _WaitedInVainError as error:
                answers += error.answers
                answers += [_UNANSWERED] * (len(requests) - len(answers))
                break
            self._adapt(len(some), self._used() - begun)
        return answers

    def _adapt(self, count: int, used: float) -> None:
        """Take note of what a batch has used (s).

        After one that took too long they grow step by step: there are clocks that only tell ticks.
        """
        if used > self._longest_batch:
            self._at_once = max(count * self._longest_batch / used, 1)
        elif self._at_once < math.inf:
            self._at_once = 2 * self._at_once if self._at_once < _BATCH else math.inf

    def dump(self, request: Request) -> list[bytes]:
        """Return the payloads of a whole table, read again when it changed meanwhile.

        Raises OSError: what the kernel said; TimeoutError; `DumpInterruptedError`; CodecError.
        """
        for _ in range(_DUMP_ATTEMPTS):
            try:
                payloads = self._dump_once(request)
            except (OSError, CodecError):
                self.close()
                raise
            if payloads is not None:
                return payloads
        raise DumpInterruptedError(
            errno.EINTR, f"the table changed during {_DUMP_ATTEMPTS} readings"
        )

    def close(self) -> None:
        """Close the socket; the next use opens another."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _exchange_batch(self, requests: Sequence[Request]) -> list[Answer]:
        """Send requests at once. Raises _WaitedInVainError with what is known all the same."""
        first = self._sequence + 1
        self._sequence = (self._sequence + len(requests)) % _SEQUENCES
        last = max(index for index, one in enumerate(requests) if one.acknowledged)
        found: dict[int, Answer] = {}
        try:
            connection = self._connection()
            connection.send(
                b"".join(
                    message.frame(
                        request.kind,
                        request.payload,
                        flags=request.flags
                        | (_ASKING if sequence == first + last else message.REQUEST),
                        sequence=sequence,
                    )
                    for sequence, request in enumerate(requests, first)
                )
            )
            self._collect(connection, found, first, requests)
        except (OSError, CodecError) as error:
            self.close()
            known = [_known(found.get(index)) for index in range(len(requests))]
            if isinstance(error, TimeoutError):
                raise _WaitedInVainError(known) from error
            return known
        silence = _DONE if last in found else _UNANSWERED
        return [found.get(index, silence) for index in range(len(requests))]

    def _collect(
        self,
        connection: socket.socket,
        found: dict[int, Answer],
        first: int,
        requests: Sequence[Request],
    ) -> None:
        """Read reports and failures until the last request that asks for it is answered.

        Nothing follows the failure of one that asks for nothing: it frames the others. Nor does
        anything where nfnetlink has refused all of them.
        """
        last = max(index for index, one in enumerate(requests) if one.acknowledged)
        ended = False
        while not ended:
            for answer in _receive(connection):
                index = answer.sequence - first
                if not 0 <= index < len(requests):
                    continue
                error = message.failure(answer)
                before = found.get(index, _DONE)
                if error is None:
                    found[index] = Answer(0, (*before.payloads, answer.payload))
                    continue
                found[index] = Answer(error, before.payloads)
                if index == 0 and self._is_for_all(error):
                    found.update(dict.fromkeys(range(len(requests)), found[index]))
                    ended = True
                ended |= index == last or bool(error and not requests[index].acknowledged)

    def _is_for_all(self, error: int) -> bool:
        """Say whether the failure of a batch's first request is that of all the others."""
        return error == errno.EPERM and self._protocol == NETFILTER

    def _dump_once(self, request: Request) -> list[bytes] | None:
        self._sequence = sequence = (self._sequence + 1) % _SEQUENCES
        connection = self._connection()
        flags = message.REQUEST | message.DUMP
        connection.send(
            message.frame(request.kind, request.payload, flags=flags, sequence=sequence)
        )
        payloads: list[bytes] = []
        interrupted = False
        while True:
            for part in _receive(connection):
                if part.sequence != sequence:
                    continue
                interrupted |= part.interrupted
                error = message.failure(part)
                if error is None:
                    payloads.append(part.payload)
                elif error:
                    raise OSError(error, "the kernel refuses to list its table")
                else:
                    return None if interrupted else payloads

    def _connection(self) -> socket.socket:
        if self._socket is None:
            self._socket = _open(self._protocol, self._timeout)
        return self._socket


def _known(answer: Answer | None) -> Answer:
    """Give what is known of a request after an error of the socket: failures only."""
    return answer if answer is not None and answer.error else _UNANSWERED


def _open(protocol: int, timeout: float) -> socket.socket:
    opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
    try:
        # The socket stays blocking, with a limit that the kernel keeps: Python's own time limit
        # would cost a poll before each call.
        seconds, fraction = divmod(timeout, 1)
        limit = struct.pack("@ll", int(seconds), int(fraction * 1_000_000))
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
        opened.setsockopt(_SOL_NETLINK, _CAP_ACK, 1)
        with suppress(OSError):  # without it the dump is only longer
            opened.setsockopt(_SOL_NETLINK, _STRICT_CHECK, 1)
        _enlarge(opened)
        opened.bind((0, 0))
    except OSError:
        opened.close()
        raise
    return opened


def _enlarge(opened: socket.socket) -> None:
    try:
        opened.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER)
    except PermissionError:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)


def _receive(connection: socket.socket) -> list[Message]:
    try:
        data, sender = connection.recvfrom(_BUFFER)
    except BlockingIOError as error:
        raise TimeoutError(errno.ETIMEDOUT, "no answer from the kernel in time") from error
    return list(message.messages(data)) if sender[0] == _KERNEL else []
