"""A connection through a Service's virtual server, from the packets to what is scraped."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator

import pytest
from prometheus_client import generate_latest

from ipvsproxy.agent.wiring import wire
from ipvsproxy.config import Settings
from ipvsproxy.core.foundation import WATCHED_SYSCTLS
from ipvsproxy.kernel.linux import LinuxDataplane
from ipvsproxy.kernel.process import Processes
from ipvsproxy.objects import Node
from ipvsproxy.store import KINDS, Listed, Put
from tests.unit.builders import frontend, part, service, settle

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif("IPVSPROXY_RIG_GUEST" not in os.environ, reason="outside the rig"),
    pytest.mark.usefixtures("own_namespace"),
]

ESTIMATION_SECONDS = 20.0
WEB = frontend()
POD = "10.244.1.5"


class Ticking:
    """A clock on which every reading is an old one at the next look."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def pod() -> Iterator[socket.socket]:
    done = Processes().run(("ip", "address", "add", f"{POD}/32", "dev", "lo"))
    assert done.returncode == 0
    with socket.create_server((POD, 8080)) as listening:
        yield listening


def exchange(pod: socket.socket) -> None:
    with socket.create_connection((str(WEB.address), WEB.port), timeout=10) as client:
        accepted, _ = pod.accept()
        with accepted:
            client.sendall(b"x" * 1000)
            assert len(accepted.recv(1000, socket.MSG_WAITALL)) == 1000


async def test_a_connection_is_counted_with_its_packets_and_bytes(pod: socket.socket) -> None:
    clock = Ticking()
    dataplane = LinuxDataplane(WATCHED_SYSCTLS)
    settings = Settings(node_name="n", endpoint_metrics=True)
    wiring = wire(settings, dataplane, clock=clock)

    async def scraped(name: str, **labels: str) -> float | None:
        clock.now += 60
        await wiring.scrape()
        assert b"ipvsproxy_traffic_last_read_successful 1.0" in generate_latest(
            wiring.metrics.registry
        )
        port = {"namespace": "default", "service": "web", "port": "80", "protocol": "TCP"}
        return wiring.metrics.traffic.registry.get_sample_value(
            f"ipvsproxy_{name}_total", {**port, **labels}
        )

    async def until_counted(connections: int) -> float | None:
        """Scrape until the kernel has brought its numbers up to date, which it does every 2 s."""
        end = time.monotonic() + ESTIMATION_SECONDS
        found = None
        while found != connections and time.monotonic() < end:
            found = await scraped("service_connections")
        return found

    try:
        for one in (service(), part("web", POD), Node("n")):
            wiring.take(Put(one, "test"))
        for kind in KINDS:
            wiring.take(Listed(kind))
        await settle(wiring.reconciler)
        assert await scraped("service_connections") is None

        exchange(pod)

        assert await until_counted(1) == 1
        assert await scraped("endpoint_connections", endpoint=f"{POD}:8080") == 1
        sent = await scraped("service_bytes", direction="in")
        answered = await scraped("service_bytes", direction="out")
        assert sent is not None
        assert answered is not None
        assert sent > 1000 > answered > 0
        assert await scraped("service_packets", direction="in")
        exchange(pod)
        assert await until_counted(2) == 2
    finally:
        await dataplane.close()
