"""Ten thousand connections go by the weights; weights change and climb, and nothing fails."""

from __future__ import annotations

import ipaddress
import itertools
import resource
import socket
import struct
from functools import partial
from typing import TYPE_CHECKING

import pytest

from testbed import namespaces, witness
from testbed.backend import PORT
from testbed.client import distribution, failures
from testbed.cluster import target
from testbed.manifests import SERVICE_PORT, endpoints_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from testbed.cluster import Cluster
    from testbed.layout import Host, Node, Pod
    from testbed.manifests import Service

CONNECTIONS = 10_000
OPEN = 1000
"""Connections that are open at the same time: both ends are files of one process."""
OPEN_TOLERANCE = 5
WEIGHTS = {"a1": 1, "b1": 2, "a2": 3, "b2": 4}
ROUNDS = 30
IP_PKTINFO = 8
CLIENTS = ipaddress.IPv4Network("10.200.0.0/16")
"""Addresses that only this test's clients have: behind the client outside."""
TOLERANCE = {
    "wrr": 0.001,  # exact, but for the round that is cut off
    "wlc": 0.002,
    "mh": 0.025,  # of who comes, a table of 4093 entries decides by chance: four deviations
}
"""Of all connections, by scheduler: how far the share of a server may be from its weight's."""


@pytest.fixture(scope="module")
def many_clients(cluster: Cluster) -> Iterator[Host]:
    """The client outside, with 65,536 addresses to ask from."""
    outside, node = cluster.layout.outside, cluster.layout.nodes[0]
    here = ("local", str(CLIENTS), "dev", "lo")
    back = (str(CLIENTS), "via", outside.ipv4)
    namespaces.run_inside(outside.namespace, "ip", "route", "add", *here)
    namespaces.run_inside(node.namespace, "ip", "route", "add", *back)
    yield outside
    namespaces.run_inside(node.namespace, "ip", "route", "del", *back)
    namespaces.run_inside(outside.namespace, "ip", "route", "del", *here)


def send(host: Host, service: Service, sources: Iterable[ipaddress.IPv4Address]) -> None:
    """Send a datagram from each source; who would answer is read from the kernel.

    From one socket: IP_PKTINFO says with which of the host's addresses each one goes (ip(7)).
    """
    where = (service.address(4), SERVICE_PORT)
    with namespaces.open_socket(host.namespace, socket.AF_INET, socket.SOCK_DGRAM) as connection:
        connection.setblocking(True)
        for source in sources:
            told = struct.pack("=i4s4s", 0, source.packed, bytes(4))
            connection.sendmsg([b"?\n"], [(socket.IPPROTO_IP, IP_PKTINFO, told)], 0, where)


def counted(node: Node, service: Service, pods: tuple[Pod, ...]) -> dict[str, int]:
    """Count the connections of each pod, by what the kernel of a node says."""
    found = witness.scheduled(node.namespace, f"{service.address(4)}:{SERVICE_PORT}")
    return {pod.name: found[f"{pod.ipv4}:{PORT}"] for pod in pods}


@pytest.mark.parametrize("scheduler", TOLERANCE)
def test_ten_thousand_connections_go_by_the_weights(
    cluster: Cluster,
    own: Callable[..., list[Service]],
    old: tuple[Pod, ...],
    many_clients: Host,
    scheduler: str,
) -> None:
    [service] = own(scheduler, protocol="UDP")
    weighted = service.with_endpoints(endpoints_of(old, weights=WEIGHTS))
    cluster.apply(weighted)
    node = cluster.layout.nodes[0]
    cluster.wait_for(node, lambda: weights_missing(node, weighted, WEIGHTS))
    clients, found = CLIENTS.hosts(), dict[str, int]()
    for _ in range(ROUNDS):  # what is sent is counted a little later, and a queue may be full
        send(many_clients, weighted, itertools.islice(clients, CONNECTIONS // 10))
        found = counted(node, weighted, old)
        if sum(found.values()) >= CONNECTIONS:
            break
    total = sum(found.values())
    assert total >= CONNECTIONS
    for name, weight in WEIGHTS.items():
        share = weight / sum(WEIGHTS.values())
        assert found[name] / total == pytest.approx(share, abs=TOLERANCE[scheduler]), found


def test_open_connections_go_by_the_weights_with_sed(
    cluster: Cluster, own: Callable[..., list[Service]], old: tuple[Pod, ...]
) -> None:
    """It counts active connections only, and those of UDP are none: so these stay open."""
    [service] = own("sed")
    weighted = service.with_endpoints(endpoints_of(old, weights=WEIGHTS))
    cluster.apply(weighted)
    node, client = cluster.layout.nodes[0], cluster.layout.pod("c1")
    cluster.wait_for(node, lambda: weights_missing(node, weighted, WEIGHTS))
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(limit[1], 8 * OPEN),) * 2)
    try:
        with cluster.traffic.hold(client, target(weighted), OPEN) as held:
            found = distribution(one.first for one in held)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limit)
    assert found.total() == OPEN
    for name, weight in WEIGHTS.items():
        share = weight / sum(WEIGHTS.values())
        assert found[name] == pytest.approx(OPEN * share, abs=OPEN_TOLERANCE), found


def weights_in(node: Node, service: Service) -> dict[str, int]:
    """Give the weights of a Service in the kernel of a node, by pod address."""
    protocol = service.protocols[0].lower()
    key = protocol, f"{service.address(4)}:{SERVICE_PORT}"
    return {
        name.rpartition(":")[0]: weight
        for name, weight in witness.table(node.namespace)[key].weights.items()
    }


def weights_missing(node: Node, service: Service, wanted: dict[str, int]) -> str | None:
    found = weights_in(node, service)
    expected = {
        one.pod.ipv4: wanted[one.pod.name] for one in service.endpoints if one.pod.name in wanted
    }
    return None if found == expected else f"weights are {found}, not {expected}"


def test_weights_change_under_load(
    cluster: Cluster, own: Callable[..., list[Service]], old: tuple[Pod, ...]
) -> None:
    client, [service] = cluster.layout.pod("c1"), own("wrr")
    node, where = cluster.layout.nodes[0], target(service)
    steps = (
        ("node=node1:30,node=node2:10", {"node1": 3, "node2": 1}),
        ("node=node1:1,node=node2:5", {"node1": 1, "node2": 5}),
        ("node=node2:0", {"node1": 1, "node2": 0}),
        ("node=node1:7,node=node2:7", {"node1": 1, "node2": 1}),
    )
    traffic = cluster.traffic
    with traffic.hold(client, where, 4) as held, traffic.load(client, where) as load:
        for rules, weights in steps:
            cluster.publish(service.annotated(weights=rules))
            wanted = {pod.name: weights[pod.node] for pod in old}
            cluster.wait_for(node, partial(weights_missing, node, service, wanted))
        replies = [one.talk() for one in held]
    assert not failures(replies)
    assert not failures(load.replies)
    assert len(load.replies) >= 20


def test_a_new_endpoint_climbs(
    cluster: Cluster, own: Callable[..., list[Service]], old: tuple[Pod, ...]
) -> None:
    client, [service] = cluster.layout.pod("c1"), own("wrr")
    node = cluster.layout.nodes[0]
    slow = service.annotated(slow_start="12s")
    cluster.apply(slow.with_endpoints(endpoints_of(old[:3])))
    late = old[3]
    seen: list[float] = []

    def climbing() -> str | None:
        weights = weights_in(node, slow)
        if late.ipv4 in weights:
            seen.append(weights[late.ipv4] / max(weights.values()))
        return None if seen and seen[-1] == 1 and len(seen) > 1 else f"it has come to {seen}"

    with cluster.traffic.load(client, target(slow)) as load:
        cluster.publish(slow.with_endpoints(endpoints_of(old)))
        cluster.wait_for(node, climbing)
    assert not failures(load.replies)
    assert seen[0] < 0.5
    assert seen == sorted(seen)
    assert len(set(seen)) >= 5, "in steps"
