"""The whole agent on an API server that lives a hard life, and at no moment a Service is missing.

Objects change all the time; meanwhile the server stops and starts, its history is compacted, its
certificate and authority are rotated, tokens are replaced, lists and watches are cut, refused and
garbled. What happens is drawn from a seed. The kernel is the fake one; `tests/kernel` has a run of
the agent as a process, on a real one; `test_installed` has one beside a real API server.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from ipvsproxy.agent.wiring import wire
from ipvsproxy.config import Settings
from ipvsproxy.sources.kubernetes.access import InCluster
from ipvsproxy.sources.kubernetes.client import connect
from ipvsproxy.sources.kubernetes.health import SourceHealth
from ipvsproxy.sources.kubernetes.source import KubernetesSource
from ipvsproxy.telemetry import Conditions
from tests.api.certificates import Authority, authority, server_context
from tests.api.fake_objects import Object
from tests.api.fake_server import FakeApiServer, Fault, Streams
from tests.api.support import VirtualTime, endpoint_slice, service
from tests.api.watched_kernel import SECONDS, WatchedKernel, key, running

pytestmark = [
    pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl"),
    pytest.mark.timeout(120),
]

SEEDS = range(50 if os.environ.get("IPVSPROXY_TEST_FULL") == "1" else 3)
STEPS = 60
STEADY = {f"steady-{number}": f"10.0.0.{number}" for number in range(1, 6)}
"""Services that are always there; their endpoints change, and are never none."""
PASSING = {f"passing-{number}": f"10.0.1.{number}" for number in range(1, 6)}


class Cluster:
    """The objects, the server, and what can happen to both."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.random = random.Random(seed)
        self.authority = authority(folder, "authority-0")
        self.account = folder / "account"
        self.account.mkdir()
        self.trust(self.authority)
        self.token = 0
        self.rotations = 0
        self.server = FakeApiServer(tls=server_context(folder, self.authority))
        self.server.streams = self.random.choice([Streams.OFFERED, Streams.REFUSED])
        self.replace_token()

    @property
    def wanted(self) -> dict[str, dict[str, int]]:
        """What the API's objects ask for, worked out by other means than the agent's."""
        found: dict[str, dict[str, int]] = {}
        for written in self.server.objects.collections["Service"].objects.values():
            name, address = _text(written, "metadata", "name"), _text(written, "spec", "clusterIP")
            slices = self.server.objects.collections["EndpointSlice"].objects
            part: Any = slices.get(("default", f"{name}-1"), {})
            endpoints = [one["addresses"][0] for one in part.get("endpoints", ())]
            found[str(key(address))] = {f"{endpoint}:8080": 1 for endpoint in endpoints}
        return found

    def trust(self, *trusted: Authority) -> None:
        bundle = b"".join(one.certificate.read_bytes() for one in trusted)
        self._write("ca.crt", bundle)

    def _write(self, name: str, content: bytes) -> None:
        """Replace a file at once, as kubelet does."""
        (self.folder / "new").write_bytes(content)
        (self.folder / "new").rename(self.account / name)

    def replace_token(self) -> None:
        self.token += 1
        self._write("token", f"token-{self.token}\n".encode())
        self.server.tokens = {f"token-{self.token}"}

    # ------------------------------------------------------------------ the stream of changes

    async def fill(self) -> None:
        for name, address in STEADY.items():
            await self.server.put(service(name, address=address))
            await self.server.put(self._endpoints(name))

    def _endpoints(self, name: str) -> Object:
        numbers = self.random.sample(range(1, 250), self.random.randint(1, 5))
        return endpoint_slice(
            f"{name}-1", owner=name, addresses=tuple(f"10.1.0.{number}" for number in numbers)
        )

    async def change(self) -> None:
        name = self.random.choice([*STEADY, *PASSING])
        there = ("default", name) in self.server.objects.collections["Service"].objects
        if name in STEADY or (there and self.random.random() < 0.4):
            await self.server.put(self._endpoints(name))
        elif there:
            await self.server.delete("Service", "default", name)
            await self.server.delete("EndpointSlice", "default", f"{name}-1")
        else:
            await self.server.put(service(name, address=PASSING[name]))
            await self.server.put(self._endpoints(name))

    # ------------------------------------------------------------------------ the hard life

    async def trouble(self) -> None:
        await self.random.choice(
            [self._outage, self._forget, self._rotate, self._renew_token, self._cut, self._faults]
        )()

    async def _outage(self) -> None:
        await self.server.stop()
        for _ in range(self.random.randint(0, 5)):
            await self.change()
        if self.random.random() < 0.5:
            self.server.objects.compact()
        await self.server.start()

    async def _forget(self) -> None:
        self.server.objects.compact()
        await self.server.cut_watches()

    async def _rotate(self) -> None:
        """Rotate the authority, and the server's certificate with it."""
        self.rotations += 1
        new = authority(self.folder, f"authority-{self.rotations}")
        self.trust(self.authority, new)
        await self.server.stop()
        self.server.tls = server_context(self.folder, new)
        await self.server.start()
        self.authority = new

    async def _renew_token(self) -> None:
        self.replace_token()
        await self.server.cut_watches()

    async def _cut(self) -> None:
        await self.server.cut_watches()

    async def _faults(self) -> None:
        """Have the next requests go wrong, each in its way, and all be made anew."""
        gone = '{"kind": "Status", "code": 410, "message": "too old"}'
        ways = [
            Fault(verb="list", cut_after=self.random.randint(1, 400)),
            Fault(verb="stream", cut_after=30, sound=self.random.randint(0, 5)),
            Fault(verb="watch", cut_after=30),
            Fault(verb="watch", end=True),
            Fault(verb="watch", error_event=self.random.choice([410, 500])),
            Fault(verb="watch", status=410, body=gone),
            Fault(verb="list", status=410, body=gone),
            Fault(status=429, headers={"Retry-After": "3"}),
            Fault(status=self.random.choice([401, 500, 502, 503, 504]), body="<html>"),
            Fault(body="welcome to the hotel's network"),
            Fault(verb="list", body='{"kind": "ServiceList", "metadata": {}, "items": []}'),
        ]
        self.server.faults += self.random.choices(ways, k=self.random.randint(1, 6))
        await self.server.cut_watches()


def _text(written: Object, part: str, name: str) -> str:
    found = written[part]
    assert isinstance(found, dict)
    return str(found[name])


@asynccontextmanager
async def source_of(
    cluster: Cluster, time: VirtualTime, conditions: Conditions | None = None
) -> AsyncIterator[KubernetesSource]:
    connection = await connect(InCluster((cluster.server.url,), cluster.account))
    try:
        health = SourceHealth(conditions=conditions, wall_clock=time.timing.now)
        yield KubernetesSource(connection, "node-1", timing=time.timing, health=health)
    finally:
        await connection.close()


@pytest.mark.parametrize("seed", SEEDS)
async def test_through_whatever_happens_to_the_api_server_nothing_served_is_missing(
    tmp_path: Path, time: VirtualTime, seed: int
) -> None:
    cluster, kernel = Cluster(tmp_path, seed), WatchedKernel(STEADY.values())
    settings = Settings(node_name="node-1", min_sync_period=0.0)
    wiring = wire(settings, kernel)
    async with cluster.server:
        await cluster.fill()
        async with source_of(cluster, time) as source, running(wiring, source):
            await kernel.until(lambda: kernel.table == cluster.wanted)
            for _ in range(STEPS):
                await cluster.change()
                if cluster.random.random() < 0.3:
                    await cluster.trouble()
                if cluster.random.random() < 0.2:
                    await kernel.until(lambda: kernel.table == cluster.wanted)
            await kernel.until(lambda: kernel.table == cluster.wanted)
            # The cycle that brings one more has begun after all others had ended.
            await cluster.server.put(service("last", address="10.0.2.1"))
            await kernel.until(lambda: kernel.table == cluster.wanted)
            async with asyncio.timeout(SECONDS):
                await wiring.reconciler.wait_until_applied(wiring.store.revision)
        assert kernel.missing == []
        assert kernel.state.addresses == {virtual.address for virtual in kernel.state.real_servers}
        cluster.server.faults.clear()
        await assert_a_restart_writes_nothing(cluster, time, kernel)


async def test_an_outage_is_told_and_makes_neither_unhealthy_nor_anything_go(
    tmp_path: Path, time: VirtualTime
) -> None:
    cluster, kernel, conditions = Cluster(tmp_path, 0), WatchedKernel(STEADY.values()), Conditions()
    wiring = wire(
        Settings(node_name="node-1"), kernel, clock=time.timing.now, conditions=conditions
    )
    async with cluster.server:
        await cluster.fill()
        async with source_of(cluster, time, conditions) as source, running(wiring, source):
            await kernel.until(lambda: kernel.table == cluster.wanted)
            served, began = kernel.table, time.now
            await cluster.server.stop()
            await time.until(lambda: time.now > began + 3600)
            told = [(one.subject, str(one.type)) for one in (await wiring.status()).conditions]
            assert told == [("Source Kubernetes API", "ApiUnreachable")]
            assert wiring.health.is_eligible(time.now)
            assert wiring.health.is_ready(time.now)
            assert kernel.table == served
            await cluster.server.start()
            await cluster.server.until_watched(4)
            await cluster.server.put(service("late", address="10.0.2.1"))
            await kernel.until(lambda: kernel.table == cluster.wanted)
            assert (await wiring.status()).conditions == ()


async def assert_a_restart_writes_nothing(
    cluster: Cluster, time: VirtualTime, kernel: WatchedKernel
) -> None:
    writes = kernel.writes
    again = wire(Settings(node_name="node-1"), kernel)
    async with source_of(cluster, time) as source:
        async for event in source.once():
            again.take(event)
    report = await again.reconciler.cycle()
    assert (report.done.total(), kernel.writes) == (0, writes)
