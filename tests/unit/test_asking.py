"""Single probes over real loopback sockets: endpoints that serve, hang, reset, and answer badly."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

import pytest

from ipvsproxy.core.annotations.health_check import HttpProbe, Probe, TcpProbe, UdpProbe
from ipvsproxy.model import Address, RealServerKey
from ipvsproxy.probe import Outcome, ask

HOME = Address.parse("127.0.0.1")
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def files() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208


async def outcome(
    port: int,
    probe: Probe,
    *,
    timeout: float = 5.0,  # noqa: ASYNC109
    address: Address = HOME,
) -> Outcome:
    """Probe once; nothing of it may be left open."""
    open_before = files()
    answered: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
    ask(RealServerKey(address, port), probe, timeout, answered.set_result)
    found = await asyncio.wait_for(answered, 20)
    for _ in range(1000):  # the server's side of the connection is a file of this process too
        if files() <= open_before:
            return found
        await asyncio.sleep(0)
    raise AssertionError("a file was left open")


@asynccontextmanager
async def serving(handler: Handler, host: str = "127.0.0.1") -> AsyncIterator[int]:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await handler(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(handle, host, 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


def answering(*parts: bytes, asked: list[bytes] | None = None) -> Handler:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        if asked is not None:
            asked.append(request)
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(0)

    return handler


async def hanging(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    await reader.read(-1)


async def resetting(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    made = writer.get_extra_info("socket")
    made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@contextmanager
def full() -> Iterator[int]:
    """Listen where no further connection is taken: the queue of those that wait is full."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port = listener.getsockname()[1]
        waiting = [socket.socket() for _ in range(4)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(("127.0.0.1", port))
        yield port
        for one in waiting:
            one.close()


@contextmanager
def nobody(kind: socket.SocketKind = socket.SOCK_STREAM) -> Iterator[int]:
    """Give a port at which nobody listens; it is bound, so that nobody else comes."""
    with socket.socket(type=kind) as holder:
        holder.bind(("127.0.0.2", 0))
        yield holder.getsockname()[1]


def status(line: bytes) -> Handler:
    return answering(b"HTTP/1.1 " + line + b"\r\nContent-Length: 0\r\n\r\n")


# ------------------------------------------------------------------------- tcp


async def test_an_endpoint_that_takes_connections_is_well() -> None:
    async with serving(hanging) as port:
        assert await outcome(port, TcpProbe()) is Outcome.SUCCESS


async def test_over_ipv6_too() -> None:
    async with serving(hanging, "::1") as port:
        address = Address.parse("::1")
        assert await outcome(port, TcpProbe(), address=address) is Outcome.SUCCESS


async def test_a_probe_leaves_no_connection_behind_on_this_node() -> None:
    async with serving(hanging) as port:
        assert await outcome(port, TcpProbe()) is Outcome.SUCCESS
        waiting = [
            line
            for line in Path("/proc/net/tcp").read_text().splitlines()  # noqa: ASYNC240
            if f":{port:04X} " in line and line.split()[3] == "06"
        ]
        assert waiting == []


async def test_where_nobody_listens_it_is_refused() -> None:
    with nobody() as port:
        assert await outcome(port, TcpProbe()) is Outcome.REFUSED


async def test_one_that_takes_no_connection_runs_into_the_timeout() -> None:
    with full() as port:
        assert await outcome(port, TcpProbe(), timeout=0.1) is Outcome.TIMEOUT


async def test_no_file_left_is_no_fault_of_the_endpoint() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    async with serving(hanging) as port:
        highest = max(map(int, os.listdir("/proc/self/fd")))  # noqa: PTH208
        fillers: list[int] = []
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, hard))
        try:
            with suppress(OSError):
                fillers.extend(os.dup(0) for _ in range(highest + 2))
            answered: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
            ask(RealServerKey(HOME, port), TcpProbe(), 5.0, answered.set_result)
            found = await answered
        finally:
            for one in fillers:
                os.close(one)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert found is Outcome.NOT_TRIED


async def test_a_probe_that_is_called_off_tells_nobody() -> None:
    async with serving(hanging) as port:
        told: list[Outcome] = []
        before = files()
        ask(RealServerKey(HOME, port), HttpProbe("/"), 5.0, told.append)()
        assert files() == before
        await asyncio.sleep(0)
        assert told == []


# ------------------------------------------------------------------------- http


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        (b"200 OK", Outcome.SUCCESS),
        (b"204 No Content", Outcome.SUCCESS),
        (b"302 Found", Outcome.SUCCESS),
        (b"404 Not Found", Outcome.STATUS),
        (b"500 Internal Server Error", Outcome.STATUS),
        (b"503", Outcome.STATUS),
        (b"999 Odd", Outcome.MALFORMED),
        (b"OK", Outcome.MALFORMED),
    ],
)
async def test_the_status_decides(line: bytes, wanted: Outcome) -> None:
    async with serving(status(line)) as port:
        assert await outcome(port, HttpProbe("/")) is wanted


async def test_only_the_statuses_that_are_asked_for() -> None:
    async with serving(status(b"204 No Content")) as port:
        assert await outcome(port, HttpProbe("/", 204, 204)) is Outcome.SUCCESS
        assert await outcome(port, HttpProbe("/", 200, 200)) is Outcome.STATUS


async def test_a_redirect_is_not_followed() -> None:
    asked: list[bytes] = []
    elsewhere: list[bytes] = []
    async with serving(answering(b"HTTP/1.1 200 OK\r\n\r\n", asked=elsewhere)) as other:
        place = f"http://127.0.0.1:{other}/".encode()
        moved = b"HTTP/1.1 302 Found\r\nLocation: " + place + b"\r\nContent-Length: 0\r\n\r\n"
        async with serving(answering(moved, asked=asked)) as port:
            assert await outcome(port, HttpProbe("/")) is Outcome.SUCCESS
            assert await outcome(port, HttpProbe("/", 200, 200)) is Outcome.STATUS
        assert await outcome(other, HttpProbe("/marked")) is Outcome.SUCCESS
    assert len(asked) == 2
    assert [request.split()[1] for request in elsewhere] == [b"/marked"]


async def test_the_request_says_path_and_host() -> None:
    asked: list[bytes] = []
    async with serving(answering(b"HTTP/1.0 200 OK\r\n\r\n", asked=asked)) as port:
        assert await outcome(port, HttpProbe("/a?b", host="shop.example")) is Outcome.SUCCESS
        assert await outcome(port, HttpProbe("/")) is Outcome.SUCCESS
    first, second = (request.decode().split("\r\n") for request in asked)
    assert first[:2] == ["GET /a?b HTTP/1.1", "Host: shop.example"]
    assert second[:2] == ["GET / HTTP/1.1", f"Host: 127.0.0.1:{port}"]
    assert first[2].startswith("User-Agent: ipvsproxy/")
    assert first[-4:] == ["Accept: */*", "Connection: close", "", ""]


async def test_a_server_that_knows_another_host_only_answers_so() -> None:
    async def picky(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        right = b"Host: shop.example\r\n" in await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n" if right else b"HTTP/1.1 404 Not Found\r\n\r\n")

    async with serving(picky) as port:
        assert await outcome(port, HttpProbe("/", host="shop.example")) is Outcome.SUCCESS
        assert await outcome(port, HttpProbe("/", host="other.example")) is Outcome.STATUS


async def test_an_answer_may_come_byte_by_byte() -> None:
    parts = [bytes([one]) for one in b"HTTP/1.1 200 OK\r\n\r\n"]
    async with serving(answering(*parts)) as port:
        assert await outcome(port, HttpProbe("/")) is Outcome.SUCCESS


async def test_one_that_takes_the_request_and_is_silent_runs_into_the_timeout() -> None:
    async with serving(hanging) as port:
        assert await outcome(port, HttpProbe("/"), timeout=0.1) is Outcome.TIMEOUT


async def test_one_that_never_ends_its_first_line_runs_into_the_timeout() -> None:
    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1")
        await reader.read(-1)

    async with serving(slow) as port:
        assert await outcome(port, HttpProbe("/"), timeout=0.1) is Outcome.TIMEOUT


async def test_one_that_closes_or_resets_instead_of_an_answer_fails() -> None:
    async with serving(answering()) as port:
        assert await outcome(port, HttpProbe("/")) is Outcome.RESET
    async with serving(resetting) as port:
        assert await outcome(port, HttpProbe("/")) is Outcome.RESET


async def test_what_is_no_http_is_told() -> None:
    async with serving(answering(b"SSH-2.0-OpenSSH_9.9\r\n")) as port:
        assert await outcome(port, HttpProbe("/")) is Outcome.MALFORMED
    async with serving(answering(b"HTTP")) as port:
        assert await outcome(port, HttpProbe("/")) is Outcome.MALFORMED


async def test_an_answer_that_waited_while_this_program_was_busy_counts() -> None:
    """The deadline passes while nobody looks, as when a cycle takes long."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        answered: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        place = RealServerKey(HOME, listener.getsockname()[1])
        ask(place, HttpProbe("/"), 0.2, answered.set_result)
        taken, _ = listener.accept()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        with taken:
            deadline = asyncio.get_running_loop().time() + 0.4
            taken.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            while asyncio.get_running_loop().time() < deadline:
                pass
            assert await answered is Outcome.SUCCESS


# ------------------------------------------------------------------------- udp


@contextmanager
def udp_server(answer: bytes | None) -> Iterator[tuple[int, list[bytes]]]:
    heard: list[bytes] = []
    loop = asyncio.get_running_loop()
    with socket.socket(type=socket.SOCK_DGRAM) as server:
        server.setblocking(False)
        server.bind(("127.0.0.1", 0))

        def receive() -> None:
            data, sender = server.recvfrom(2048)
            heard.append(data)
            if answer is not None:
                server.sendto(answer, sender)

        loop.add_reader(server, receive)
        yield server.getsockname()[1], heard
        loop.remove_reader(server)


async def test_any_answer_to_a_datagram_will_do() -> None:
    with udp_server(b"") as (port, heard):
        assert await outcome(port, UdpProbe(b"PING")) is Outcome.SUCCESS
        assert heard == [b"PING"]


async def test_no_answer_to_a_datagram_is_a_failure() -> None:
    with udp_server(None) as (port, _):
        assert await outcome(port, UdpProbe(b"PING"), timeout=0.1) is Outcome.TIMEOUT


async def test_an_icmp_error_is_a_refusal() -> None:
    with nobody(socket.SOCK_DGRAM) as port:
        assert await outcome(port, UdpProbe(b"PING")) is Outcome.REFUSED
