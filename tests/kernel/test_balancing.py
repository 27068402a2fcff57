"""Flags, prefixes and thresholds of virtual servers, by connections and datagrams that follow them.

What core.annotations says of the kernel is held here, and the shares of docs/operations.md.
"""

from __future__ import annotations

import os
from collections import Counter

import pytest

from ipvsproxy.model import Flags, Protocol, RealServer, VirtualServer
from tests.kernel.balancing import Balancing, abort, pods_of
from tests.unit.test_docs import OPERATIONS, code, rows

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif("IPVSPROXY_RIG_GUEST" not in os.environ, reason="outside the rig"),
    pytest.mark.usefixtures("own_namespace"),
]

RR = VirtualServer("rr")
SINGLE = VirtualServer("rr", Flags.ONE_PACKET)
ALWAYS = {"sh": Flags.SCHED_1, "mh": Flags.SCHED_1}
ONE_CLIENT = [("10.9.1.1", 20000)]
DATAGRAMS = 40


def with_flags(scheduler: str, flags: Flags = Flags.NONE) -> VirtualServer:
    return VirtualServer(scheduler, ALWAYS.get(scheduler, Flags.NONE) | flags)


def test_a_limit_is_reached_and_released_at_the_lower_threshold() -> None:
    limit = RealServer(1, upper_threshold=5, lower_threshold=3)
    with Balancing(Protocol.TCP, 2, RR, real=limit) as tcp:
        clients = [tcp.connect() for _ in range(10)]
        assert tcp.remembered() == [5, 5]
        assert tcp.is_refused()
        names = {client.getsockname(): client for client in clients}
        first = [names[name] for name in tcp.accepted(0)]
        abort(first.pop())
        abort(first.pop())
        tcp.wait_for([3, 5])
        assert tcp.is_refused()
        abort(first.pop())
        for _ in range(3):
            tcp.connect_in_time()
        assert tcp.remembered() == [5, 5]
        assert tcp.is_refused()


def test_a_limit_without_a_lower_threshold_is_released_below_three_quarters() -> None:
    with Balancing(Protocol.UDP, 1, RR, real=RealServer(1, upper_threshold=4)) as udp:
        udp.forget_soon()
        udp.sent([("10.9.1.1", port) for port in range(20000, 20004)])
        assert udp.is_dropped(("10.9.1.1", 20004))
        udp.wait_for([0])
        assert not udp.is_dropped(("10.9.1.1", 20004))


LOOKING = ("rr", "wrr", "lc", "wlc", "sed", "nq", "sh", "mh", "fo", "ovf", "lblcr")
LIMITED = {**{scheduler: [2, 2] for scheduler in LOOKING}, "dh": [0, 2]}
"""What pods with a limit of 2 have when nobody gets a connection any more."""


@pytest.mark.parametrize("scheduler", LIMITED)
def test_every_scheduler_looks_at_the_limit_and_dh_has_no_other_server(scheduler: str) -> None:
    with Balancing(
        Protocol.TCP, 2, with_flags(scheduler), real=RealServer(1, upper_threshold=2)
    ) as tcp:
        for _ in range(sum(LIMITED[scheduler])):
            tcp.connect()
        assert tcp.is_refused()
        assert sorted(tcp.remembered()) == LIMITED[scheduler]


def test_lblc_does_not_look_at_the_limit() -> None:
    with Balancing(
        Protocol.TCP, 2, with_flags("lblc"), real=RealServer(1000, upper_threshold=2)
    ) as tcp:
        for _ in range(6):
            tcp.connect()
        assert sorted(tcp.remembered()) == [0, 6]


def test_with_persistence_a_limit_holds_for_new_clients_only() -> None:
    limit = RealServer(1, upper_threshold=2)
    with Balancing(Protocol.TCP, 1, VirtualServer("rr", persistence=600), real=limit) as tcp:
        for _ in range(6):
            tcp.connect("10.9.1.1")
        with pytest.raises(ConnectionRefusedError):
            tcp.connect("10.9.1.2")
        assert tcp.remembered() == [6]


def test_a_limit_that_is_raised_counts_at_once_and_one_that_is_lowered_from_the_next() -> None:
    with Balancing(Protocol.TCP, 1, RR, real=RealServer(1, upper_threshold=2)) as tcp:
        tcp.connect()
        tcp.connect()
        assert tcp.is_refused()
        tcp.set_real(0, RealServer(7, upper_threshold=2))
        assert tcp.is_refused()
        tcp.set_real(0, RealServer(1, upper_threshold=4))
        tcp.connect()
        tcp.set_real(0, RealServer(1, upper_threshold=1))
        tcp.connect()
        assert tcp.is_refused()
        tcp.set_real(0, RealServer(1))
        tcp.connect()


def test_single_datagrams_of_one_client_are_spread_and_answers_do_not_arrive() -> None:
    with Balancing(Protocol.UDP, 4, SINGLE) as udp:
        assert udp.sent(ONE_CLIENT, each=DATAGRAMS) == [Counter(dict.fromkeys(range(4), 10))]
        assert udp.remembered() == [0, 0, 0, 0]
        assert not udp.is_answered(("10.9.1.1", 20001))
        udp.set(RR)
        assert udp.is_answered(("10.9.1.1", 20002))
        [counted] = udp.sent(ONE_CLIENT, each=DATAGRAMS)
        assert len(counted) == 1


def test_a_flow_that_goes_on_stays_with_its_pod_when_single_datagrams_begin() -> None:
    with Balancing(Protocol.UDP, 4, RR) as udp:
        udp.sent(ONE_CLIENT)
        udp.set(SINGLE)
        [counted] = udp.sent(ONE_CLIENT, each=DATAGRAMS)
        assert len(counted) == 1


@pytest.mark.parametrize("scheduler", ["lc", "wlc", "sed", "nq", "ovf", "lblc", "lblcr"])
def test_single_datagrams_all_go_to_one_pod_where_connections_are_counted(scheduler: str) -> None:
    with Balancing(Protocol.UDP, 4, with_flags(scheduler, Flags.ONE_PACKET)) as udp:
        counted = udp.sent([("10.9.1.1", 20000), ("10.9.2.1", 20000)], each=DATAGRAMS)
        assert [list(one.values()) for one in counted] == [[DATAGRAMS], [DATAGRAMS]]


def test_persistence_keeps_single_datagrams_together() -> None:
    with Balancing(Protocol.UDP, 4, SINGLE._replace(persistence=600)) as udp:
        [counted] = udp.sent(ONE_CLIENT, each=DATAGRAMS)
        assert len(counted) == 1


def test_single_datagrams_are_not_limited() -> None:
    with Balancing(Protocol.UDP, 4, SINGLE, real=RealServer(1, upper_threshold=1)) as udp:
        assert udp.sent(ONE_CLIENT, each=DATAGRAMS) == [Counter(dict.fromkeys(range(4), 10))]


@pytest.mark.parametrize(
    ("six", "prefix", "networks"),
    [
        (False, 24, ("10.9.1.{}", "10.9.2.{}")),
        (True, 64, ("fd00:9:0:1::{}", "fd00:9:0:2::{}")),
    ],
    ids=["IPv4", "IPv6"],
)
def test_clients_of_one_network_are_one_client_for_persistence(
    six: bool, prefix: int, networks: tuple[str, str]
) -> None:
    host = 128 if six else 32
    clients = [(one.format(number), 20000) for one in networks for number in range(1, 9)]
    sticky = VirtualServer("rr", persistence=600, persistence_prefix=prefix)
    with Balancing(Protocol.UDP, 4, sticky, six=six) as udp:
        pods = pods_of(udp.sent(clients))
        assert len(set(pods[:8])) == len(set(pods[8:])) == 1
        assert pods[0] != pods[8]
        udp.set(sticky._replace(persistence_prefix=host))
        others = [(address, 20001) for address, _ in clients]
        assert len(set(pods_of(udp.sent(others)))) == 4


@pytest.mark.parametrize("scheduler", ["sh", "mh"])
def test_the_port_is_hashed_where_that_is_asked_for(scheduler: str) -> None:
    clients = [("10.9.1.1", port) for port in range(20000, 20200)]
    with Balancing(Protocol.UDP, 4, with_flags(scheduler)) as udp:
        assert len(set(pods_of(udp.sent(clients)))) == 1
        udp.set(with_flags(scheduler, Flags.SCHED_2))
        others = [(address, port + 1000) for address, port in clients]
        counted = Counter(pods_of(udp.sent(others)))
        assert set(counted) == set(range(4))
        assert min(counted.values()) > 25


MANY = 2000
CLIENTS = {
    "": [(f"10.9.{number // 250}.{number % 250 + 1}", 20000) for number in range(MANY)],
    "-port": [(f"10.9.1.{number % 20 + 1}", 20000 + number // 20) for number in range(MANY)],
}
"""Two thousand addresses, and two thousand pairs of twenty addresses and ports."""
SHARES = {
    (code(hashed), int(pods), int(weight)): shares
    for hashed, pods, weight, *shares in rows(OPERATIONS, "hash")
}


@pytest.mark.parametrize(("hashed", "pods", "weight"), SHARES)
def test_so_many_clients_move_when_an_endpoint_leaves(hashed: str, pods: int, weight: int) -> None:
    """Those of the endpoint that leaves, those that move while it drains, and when it is gone.

    Each datagram is scheduled by itself, so that nobody is kept by what the kernel remembers.
    """
    scheduler, dash, flag = hashed.partition("-")
    clients = CLIENTS[dash + flag]
    server = with_flags(scheduler, Flags.ONE_PACKET | (Flags.SCHED_2 if dash else Flags.NONE))
    leaving = pods // 2
    with Balancing(Protocol.UDP, pods, server, real=RealServer(weight)) as udp:
        before = pods_of(udp.sent(clients))
        udp.set_real(leaving, RealServer(0))
        draining = pods_of(udp.sent(clients))
        udp.remove(leaving)
        gone = pods_of(udp.sent(clients))
    assert leaving in before
    assert leaving not in {*draining, *gone}
    counted = (
        before.count(leaving),
        sum(map(int.__ne__, before, draining)),
        sum(map(int.__ne__, before, gone)),
    )
    assert [f"{count / MANY:.1%}" for count in counted] == SHARES[hashed, pods, weight]
