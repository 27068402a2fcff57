"""What a whole agent with health checks costs, and how soon its table follows: sockets to weights.

`unshare -n python -m bench.checked`, as root: in a network of its own all of 10.244.0.0/16 is here,
and a process serves it over HTTP; on demand it leaves every fourth address without an answer. The
agent's own parts are wired up as it wires them, on a kernel in memory: what is measured is prober,
store, translation and cycles in one event loop, and not what the kernel's table costs.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import multiprocessing
import resource
import subprocess
import time
from multiprocessing.connection import Connection

from ipvsproxy.agent.wiring import Wiring, wire
from ipvsproxy.config import Settings
from ipvsproxy.kernel.fake import FakeDataplane
from ipvsproxy.model import Network
from ipvsproxy.objects import read_endpoint_slice, read_service
from ipvsproxy.probe import Punctuality
from ipvsproxy.store import KINDS, Listed, Put

_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
_OF_ONE_SERVICE = 10
_FAILING = 4
"""Every so-many-th address fails."""
_LOOK_SECONDS = 0.1
_SETTLING_SECONDS = 120.0


class _Server(asyncio.Protocol):
    """Answers a request, or not."""

    failing = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, _data: bytes) -> None:
        address = self._transport.get_extra_info("sockname")[0]
        if _Server.failing and int(address.rpartition(".")[2]) % _FAILING == 0:
            return
        self._transport.write(_ANSWER)
        self._transport.close()


async def _serve(pipe: Connection) -> None:
    loop = asyncio.get_running_loop()
    await loop.create_server(_Server, "0.0.0.0", 8080, backlog=4096)  # noqa: S104
    pipe.send("listening")
    while True:
        _Server.failing = await loop.run_in_executor(None, pipe.recv)


def _endpoints(pipe: Connection) -> None:
    _many_files()
    with contextlib.suppress(EOFError, KeyboardInterrupt):
        asyncio.run(_serve(pipe))


def _many_files() -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _address(number: int) -> str:
    return f"10.244.{number // 250}.{number % 250 + 1}"


def _publish(wiring: Wiring, endpoints: int, options: str) -> None:
    for start in range(0, endpoints, _OF_ONE_SERVICE):
        number = start // _OF_ONE_SERVICE
        name = f"web-{number}"
        service = {
            "metadata": {
                "name": name,
                "namespace": "default",
                "annotations": {
                    "ipvsproxy.io/health-check": "http:/healthz",
                    "ipvsproxy.io/health-check-options": options,
                },
            },
            "spec": {
                "clusterIP": f"10.96.{number // 250}.{number % 250 + 1}",
                "ports": [{"port": 80, "protocol": "TCP"}],
            },
        }
        members = range(start, min(start + _OF_ONE_SERVICE, endpoints))
        part = {
            "metadata": {
                "name": name,
                "namespace": "default",
                "labels": {"kubernetes.io/service-name": name},
            },
            "addressType": "IPv4",
            "ports": [{"port": 8080, "protocol": "TCP"}],
            "endpoints": [{"addresses": [_address(member)]} for member in members],
        }
        wiring.take(Put(read_service(service), "bench"))
        if (read := read_endpoint_slice(part)) is not None:
            wiring.take(Put(read, "bench"))
    for kind in KINDS:
        wiring.take(Listed(kind))
    wiring.take(Listed("Nodes"))


async def _measure(options: argparse.Namespace, pipe: Connection) -> None:
    kernel = FakeDataplane()
    settings = Settings(node_name="bench", cluster_cidrs=(Network.parse("10.244.0.0/16"),))
    wiring = wire(settings, kernel)
    interval, timeout, fall = options.interval, 1.0, 3
    _publish(wiring, options.endpoints, f"interval={interval}s, timeout=1s, fall={fall}")
    told = Punctuality(wiring.prober, wiring.conditions, wall_clock=time.time)
    tasks = [
        asyncio.create_task(one)
        for one in (wiring.reconciler.run(), wiring.prober.run(), told.run())
    ]
    await asyncio.sleep(3 * interval)
    wiring.prober.outcomes.clear()
    began, cpu = time.monotonic(), time.process_time()
    await asyncio.sleep(3 * interval)
    took = time.monotonic() - began
    share = (time.process_time() - cpu) / took
    print(
        f"{options.endpoints:,} endpoints, http, every {interval} s: "
        f"{wiring.prober.outcomes.total() / took:,.0f} probes/s, {share:.1%} of a processor; "
        f"{dict(wiring.prober.outcomes)}, {_out(kernel)} out of rotation"
    )
    failing = sum(
        int(_address(number).rpartition(".")[2]) % _FAILING == 0
        for number in range(options.endpoints)
    )
    pipe.send(obj=True)
    began, cpu, late, under_way = time.monotonic(), time.process_time(), 0.0, 0
    times: list[float] = []
    while len(times) < failing and time.monotonic() < began + _SETTLING_SECONDS:
        await asyncio.sleep(_LOOK_SECONDS)
        now = time.monotonic() - began
        times += [now] * (_out(kernel) - len(times))
        late = max(late, wiring.prober.late)
        under_way = max(under_way, wiring.prober.under_way)
    share = (time.process_time() - cpu) / (time.monotonic() - began)
    promised = fall * interval * 1.1 + timeout
    print(
        f"{len(times):,} of {failing:,} that fail are at weight 0, the first after {times[0]:.1f} "
        f"s, half after {times[len(times) // 2]:.1f} s, the last after {times[-1]:.1f} s "
        f"(promised: {promised:.1f} s); {share:.1%} of a processor, under way at most "
        f"{under_way}, late at most {late:.2f} s; "
        f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10} MiB; "
        f"conditions: {[str(one.type) for one in wiring.conditions]}"
    )
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _out(kernel: FakeDataplane) -> int:
    return sum(
        real.weight == 0
        for members in kernel.state.real_servers.values()
        for real in members.values()
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="bench.checked", description=__doc__)
    parser.add_argument("--endpoints", type=int, default=10_000)
    parser.add_argument("--interval", type=int, default=5)
    options = parser.parse_args()
    for words in (
        ("link", "set", "lo", "up"),
        ("route", "add", "local", "10.244.0.0/16", "dev", "lo"),
    ):
        subprocess.run(("ip", *words), check=True)
    _many_files()
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_endpoints, args=(theirs,))
    process.start()
    ours.recv()
    asyncio.run(_measure(options, ours))
    process.terminate()
    process.join()


if __name__ == "__main__":
    main()
