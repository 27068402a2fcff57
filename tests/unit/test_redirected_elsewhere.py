"""Clients inside the cluster are not sent to a ClusterIP that is not the Service's."""

from __future__ import annotations

import msgspec

from ipvsproxy.config import Settings
from ipvsproxy.kernel.fake import FakeDataplane, fresh_state
from ipvsproxy.model import Address, Network, NodeNetwork, VirtualServer
from ipvsproxy.objects import Service
from ipvsproxy.store import Listed
from tests.unit.builders import Agent, frontend, part, service

INGRESS = Address.parse("203.0.113.9")
SETTINGS = Settings(node_name="node-a", cluster_cidrs=(Network.parse("10.244.0.0/16"),))


def load_balancer() -> Service:
    return msgspec.structs.replace(
        service(),
        created=2.0,
        type="LoadBalancer",
        external_traffic_local=True,
        ingress_ips=(INGRESS,),
    )


def on_a_node() -> tuple[FakeDataplane, Agent]:
    state = fresh_state()
    state.network = NodeNetwork({"eth0": frozenset({Address.parse("192.0.2.1")})})
    fake = FakeDataplane(state)
    agent = Agent(fake, settings=SETTINGS)
    agent.store.apply(Listed("Nodes"))
    return fake, agent


def redirects(fake: FakeDataplane) -> bool:
    rules = [
        rule
        for found in fake.state.rulesets.values()
        for chain in found.chains
        for rule in chain.rules
        if "DNAT" in rule
    ]
    listed = bool(fake.state.members["KUBE-SPLIT"])
    assert listed == bool(rules)
    return listed


async def test_not_while_an_older_service_has_its_address() -> None:
    fake, agent = on_a_node()
    thief = msgspec.structs.replace(
        service("thief", "10.96.0.50"),
        created=1.0,
        external_ips=(frontend().address,),
    )
    agent.list_all([thief, part("thief", "10.244.9.9"), load_balancer(), part()])
    await agent.settle()
    assert agent.said() == ["Service default/web ContestedAddress"]
    assert not redirects(fake)
    agent.put(msgspec.structs.replace(thief, external_ips=()))
    await agent.settle()
    assert redirects(fake)


async def test_not_while_somebody_else_has_made_its_virtual_server() -> None:
    fake, agent = on_a_node()
    agent.list_all()
    await agent.settle()
    fake.state.virtual_servers[frontend()] = VirtualServer("rr")
    fake.state.real_servers[frontend()] = {}
    agent.put(load_balancer(), part("web", "10.244.1.5"))
    await agent.settle()
    assert agent.said() == ["Service default/web ForeignVirtualServer"]
    assert not redirects(fake)
    del fake.state.virtual_servers[frontend()], fake.state.real_servers[frontend()]
    agent.clock.now += 31
    await agent.settle()
    assert redirects(fake)
