"""What one family, or one protocol, does not have to do with the other."""

from __future__ import annotations

import msgspec

from ipvsproxy.core.operations import AddMember, Operation, RemoveRealServer, RemoveVirtualServer
from ipvsproxy.dataplane import Refusal
from ipvsproxy.kernel.fake import FakeDataplane, FaultyDataplane, fresh_state
from ipvsproxy.model import (
    Address,
    Family,
    NodeNetwork,
    PortMember,
    Protocol,
    VirtualServerKey,
)
from ipvsproxy.objects import Endpoint, EndpointSlice, Service, ServicePort, SlicePort
from ipvsproxy.store import Gone
from tests.unit.builders import Agent, named, part, service, service_reference

NODE = {family: Address.parse(text) for family, text in ((4, "192.0.2.1"), (6, "2001:db8::1"))}
PORT = 30080


def node_port(family: Family) -> VirtualServerKey:
    return VirtualServerKey(Protocol.TCP, NODE[family], PORT)


def dual_stack() -> Service:
    return msgspec.structs.replace(
        service(),
        type="NodePort",
        cluster_ips=(Address.parse("10.96.0.10"), Address.parse("fd00::10")),
        ports=(ServicePort("", Protocol.TCP, 80, PORT),),
    )


def part_of_ipv6() -> EndpointSlice:
    return EndpointSlice(
        namespace="default",
        name="web-6",
        service=named(),
        family=Family.IPV6,
        endpoints=(Endpoint(Address.parse("fd01::5")),),
        ports=(SlicePort("", Protocol.TCP, 8080),),
    )


def on_a_node() -> FakeDataplane:
    state = fresh_state()
    state.network = NodeNetwork({"eth0": frozenset(NODE.values())})
    return FakeDataplane(state)


async def test_a_node_port_waits_for_the_port_in_the_set_of_its_family() -> None:
    fake = on_a_node()

    def refuse(operation: Operation) -> Refusal | None:
        match operation:
            case AddMember("KUBE-6-NODE-PORT-TCP"):
                return Refusal.FAILED
            case _:
                return None

    agent = Agent(FaultyDataplane(fake, refuse))
    agent.list_all([dual_stack(), part("web", "10.244.1.5"), part_of_ipv6()])
    await agent.settle()
    assert node_port(Family.IPV4) in fake.state.virtual_servers
    assert node_port(Family.IPV6) not in fake.state.virtual_servers


async def test_a_port_stays_in_the_set_for_a_node_port_of_its_family_only() -> None:
    fake = on_a_node()

    def refuse(operation: Operation) -> Refusal | None:
        match operation:
            case RemoveVirtualServer(key) | RemoveRealServer(key) if key == node_port(Family.IPV6):
                return Refusal.FAILED
            case _:
                return None

    agent = Agent(FaultyDataplane(fake, refuse))
    agent.list_all([dual_stack(), part("web", "10.244.1.5"), part_of_ipv6()])
    await agent.settle()
    agent.store.apply(Gone(service_reference()))
    await agent.settle()
    assert node_port(Family.IPV6) in fake.state.virtual_servers
    assert PortMember(PORT) in fake.state.members["KUBE-6-NODE-PORT-TCP"]
    assert node_port(Family.IPV4) not in fake.state.virtual_servers
    assert PortMember(PORT) not in fake.state.members["KUBE-NODE-PORT-TCP"]


async def test_a_refused_port_is_told_of_the_service_that_has_it() -> None:
    fake = on_a_node()

    def refuse(operation: Operation) -> Refusal | None:
        match operation:
            case AddMember("KUBE-NODE-PORT-UDP"):
                return Refusal.FAILED
            case _:
                return None

    agent = Agent(FaultyDataplane(fake, refuse))
    for_tcp = msgspec.structs.replace(dual_stack(), name=named("aaa"))
    for_udp = msgspec.structs.replace(
        service("bbb", "10.96.0.12"),
        type="NodePort",
        ports=(ServicePort("", Protocol.UDP, 80, PORT),),
    )
    agent.list_all([for_tcp, for_udp])
    await agent.settle()
    assert agent.said() == ["Service default/bbb OperationRefused"]
