"""The two HTTP ports, over loopback."""

from __future__ import annotations

import asyncio
import gc
import json
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import aiohttp
import pytest
import structlog
from aiohttp import web
from aiohttp.test_utils import RawTestServer, TestClient, TestServer
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as openmetrics_families,
)

from ipvsproxy import http
from ipvsproxy.config import Settings
from ipvsproxy.core.health_check import HealthCheck
from ipvsproxy.dataplane import Counters, TrafficReading
from ipvsproxy.http import neighbours
from ipvsproxy.http.server import Handler, application
from ipvsproxy.model import Address, Protocol, VirtualServerKey
from ipvsproxy.objects import ServiceName
from ipvsproxy.telemetry import AgentStatus, Conditions, ConditionType, Health, Metrics
from ipvsproxy.telemetry.traffic import TrafficPort

WALL = 1_700_000_000.0
NOBODY = "127.0.0.1:1"
"""An address at which nothing listens."""
REQUEST = b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n"
OPENMETRICS = "application/openmetrics-text; version=1.0.0"


class StandInAgent:
    """What the HTTP ports look at."""

    def __init__(self, **settings: str) -> None:
        self.settings = Settings(node_name="n", **settings)  # type: ignore[arg-type]  # only texts
        self.conditions = Conditions()
        self.metrics = Metrics(self.conditions, version="1")
        self.health = Health(sync_period=30, now=0)
        self.now = 0.0
        self.health_checks = http.HealthChecks(
            self.health, self.conditions, clock=self.clock, wall_clock=lambda: WALL
        )

    async def status(self) -> AgentStatus:
        return AgentStatus(version="1", node="n", applied_revision=7, writes={"AddRealServer": 2})

    async def scrape(self) -> None:
        self.metrics.services.set(5)
        port = TrafficPort(ServiceName("default", "web"), "http", "TCP")
        key = VirtualServerKey(Protocol.TCP, Address.parse("10.96.0.10"), 80)
        counted = TrafficReading(Counters(3, 4, 5, 6, 7), {})
        self.metrics.traffic.take({key: counted}, {key: port}, [port.service])

    def clock(self) -> float:
        return self.now


@asynccontextmanager
async def health_client(
    agent: StandInAgent,
) -> AsyncIterator[TestClient[web.BaseRequest, None]]:
    application = http.health_application(
        agent.health, agent.metrics, clock=agent.clock, wall_clock=lambda: WALL
    )
    client: TestClient[web.BaseRequest, None] = TestClient(RawTestServer(application))
    async with client:
        yield client


@asynccontextmanager
async def metrics_client(
    agent: StandInAgent,
) -> AsyncIterator[TestClient[web.BaseRequest, None]]:
    served = RawTestServer(http.metrics_application(agent))
    client: TestClient[web.BaseRequest, None] = TestClient(served)
    async with client:
        yield client


async def status_of(client: TestClient[web.BaseRequest, None], path: str) -> int:
    async with client.get(path) as response:
        return response.status


class TestHealthPort:
    async def test_a_working_agent_answers_as_kube_proxy_does(self) -> None:
        async with health_client(StandInAgent()) as client, client.get("/healthz") as response:
            assert response.status == 200
            assert response.headers["Content-Type"] == "application/json"
            assert response.headers["X-Content-Type-Options"] == "nosniff"
            assert await response.json() == {
                "lastUpdated": "2023-11-14 22:13:20.000000 +0000 UTC",
                "currentTime": "2023-11-14 22:13:20.000000 +0000 UTC",
                "nodeEligible": True,
            }

    async def test_changes_that_wait_too_long_fail_all_three(self) -> None:
        agent = StandInAgent()
        agent.health.queued(0)
        agent.now = 60
        async with health_client(agent) as client:
            assert [
                await status_of(client, f"/{one}") for one in ("healthz", "livez", "readyz")
            ] == [
                503,
                503,
                503,
            ]
            async with client.get("/livez") as response:
                body = await response.json()
        assert body["lastUpdated"] == "2023-11-14 22:12:20.000000 +0000 UTC"
        assert "nodeEligible" not in body

    async def test_a_leaving_node_fails_healthz_only(self) -> None:
        agent = StandInAgent()
        agent.health.cycle_completed(0)
        agent.health.in_step()
        agent.health.leaving = True
        async with health_client(agent) as client:
            assert await status_of(client, "/healthz") == 503
            assert await status_of(client, "/livez") == 200
            assert await status_of(client, "/readyz") == 200

    async def test_it_is_ready_when_the_initial_lists_are_in_the_kernel(self) -> None:
        agent = StandInAgent()
        async with health_client(agent) as client:
            assert await status_of(client, "/readyz") == 503
            agent.health.cycle_completed(1)
            assert await status_of(client, "/readyz") == 503
            agent.health.in_step()
            assert await status_of(client, "/readyz") == 200

    async def test_at_debug_every_answer_is_a_line(self) -> None:
        with structlog.testing.capture_logs() as logged:
            async with health_client(StandInAgent()) as client:
                await status_of(client, "/readyz")

        assert logged == [
            {
                "event": "answered",
                "log_level": "debug",
                "path": "/readyz",
                "status": 503,
                "client": "127.0.0.1",
            }
        ]

    async def test_answers_are_counted_by_status(self) -> None:
        agent = StandInAgent()
        async with health_client(agent) as client:
            await status_of(client, "/healthz")
            await status_of(client, "/livez")
        for name in ("healthz", "livez"):
            value = agent.metrics.registry.get_sample_value(
                f"kubeproxy_proxy_{name}_total", {"code": "200"}
            )
            assert value == 1


class TestMetricsPort:
    async def test_metrics_are_brought_up_to_date_and_come_as_text_by_default(self) -> None:
        async with metrics_client(StandInAgent()) as client, client.get("/metrics") as response:
            assert response.headers["Content-Type"].startswith("text/plain")
            text = await response.text()
        assert "ipvsproxy_services 5.0\n" in text
        labels = 'direction="in",namespace="default",port="http",protocol="TCP",service="web"'
        assert f"ipvsproxy_service_packets_total{{{labels}}} 4.0\n" in text

    @pytest.mark.parametrize(
        "accept", ["version=1..", f"{OPENMETRICS};version=1.x", ";,;=", "\xff"]
    )
    async def test_whoever_asks_for_nonsense_has_text(self, accept: str) -> None:
        async with (
            metrics_client(StandInAgent()) as client,
            client.get("/metrics", headers={"Accept": f"text/plain; {accept}"}) as response,
        ):
            assert response.status == 200
            assert response.headers["Content-Type"].startswith("text/plain")
            assert "ipvsproxy_services 5.0" in await response.text()

    async def test_openmetrics_is_given_where_it_is_asked_for(self) -> None:
        async with (
            metrics_client(StandInAgent()) as client,
            client.get("/metrics", headers={"Accept": OPENMETRICS}) as response,
        ):
            assert response.headers["Content-Type"].startswith("application/openmetrics-text")
            text = await response.text()
        assert text.endswith("# EOF\n")
        families = {one.name for one in openmetrics_families(text)}  # type: ignore[no-untyped-call]
        assert {"ipvsproxy_services", "ipvsproxy_service_bytes"} <= families

    @pytest.mark.parametrize(("path", "expected"), [("/proxyMode", "ipvs"), ("/healthz", "ok")])
    async def test_plain_pages(self, path: str, expected: str) -> None:
        async with metrics_client(StandInAgent()) as client, client.get(path) as response:
            assert await response.text() == expected

    @pytest.mark.parametrize(
        ("method", "path", "status", "body", "allowed"),
        [
            ("GET", "/healthz?verbose", 200, "ok", None),
            ("HEAD", "/healthz", 200, "", None),
            ("POST", "/healthz", 405, "405: Method Not Allowed", "GET,HEAD"),
            ("GET", "/healthz/", 404, "404: Not Found", None),
            ("POST", "/nothing", 404, "404: Not Found", None),
        ],
    )
    async def test_methods_and_paths(
        self, method: str, path: str, status: int, body: str, allowed: str | None
    ) -> None:
        async with (
            metrics_client(StandInAgent()) as client,
            client.request(method, path) as response,
        ):
            assert response.status == status
            assert await response.text() == body
            assert response.headers.get("Allow") == allowed
            assert response.headers["Server"].startswith("ipvsproxy/")

    async def test_configz_shows_the_effective_settings(self) -> None:
        async with metrics_client(StandInAgent()) as client, client.get("/configz") as response:
            shown = json.loads(await response.read())
        assert shown["ipvsproxy"]["node_name"] == "n"
        assert shown["ipvsproxy"]["default_scheduler"] == "rr"

    async def test_status_is_what_the_agent_knows(self) -> None:
        async with metrics_client(StandInAgent()) as client, client.get("/status") as response:
            shown = json.loads(await response.read())
        assert shown["applied_revision"] == 7
        assert shown["writes"] == {"AddRealServer": 2}


@pytest.fixture
def taken() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        yield holder


def address_of(holder: socket.socket) -> str:
    return f"127.0.0.1:{holder.getsockname()[1]}"


@dataclass
class ChangingClock:
    """Tells that it was asked, which is how the test knows of an attempt."""

    asked: asyncio.Event = field(default_factory=asyncio.Event)

    def __call__(self) -> float:
        self.asked.set()
        return WALL


@asynccontextmanager
async def served(pages: Handler) -> AsyncIterator[int]:
    """Serve on a port of our own choice, which is given."""
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port: int = holder.getsockname()[1]
    conditions = Conditions()
    server = http.Server(
        f"127.0.0.1:{port}", pages, name="metrics", conditions=conditions, wall_clock=lambda: WALL
    )
    task = asyncio.create_task(server.run())
    await asyncio.wait_for(server.listening.wait(), 10)
    try:
        yield port
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


class TestServing:
    async def test_a_taken_port_is_a_condition_until_it_is_free(self, taken: socket.socket) -> None:
        conditions, clock = Conditions(), ChangingClock()
        address = address_of(taken)
        server = http.Server(
            address,
            http.metrics_application(StandInAgent()),
            name="metrics",
            conditions=conditions,
            wall_clock=clock,
            retry_seconds=0.01,
        )
        task = asyncio.create_task(server.run())
        await asyncio.wait_for(clock.asked.wait(), 10)

        (condition,) = conditions
        assert condition.type is ConditionType.PORT_TAKEN
        assert condition.message.startswith(
            f"the metrics server cannot listen on {address} (address already in use)"
        )
        assert "--metrics-bind-address" in condition.message

        taken.close()
        await asyncio.wait_for(server.listening.wait(), 10)
        assert len(conditions) == 0
        assert await http.find_neighbour(address) == http.Neighbour("ipvs", address, is_ours=True)

        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert await http.find_neighbour(address) is None

    async def test_a_taken_port_is_logged_at_once_and_not_again(self, taken: socket.socket) -> None:
        """Neither at each attempt, nor by the next cycle."""
        clock, attempts, conditions = ChangingClock(), 5, Conditions()
        server = http.Server(
            address_of(taken),
            http.metrics_application(StandInAgent()),
            name="metrics",
            conditions=conditions,
            wall_clock=clock,
            retry_seconds=0.001,
        )
        with structlog.testing.capture_logs() as logged:
            task = asyncio.create_task(server.run())
            for _ in range(attempts):
                await asyncio.wait_for(clock.asked.wait(), 10)
                clock.asked.clear()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

        (condition,) = conditions
        assert logged == [
            {
                "event": "condition",
                "log_level": "warning",
                "subject": condition.subject,
                "type": "PortTaken",
                "problem": condition.message,
            }
        ]
        assert conditions.take_raised() == ()

    @pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")
    @pytest.mark.parametrize("wildcard", ["0.0.0.0", "[::]"])
    async def test_all_addresses_are_those_of_both_families(
        self, wildcard: str, taken: socket.socket
    ) -> None:
        """As Go listens: kubelet asks an IPv6 node on its IPv6 address, a load balancer on any."""
        port = taken.getsockname()[1]
        taken.close()
        server = http.Server(
            f"{wildcard}:{port}",
            http.metrics_application(StandInAgent()),
            name="metrics",
            conditions=Conditions(),
            wall_clock=lambda: WALL,
        )
        task = asyncio.create_task(server.run())
        await asyncio.wait_for(server.listening.wait(), 10)
        for host in ("127.0.0.1", "[::1]"):
            assert await http.ask_agent(f"{host}:{port}") is not None
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    async def test_a_connection_that_asks_nothing_whole_is_closed(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("ipvsproxy.http.server.FIRST_REQUEST_SECONDS", 0.05)
        async with served(http.metrics_application(StandInAgent())) as port:
            asking, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(REQUEST)
            assert await asyncio.wait_for(asking.readline(), 10) == b"HTTP/1.1 200 OK\r\n"
            for silent in (b"", b"GET / HT"):
                reader, other = await asyncio.open_connection("127.0.0.1", port)
                other.write(silent)
                assert await asyncio.wait_for(reader.read(), 10) == b""
                other.close()
            writer.write(REQUEST)  # who has asked is not silent
            assert await asyncio.wait_for(asking.readuntil(b"ok"), 10)
            assert await asyncio.wait_for(asking.readuntil(b"200 OK"), 10)
            writer.close()

    async def test_the_time_that_an_answer_takes_does_not_count(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("ipvsproxy.http.server.FIRST_REQUEST_SECONDS", 0.1)
        silent_one_closed = asyncio.Event()

        async def slow(_: web.BaseRequest) -> web.Response:
            await silent_one_closed.wait()
            return web.Response(text="after all")

        async with served(application({"/healthz": slow})) as port:
            asking, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(REQUEST)
            reader, other = await asyncio.open_connection("127.0.0.1", port)
            assert await asyncio.wait_for(reader.read(), 10) == b"", "came later, and is closed"
            silent_one_closed.set()
            assert await asyncio.wait_for(asking.readuntil(b"after all"), 10)
            for one in (writer, other):
                one.close()

    @pytest.mark.parametrize("asked", [REQUEST, b"GET / HT", b"nonsense\r\n\r\n"])
    async def test_a_connection_that_was_closed_is_not_kept(self, asked: bytes) -> None:
        def kept() -> int:
            gc.collect()
            return sum(isinstance(one, web.RequestHandler) for one in gc.get_objects())

        before = kept()
        async with served(http.metrics_application(StandInAgent())) as port:
            for _ in range(5):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(asked)
                writer.write_eof()
                await asyncio.wait_for(reader.read(), 10)
                writer.close()
                await writer.wait_closed()
            for _ in range(100):  # the other side is closed a turn later, or two
                if kept() <= before:
                    break
                await asyncio.sleep(0)
            assert kept() <= before

    async def test_an_empty_address_serves_nothing(self) -> None:
        server = http.Server(
            "",
            http.metrics_application(StandInAgent()),
            name="metrics",
            conditions=Conditions(),
            wall_clock=lambda: WALL,
        )
        await asyncio.wait_for(server.run(), 10)
        assert not server.listening.is_set()

    async def test_serve_answers_on_all_ports_and_the_status_comes_back_whole(self) -> None:
        ports = []
        for _ in range(3):
            with socket.create_server(("127.0.0.1", 0)) as free:
                ports.append(address_of(free))
        agent = StandInAgent(healthz_bind_address=ports[0], metrics_bind_address=ports[1])
        check = HealthCheck(ServiceName("default", "web"), int(ports[2].partition(":")[2]), 1)
        agent.health_checks.update([check], [Address.parse("127.0.0.1")])
        task = asyncio.create_task(http.serve(agent, clock=agent.clock, wall_clock=lambda: WALL))
        try:
            status = None
            for _ in range(1000):
                status = await http.ask_agent(ports[1])
                if status is not None:
                    break
            assert status == await agent.status()
            await asyncio.wait_for(agent.health_checks.settled.wait(), 10)
            for address in (f"{ports[0]}/livez", ports[2]):
                async with (
                    aiohttp.ClientSession() as session,
                    session.get(f"http://{address}") as response,
                ):
                    assert response.status == 200
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


@pytest.fixture(autouse=True)
def nobody_in_the_usual_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever runs on this machine, no kube-proxy answers."""
    monkeypatch.setattr(neighbours, "KUBE_PROXY_ADDRESSES", (NOBODY,))


class TestNeighbour:
    async def test_it_is_looked_for_where_kube_proxy_listens_and_where_we_are_to(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ours, theirs = StandInAgent(), web.Application()

        async def mode(_: web.Request) -> web.Response:
            return web.Response(text="ipvs")

        theirs.add_routes([web.get("/proxyMode", mode)])
        application = http.metrics_application(ours)
        async with RawTestServer(application) as first, TestServer(theirs) as second:
            here, there = (f"127.0.0.1:{one.port}" for one in (first, second))
            for usual, configured in ((here, there), (there, here)):
                monkeypatch.setattr(neighbours, "KUBE_PROXY_ADDRESSES", (usual,))
                assert await http.find_neighbour(configured) == http.Neighbour(
                    "ipvs", there, is_ours=False
                )
            monkeypatch.setattr(neighbours, "KUBE_PROXY_ADDRESSES", (NOBODY,))
            assert await http.find_neighbour(here) == http.Neighbour("ipvs", here, is_ours=True)

    async def test_a_command_finds_the_agent_in_the_usual_places_too(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with RawTestServer(http.metrics_application(StandInAgent())) as server:
            usual = (NOBODY, f"127.0.0.1:{server.port}")
            monkeypatch.setattr(neighbours, "KUBE_PROXY_ADDRESSES", usual)
            assert await http.ask_agent(NOBODY) is not None

    async def test_another_proxy_is_told_from_ours(self) -> None:
        async def proxy_mode(_: web.Request) -> web.Response:
            return web.Response(text="iptables")

        application = web.Application()
        application.add_routes([web.get("/proxyMode", proxy_mode), web.get("/status", proxy_mode)])
        async with TestServer(application) as server:
            address = f"127.0.0.1:{server.port}"
            assert await http.find_neighbour(address) == http.Neighbour(
                "iptables", address, is_ours=False
            )
            assert await http.ask_agent(address) is None

    async def test_nobody_answers(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            address = address_of(free)
        assert await http.find_neighbour(address) is None
        assert await http.ask_agent(address) is None
        assert await http.ask_agent("") is None
