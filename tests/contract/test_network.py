"""The node's own network, in which Services must fit: read alone as with the tables."""

from __future__ import annotations

import socket
import subprocess

from ipvsproxy.core.operations import BindAddress, CreateLink, UnbindAddress
from ipvsproxy.dataplane import Dataplane
from ipvsproxy.kernel.fake import FakeDataplane
from ipvsproxy.model import Address, Listener, NodeNetwork, Protocol
from tests.contract.steps import WEB, WEB6, do

NODE, NODE6 = Address.parse("192.0.2.1"), Address.parse("2001:db8::1")
GATEWAY = Address.parse("192.0.2.254")
LOOPBACK = frozenset(map(Address.parse, ("127.0.0.1", "::1")))
KUBELET = Listener(Protocol.TCP, NODE, 10250)


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


def connect_node(dataplane: Dataplane) -> NodeNetwork:
    """Give the node an interface with addresses and a way out; say what is to be found."""
    network = NodeNetwork({"lo": LOOPBACK, "eth0": frozenset({NODE, NODE6})}, frozenset({GATEWAY}))
    if isinstance(dataplane, FakeDataplane):
        dataplane.state.network = network
        return network
    ip("link", "add", "eth0", "type", "dummy")
    ip("link", "set", "eth0", "addrgenmode", "none")
    ip("link", "set", "eth0", "up")
    ip("address", "add", f"{NODE}/24", "dev", "eth0")
    ip("address", "add", f"{NODE6}/64", "dev", "eth0", "nodad")
    ip("route", "add", "default", "via", str(GATEWAY))
    return network


async def test_addresses_and_gateways_are_found(dataplane: Dataplane) -> None:
    network = connect_node(dataplane)
    assert await dataplane.network() == network
    assert (await dataplane.dump()).network == network
    assert (await dataplane.network()).addresses == {*LOOPBACK, NODE, NODE6}


async def test_service_addresses_are_no_part_of_it(dataplane: Dataplane) -> None:
    network = connect_node(dataplane)
    await do(dataplane, CreateLink(), BindAddress(WEB.address), BindAddress(WEB6.address))
    assert await dataplane.network() == network
    await do(dataplane, UnbindAddress(WEB.address), UnbindAddress(WEB6.address))
    assert await dataplane.network() == network


async def test_a_socket_that_listens_is_found(dataplane: Dataplane) -> None:
    network = connect_node(dataplane)
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listening:
        if isinstance(dataplane, FakeDataplane):
            dataplane.state.network = NodeNetwork(
                network.interfaces, network.gateways, frozenset({KUBELET})
            )
        else:
            listening.bind((str(NODE), KUBELET.port))
            listening.listen()
        assert (await dataplane.network()).listeners == {KUBELET}
