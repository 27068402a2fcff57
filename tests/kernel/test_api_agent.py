"""`ipvsproxy run --kubeconfig`: from an API server that speaks the real protocol into a kernel."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.api.fake_server import FakeApiServer
from tests.api.support import endpoint_slice, service

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.timeout(120),
    pytest.mark.usefixtures("own_namespace"),
]

SECONDS = 60
"""Longest wait for the kernel's tables; a guest is slow."""


@asynccontextmanager
async def running(server: FakeApiServer, folder: Path) -> AsyncIterator[None]:
    """Run the agent from a kubeconfig until the block ends."""
    kubeconfig = folder / "kubeconfig"
    kubeconfig.write_text(
        f"""apiVersion: v1
kind: Config
clusters: [{{name: c, cluster: {{server: '{server.url}'}}}}]
users: [{{name: u, user: {{}}}}]
contexts: [{{name: x, context: {{cluster: c, user: u}}}}]
current-context: x
""",
        "utf-8",
    )
    with (folder / "log").open("wb") as log:
        agent = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "ipvsproxy", "run", "--kubeconfig", str(kubeconfig)),
            *("--hostname-override", "node-a"),
            stderr=log,
        )
    try:
        yield
    finally:
        agent.terminate()
        assert await asyncio.wait_for(agent.wait(), 20) == 0, (folder / "log").read_text("utf-8")


async def until(*lines: str) -> None:
    """Wait until `ipvsadm -Sn` prints these lines and no others."""
    async with asyncio.timeout(SECONDS):
        while table() != sorted(lines):  # noqa: ASYNC110 - the kernel tells nobody of changes
            await asyncio.sleep(0.1)


def table() -> list[str]:
    done = subprocess.run(("ipvsadm", "-Sn"), capture_output=True, text=True, check=True)
    return sorted(line.strip() for line in done.stdout.splitlines())


async def test_what_the_api_server_has_is_in_the_kernel_and_follows_it(tmp_path: Path) -> None:
    async with FakeApiServer() as server:
        await server.put(service("web", address="10.96.0.10"))
        await server.put(endpoint_slice("web-1", owner="web", addresses=("10.244.1.5",)))
        served = ["-A -t 10.96.0.10:80 -s rr", "-a -t 10.96.0.10:80 -r 10.244.1.5:8080 -m -w 1"]
        async with running(server, tmp_path):
            await until(*served)
            await server.put(service("other", address="10.96.0.11"))
            await until(*served, "-A -t 10.96.0.11:80 -s rr")
            await server.cut_watches()
            await server.delete("Service", "default", "other")
            await until(*served)
        assert table() == sorted(served), "the tables outlive the agent"
