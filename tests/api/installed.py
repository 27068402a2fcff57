"""What an installed agent has of its cluster: its account by the shipped manifests, token, CA.

The files are replaced at once, as kubelet does. A detour stands between agent and API server, so
that the one can be cut off from the other while everybody else goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple, Self

from ipvsproxy.agent.wiring import Wiring, wire
from ipvsproxy.config import Settings
from ipvsproxy.sources.kubernetes.access import InCluster
from ipvsproxy.sources.kubernetes.client import connect
from ipvsproxy.sources.kubernetes.events import Events
from ipvsproxy.sources.kubernetes.health import SourceHealth
from ipvsproxy.sources.kubernetes.pace import Timing
from ipvsproxy.sources.kubernetes.source import KubernetesSource
from ipvsproxy.telemetry import Conditions, Watches
from tests.api.certificates import Authority
from tests.api.fake_objects import Object
from tests.api.real_server import RealServer
from tests.api.support import endpoint_slice
from tests.api.watched_kernel import WatchedKernel, running

BASE = Path(__file__).resolve().parents[2] / "manifests" / "base"
ACCOUNT = ("serviceaccount", "clusterrole", "clusterrolebinding")
NAMESPACE = "--namespace=kube-system"
CHANCE = 0.1
"""Of all pauses, a tenth of the longest: so that a test does not take minutes."""


def install(server: RealServer) -> None:
    """Apply what the shipped manifests give the agent of rights, and nothing else."""
    for name in ACCOUNT:
        server.kubectl("apply", "--filename", str(BASE / f"{name}.yaml"))


class Account:
    """The folder that kubelet mounts: `token` from the TokenRequest API, and `ca.crt`."""

    def __init__(self, server: RealServer, folder: Path) -> None:
        self.folder = folder
        self._server = server
        self._bound = ""
        """Name of the object that the token is bound to."""
        folder.mkdir()
        self.trust(server.authority)
        self.renew_token()

    def trust(self, *authorities: Authority) -> None:
        self._write("ca.crt", b"".join(one.certificate.read_bytes() for one in authorities))

    def renew_token(self) -> None:
        """Get another token; the one before is good no longer.

        Each is bound to an object, as those of kubelet are to their pod, and dies with it.
        """
        name, before = f"bound-{secrets.token_hex(4)}", self._bound
        self._server.kubectl("create", "secret", "generic", name, NAMESPACE)
        bound = ("--bound-object-kind=Secret", f"--bound-object-name={name}")
        token = self._server.kubectl("create", "token", "ipvsproxy", NAMESPACE, *bound)
        self.write_token(token)
        self._bound = name
        if before:
            self._server.kubectl("delete", "secret", before, NAMESPACE)

    def write_token(self, token: str) -> None:
        self._write("token", token.encode())

    def _write(self, name: str, content: bytes) -> None:
        new = self.folder / "new"
        new.write_bytes(content)
        new.rename(self.folder / name)


class Agent(NamedTuple):
    wiring: Wiring
    watches: Watches


@asynccontextmanager
async def agent(
    url: str, account: Account, kernel: WatchedKernel, node_name: str = "node-1"
) -> AsyncIterator[Agent]:
    """Run an agent until the block ends, put together as `agent.running` does it."""
    timing = Timing(time.monotonic, asyncio.sleep, lambda: CHANCE)
    watches, conditions = Watches(), Conditions()
    connection = await connect(InCluster((url,), account.folder), watches.requests)
    events = Events(connection, node_name, timing=timing, wall_clock=time.time)
    source = KubernetesSource(
        connection,
        node_name,
        timing=timing,
        health=SourceHealth(watches=watches, conditions=conditions, wall_clock=time.time),
    )
    wiring = wire(
        Settings(node_name=node_name, min_sync_period=0.0),
        kernel,
        tell=events.tell,
        conditions=conditions,
        watches=watches,
    )
    try:
        async with running(wiring, source, events.run()):
            yield Agent(wiring, watches)
    finally:
        await connection.close()


def endpoints_of(name: str, chance: random.Random) -> Object:
    numbers = chance.sample(range(1, 250), chance.randint(1, 5))
    addresses = tuple(f"10.1.0.{number}" for number in numbers)
    return endpoint_slice(f"{name}-1", owner=name, addresses=addresses)


def wanted(server: RealServer) -> dict[str, dict[str, int]]:
    """What the API's objects ask for, worked out by other means than the agent's."""
    found: dict[str, dict[str, int]] = {}
    slices = server.get("endpointslices", "--all-namespaces")["items"]
    for one in server.get("services", "--all-namespaces")["items"]:
        addresses = [one["spec"]["clusterIP"], *one["spec"].get("externalIPs", ())]
        servers = {
            f"{address}:{part['ports'][0]['port']}": 1
            for part in slices
            if part["metadata"]["labels"]["kubernetes.io/service-name"] == one["metadata"]["name"]
            for endpoint in part["endpoints"] or ()
            for address in endpoint["addresses"]
        }
        port = one["spec"]["ports"][0]["port"]
        found |= {f"{address}:{port}/TCP": servers for address in addresses}
    return found


class Detour:
    """A port of loopback that leads to the API server, while it is open."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._open = True
        self._connections: set[asyncio.Task[None]] = set()
        self._listening: asyncio.Server | None = None

    @property
    def url(self) -> str:
        assert self._listening is not None
        return f"https://127.0.0.1:{self._listening.sockets[0].getsockname()[1]}"

    def close(self) -> None:
        """Cut all connections, and take no more."""
        self._open = False
        self.cut()

    def open(self) -> None:
        self._open = True

    def cut(self) -> None:
        """Cut all connections; the next ones are taken."""
        for one in self._connections:
            one.cancel()

    async def __aenter__(self) -> Self:
        self._listening = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._listening is not None
        self._listening.close()
        self.close()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            if self._open:
                await self._lead(reader, writer)
        except (OSError, asyncio.CancelledError):
            pass  # either end is gone, or cut off
        finally:
            self._connections.discard(task)
            writer.transport.abort()

    async def _lead(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(_hand_on(reader, back))
                group.create_task(_hand_on(there, writer))
        except* OSError:
            pass
        finally:
            back.transport.abort()


async def _hand_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(1 << 16):
        writer.write(data)
        await writer.drain()
    with contextlib.suppress(OSError):
        writer.write_eof()
