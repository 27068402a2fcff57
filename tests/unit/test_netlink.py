"""The netlink socket against a scripted kernel: answers late, lost, stale, interrupted, garbage."""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections import deque
from collections.abc import Callable, Iterator

import pytest

from ipvsproxy.core.foreign import NftTable
from ipvsproxy.dataplane import Refusal
from ipvsproxy.kernel import message, netlink, nftables
from ipvsproxy.kernel.message import CodecError
from ipvsproxy.kernel.netlink import NETFILTER, Answer, DumpInterruptedError, NetlinkSocket, Request
from ipvsproxy.kernel.refusals import UNANSWERED, refused
from ipvsproxy.model import Family

ERROR, DONE, REPORT = 2, 3, 28
INTERRUPTED = 0x10
SO_RCVBUFFORCE = 33
KERNEL, STRANGER = (0, 0), (4711, 0)
BATCH = 100
REQUEST = Request(16, b"four")

Step = Callable[[list[int]], bytes]
"""What one receive call returns, given the sequence numbers of the last send."""


def number(value: int) -> bytes:
    return struct.pack("=i", value)


def acknowledge(*errors: int) -> Step:
    """Answer the requests of a batch in order: 0 or an errno each."""

    def step(sequences: list[int]) -> bytes:
        pairs = zip(sequences, errors, strict=True)
        return b"".join(
            message.frame(ERROR, number(-error), flags=0, sequence=sequence)
            for sequence, error in pairs
        )

    return step


def frames(*parts: tuple[int, bytes], flags: int = 0, behind: int = 0) -> Step:
    """Send messages with the sequence number of the request, or one that is `behind` it."""

    def step(sequences: list[int]) -> bytes:
        return b"".join(
            message.frame(kind, payload, flags=flags, sequence=sequences[0] - behind)
            for kind, payload in parts
        )

    return step


def fails(code: int) -> Step:
    def step(_: list[int]) -> bytes:
        raise OSError(code, os.strerror(code))

    return step


def garbage(data: bytes) -> Step:
    return lambda _: data


END = (DONE, number(0))


class Kernel:
    """Gives the steps of its script, one for each receive call of whatever socket."""

    def __init__(self) -> None:
        self.script: deque[Step | tuple[Step, tuple[int, int]]] = deque()
        self.sockets: list[StandInSocket] = []
        self.refusal: OSError | None = None
        self.refused_options: set[int] = set()

    def plan(self, *steps: Step | tuple[Step, tuple[int, int]]) -> None:
        self.script.extend(steps)

    def open(self, family: int, kind: int, protocol: int) -> StandInSocket:
        assert family == socket.AF_NETLINK
        assert kind & socket.SOCK_RAW
        if self.refusal is not None:
            raise self.refusal
        self.sockets.append(StandInSocket(self, protocol))
        return self.sockets[-1]


class StandInSocket:
    """The part of a socket that is used."""

    def __init__(self, kernel: Kernel, protocol: int) -> None:
        self._kernel = kernel
        self.protocol = protocol
        self.sent: list[list[message.Message]] = []
        self.options: dict[tuple[int, int], int | bytes] = {}
        self.closed = False

    def setsockopt(self, level: int, option: int, value: int | bytes) -> None:
        if level == socket.SOL_SOCKET and option in self._kernel.refused_options:
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
        self.options[level, option] = value

    def bind(self, address: tuple[int, int]) -> None:
        assert address == (0, 0)

    def send(self, data: bytes) -> int:
        assert not self.closed
        self.sent.append(list(message.messages(data)))
        return len(data)

    def recvfrom(self, _: int) -> tuple[bytes, tuple[int, int]]:
        assert not self.closed
        assert self._kernel.script, "more is received than the kernel has to say"
        step = self._kernel.script.popleft()
        answer, sender = step if isinstance(step, tuple) else (step, KERNEL)
        return answer([one.sequence for one in self.sent[-1]]), sender

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Iterator[Kernel]:
    kernel = Kernel()
    monkeypatch.setattr(socket, "socket", kernel.open)
    yield kernel
    assert not kernel.script, "the kernel was not asked for all it had to say"


@pytest.fixture
def connection(kernel: Kernel) -> NetlinkSocket:
    made = NetlinkSocket(16, timeout=2.5)
    assert not kernel.sockets, "it opens itself when it is used"
    return made


class TestExchange:
    def test_answers_are_matched_to_requests_in_order(
        self, kernel: Kernel, connection: NetlinkSocket
    ) -> None:
        kernel.plan(acknowledge(0, errno.EEXIST, 0))
        answers = connection.exchange([REQUEST, Request(17, b"", 0x400), REQUEST])
        assert [answer.error for answer in answers] == [0, errno.EEXIST, 0]
        (sent,) = kernel.sockets[0].sent
        assert [(one.kind, one.payload) for one in sent] == [
            (16, b"four"),
            (17, b""),
            (16, b"four"),
        ]
        assert [one.flags for one in sent] == [0x1, 0x401, 0x5], (
            "REQUEST, its own, and ACK at the end"
        )

    def test_silence_before_the_last_acknowledgement_is_success(
        self, kernel: Kernel, connection: NetlinkSocket
    ) -> None:
        def told(sequences: list[int]) -> bytes:
            return acknowledge(errno.EBUSY)(sequences[1:2]) + acknowledge(0)(sequences[3:])

        kernel.plan(told)
        answers = connection.exchange([REQUEST] * 4)
        assert [answer.error for answer in answers] == [0, errno.EBUSY, 0, 0]

    def test_an_acknowledgement_that_was_not_asked_for_is_not_waited_for(
        self, kernel: Kernel, connection: NetlinkSocket
    ) -> None:
        kernel.plan(lambda sequences: frames((ERROR, number(0)))(sequences[1:]))
        silent = REQUEST._replace(acknowledged=False)
        assert connection.exchange([silent, REQUEST, silent]) == [Answer(0)] * 3
        (sent,) = kernel.sockets[0].sent
        assert [bool(one.flags & message.ACK) for one in sent] == [False, True, False]

    def test_an_error_in_its_place_ends_the_wait(
        self, kernel: Kernel, connection: NetlinkSocket
    ) -> None:
        kernel.plan(frames((ERROR, number(-errno.EPERM))))
        answers = connection.exchange([REQUEST._replace(acknowledged=False), REQUEST])
        assert answers == [Answer(errno.EPERM), Answer(UNANSWERED)]

    def test_nothing_to_ask_opens_nothing(self, kernel: Kernel, connection: NetlinkSocket) -> None:
        assert connection.exchange([]) == []
        assert kernel.sockets == []

    def test_many_go_out_in_batches_whose_answers_fit_the_receive_buffer(
        self, kernel: Kernel, connection: NetlinkSocket
    ) -> None:
        kernel.plan(acknowledge(*[0] * BATCH), acknowledge(*[0] * BATCH), acknowledge(errno.EBUSY))
        answers = connection.exchange([REQUEST] * (2 * BATCH + 1))
        assert [answer.error for answer in answers] == [0] * 2 * BATCH + [errno.EBUSY]
        (opened,) = kernel.sockets
        sequences = [one.sequence for batch in opened.sent for one in batch]
        assert len(set(sequences)) == len(sequences)

    def test_a_caller_that_expects_much_asks_in_smaller_batches(
        self, kernel: Kernel, connection: NetlinkSocket
    ) -> None:
        kernel.plan(acknowledge(0, 0), acknowledge(0))
        assert connection.exchange([REQUEST] * 3, batch=2) == [Answer(0)] * 3
        assert [len(batch) for batch in kernel.sockets[0].sent] == [2, 1]

    def test_batches_are_as_long_as_the_kernel_carries_out_in_time(self, kernel: Kernel) -> None:
        used = [0.0]
        connection = NetlinkSocket(16, longest_batch=0.01, used=lambda: used[0])

        def each_taking(seconds: float, count: int) -> Step:
            def step(sequences: list[int]) -> bytes:
                used[0] += seconds * count
                return acknowledge(*[0] * count)(sequences)

            return step

        batches = [(BATCH, 0.0002), (50, 0.02), (1, 0.015), (1, 0.005)]
        batches += [(count, 0.0) for count in (2, 4, 8, 16, 32, 64, BATCH, BATCH, 3)]
        kernel.plan(*(each_taking(seconds, count) for count, seconds in batches))
        sizes = [count for count, _ in batches]
        assert connection.exchange([REQUEST] * sum(sizes)) == [Answer(0)] * sum(sizes)
        assert [len(batch) for batch in kernel.sockets[0].sent] == sizes

    @pytest.mark.parametrize("refused_options", [set(), {SO_RCVBUFFORCE}])
    def test_the_receive_buffer_is_large_where_that_is_allowed(
        self, kernel: Kernel, connection: NetlinkSocket, refused_options: set[int]
    ) -> None:
        kernel.refused_options = refused_options
        kernel.plan(acknowledge(0))
        assert connection.exchange([REQUEST]) == [Answer(0)]
        option = socket.SO_RCVBUF if refused_options else SO_RCVBUFFORCE
        assert kernel.sockets[0].options[socket.SOL_SOCKET, option] == 1 << 20

    def test_what_is_reported_before_the_acknowledgement_is_kept(
        self, kernel: Kernel, connection: NetlinkSocket
    ) -> None:
        kernel.plan(frames((REPORT, b"one.")), frames((REPORT, b"two."), (ERROR, number(0))))
        assert connection.exchange([REQUEST]) == [Answer(0, (b"one.", b"two."))]

    def test_the_wait_has_a_limit_that_the_kernel_keeps(
        self, kernel: Kernel, connection: NetlinkSocket
    ) -> None:
        kernel.plan(acknowledge(0))
        connection.exchange([REQUEST])
        limit = kernel.sockets[0].options[socket.SOL_SOCKET, socket.SO_RCVTIMEO]
        assert limit == struct.pack("@ll", 2, 500_000)

    @pytest.mark.parametrize(
        "trouble",
        [
            pytest.param(fails(errno.EAGAIN), id="no answer in time"),
            pytest.param(fails(errno.ENOBUFS), id="an overrun buffer"),
            pytest.param(garbage(b"\xff" * 40), id="an impossible length"),
            pytest.param(garbage(b"\0" * 7), id="half a header"),
            pytest.param(frames((ERROR, b"")), id="an error without a number"),
        ],
    )
    def test_after_trouble_the_unanswered_are_busy_and_the_socket_is_replaced(
        self, kernel: Kernel, connection: NetlinkSocket, trouble: Step
    ) -> None:
        kernel.plan(lambda sequences: acknowledge(errno.EEXIST)(sequences[:1]), trouble)
        answers = connection.exchange([REQUEST] * 3)
        assert [answer.error for answer in answers] == [errno.EEXIST, UNANSWERED, UNANSWERED]
        assert refused(answers[1].error).refusal is Refusal.BUSY

        kernel.plan(acknowledge(0))
        assert connection.exchange([REQUEST]) == [Answer(0)]
        assert [opened.closed for opened in kernel.sockets] == [True, False]

    def test_after_a_wait_in_vain_the_rest_is_not_sent(
        self, kernel: Kernel, connection: NetlinkSocket
    ) -> None:
        kernel.plan(acknowledge(*[0] * BATCH), fails(errno.EAGAIN))
        answers = connection.exchange([REQUEST] * (4 * BATCH))
        assert [answer.error for answer in answers] == [0] * BATCH + [UNANSWERED] * 3 * BATCH
        (opened,) = kernel.sockets
        assert opened.closed
        assert len(opened.sent) == 2, "one time limit, whatever the number of batches"

        kernel.plan(acknowledge(0))
        assert connection.exchange([REQUEST]) == [Answer(0)], "by another socket"

    def test_batches_after_trouble_that_costs_no_time_are_sent_all_the_same(
        self, kernel: Kernel, connection: NetlinkSocket
    ) -> None:
        kernel.plan(fails(errno.ENOBUFS), acknowledge(0))
        answers = connection.exchange([REQUEST] * (BATCH + 1))
        assert [answer.error for answer in answers] == [UNANSWERED] * BATCH + [0]

    def test_nfnetlink_refuses_all_for_want_of_the_right_with_one_answer(
        self, kernel: Kernel
    ) -> None:
        connection = NetlinkSocket(NETFILTER)
        kernel.plan(frames((ERROR, number(-errno.EPERM))))
        assert connection.exchange([REQUEST] * 3) == [Answer(errno.EPERM)] * 3
        kernel.plan(frames((ERROR, number(-errno.EPERM))))
        assert (
            connection.exchange(nftables.batch(2, NftTable(Family.IPV4, "kube-proxy")))
            == [Answer(errno.EPERM)] * 3
        )
        assert not kernel.sockets[0].closed

    def test_nfnetlink_says_more_after_other_failures(self, kernel: Kernel) -> None:
        connection = NetlinkSocket(NETFILTER)
        kernel.plan(frames((ERROR, number(-errno.ENOENT))), acknowledge(errno.ENOENT, errno.EPERM))
        assert connection.exchange([REQUEST] * 2) == [Answer(errno.ENOENT), Answer(errno.EPERM)]

    def test_others_are_told_of_the_missing_right_one_by_one(
        self, kernel: Kernel, connection: NetlinkSocket
    ) -> None:
        kernel.plan(frames((ERROR, number(-errno.EPERM))), acknowledge(errno.EPERM, 0))
        assert connection.exchange([REQUEST] * 2) == [Answer(errno.EPERM), Answer(0)]

    def test_answers_to_earlier_requests_and_of_strangers_are_passed_over(
        self, kernel: Kernel, connection: NetlinkSocket
    ) -> None:
        kernel.plan(acknowledge(0))
        connection.exchange([REQUEST])
        stale = frames((REPORT, b"old."), (ERROR, number(-errno.EPERM)), behind=1)
        kernel.plan(stale, (acknowledge(errno.EPERM), STRANGER), acknowledge(0))
        assert connection.exchange([REQUEST]) == [Answer(0)]
        assert len(kernel.sockets) == 1

    def test_a_socket_that_cannot_be_opened_is_no_answer(
        self, kernel: Kernel, connection: NetlinkSocket
    ) -> None:
        kernel.refusal = OSError(errno.EMFILE, "too many open files")
        assert connection.exchange([REQUEST]) == [Answer(UNANSWERED)]
        kernel.refusal = None
        kernel.plan(acknowledge(0))
        assert connection.exchange([REQUEST]) == [Answer(0)]

    def test_a_number_that_wraps_is_matched_still(
        self, kernel: Kernel, connection: NetlinkSocket
    ) -> None:
        connection._sequence = netlink._SEQUENCES - 2
        kernel.plan(acknowledge(0, 0, errno.EEXIST), acknowledge(0))
        assert [one.error for one in connection.exchange([REQUEST] * 3)] == [0, 0, errno.EEXIST]
        assert connection.exchange([REQUEST]) == [Answer(0)]


class TestDump:
    def test_a_table_comes_in_parts(self, kernel: Kernel, connection: NetlinkSocket) -> None:
        kernel.plan(frames((REPORT, b"one."), (REPORT, b"two.")), frames((REPORT, b"last"), END))
        assert connection.dump(REQUEST) == [b"one.", b"two.", b"last"]
        assert kernel.sockets[0].sent[0][0].flags == 0x301, "REQUEST and DUMP"

    def test_a_table_that_changed_meanwhile_is_read_again(
        self, kernel: Kernel, connection: NetlinkSocket
    ) -> None:
        kernel.plan(
            frames((REPORT, b"old.")),
            frames((REPORT, b"torn"), flags=INTERRUPTED),
            frames(END),
            frames((REPORT, b"new."), END),
        )
        assert connection.dump(REQUEST) == [b"new."]
        assert len(kernel.sockets) == 1

    def test_a_table_that_never_holds_still_is_an_error(
        self, kernel: Kernel, connection: NetlinkSocket
    ) -> None:
        kernel.plan(*[frames((REPORT, b"torn"), END, flags=INTERRUPTED)] * netlink._DUMP_ATTEMPTS)
        with pytest.raises(DumpInterruptedError, match="changed during 5 readings"):
            connection.dump(REQUEST)

    def test_the_rest_of_an_earlier_dump_is_passed_over(
        self, kernel: Kernel, connection: NetlinkSocket
    ) -> None:
        kernel.plan(frames((REPORT, b"old."), END, behind=1), frames((REPORT, b"new."), END))
        assert connection.dump(REQUEST) == [b"new."]

    @pytest.mark.parametrize(
        ("trouble", "error", "code"),
        [
            (fails(errno.EAGAIN), TimeoutError, errno.ETIMEDOUT),
            (fails(errno.ENOBUFS), OSError, errno.ENOBUFS),
            (frames((ERROR, number(-errno.EPERM))), PermissionError, errno.EPERM),
            (frames((REPORT, b"one."), (DONE, number(-errno.ENOMEM))), OSError, errno.ENOMEM),
        ],
        ids=["no answer in time", "overrun buffer", "not allowed", "breaks off"],
    )
    def test_trouble_is_raised_and_the_socket_is_replaced(
        self,
        kernel: Kernel,
        connection: NetlinkSocket,
        trouble: Step,
        error: type[OSError],
        code: int,
    ) -> None:
        kernel.plan(trouble)
        with pytest.raises(error) as raised:
            connection.dump(REQUEST)
        assert raised.value.errno == code

        kernel.plan(frames(END))
        assert connection.dump(REQUEST) == []
        assert [opened.closed for opened in kernel.sockets] == [True, False]

    def test_garbage_is_an_error_of_the_codec(
        self, kernel: Kernel, connection: NetlinkSocket
    ) -> None:
        kernel.plan(garbage(b"\x01" * 20))
        with pytest.raises(CodecError):
            connection.dump(REQUEST)
        assert kernel.sockets[0].closed


def test_closing_twice_is_closing_once(kernel: Kernel, connection: NetlinkSocket) -> None:
    kernel.plan(acknowledge(0))
    connection.exchange([REQUEST])
    connection.close()
    connection.close()
    assert kernel.sockets[0].closed


@pytest.mark.parametrize(
    ("code", "refusal"),
    [
        (errno.EPERM, Refusal.FORBIDDEN),
        (errno.EACCES, Refusal.FORBIDDEN),
        (errno.EINVAL, Refusal.INVALID),
        (errno.ENOMEM, Refusal.BUSY),
        (errno.ENOBUFS, Refusal.BUSY),
        (errno.EOPNOTSUPP, Refusal.UNSUPPORTED),
        (errno.EXDEV, Refusal.FAILED),
        (UNANSWERED, Refusal.BUSY),
    ],
)
def test_an_errno_is_a_refusal_with_its_name(code: int, refusal: Refusal) -> None:
    outcome = refused(code)
    assert outcome.refusal is refusal
    assert code == UNANSWERED or errno.errorcode[code] in outcome.reason


def test_an_errno_without_a_name_is_shown_as_a_number() -> None:
    assert "524" in refused(524).reason
