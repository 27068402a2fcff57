"""What is not done while something that it needs is refused; what goes on all the same."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from ipvsproxy.core.operations import AddMember, AddVirtualServer, Operation
from ipvsproxy.core.plan.ground import capacity
from ipvsproxy.dataplane import Refusal
from ipvsproxy.kernel.fake import FakeDataplane, FaultyDataplane
from ipvsproxy.model import (
    Address,
    IpMember,
    IpPortMember,
    NodeNetwork,
    PortMember,
    Protocol,
)
from ipvsproxy.objects import Service, ServicePort
from tests.unit.builders import Agent, frontend, part, service

OWN = Address.parse("192.168.50.11")
NODE_PORT = frontend(str(OWN), 30080)
CLUSTER_IP = frontend()


def node_port(*, local: bool) -> Service:
    return msgspec.structs.replace(
        service(),
        type="NodePort",
        ports=(ServicePort("", Protocol.TCP, 80, 30080),),
        external_traffic_local=local,
    )


async def refused(refuse: Callable[[Operation], bool], *, local: bool = False) -> FakeDataplane:
    """Give the kernel after an agent with a NodePort was refused something."""
    fake = FakeDataplane()
    fake.state.network = NodeNetwork({"eth0": frozenset({OWN})})
    faulty = FaultyDataplane(fake, lambda one: Refusal.FAILED if refuse(one) else None)
    agent = Agent(faulty)
    agent.list_all([node_port(local=local), part("web", "10.244.1.5")])
    await agent.settle()
    assert len(faulty.refused) == 1
    return fake


@pytest.mark.parametrize(
    ("name", "member"),
    [("KUBE-NODE-PORT-TCP", PortMember(30080)), ("KUBE-NODE-IP", IpMember(OWN))],
)
async def test_a_node_port_waits_for_what_masquerades_it(
    name: str, member: PortMember | IpMember
) -> None:
    fake = await refused(lambda one: one == AddMember(name, member))
    assert fake.state.virtual_servers.keys() == {CLUSTER_IP}


async def test_nobody_is_redirected_to_a_virtual_server_that_is_not_there() -> None:
    def is_cluster_ip(one: Operation) -> bool:
        return isinstance(one, AddVirtualServer) and one.key == CLUSTER_IP

    fake = await refused(is_cluster_ip, local=True)
    assert fake.state.virtual_servers.keys() == {NODE_PORT}
    assert fake.state.members["KUBE-SPLIT"] == set()
    assert fake.state.members["KUBE-NO-LOCAL"] == set()


async def test_nobody_is_shut_out_who_was_not_redirected() -> None:
    split = AddMember("KUBE-SPLIT", IpPortMember(OWN, Protocol.TCP, 30080))
    fake = await refused(lambda one: one == split, local=True)
    assert fake.state.virtual_servers.keys() == {CLUSTER_IP, NODE_PORT}
    assert fake.state.members["KUBE-NO-LOCAL"] == set()


@pytest.mark.parametrize(
    ("members", "size"),
    [
        pytest.param(896, 1024, id="seven eighths"),
        pytest.param(897, 2048, id="one more"),
        pytest.param(1025, 4096, id="to twice what it is to hold"),
        pytest.param(4000, 5000, id="not beyond the limit"),
        pytest.param(9000, 5000, id="though it is too small then"),
    ],
)
def test_a_set_grows_before_it_is_full(members: int, size: int) -> None:
    assert capacity(1024, members, 5000) == size


def test_a_set_that_is_larger_than_the_limit_does_not_shrink() -> None:
    assert capacity(8192, 9000, 5000) == 8192
