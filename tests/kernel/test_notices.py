"""What is reported of the node's network, and that our own addresses are not."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator

import pytest

from ipvsproxy.core.operations import BindAddress, CreateLink, RemoveLink, UnbindAddress
from ipvsproxy.dataplane import Change, NodeNetworkChanged
from ipvsproxy.kernel import message, rtnetlink
from ipvsproxy.kernel.link import Link
from ipvsproxy.kernel.netlink import NetlinkSocket, Request
from ipvsproxy.kernel.notices import changes
from ipvsproxy.model import Address
from tests.kernel.interfaces import apply, ip

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif("IPVSPROXY_RIG_GUEST" not in os.environ, reason="outside the rig"),
    pytest.mark.usefixtures("own_namespace"),
]

V4 = Address.parse("10.0.0.1")
V6 = Address.parse("fd00::1")


def many(count: int) -> list[Address]:
    return [Address(bytes([10, 9, number >> 8, number & 255])) for number in range(count)]


@pytest.fixture
async def reports() -> AsyncIterator[AsyncIterator[Change]]:
    iteration = changes()
    yield iteration
    await iteration.aclose()  # type: ignore[attr-defined] # an asynchronous generator


async def listening(reports: AsyncIterator[Change]) -> asyncio.Task[Change]:
    """Start to wait for the next report, its socket being open when this returns."""

    async def following() -> Change:
        return await anext(reports)

    task = asyncio.create_task(following())
    for _ in range(3):
        await asyncio.sleep(0)
    return task


async def test_a_change_of_the_node_is_reported(reports: AsyncIterator[Change]) -> None:
    first = await listening(reports)
    ip("address", "add", "192.0.2.1/32", "dev", "lo")
    assert await first == NodeNetworkChanged()
    second = await listening(reports)
    ip("link", "add", "other", "type", "dummy")
    assert await second == NodeNetworkChanged()


async def test_our_own_addresses_are_not_reported(
    reports: AsyncIterator[Change], link: Link
) -> None:
    await asyncio.to_thread(apply, link, CreateLink())
    first = await listening(reports)
    await asyncio.to_thread(apply, link, BindAddress(V4), BindAddress(V6), UnbindAddress(V4))
    ip("address", "add", "192.0.2.1/32", "dev", "lo")
    assert await first == NodeNetworkChanged()
    second = await listening(reports)
    assert not second.done(), "one change, one report"
    second.cancel()
    await asyncio.wait([second])


async def test_our_own_addresses_do_not_reach_us_though_the_interface_is_made_anew(
    reports: AsyncIterator[Change], link: Link
) -> None:
    for _ in range(2):
        made = await listening(reports)
        await asyncio.to_thread(apply, link, CreateLink())
        assert await made == NodeNetworkChanged()
        report = await listening(reports)
        # In the loop's own thread, which reads nothing: so many would be lost, and that be told.
        apply(link, *map(BindAddress, many(1000)))
        for _ in range(20):
            await asyncio.sleep(0)
        assert not report.done()
        await asyncio.to_thread(apply, link, RemoveLink())
        assert await report == NodeNetworkChanged()


async def test_lost_notifications_are_reported_and_the_next_ones_are_seen(
    reports: AsyncIterator[Change],
) -> None:
    ip("link", "add", "other", "type", "dummy")
    index = socket.if_nametoindex("other")
    first = await listening(reports)
    route = NetlinkSocket(rtnetlink.PROTOCOL)
    route.exchange(  # in the loop's own thread, which reads nothing
        [
            Request(
                rtnetlink.NEW_ADDRESS,
                rtnetlink.address_payload(address, index=index, flags=0),
                message.CREATE,
            )
            for address in many(1000)
        ]
    )
    route.close()
    assert await first == NodeNetworkChanged()
    second = await listening(reports)
    ip("address", "add", "192.0.2.1/32", "dev", "lo")
    assert await second == NodeNetworkChanged()


async def test_a_gateway_that_comes_or_goes_is_reported(
    reports: AsyncIterator[Change],
) -> None:
    ip("link", "add", "uplink", "type", "dummy")
    ip("link", "set", "uplink", "up")
    ip("address", "add", "192.0.2.1/24", "dev", "uplink")
    ip("address", "add", "2001:db8::1/64", "dev", "uplink", "nodad")
    for change in (
        ("route", "add", "default", "via", "192.0.2.254"),
        ("route", "delete", "default"),
        ("-6", "route", "add", "default", "via", "2001:db8::fe"),
        ("-6", "route", "delete", "default"),
    ):
        report = await listening(reports)
        ip(*change)
        assert await report == NodeNetworkChanged()


async def test_routes_of_attached_networks_and_of_own_addresses_are_not_reported(
    reports: AsyncIterator[Change],
) -> None:
    """A network plugin makes a route for each pod; they say nothing about gateways."""
    ip("link", "add", "cali1", "type", "dummy")
    ip("link", "set", "cali1", "up")
    first = await listening(reports)
    ip("route", "add", "10.244.0.7/32", "dev", "cali1")
    ip("-6", "route", "add", "fd00:244::7/128", "dev", "cali1")
    ip("route", "add", "local", "192.0.2.7/32", "dev", "lo")
    ip("route", "add", "unreachable", "198.51.100.0/24")
    for _ in range(20):
        await asyncio.sleep(0)
    assert not first.done()
    ip("address", "add", "192.0.2.1/32", "dev", "lo")
    assert await first == NodeNetworkChanged()
