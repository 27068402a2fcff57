"""Traffic counters: how readings are added up, and when the kernel is read."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping

import msgspec
import pytest
from prometheus_client import generate_latest

from ipvsproxy.agent.traffic import FRESH_SECONDS
from ipvsproxy.agent.wiring import Wiring, wire
from ipvsproxy.config import Settings
from ipvsproxy.core.operations import (
    AddRealServer,
    AddVirtualServer,
    Operation,
    RemoveVirtualServer,
)
from ipvsproxy.dataplane import Counters, DataplaneError, TrafficReading
from ipvsproxy.kernel.fake import FakeDataplane
from ipvsproxy.kernel.ipvs import Ipvs
from ipvsproxy.kernel.linux import LinuxDataplane
from ipvsproxy.model import (
    Address,
    Protocol,
    RealServer,
    RealServerKey,
    VirtualServer,
    VirtualServerKey,
)
from ipvsproxy.objects import Node, ServiceName, ServicePort, SlicePort
from ipvsproxy.store import KINDS, Gone, Listed, Put
from ipvsproxy.telemetry.traffic import Traffic, TrafficPort
from tests.unit.builders import (
    Clock,
    frontend,
    member,
    named,
    part,
    service,
    service_reference,
    settle,
)

WEB, NODE_PORT = frontend(), frontend("192.0.2.1", 30080)
PORT = TrafficPort(named(), "http", "TCP")
OTHER = TrafficPort(named("other"), "http", "TCP")
LABELS = {"namespace": "default", "service": "web", "port": "http", "protocol": "TCP"}
POD = member("10.244.1.5")
CLIENT = Address.parse("10.244.9.9")
WALL = 1_700_000_000.0


def reading(connections: int, *, pod: int | None = None) -> TrafficReading:
    members = {POD: Counters(pod)} if pod is not None else {}
    return TrafficReading(Counters(connections, 2, 3, 40, 50), members)


def take(
    traffic: Traffic,
    readings: Mapping[VirtualServerKey, TrafficReading],
    port: TrafficPort | None = PORT,
    services: Collection[ServiceName] = (named(),),
) -> None:
    traffic.take(readings, dict.fromkeys(readings, port) if port is not None else {}, services)


def value(traffic: Traffic, name: str, **labels: str) -> float | None:
    return traffic.registry.get_sample_value(f"ipvsproxy_{name}_total", {**LABELS, **labels})


def connections(traffic: Traffic, **labels: str) -> float | None:
    return value(traffic, "service_connections", **labels)


class TestAddingUp:
    def test_the_kernels_numbers_are_the_beginning_and_all_frontends_count(self) -> None:
        traffic = Traffic()
        take(traffic, {WEB: reading(5), NODE_PORT: reading(7)})
        assert connections(traffic) == 12
        assert value(traffic, "service_packets", direction="in") == 4
        assert value(traffic, "service_packets", direction="out") == 6
        assert value(traffic, "service_bytes", direction="in") == 80
        assert value(traffic, "service_bytes", direction="out") == 100

    def test_what_has_come_is_added(self) -> None:
        traffic = Traffic()
        for count in (5, 5, 8):
            take(traffic, {WEB: reading(count)})
        assert connections(traffic) == 8

    def test_a_virtual_server_that_was_made_again_goes_on_from_what_there_was(self) -> None:
        traffic = Traffic()
        take(traffic, {WEB: reading(5)})
        take(traffic, {WEB: reading(2)})
        assert connections(traffic) == 7

    def test_so_does_one_that_was_seen_to_be_gone(self) -> None:
        traffic = Traffic()
        take(traffic, {WEB: reading(5)})
        take(traffic, {})
        assert connections(traffic) == 5
        take(traffic, {WEB: reading(6)})
        assert connections(traffic) == 11

    def test_one_that_drains_counts_for_whom_it_did(self) -> None:
        traffic = Traffic()
        take(traffic, {WEB: reading(5)})
        take(traffic, {WEB: reading(9)}, port=None, services=())
        assert connections(traffic) == 9

    def test_a_service_that_is_gone_is_forgotten_with_its_last_virtual_server(self) -> None:
        traffic = Traffic()
        take(traffic, {WEB: reading(5)})
        take(traffic, {}, services=())
        assert connections(traffic) is None

    def test_one_that_passes_to_another_service_brings_nothing_along(self) -> None:
        traffic = Traffic()
        take(traffic, {WEB: reading(5)})
        take(traffic, {WEB: reading(6)}, OTHER, [named(), OTHER.service])
        assert connections(traffic) == 5
        assert connections(traffic, service="other") == 1

    def test_a_virtual_server_of_others_is_not_counted(self) -> None:
        traffic = Traffic()
        take(traffic, {WEB: reading(5)}, port=None)
        assert b"{" not in generate_latest(traffic.registry)

    def test_a_port_without_traffic_has_no_series(self) -> None:
        traffic = Traffic()
        take(traffic, {WEB: TrafficReading(Counters(), {POD: Counters()})})
        assert b"{" not in generate_latest(traffic.registry)

    def test_counters_of_64_bits_are_told_in_full(self) -> None:
        traffic = Traffic()
        large = Counters(1, 1, 1, 1 << 40, 0)
        take(traffic, {WEB: TrafficReading(large, {})})
        assert value(traffic, "service_bytes", direction="in") == 1 << 40

    def test_an_endpoint_is_counted_over_all_frontends_and_forgotten_when_it_goes(self) -> None:
        traffic = Traffic()
        endpoint = {"endpoint": "10.244.1.5:8080"}
        take(traffic, {WEB: reading(5, pod=5), NODE_PORT: reading(7, pod=7)})
        take(traffic, {WEB: reading(6, pod=6), NODE_PORT: reading(7, pod=7)})
        assert value(traffic, "endpoint_connections", **endpoint) == 13
        take(traffic, {WEB: reading(6), NODE_PORT: reading(7)})
        assert value(traffic, "endpoint_connections", **endpoint) is None
        assert connections(traffic) == 13


class Kernel(FakeDataplane):
    """Counts its readings, and can be out of order or slow."""

    def __init__(self) -> None:
        super().__init__()
        self.readings = 0
        self.unreadable = False
        self.go_on = asyncio.Event()
        self.go_on.set()

    async def counters(
        self, real_servers_of: Collection[VirtualServerKey] = ()
    ) -> Mapping[VirtualServerKey, TrafficReading]:
        self.readings += 1
        await self.go_on.wait()
        if self.unreadable:
            raise DataplaneError("no netlink today")
        return await super().counters(real_servers_of)


class Scraped:
    """An agent with one Service, and what its scrapes say."""

    def __init__(self, **settings: bool) -> None:
        self.kernel = Kernel()
        self.clock = Clock()
        self.wiring: Wiring = wire(
            Settings(node_name="n", **settings),  # type: ignore[arg-type]  # only switches
            self.kernel,
            clock=self.clock,
            wall_clock=lambda: WALL,
        )
        self.metrics = self.wiring.metrics

    async def serve(self) -> None:
        web = msgspec.structs.replace(service(), ports=(ServicePort("http", Protocol.TCP, 80),))
        endpoints = msgspec.structs.replace(
            part("web", "10.244.1.5"), ports=(SlicePort("http", Protocol.TCP, 8080),)
        )
        for one in (web, endpoints, Node("n")):
            self.wiring.take(Put(one, "test"))
        for kind in KINDS:
            self.wiring.take(Listed(kind))
        await self.settle()

    async def settle(self) -> None:
        await settle(self.wiring.reconciler)

    async def connections(self, seconds: float = FRESH_SECONDS) -> float | None:
        self.clock.now += seconds
        await self.wiring.scrape()
        return connections(self.metrics.traffic)

    def gauge(self, name: str) -> float | None:
        return self.metrics.registry.get_sample_value(f"ipvsproxy_traffic_last_read_{name}")


@pytest.fixture
async def agent() -> Scraped:
    agent = Scraped()
    await agent.serve()
    return agent


class TestReading:
    async def test_a_connection_is_counted_for_the_port_of_its_service(
        self, agent: Scraped
    ) -> None:
        assert await agent.connections() is None
        assert agent.kernel.connect(WEB, CLIENT) is not None
        assert await agent.connections() == 1
        assert agent.gauge("successful") == 1
        assert agent.gauge("timestamp_seconds") == WALL

    async def test_several_scrapers_share_a_reading(self, agent: Scraped) -> None:
        await asyncio.gather(*(agent.wiring.scrape() for _ in range(3)))
        agent.kernel.connect(WEB, CLIENT)
        assert await agent.connections(FRESH_SECONDS - 0.1) is None
        assert agent.kernel.readings == 1
        assert await agent.connections(0.1) == 1
        assert agent.kernel.readings == 2

    async def test_a_kernel_that_cannot_be_read_leaves_the_last_values_and_is_told(
        self, agent: Scraped
    ) -> None:
        agent.kernel.connect(WEB, CLIENT)
        await agent.connections()
        agent.kernel.unreadable = True
        agent.kernel.connect(WEB, CLIENT)
        assert await agent.connections() == 1
        assert agent.gauge("successful") == 0
        agent.kernel.unreadable = False
        assert await agent.connections() == 2
        assert agent.gauge("successful") == 1

    async def test_a_kernel_that_is_busy_holds_up_no_scrape(
        self, agent: Scraped, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(agent.wiring.traffic, "_patience", 0.0)
        agent.kernel.connect(WEB, CLIENT)
        agent.kernel.go_on.clear()
        assert await agent.connections() is None
        assert await agent.connections() is None
        assert agent.kernel.readings == 1, "the first one goes on"
        agent.kernel.go_on.set()
        monkeypatch.setattr(agent.wiring.traffic, "_patience", 60.0)
        assert await agent.connections() == 1

    async def test_a_virtual_server_that_is_made_again_loses_nothing(self, agent: Scraped) -> None:
        agent.kernel.connect(WEB, CLIENT)
        assert await agent.connections() == 1
        again: list[Operation] = [
            RemoveVirtualServer(WEB),
            AddVirtualServer(WEB, VirtualServer("rr")),
            AddRealServer(WEB, POD, RealServer(1)),
        ]
        assert all(one.refusal is None for one in await agent.kernel.apply(again))
        assert await agent.connections() == 1
        agent.kernel.connect(WEB, CLIENT)
        assert await agent.connections() == 2

    async def test_a_removed_service_counts_while_it_drains(self, agent: Scraped) -> None:
        agent.kernel.connect(WEB, CLIENT)
        await agent.connections()
        agent.wiring.take(Gone(service_reference()))
        await agent.settle()
        assert WEB in agent.kernel.state.virtual_servers
        assert await agent.connections() == 1

    async def test_endpoints_are_counted_only_where_that_is_asked_for(self) -> None:
        for wanted, expected in ((False, None), (True, 1)):
            agent = Scraped(endpoint_metrics=wanted)
            await agent.serve()
            agent.kernel.connect(WEB, CLIENT)
            assert await agent.connections() == 1
            endpoint = "10.244.1.5:8080"
            found = value(agent.metrics.traffic, "endpoint_connections", endpoint=endpoint)
            assert found == expected

    async def test_that_can_be_changed_live(self, agent: Scraped) -> None:
        agent.kernel.connect(WEB, CLIENT)
        settings = msgspec.structs.replace(agent.wiring.settings, endpoint_metrics=True)
        agent.wiring.configure(settings)
        await agent.connections()
        endpoint = "10.244.1.5:8080"
        assert value(agent.metrics.traffic, "endpoint_connections", endpoint=endpoint) == 1


class StandInIpvs(Ipvs):
    """A table of 120 virtual servers without a kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.read_of: list[VirtualServerKey] = []
        self.sizes: list[int] = []
        self.at_the_first: Callable[[], None] = lambda: None

    def virtual_server_counters(self) -> dict[VirtualServerKey, Counters]:
        return {WEB._replace(port=port): Counters(port) for port in range(1, 121)}

    def counters_of(self, keys: Collection[VirtualServerKey]) -> dict[VirtualServerKey, Counters]:
        self.sizes.append(len(keys))
        return {key: Counters(key.port) for key in keys}

    def real_server_counters(self, key: VirtualServerKey) -> dict[RealServerKey, Counters]:
        if not self.read_of:
            self.at_the_first()
        self.read_of.append(key)
        return {POD: Counters(key.port)}


class TestAFewAtATime:
    async def test_writes_go_ahead_between_two_readings(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ipvs, dataplane = StandInIpvs(), LinuxDataplane(())
        monkeypatch.setattr(dataplane, "_ipvs", ipvs)
        keys = tuple(ipvs.virtual_server_counters())
        read_before: list[int] = []
        loop = asyncio.get_running_loop()

        async def write() -> None:
            await dataplane.apply(())
            read_before.append(len(ipvs.read_of))

        writes: list[asyncio.Future[None]] = []
        ipvs.at_the_first = lambda: writes.append(
            asyncio.wrap_future(asyncio.run_coroutine_threadsafe(write(), loop), loop=loop)
        )
        try:
            readings = await dataplane.counters(keys)
            await asyncio.gather(*writes)
        finally:
            await dataplane.close()
        assert len(ipvs.read_of) == 120
        assert read_before[0] < 120
        assert readings[keys[118]] == TrafficReading(Counters(119), {POD: Counters(119)})

    async def test_an_agent_that_stops_reads_no_further(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ipvs, dataplane = StandInIpvs(), LinuxDataplane(())
        monkeypatch.setattr(dataplane, "_ipvs", ipvs)
        await dataplane.close()
        with pytest.raises(DataplaneError, match="the agent stops"):
            await dataplane.counters([WEB])
        with pytest.raises(DataplaneError, match="the agent stops"):
            await dataplane.counters_of([WEB])

    async def test_a_few_virtual_servers_are_read_a_few_at_a_time_too(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ipvs, dataplane = StandInIpvs(), LinuxDataplane(())
        monkeypatch.setattr(dataplane, "_ipvs", ipvs)
        keys = tuple(ipvs.virtual_server_counters())
        try:
            readings = await dataplane.counters_of(keys)
        finally:
            await dataplane.close()
        assert readings == {key: Counters(key.port) for key in keys}
        assert ipvs.sizes == [50, 50, 20]
