"""What probing costs: many endpoints on loopback, probed by the agent's own prober.

Runs on any kernel, without root: `python -m bench.probes`. The endpoints are addresses in
127.0.0.0/8 that a process of its own serves, so that its work is not counted. The prober is told of
them directly: the core would not let a loopback address be probed.

Endpoints that hang are those whose listener takes nothing more: the kernel drops a SYN that comes
to a full queue, and nothing at all is answered.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import multiprocessing
import random
import resource
import socket
import sys
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path

import aiohttp

from ipvsproxy.core.annotations.health_check import Check, HttpProbe, Probe, TcpProbe
from ipvsproxy.core.probing import Probing, Target, Verdict
from ipvsproxy.model import Address, Protocol, RealServerKey
from ipvsproxy.objects import ServiceName
from ipvsproxy.probe import Prober, ask
from ipvsproxy.store import Judged

_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
_OF_ONE_SERVICE = 10
_SAMPLES_PER_SECOND = 20


class _Server(asyncio.Protocol):
    """Answers a request; a connection that is reset is nothing to speak of."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, _data: bytes) -> None:
        self._transport.write(_ANSWER)
        self._transport.close()


async def _serve(pipe: Connection) -> None:
    """Serve every address of loopback at one port; close it, or open it, when told to."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(_Server, "0.0.0.0", 0, backlog=4096)  # noqa: S104
    pipe.send(server.sockets[0].getsockname()[1])
    await loop.run_in_executor(None, pipe.recv)
    server.close()


def _endpoints(pipe: Connection) -> None:
    with contextlib.suppress(EOFError):
        asyncio.run(_serve(pipe))


def _most_files() -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def _address(number: int) -> Address:
    return Address(bytes((127, 1 + number // 65536, number // 256 % 256, number % 256)))


def _probings(count: int, ports: Sequence[int], check: Check) -> dict[ServiceName, Probing]:
    """Give every endpoint one of the ports in turn."""
    made: dict[ServiceName, Probing] = {}
    for start in range(0, count, _OF_ONE_SERVICE):
        name = ServiceName("bench", f"web-{start}")
        targets = frozenset(
            Target(name, Protocol.TCP, RealServerKey(_address(number), ports[number % len(ports)]))
            for number in range(start, min(start + _OF_ONE_SERVICE, count))
        )
        made[name] = Probing(check, targets)
    return made


async def _measure(options: argparse.Namespace, port: int, kill: Connection) -> None:
    probe: Probe = HttpProbe("/") if options.probe == "http" else TcpProbe()
    check = Check(probe, interval=options.interval, timeout=options.timeout)
    told: list[tuple[float, Judged]] = []
    prober = Prober(
        ask=ask,
        observe=lambda _: None,
        clock=time.monotonic,
        chance=random.random,
        room=options.concurrency,
    )
    prober.tell = lambda judged: told.append((time.monotonic(), judged))
    prober.update(_probings(options.endpoints, [port], check), stretch=1, most=options.concurrency)
    running = asyncio.create_task(prober.run())
    await asyncio.sleep(check.interval)  # until the first round is over
    prober.outcomes.clear()
    cpu, began = time.process_time(), time.monotonic()
    files, late, under_way = 0, 0.0, 0
    for _ in range(int(2 * check.interval * _SAMPLES_PER_SECOND)):
        files = max(files, _open_files())
        late, under_way = max(late, prober.late), max(under_way, prober.under_way)
        await asyncio.sleep(1 / _SAMPLES_PER_SECOND)
    took = time.monotonic() - began
    share = (time.process_time() - cpu) / took
    probes = prober.outcomes.total()
    print(
        f"{options.endpoints:,} endpoints, {options.probe}, every {check.interval:g} s: "
        f"{probes / took:,.0f} probes/s, {share:.1%} of a processor, "
        f"{share * took / probes * 1e6:.0f} us a probe; files at most {files}, under way at most "
        f"{under_way}, late at most {late:.2f} s; {dict(prober.outcomes)}, {len(told)} verdicts"
    )
    match options.fail:
        case "refuse":
            kill.send("end")
            failing = options.endpoints
        case "hang":
            failing = await _hang(prober, options, [options.hanging_port], check)
        case _:
            ports = [port, port, options.hanging_port, options.refusing_port]
            failing = await _hang(prober, options, ports, check)
    await _detection(prober, told, failing, check)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def _hang(
    prober: Prober, options: argparse.Namespace, ports: Sequence[int], check: Check
) -> int:
    """Have endpoints at these ports instead, in turn; return how many of them are to fail."""
    probings = _probings(options.endpoints, ports, check)
    prober.update(probings, stretch=1, most=options.concurrency)
    bad = {options.hanging_port, options.refusing_port}
    targets = [target for probing in probings.values() for target in probing.targets]
    return sum(1 for target in targets if target.server.port in bad)


async def _detection(
    prober: Prober, told: list[tuple[float, Judged]], failing: int, check: Check
) -> None:
    """Print how long it takes until all that fail now are known to."""
    began, cpu, files, late = time.monotonic(), time.process_time(), 0, 0.0
    found = len(told)
    limit = began + check.interval * (check.fall + 2) * 2
    while len(told) < found + failing and time.monotonic() < limit:
        files = max(files, _open_files())
        late = max(late, prober.late)
        await asyncio.sleep(1 / _SAMPLES_PER_SECOND)
    share = (time.process_time() - cpu) / (time.monotonic() - began)
    times = sorted(when - began for when, judged in told if judged.verdict is Verdict.UNHEALTHY)
    promised = check.fall * check.interval * (1 + check.jitter) + check.timeout
    if not times:
        print("nothing was detected")
        return
    print(
        f"{len(times):,} of {failing:,} that fail detected, the first after {times[0]:.1f} s, half "
        f"after "
        f"{times[len(times) // 2]:.1f} s, the last after {times[-1]:.1f} s (promised: "
        f"{promised:.1f} s); {share:.1%} of a processor, files at most {files}, "
        f"late at most {late:.2f} s, memory at most "
        f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10} MiB"
    )


async def _client_library(port: int, count: int) -> None:
    """Print what the same costs with aiohttp's client, and with ours, without any waiting."""
    timeout = aiohttp.ClientTimeout(total=5)
    connector = aiohttp.TCPConnector(limit=50, force_close=True)
    gate = asyncio.Semaphore(50)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:

        async def one(number: int) -> None:
            async with gate, session.get(f"http://{_address(number)}:{port}/") as answer:
                assert answer.status == 200  # noqa: PLR2004

        cpu = time.process_time()
        await asyncio.gather(*map(one, range(count)))
    library = (time.process_time() - cpu) / count

    async def ours(number: int) -> None:
        async with gate:
            answered: asyncio.Future[object] = asyncio.get_running_loop().create_future()
            server = RealServerKey(_address(number), port)
            ask(server, HttpProbe("/"), 5.0, answered.set_result)
            await answered

    cpu = time.process_time()
    await asyncio.gather(*map(ours, range(count)))
    own = (time.process_time() - cpu) / count
    print(
        f"one HTTP probe: aiohttp's client {library * 1e6:.0f} us of a processor, "
        f"ours {own * 1e6:.0f} us"
    )


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="bench.probes", description=__doc__)
    parser.add_argument("--endpoints", type=int, default=5000)
    parser.add_argument("--probe", choices=["tcp", "http"], default="tcp")
    parser.add_argument("--interval", type=float, default=5.0)
    parser.add_argument("--timeout", type=float, default=1.0)
    parser.add_argument("--concurrency", type=int, default=10_000)
    parser.add_argument("--fail", choices=["refuse", "hang", "mix"], default="refuse")
    parser.add_argument("--library", action="store_true", help="compare with aiohttp's client")
    options = parser.parse_args()
    _most_files()
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_endpoints, args=(theirs,))
    process.start()
    port = ours.recv()
    with socket.socket() as full:
        full.bind(("0.0.0.0", 0))  # noqa: S104
        full.listen(0)
        options.hanging_port = full.getsockname()[1]
        with socket.socket() as first, socket.socket() as second, socket.socket() as nobody:
            nobody.bind(("0.0.0.0", 0))  # noqa: S104
            options.refusing_port = nobody.getsockname()[1]
            for one in (first, second):
                one.setblocking(False)
                one.connect_ex(("127.0.0.1", options.hanging_port))
            if options.library:
                asyncio.run(_client_library(port, 2000))
            else:
                asyncio.run(_measure(options, port, ours))
    process.terminate()
    process.join()
    return 0


if __name__ == "__main__":
    sys.exit(main())
