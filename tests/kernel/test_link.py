"""The dummy interface and its addresses on a kernel; sockets and ip are the witnesses."""

import os
import socket
from pathlib import Path

import pytest

from ipvsproxy.core.operations import BindAddress, CreateLink, RemoveLink, UnbindAddress
from ipvsproxy.dataplane import Refusal
from ipvsproxy.kernel import rtnetlink, surroundings
from ipvsproxy.kernel.link import Link, LinkOperation, families, index_of
from ipvsproxy.kernel.netlink import NetlinkSocket
from ipvsproxy.model import DUMMY_INTERFACE, Address, Family
from tests.kernel.interfaces import apply, ip

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif("IPVSPROXY_RIG_GUEST" not in os.environ, reason="outside the rig"),
    pytest.mark.usefixtures("own_namespace"),
]

V4 = Address.parse("10.0.0.1")
V6 = Address.parse("fd00::1")
NEW_DEVICES = Path("/proc/sys/net/ipv6/conf/default/disable_ipv6")


def refusals(link: Link, *operations: LinkOperation) -> list[Refusal | None]:
    return [outcome.refusal for outcome in link.apply(operations)]


def bound() -> set[Address] | None:
    """The addresses of the dummy interface; None where there is none."""
    route = NetlinkSocket(rtnetlink.PROTOCOL)
    try:
        return surroundings.read(route).dummy
    finally:
        route.close()


def many(count: int) -> list[Address]:
    return [Address(bytes([10, 9, number >> 8, number & 255])) for number in range(count)]


def test_the_interface_comes_and_goes(link: Link) -> None:
    assert bound() is None
    apply(link, CreateLink())
    assert bound() == set()
    assert "dummy" in ip("-d", "link", "show", DUMMY_INTERFACE)
    assert refusals(link, CreateLink()) == [Refusal.CONTRADICTED]
    apply(link, RemoveLink())
    assert bound() is None
    apply(link, RemoveLink())


def test_an_interface_is_found_by_its_name(link: Link) -> None:
    route = NetlinkSocket(rtnetlink.PROTOCOL)
    assert index_of(route, DUMMY_INTERFACE) is None
    apply(link, CreateLink())
    assert index_of(route, DUMMY_INTERFACE) == socket.if_nametoindex(DUMMY_INTERFACE)
    assert index_of(route, "lo") == 1
    apply(link, RemoveLink())
    assert index_of(route, DUMMY_INTERFACE) is None
    route.close()


def test_addresses_are_bound_as_hosts_and_local_at_once_though_the_link_is_down(link: Link) -> None:
    apply(link, CreateLink(), BindAddress(V4), BindAddress(V6))
    assert bound() == {V4, V6}
    for family, address in ((socket.AF_INET, V4), (socket.AF_INET6, V6)):
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.bind((str(address), 0))
    shown = ip("-o", "address", "show", DUMMY_INTERFACE)
    assert "inet 10.0.0.1/32 scope global" in shown
    assert "inet6 fd00::1/128 scope global" in shown
    assert "tentative" not in shown
    assert "state DOWN" in ip("link", "show", DUMMY_INTERFACE)


def test_binding_twice_contradicts_and_unbinding_twice_succeeds(link: Link) -> None:
    apply(link, CreateLink(), BindAddress(V4), BindAddress(V6))
    assert refusals(link, BindAddress(V4), BindAddress(V6)) == [Refusal.CONTRADICTED] * 2
    apply(link, UnbindAddress(V4), UnbindAddress(V6))
    apply(link, UnbindAddress(V4), UnbindAddress(V6))
    assert bound() == set()


def test_without_the_interface_binding_contradicts_and_unbinding_succeeds(link: Link) -> None:
    assert refusals(link, BindAddress(V4), UnbindAddress(V4)) == [Refusal.CONTRADICTED, None]


def test_the_interface_that_was_made_anew_is_used(link: Link) -> None:
    apply(link, CreateLink(), BindAddress(V4))
    ip("link", "delete", DUMMY_INTERFACE)
    apply(link, CreateLink(), BindAddress(V4))
    assert bound() == {V4}


def test_thousands_are_bound_listed_and_unbound(link: Link) -> None:
    addresses = many(2000)
    apply(link, CreateLink(), *map(BindAddress, addresses))
    assert bound() == set(addresses)
    apply(link, *map(UnbindAddress, addresses))
    assert bound() == set()


def test_an_address_that_the_kernel_made_up_is_left_out(link: Link) -> None:
    apply(link, CreateLink(), BindAddress(V6))
    ip("link", "set", DUMMY_INTERFACE, "up")
    assert "fe80::" in ip("-6", "address", "show", DUMMY_INTERFACE)
    assert bound() == {V6}


def test_ipv6_that_is_switched_off_is_no_family_and_its_addresses_are_unsupported(
    link: Link,
) -> None:
    assert families() == frozenset(Family)
    NEW_DEVICES.write_text("1")
    assert families() == {Family.IPV4}
    apply(link, CreateLink())
    NEW_DEVICES.write_text("0")
    assert families() == {Family.IPV4}, "what counts is the interface, once there is one"
    assert refusals(link, BindAddress(V6), BindAddress(V4)) == [Refusal.UNSUPPORTED, None]
