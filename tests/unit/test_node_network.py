"""Following the node's own network: addresses that come and go, reads that fail, who is told."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import msgspec
import pytest

from ipvsproxy.config import NodePortAddresses, Settings, WatchNodes
from ipvsproxy.core.health_check import HealthCheck
from ipvsproxy.core.operations import AddVirtualServer, Operation
from ipvsproxy.core.parts import Addresses, Part
from ipvsproxy.dataplane import DataplaneError, Refusal
from ipvsproxy.kernel.fake import FakeDataplane, FaultyDataplane
from ipvsproxy.model import Address, IpMember, Network, NodeNetwork, State
from ipvsproxy.objects import Service, ServicePort
from ipvsproxy.reconciler import Reconciler
from tests.unit.builders import Agent, frontend, named, part, service

FIRST, SECOND, EXTERNAL = map(Address.parse, ("192.0.2.10", "192.0.2.11", "203.0.113.5"))
CLUSTER_IP = frontend()


class Watched(FakeDataplane):
    """A kernel that counts how often its network is read, and may fail at it."""

    def __init__(self, *addresses: Address) -> None:
        super().__init__()
        self.looks = 0
        self.fails = False
        self.set_addresses(*addresses)

    def set_addresses(self, *addresses: Address, gateways: Iterable[Address] = ()) -> None:
        self.state.network = NodeNetwork({"eth0": frozenset(addresses)}, frozenset(gateways))

    async def network(self) -> NodeNetwork:
        self.looks += 1
        if self.fails:
            raise DataplaneError("interrupted")
        return await super().network()

    async def look(self, part: Part) -> State:
        if self.fails and isinstance(part, Addresses):
            raise DataplaneError("interrupted")
        return await super().look(part)

    async def dump(self) -> State:
        if self.fails:
            raise DataplaneError("interrupted")
        return await super().dump()


class Ports:
    """Who answers on health check node ports, and remembers what it was told."""

    def __init__(self) -> None:
        self.told: list[tuple[tuple[HealthCheck, ...], Collection[Address] | None]] = []

    def update(
        self, checks: Iterable[HealthCheck], addresses: Collection[Address] | None = None
    ) -> None:
        self.told.append((tuple(checks), addresses))


def node_port(**fields: object) -> Service:
    port = ServicePort("", CLUSTER_IP.protocol, 80, 30080)
    return msgspec.structs.replace(service(), type="NodePort", ports=(port,), **fields)


async def settled(
    fake: FakeDataplane, *services: Service, settings: Settings | None = None
) -> Agent:
    agent = Agent(fake, settings=settings)
    agent.list_all([*services, part("web", "10.244.1.5")])
    await agent.settle()
    return agent


async def news(agent: Agent) -> None:
    """Tell that something has changed, and let the look at it come."""
    agent.reconciler.network_changed()
    await agent.settle()
    agent.clock.now += 0.2
    await agent.settle()


def served(fake: FakeDataplane) -> set[str]:
    return {str(key.address) for key in fake.state.virtual_servers if key.port == 30080}


async def test_node_ports_follow_addresses_that_come_and_go() -> None:
    fake = Watched(FIRST)
    agent = await settled(fake, node_port())
    assert served(fake) == {"192.0.2.10"}
    fake.set_addresses(FIRST, SECOND)
    await news(agent)
    assert served(fake) == {"192.0.2.10", "192.0.2.11"}
    assert fake.state.members["KUBE-NODE-IP"] == {IpMember(FIRST), IpMember(SECOND)}
    fake.set_addresses(SECOND)
    await news(agent)
    agent.clock.now += 61
    await agent.settle()
    assert served(fake) == {"192.0.2.11"}
    assert fake.state.members["KUBE-NODE-IP"] == {IpMember(SECOND)}


async def test_node_ports_follow_addresses_of_which_nobody_has_told() -> None:
    fake = Watched(FIRST)
    agent = await settled(fake, node_port())
    fake.set_addresses(FIRST, SECOND)
    agent.clock.now += agent.reconciler.settings.sync_period / 12
    await agent.settle()
    assert served(fake) == {"192.0.2.10", "192.0.2.11"}
    assert fake.dumps == 1


async def test_node_ports_follow_addresses_that_are_read_with_everything() -> None:
    fake = Watched(FIRST)
    agent = await settled(fake, node_port())
    fake.set_addresses(FIRST, SECOND)
    agent.reconciler.audit_soon()
    await agent.settle()
    assert fake.dumps == 2
    assert served(fake) == {"192.0.2.10", "192.0.2.11"}


async def test_what_does_not_matter_translates_nothing() -> None:
    settings = Settings(
        node_name="node-a",
        node_port_addresses=NodePortAddresses(networks=(Network.parse("192.0.2.10/32"),)),
    )
    fake = Watched(FIRST)
    agent = await settled(fake, node_port(), settings=settings)
    writes = fake.writes
    fake.set_addresses(FIRST, SECOND)
    agent.reconciler.network_changed()
    agent.clock.now += 0.2
    report = await agent.reconciler.cycle()
    assert (report.translated, fake.writes) == (0, writes)


async def test_news_come_in_bursts_and_are_one_look() -> None:
    fake = Watched(FIRST)
    agent = await settled(fake, node_port())
    for _ in range(5):
        agent.reconciler.network_changed()
        await agent.settle()
    assert fake.looks == 0
    agent.clock.now += 0.2
    await agent.settle()
    assert fake.looks == 1


async def test_a_look_that_fails_keeps_the_addresses_and_is_told() -> None:
    """kubernetes/kubernetes#129146: every NodePort went for a period."""
    fake = Watched(FIRST)
    agent = await settled(fake, node_port())
    fake.fails = True
    fake.set_addresses()
    await news(agent)
    assert served(fake) == {"192.0.2.10"}
    assert agent.said() == ["Node KernelUnreadable"]
    fake.fails = False
    fake.set_addresses(SECOND)
    await news(agent)
    assert "192.0.2.11" in served(fake)
    agent.clock.now += agent.reconciler.settings.sync_period
    await agent.settle()
    assert agent.said() == [], "all has been read again"


@pytest.mark.parametrize("field", ["external_ips", "ingress_ips"])
async def test_an_external_address_that_comes_to_the_node_is_unbound_and_still_served(
    field: str,
) -> None:
    fake = Watched(FIRST)
    settings = Settings(node_name="node-a", watch_nodes=WatchNodes.NEVER)
    what = msgspec.structs.replace(service(), **{field: (EXTERNAL,)})
    agent = await settled(fake, what, settings=settings)
    assert EXTERNAL in fake.state.addresses
    fake.set_addresses(FIRST, EXTERNAL)
    await news(agent)
    assert EXTERNAL not in fake.state.addresses
    assert fake.state.real_servers[CLUSTER_IP._replace(address=EXTERNAL)]
    assert agent.said() == []
    fake.set_addresses(FIRST)
    await news(agent)
    assert EXTERNAL in fake.state.addresses


async def test_a_gateway_is_nobodys_external_address() -> None:
    fake = Watched(FIRST)
    what = msgspec.structs.replace(service(), ingress_ips=(EXTERNAL,))
    agent = await settled(fake, what)
    fake.set_addresses(FIRST, gateways=[EXTERNAL])
    await news(agent)
    agent.clock.now += 61
    await agent.settle()
    assert EXTERNAL not in fake.state.addresses
    assert fake.state.virtual_servers.keys() == {CLUSTER_IP}
    assert agent.said() == ["Service default/web ReservedAddress"]


async def test_a_health_check_port_answers_though_another_service_is_refused() -> None:
    fake, ports = Watched(FIRST), Ports()

    def refuse(one: Operation) -> Refusal | None:
        bad = isinstance(one, AddVirtualServer) and one.key == frontend("10.96.0.66")
        return Refusal.INVALID if bad else None

    agent = Agent(FaultyDataplane(fake, refuse))
    agent.reconciler = Reconciler(
        store=agent.store,
        dataplane=FaultyDataplane(fake, refuse),
        settings=Settings(node_name="node-a"),
        conditions=agent.conditions,
        clock=agent.clock,
        wall_clock=agent.clock,
        health_checks=ports,
    )
    agent.put(service("bad", "10.96.0.66"))
    agent.list_all([node_port(health_check_node_port=32080, external_traffic_local=True)])
    await agent.settle()
    assert "Service default/bad OperationRefused" in agent.said()
    assert ports.told[-1][0] == (HealthCheck(named(), 32080, 0, None),)


async def test_health_check_ports_are_told_what_to_answer_and_where() -> None:
    fake, ports = Watched(FIRST), Ports()
    agent = Agent(fake)
    chosen = NodePortAddresses(networks=(Network.parse("192.0.2.0/24"),))
    agent.reconciler = Reconciler(
        store=agent.store,
        dataplane=fake,
        settings=Settings(node_name="node-a", node_port_addresses=chosen),
        conditions=agent.conditions,
        clock=agent.clock,
        wall_clock=agent.clock,
        health_checks=ports,
    )
    agent.list_all([node_port(health_check_node_port=32080, external_traffic_local=True)])
    await agent.settle()
    expected = HealthCheck(named(), 32080, 0, None)
    assert ports.told[-1] == ((expected,), {FIRST})
    endpoints = part("web", "10.244.1.5")
    here = msgspec.structs.replace(endpoints.endpoints[0], node_name="node-a")
    agent.put(msgspec.structs.replace(endpoints, endpoints=(here,)))
    fake.set_addresses(FIRST, SECOND)
    await news(agent)
    assert ports.told[-1] == ((expected._replace(local_endpoints=1),), {FIRST, SECOND})
    agent.put(node_port())
    await agent.settle()
    assert not ports.told[-1][0]
