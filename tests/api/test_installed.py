"""The whole agent as it is installed, on a real API server with RBAC: nothing served goes missing.

Its rights are those of the shipped manifests and no others, its token is from the TokenRequest API
and in a file, as is the authority that it verifies the server by; objects are made by kubectl. The
kernel is the fake one; `tests/e2e/test_api_server.py` has a run on a real one.
"""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import cast

from tests.api import real_server
from tests.api.certificates import authority
from tests.api.fake_objects import Object
from tests.api.installed import (
    Account,
    Agent,
    Detour,
    agent,
    endpoints_of,
    install,
    wanted,
)
from tests.api.real_server import KubectlError, RealServer
from tests.api.support import node, service
from tests.api.watched_kernel import WatchedKernel, key

pytestmark = real_server.marks()

STEADY = {f"steady-{number}": f"10.0.5.{number}" for number in range(1, 6)}
"""Services that are always there; their endpoints change, and are never none."""
SECONDS = 60
"""Longest wait for the agent to have caught up, pauses after failures included."""


class Stream:
    """Changes that kubectl makes one after the other, whether or not the server is there."""

    def __init__(self, server: RealServer, kernel: WatchedKernel) -> None:
        self.server = server
        self.made = 0
        self.refused = 0
        self.done = False
        self._kernel = kernel
        self._random = random.Random(0)
        self._number = 0

    async def run(self) -> None:
        while not self.done:
            try:
                await asyncio.to_thread(self._change)
                self.made += 1
            except KubectlError:
                self.refused += 1

    def _change(self) -> None:
        name = self._random.choice([*STEADY, "passing", "passing"])
        if name in STEADY:
            self.server.apply(endpoints_of(name, self._random))
        elif self._random.random() < 0.5:
            gone = ("service/passing", "endpointslice/passing-1")
            self.server.kubectl("delete", "--ignore-not-found", *gone)
        else:
            slice_ = endpoints_of("passing", self._random)
            self.server.apply(service("passing", address="10.0.6.1"), slice_)

    async def reaches_the_kernel(self) -> None:
        """Make one more Service, and wait until it is there."""
        self._number += 1
        address = f"10.0.7.{self._number}"
        one = service(f"mark-{self._number}", address=address)
        await asyncio.to_thread(self.server.apply, one)
        await self._kernel.until(lambda: str(key(address)) in self._kernel.table, SECONDS)


async def test_through_the_hard_life_of_a_real_api_server_nothing_served_is_missing(
    tmp_path: Path,
) -> None:
    kernel, chance = WatchedKernel(STEADY.values()), random.Random(0)
    with RealServer(tmp_path) as server:
        install(server)
        account = Account(server, tmp_path / "account")
        for name, address in STEADY.items():
            server.apply(service(name, address=address), endpoints_of(name, chance))
        stream = Stream(server, kernel)
        async with Detour(server.port) as detour, agent(detour.url, account, kernel) as running:
            await stream.reaches_the_kernel()
            assert kernel.table == await asyncio.to_thread(wanted, server)
            assert not refused_by_rbac(running)
            async with asyncio.TaskGroup() as group:
                group.create_task(stream.run())
                await stopped_and_started(stream)
                await forgotten(stream, detour, running)
                await certified_anew(stream, detour, account)
                await shown_all_nodes(stream, running)
                await let_in_by_another_token(stream, account)
                stream.done = True
            await stream.reaches_the_kernel()
            at_the_end = await asyncio.to_thread(wanted, server)
            await kernel.until(lambda: kernel.table == at_the_end, SECONDS)
            assert all(watch.connected for _, watch in running.watches)
            assert (await running.wiring.status()).conditions == ()
        assert kernel.missing == []
        assert stream.made > 10
        assert stream.refused


async def stopped_and_started(stream: Stream) -> None:
    await asyncio.to_thread(stream.server.stop)
    await asyncio.to_thread(stream.server.start)
    await stream.reaches_the_kernel()


async def forgotten(stream: Stream, detour: Detour, running: Agent) -> None:
    """Cut the agent off, while what it has missed passes from etcd and from the server's cache."""
    detour.close()
    before = stream.made
    async with asyncio.timeout(SECONDS):
        while stream.made < before + 3:  # noqa: ASYNC110 - kubectl is another program
            await asyncio.sleep(0.1)
    await asyncio.to_thread(stream.server.stop)
    await asyncio.to_thread(stream.server.compact)
    await asyncio.to_thread(stream.server.start)
    detour.open()
    await stream.reaches_the_kernel()
    assert running.watches.of("EndpointSlice").errors["Expired"]


async def certified_anew(stream: Stream, detour: Detour, account: Account) -> None:
    """Rotate the certificate, then the authority too; the server runs on."""
    server = stream.server
    old, new = server.authority, authority(server.folder, "new-authority")
    account.trust(old, new)
    for signer in (old, new):
        server.use_certificate_of(signer)
        await asyncio.to_thread(server.until_certificate_is_used)
        detour.cut()
        await stream.reaches_the_kernel()
    account.trust(new)
    detour.cut()
    await stream.reaches_the_kernel()


def refused_by_rbac(running: Agent) -> int:
    """Count answers 403; there may be some while an API server starts."""
    requests = running.watches.requests
    return sum(number for (code, _, _), number in requests.items() if code == "403")


async def let_in_by_another_token(stream: Stream, account: Account) -> None:
    """Have the former one die, and the server at once, whose cache knew it."""
    await asyncio.to_thread(account.renew_token)
    await asyncio.to_thread(stream.server.kill)
    await asyncio.to_thread(stream.server.start)
    await stream.reaches_the_kernel()


async def shown_all_nodes(stream: Stream, running: Agent) -> None:
    """Have a Service for which all Nodes are needed, and Nodes."""
    refused = refused_by_rbac(running)
    one = service("outside", address="10.0.8.1")
    one["spec"] = {**cast("Object", one["spec"]), "externalIPs": ["192.0.2.80"]}
    await asyncio.to_thread(stream.server.apply, node("node-1"), node("node-2"), one)
    await stream.reaches_the_kernel()
    async with asyncio.timeout(SECONDS):
        while not running.watches.of("Nodes").connected:  # noqa: ASYNC110 - tells nobody
            await asyncio.sleep(0.1)
    assert running.wiring.store.needs_nodes
    assert refused_by_rbac(running) == refused
