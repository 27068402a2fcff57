"""What a Service's annotations say of flags, limits, prefix and deadline, by what clients see."""

from __future__ import annotations

import contextlib
import select
import socket
from typing import TYPE_CHECKING

import pytest

from testbed import namespaces
from testbed.backend import PORT
from testbed.client import REFUSAL, SILENCE, Protocol, Target, distribution, failures
from testbed.cluster import target
from testbed.manifests import NODE_PORT, Exposure, Service, endpoints_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from testbed.cluster import Cluster
    from testbed.layout import Host, Pod

    Make = Callable[[Service], Service]

ARRIVAL_SECONDS = 20.0
DATAGRAMS = 40


@pytest.fixture
def applied(cluster: Cluster) -> Iterator[Make]:
    """Apply a Service for one test."""
    with contextlib.ExitStack() as stack:

        def apply(service: Service) -> Service:
            stack.callback(cluster.folder.withdraw, service)
            cluster.apply(service)
            return service

        yield apply


@pytest.fixture
def single(applied: Make, old: tuple[Pod, ...]) -> Service:
    """A Service over UDP whose datagrams are scheduled one by one."""
    service = Service("single", 60, endpoints_of(old), "rr", protocols=("UDP",))
    return applied(service.annotated(one_packet="one-way"))


@pytest.mark.parametrize("family", [4, 6], ids=["IPv4", "IPv6"])
@pytest.mark.parametrize("client", ["c1", "node1"])
def test_who_expects_an_answer_to_a_single_datagram_gets_none(
    cluster: Cluster, single: Service, services: dict[str, Service], client: str, family: int
) -> None:
    where = target(single, protocol=Protocol.UDP, family=family)
    host = cluster.layout.host(client)
    [failure] = failures(cluster.traffic.ask(host, where, 1))
    assert failure.reason.startswith(SILENCE)
    usual = target(services["rr"], protocol=Protocol.UDP, family=family)
    assert not failures(cluster.traffic.ask(host, usual, 1))


def test_single_datagrams_of_one_pod_are_spread_one_by_one(
    cluster: Cluster, single: Service, services: dict[str, Service], old: tuple[Pod, ...]
) -> None:
    host = cluster.layout.pod("c1")
    with listening(cluster, old) as pods:
        for family in (4, 6):
            where = target(single, protocol=Protocol.UDP, family=family)
            assert counted(pods, host, where) == [DATAGRAMS // len(old)] * len(old)
            usual = target(services["rr"], protocol=Protocol.UDP, family=family)
            assert sorted(counted(pods, host, usual)) == [0, 0, 0, DATAGRAMS]


@pytest.mark.parametrize("family", [4, 6], ids=["IPv4", "IPv6"])
def test_of_a_sender_that_is_masqueraded_some_are_lost(
    cluster: Cluster, single: Service, old: tuple[Pod, ...], family: int
) -> None:
    """The node itself is; its pods and the other node's are behind different interfaces."""
    where = target(single, protocol=Protocol.UDP, family=family)
    with listening(cluster, old) as pods:
        send(cluster.layout.node("node1"), where, b"word", DATAGRAMS)
        send(cluster.layout.pod("c1"), where, b"end", len(old))  # one for each pod, by rr
        arrived = 0
        for pod in pods:
            while received(pod) != b"end":
                arrived += 1
    assert 0 < arrived < DATAGRAMS


@pytest.mark.parametrize("policy", ["Local", "Cluster"])
def test_from_outside_none_is_lost(
    cluster: Cluster, applied: Make, old: tuple[Pod, ...], policy: str
) -> None:
    service = Service("open", 64, endpoints_of(old), "rr", protocols=("UDP",), families=(4,))
    exposed = service.exposed(Exposure(NODE_PORT, policy=policy))
    applied(exposed.annotated(one_packet="one-way"))
    node = cluster.layout.node("node1")
    where = Target(node.address(4), exposed.node_port, Protocol.UDP)
    with listening(cluster, old) as pods:
        found = counted(pods, cluster.layout.outside, where)
    if policy == "Local":
        assert found == [DATAGRAMS // 2 if pod.node == "node1" else 0 for pod in old]
    else:
        assert sorted(found) == [0, 0, 0, DATAGRAMS]


@contextlib.contextmanager
def listening(cluster: Cluster, pods: Sequence[Pod]) -> Iterator[list[socket.socket]]:
    """Have pods take datagrams without a word."""
    with contextlib.ExitStack() as stack:
        silent = []
        for pod in pods:
            cluster.traffic.refuse(pod.name)
            stack.callback(cluster.traffic.listen, pod.name)
        for pod in pods:
            made = namespaces.open_socket(pod.namespace, socket.AF_INET6, socket.SOCK_DGRAM)
            stack.enter_context(made)
            made.bind(("::", PORT))
            silent.append(made)
        yield silent


def counted(pods: list[socket.socket], host: Host, where: Target) -> list[int]:
    """Send datagrams from one socket; count those of each pod, none of which may be lost."""
    found = [0] * len(pods)
    send(host, where, b"word", DATAGRAMS)
    for _ in range(DATAGRAMS):
        readable, _, _ = select.select(pods, [], [], ARRIVAL_SECONDS)
        assert readable, f"{found} have arrived"
        received(readable[0])
        found[pods.index(readable[0])] += 1
    return found


def send(host: Host, where: Target, text: bytes, times: int) -> None:
    """Send datagrams from one socket."""
    with namespaces.open_socket(host.namespace, where.family, socket.SOCK_DGRAM) as client:
        for _ in range(times):
            client.sendto(text, (where.address, where.port))


def received(pod: socket.socket) -> bytes:
    """Wait for a datagram."""
    assert select.select([pod], [], [], ARRIVAL_SECONDS)[0], "nothing arrives"
    return pod.recv(100)


@pytest.mark.parametrize("family", [4, 6], ids=["IPv4", "IPv6"])
def test_clients_of_one_network_go_to_the_same_pod(
    cluster: Cluster, applied: Make, old: tuple[Pod, ...], family: int
) -> None:
    service = Service("near", 61, endpoints_of(old), "rr", affinity_seconds=600)
    applied(service.annotated(affinity_prefix="24,64"))
    where = target(service, family=family)
    clients = [cluster.layout.pod(name) for name in ("c1", "n1", "m1")]
    replies = [reply for one in clients for reply in cluster.traffic.ask(one, where, 2)]
    assert not failures(replies)
    assert list(distribution(replies).values()) == [6]


def test_a_limit_refuses_until_it_is_raised(
    cluster: Cluster, applied: Make, old: tuple[Pod, ...]
) -> None:
    service = Service("limited", 62, endpoints_of(old), "rr", families=(4,))
    applied(service.annotated(connection_limit="2"))
    client, where = cluster.layout.pod("c1"), target(service)
    with cluster.traffic.hold(client, where, 8) as held:
        assert sorted(distribution(one.first for one in held).values()) == [2, 2, 2, 2]
        [failure] = failures(cluster.traffic.ask(client, where, 1))
        assert failure.reason == REFUSAL
        cluster.apply(service.annotated(connection_limit="3"))
        node = cluster.layout.node("node1")

        def refused() -> str | None:
            return "refused" if failures(cluster.traffic.ask(client, where, 1)) else None

        cluster.wait_for(node, refused)
        assert not failures(cluster.traffic.talk(held))


def test_a_limit_that_was_reached_gives_way_when_connections_have_ended(
    cluster: Cluster, applied: Make, old: tuple[Pod, ...]
) -> None:
    """Two and no more; again when there are fewer than one. A reset is forgotten after 10 s."""
    service = Service("filled", 65, endpoints_of(old), "rr", protocols=("TCP",), families=(4,))
    applied(service.annotated(connection_limit="2,1"))
    client, where = cluster.layout.pod("c1"), target(service)
    node = cluster.layout.node("node1")
    with cluster.traffic.hold(client, where, 2 * len(old)) as held:
        assert set(distribution(one.first for one in held).values()) == {2}
        [failure] = failures(cluster.traffic.ask(client, where, 1))
        assert failure.reason == REFUSAL
        mine = [one for one in held if distribution([one.first])[old[0].name]]
        assert len(mine) == 2
        for one in mine:
            one.reset()
            one.close()

        def refused() -> str | None:
            [reply] = cluster.traffic.ask(client, where, 1)
            return "refused" if failures([reply]) else None

        cluster.wait_for(node, refused)
        others = [one for one in held if one not in mine]
        assert not failures(cluster.traffic.talk(others))
        assert set(distribution(cluster.traffic.ask(client, where, 1))) == {old[0].name}


def test_without_time_to_drain_only_connections_to_who_left_end(
    cluster: Cluster, applied: Make, old: tuple[Pod, ...]
) -> None:
    service = Service("hasty", 63, endpoints_of(old), "rr", protocols=("TCP",), families=(4,))
    hasty = applied(service.annotated(drain_deadline="0"))
    client, where = cluster.layout.pod("c1"), target(service)
    with cluster.traffic.hold(client, where, 4) as held:
        pods = distribution(one.first for one in held)
        assert pods == dict.fromkeys((pod.name for pod in old), 1)
        cluster.apply(hasty.with_endpoints(hasty.endpoints[1:]))
        replies = cluster.traffic.talk(held)
    assert len(failures(replies)) == 1
    assert old[0].name not in distribution(replies)
