"""The node's own network, read from the kernel; sockets and ip make what is to be found."""

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from ipvsproxy.core.operations import BindAddress, CreateLink
from ipvsproxy.dataplane import DONE
from ipvsproxy.kernel import rtnetlink, surroundings
from ipvsproxy.kernel.link import Link
from ipvsproxy.kernel.netlink import NetlinkSocket
from ipvsproxy.model import Address, Listener, NodeNetwork, Protocol
from tests.kernel.interfaces import ip

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif("IPVSPROXY_RIG_GUEST" not in os.environ, reason="outside the rig"),
    pytest.mark.usefixtures("own_namespace"),
]

SERVICE = Address.parse("10.96.0.1")
LOOPBACK = frozenset(map(Address.parse, ("127.0.0.1", "::1")))
ANY, ANY6 = Address.parse("0.0.0.0"), Address.parse("::")


@pytest.fixture
def route() -> Iterator[NetlinkSocket]:
    opened = NetlinkSocket(rtnetlink.PROTOCOL)
    yield opened
    opened.close()


@pytest.fixture
def sockets() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def uplink() -> None:
    ip("link", "add", "eth0", "type", "dummy")
    ip("link", "set", "eth0", "addrgenmode", "none")
    ip("link", "set", "eth0", "up")
    ip("address", "add", "192.0.2.1/24", "dev", "eth0")
    ip("address", "add", "2001:db8::1/64", "dev", "eth0", "nodad")


def test_an_untouched_network_has_its_loopback_and_nothing_else(route: NetlinkSocket) -> None:
    found = surroundings.read(route)
    assert found.dummy is None
    assert found.network == NodeNetwork({"lo": LOOPBACK})
    assert surroundings.read_network(route) == found.network


def test_service_addresses_are_not_the_nodes_own(route: NetlinkSocket) -> None:
    uplink()
    ip("address", "add", "192.0.2.7/32", "peer", "192.0.2.9", "dev", "lo")
    link = Link()
    assert set(link.apply([CreateLink(), BindAddress(SERVICE)])) == {DONE}
    link.close()
    found = surroundings.read(route)
    assert found.dummy == {SERVICE}
    assert found.network.interfaces == {
        "lo": LOOPBACK | {Address.parse("192.0.2.7")},
        "eth0": {Address.parse("192.0.2.1"), Address.parse("2001:db8::1")},
    }
    assert surroundings.read_network(route) == found.network


def test_every_next_hop_of_every_table_is_a_gateway(route: NetlinkSocket) -> None:
    uplink()
    ip("route", "add", "default", "via", "192.0.2.254")
    ip("route", "add", "198.51.100.0/24", "via", "192.0.2.253", "table", "100")
    ip(
        *("route", "add", "203.0.113.0/24"),
        *("nexthop", "via", "192.0.2.252", "nexthop", "via", "192.0.2.251", "weight", "3"),
    )
    ip("route", "add", "198.18.0.0/15", "via", "inet6", "2001:db8::fd", "dev", "eth0")
    ip("-6", "route", "add", "default", "via", "2001:db8::fe")
    ip("route", "add", "unreachable", "198.19.0.0/16")
    assert surroundings.read_network(route).gateways == {
        Address.parse(text)
        for text in (
            *("192.0.2.254", "192.0.2.253", "192.0.2.252", "192.0.2.251"),
            *("2001:db8::fd", "2001:db8::fe"),
        )
    }


def test_sockets_that_listen_are_found_whatever_else_is_open(
    route: NetlinkSocket, sockets: ExitStack
) -> None:
    def opened(family: int, kind: int, place: tuple[str, int], protocol: int = 0) -> socket.socket:
        made = sockets.enter_context(socket.socket(family, kind, protocol))
        made.bind(place)
        return made

    v4, v6 = socket.AF_INET, socket.AF_INET6
    stream, datagram = socket.SOCK_STREAM, socket.SOCK_DGRAM
    for family, place in (
        *((v4, ("0.0.0.0", 22)), (v4, ("127.0.0.1", 10248)), (v6, ("::", 6443))),
        *((v6, ("::1", 10249)), (v6, ("::ffff:127.0.0.2", 10250))),
    ):
        opened(family, stream, place).listen()
    opened(v4, stream, ("127.0.0.1", 4000))  # bound, and does not listen
    client = sockets.enter_context(socket.create_connection(("127.0.0.1", 22)))
    opened(v4, datagram, ("127.0.0.1", 53))
    opened(v6, datagram, ("::", 8472))
    opened(v4, datagram, ("127.0.0.1", 4001)).connect(("127.0.0.1", 53))
    sctp = opened(v4, stream, ("127.0.0.1", 80), socket.IPPROTO_SCTP)
    sctp.listen()
    assert client.getpeername() == ("127.0.0.1", 22)
    loopback = Address.parse("127.0.0.1")
    assert surroundings.read_network(route).listeners == {
        Listener(Protocol.TCP, ANY, 22),
        Listener(Protocol.TCP, loopback, 10248),
        Listener(Protocol.TCP, ANY6, 6443),
        Listener(Protocol.TCP, Address.parse("::1"), 10249),
        Listener(Protocol.TCP, Address.parse("127.0.0.2"), 10250),
        Listener(Protocol.UDP, loopback, 53),
        Listener(Protocol.UDP, ANY6, 8472),
        Listener(Protocol.SCTP, loopback, 80),
    }
