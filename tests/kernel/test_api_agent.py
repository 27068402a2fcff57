"""`ipvsproxy run --kubeconfig`: from an API server that speaks the real protocol into a kernel."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from ipvsproxy.sources.kubernetes import client
from ipvsproxy.sources.kubernetes.access import Server
from ipvsproxy.sources.kubernetes.client import connect
from ipvsproxy.sources.kubernetes.errors import Unreachable
from tests.api.certificates import authority, server_context
from tests.api.fake_server import FakeApiServer, Streams
from tests.api.support import endpoint_slice, pod, service

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.timeout(240),
    pytest.mark.usefixtures("own_namespace"),
]

SECONDS = 60
"""Longest wait for the kernel's tables; a guest is slow."""


@asynccontextmanager
async def running(
    folder: Path, *urls: str, cluster: str, user: str, options: tuple[str, ...] = ()
) -> AsyncIterator[None]:
    """Run the agent until the block ends, from a kubeconfig in YAML and the servers at `urls`."""
    kubeconfig = folder / "kubeconfig"
    kubeconfig.write_text(
        f"""apiVersion: v1
kind: Config
clusters: [{{name: c, cluster: {cluster}}}]
users: [{{name: u, user: {user}}}]
contexts: [{{name: x, context: {{cluster: c, user: u}}}}]
current-context: x
""",
        "utf-8",
    )
    with (folder / "log").open("wb") as log:
        agent = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "ipvsproxy", "run", "--kubeconfig", str(kubeconfig)),
            *("--master", ",".join(urls), "--hostname-override", "node-a"),
            *options,
            stderr=log,
        )
    try:
        yield
    finally:
        agent.terminate()
        assert await asyncio.wait_for(agent.wait(), 20) == 0, (folder / "log").read_text("utf-8")


def lose_packets_of(port: int) -> None:
    """Drop them by whichever of the iptables programs works on this kernel."""
    for end in ("--sport", "--dport"):
        rule = ("-w", "-A", "INPUT", "-i", "lo", "-p", "tcp", end, str(port), "-j", "DROP")
        programs = (("iptables-nft", *rule), ("iptables-legacy", *rule))
        assert 0 in (subprocess.run(one, check=False).returncode for one in programs)


async def until(*lines: str, always: Iterable[str] = ()) -> None:
    """Wait until `ipvsadm -Sn` prints these lines and no others; `always` it prints some."""
    async with asyncio.timeout(SECONDS):
        while (found := table()) != sorted(lines):
            assert set(always) <= set(found)
            await asyncio.sleep(0.5)  # the kernel tells nobody of changes


async def logged(folder: Path, text: str) -> None:
    """Wait until the agent has logged a text."""
    async with asyncio.timeout(SECONDS):
        while text not in (folder / "log").read_text("utf-8"):  # noqa: ASYNC110 - a file
            await asyncio.sleep(0.5)


def table() -> list[str]:
    done = subprocess.run(("ipvsadm", "-Sn"), capture_output=True, text=True, check=True)
    return sorted(line.strip() for line in done.stdout.splitlines())


async def test_the_kernel_follows_the_api_server_through_a_hard_life_and_misses_nothing(
    tmp_path: Path,
) -> None:
    """Stopped and started, history compacted, certificate, authority and token rotated.

    It is the second of two; the first one has never been there.
    """
    old, new = authority(tmp_path, "old"), authority(tmp_path, "new")
    trusted, token = tmp_path / "ca.crt", tmp_path / "token"
    trusted.write_bytes(old.certificate.read_bytes() + new.certificate.read_bytes())
    token.write_text("first")
    steady = ["-A -t 10.96.0.10:80 -s rr", "-a -t 10.96.0.10:80 -r 10.244.1.5:8080 -m -w 1"]
    async with FakeApiServer(tokens={"first"}, tls=server_context(tmp_path, old)) as server:
        server.streams = Streams.OFFERED
        cluster = f"{{server: 'https://192.0.2.1', certificate-authority: {trusted}}}"
        await server.put(service("web", address="10.96.0.10"))
        await server.put(endpoint_slice("web-1", owner="web", addresses=("10.244.1.5",)))
        urls = ("https://127.0.0.1:1", server.url)
        async with running(tmp_path, *urls, cluster=cluster, user=f"{{tokenFile: {token}}}"):
            await until(*steady)
            await server.stop()
            await server.put(service("passing", address="10.96.0.11"))
            server.objects.compact()
            server.tls = server_context(tmp_path, new)
            server.tokens = {"second"}
            (tmp_path / "replaced").write_text("second")
            (tmp_path / "replaced").rename(token)
            await logged(tmp_path, "is not available, the kernel's tables stay as they are")
            assert set(steady) <= set(table())
            await server.start()
            await until(*steady, "-A -t 10.96.0.11:80 -s rr", always=steady)
            await logged(tmp_path, "Kubernetes API is back")
            await server.delete("Service", "default", "passing")
            server.objects.compact()
            await server.cut_watches()
            await until(*steady, always=steady)
        assert table() == sorted(steady), "the tables outlive the agent"


async def test_a_server_that_vanishes_without_a_word_is_noticed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its packets are lost from one moment on: neither data nor an end comes, and no reset."""
    for name in ("KEEP_ALIVE_IDLE", "KEEP_ALIVE_INTERVAL", "KEEP_ALIVE_COUNT"):
        monkeypatch.setattr(client, name, 1)
    async with FakeApiServer() as server:
        await server.put(service("web"))
        connection = await connect(Server((server.url,)))
        async with AsyncExitStack() as stack:
            stack.push_async_callback(connection.close)
            stack.enter_context(pytest.raises(Unreachable, match="timed out"))
            watch = connection.stream("/api/v1/services", {"watch": "1"}, silence=100)
            lines = await stack.enter_async_context(watch)
            await anext(aiter(lines))
            lose_packets_of(server.port)
            async with asyncio.timeout(30):
                await anext(aiter(lines))


async def test_weights_that_pods_say_come_from_the_api_server_into_the_kernel(
    tmp_path: Path,
) -> None:
    pods = ("web-1", "web-2", "web-3")
    addresses = tuple(f"10.244.1.{number}" for number in range(1, 4))

    def lines(*weights: int) -> list[str]:
        member = "-a -t 10.96.0.10:80 -r {}:8080 -m -w {}"
        members = map(member.format, addresses, weights)
        return ["-A -t 10.96.0.10:80 -s wrr", *members]

    asked = {"ipvsproxy.io/weight-source": "pod"}
    metadata = {"name": "web", "namespace": "default", "annotations": asked}
    made = service("web", address="10.96.0.10") | {"metadata": metadata}
    part = endpoint_slice("web-1", owner="web", addresses=addresses)
    part["endpoints"] = [
        {
            "addresses": [address],
            "targetRef": {"kind": "Pod", "namespace": "default", "name": name},
        }
        for address, name in zip(addresses, pods, strict=True)
    ]
    async with FakeApiServer() as server:
        for one in (made, part, pod("web-1", "6"), pod("web-2", "3"), pod("web-3")):
            await server.put(one)
        options = ("--watch-pods", "true")
        cluster = f"{{server: '{server.url}'}}"
        async with running(tmp_path, server.url, cluster=cluster, user="{}", options=options):
            await until(*lines(6, 3, 1))
            await server.put(pod("web-3", "10"))
            await until(*lines(6, 3, 10))
            await server.put(pod("web-1", "0"))
            await until(*lines(0, 3, 10))
            await server.put(pod("web-2", "plenty"))
            await server.put(pod("web-1", "9"))
            await until(*lines(9, 3, 10))
            await server.delete("Pod", "default", "web-3")
            await until(*lines(9, 3, 1))
