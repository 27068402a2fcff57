"""What is counted of connections: by virtual server and real server, from when each was made."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from ipvsproxy.core.operations import (
    AddRealServer,
    AddVirtualServer,
    RemoveVirtualServer,
    SetVirtualServer,
)
from ipvsproxy.dataplane import Counters, Dataplane, TrafficReading
from ipvsproxy.kernel.balance import Connection
from ipvsproxy.kernel.fake import FakeDataplane
from ipvsproxy.kernel.process import Processes
from ipvsproxy.model import Address, VirtualServer
from tests.contract.steps import (
    ONE,
    OTHER_POD,
    POD,
    ROUND,
    ROUND6,
    SERVE_WEB,
    WEB,
    WEB6,
    do,
)

ESTIMATION_SECONDS = 20.0
NOTHING = TrafficReading(Counters(), {})


@pytest.fixture
def connect(dataplane: Dataplane) -> Iterator[Callable[[], None]]:
    """Open and close a connection to `WEB`, whose real server must be `POD`."""
    if isinstance(dataplane, FakeDataplane):
        fake = dataplane
        yield lambda: fake.disconnect(taken(fake))
        return
    with answering() as open_one:
        yield open_one


def taken(fake: FakeDataplane) -> Connection:
    connection = fake.connect(WEB, Address.parse("10.9.9.9"))
    assert connection is not None
    return connection


@contextmanager
def answering() -> Iterator[Callable[[], None]]:
    """Put both addresses on `lo` of this namespace, and listen where the real server is."""
    for address in (WEB.address, POD.address):
        command = ("ip", "address", "add", f"{address}/32", "dev", "lo")
        assert Processes().run(command).returncode == 0
    with socket.create_server((str(POD.address), POD.port)) as server:

        def open_one() -> None:
            with socket.create_connection((str(WEB.address), WEB.port), timeout=10) as client:
                accepted, _ = server.accept()
                with accepted:
                    client.sendall(b"hello")
                    assert accepted.recv(16) == b"hello"

        yield open_one


async def counted(dataplane: Dataplane, connections: int) -> TrafficReading:
    """Read until the kernel has brought its numbers up to date, which it does every 2 s."""
    end = time.monotonic() + ESTIMATION_SECONDS
    reading = NOTHING
    while reading.counters.connections != connections and time.monotonic() < end:
        reading = (await dataplane.counters([WEB]))[WEB]
    return reading


async def test_all_virtual_servers_are_there_and_real_servers_where_they_are_asked_for(
    dataplane: Dataplane,
) -> None:
    other = WEB._replace(port=81)
    await do(dataplane, SERVE_WEB, AddVirtualServer(WEB6, ROUND6), AddVirtualServer(other, ROUND))
    await do(dataplane, AddRealServer(WEB, POD, ONE), AddRealServer(other, OTHER_POD, ONE))
    assert await dataplane.counters() == {WEB: NOTHING, WEB6: NOTHING, other: NOTHING}
    missing = WEB._replace(port=82)
    assert await dataplane.counters([WEB, WEB6, missing]) == {
        WEB: TrafficReading(Counters(), {POD: Counters()}),
        WEB6: NOTHING,
        other: NOTHING,
    }
    assert await dataplane.counters_of([WEB, missing, WEB6]) == {WEB: Counters(), WEB6: Counters()}
    assert await dataplane.counters_of([]) == {}


async def test_a_connection_is_counted_until_its_virtual_server_goes(
    dataplane: Dataplane, connect: Callable[[], None]
) -> None:
    await do(dataplane, SERVE_WEB, AddRealServer(WEB, POD, ONE))
    connect()
    connect()
    await do(dataplane, SetVirtualServer(WEB, VirtualServer("wrr")))
    reading = await counted(dataplane, 2)
    assert reading.counters.connections == 2
    assert reading.real_servers[POD].connections == 2
    assert await dataplane.counters_of([WEB]) == {WEB: reading.counters}
    if isinstance(dataplane, FakeDataplane):
        assert reading.counters == Counters(2), "simulated connections have no packets"
    else:
        assert min(reading.counters) > 0
        assert reading.counters.bytes_in > reading.counters.packets_in * 20

    await do(dataplane, RemoveVirtualServer(WEB))
    assert await dataplane.counters([WEB]) == {}
    await do(dataplane, SERVE_WEB)
    assert await dataplane.counters() == {WEB: NOTHING}
