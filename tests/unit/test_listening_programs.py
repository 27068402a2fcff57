"""An address of this node at which a program listens, when a Service comes to it."""

from __future__ import annotations

import dataclasses

import msgspec

from ipvsproxy.kernel.fake import FakeDataplane
from ipvsproxy.model import Address, Listener, NodeNetwork, Protocol
from ipvsproxy.store import Gone, Listed
from tests.unit.builders import Agent, frontend, part, service, service_reference

OWN = Address.parse("192.168.50.11")
ANY = Address.parse("0.0.0.0")


class Counting(FakeDataplane):
    """Counts the looks at the node's own network."""

    def __init__(self) -> None:
        super().__init__()
        self.looks = 0

    async def network(self) -> NodeNetwork:
        self.looks += 1
        return await super().network()


async def test_a_known_service_that_comes_to_it_finds_a_program_that_has_just_begun() -> None:
    fake = Counting()
    fake.state.network = NodeNetwork({"eth0": frozenset({OWN})})
    agent = Agent(fake)
    agent.store.apply(Listed("Nodes"))
    web = service("web", "10.96.0.10", 8443)
    agent.list_all([web])
    await agent.settle()
    listening = frozenset({Listener(Protocol.TCP, ANY, 8443)})
    fake.state.network = dataclasses.replace(fake.state.network, listeners=listening)
    agent.put(msgspec.structs.replace(web, external_ips=(OWN,)))
    await agent.settle()
    assert fake.state.virtual_servers.keys() == {frontend(port=8443)}
    assert agent.said() == ["Service default/web ReservedAddress"]
    looks = fake.looks
    agent.put(part("web", "10.244.1.5"))
    await agent.settle()
    assert fake.looks == looks, "the sockets are not read for every change of an endpoint"


async def test_a_service_that_is_made_anew_finds_a_program_that_has_come_meanwhile() -> None:
    fake = Counting()
    fake.state.network = NodeNetwork({"eth0": frozenset({OWN})})
    agent = Agent(fake)
    agent.store.apply(Listed("Nodes"))
    web = msgspec.structs.replace(service("web", "10.96.0.10", 8443), external_ips=(OWN,))
    agent.list_all([web])
    await agent.settle()
    assert agent.said() == []
    agent.store.apply(Gone(service_reference()))
    agent.clock.now += 100.0
    await agent.settle()
    listening = frozenset({Listener(Protocol.TCP, ANY, 8443)})
    fake.state.network = dataclasses.replace(fake.state.network, listeners=listening)
    agent.put(web)
    await agent.settle()
    assert agent.said() == ["Service default/web ReservedAddress"]
