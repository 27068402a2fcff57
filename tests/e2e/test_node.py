"""What a node is besides: its addresses, its daemons, its hostPorts, its health checks."""

from __future__ import annotations

import contextlib
import itertools
import json
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from testbed import namespaces, ping, web, witness
from testbed.client import REFUSAL, Protocol, Target, distribution, failures
from testbed.layout import Pod
from testbed.manifests import Exposure, Service, endpoints_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from testbed.cluster import Cluster
    from testbed.layout import Node

NUMBERS = itertools.count(700)
EVERYTHING = Exposure("LoadBalancer", external_ips=True)
SSH = 22
LATER = {4: "192.168.50.51", 6: "fd00:50::51"}
"""Addresses that the first node is given, and that are taken from it again."""
each_family = pytest.mark.parametrize("family", [4, 6], ids=lambda family: f"IPv{family}")


@pytest.fixture(scope="module")
def service(cluster: Cluster, old: tuple[Pod, ...]) -> Iterator[Service]:
    """A Service with every kind of frontend."""
    service = Service("of-node", next(NUMBERS), endpoints_of(old), exposure=EVERYTHING)
    cluster.apply(service)
    yield service
    cluster.folder.withdraw(service)


@pytest.fixture(scope="module")
def local(cluster: Cluster, old: tuple[Pod, ...]) -> Iterator[Service]:
    """A Service with endpoints on the first node only, and policy Local."""
    here = [pod for pod in old if pod.node == "node1"]
    exposure = replace(EVERYTHING, policy="Local")
    service = Service("of-node1", next(NUMBERS), endpoints_of(here), exposure=exposure)
    cluster.apply(service)
    yield service
    cluster.folder.withdraw(service)


@pytest.fixture
def node(cluster: Cluster) -> Node:
    """The first node."""
    return cluster.layout.node("node1")


@each_family
def test_a_node_address_that_comes_serves_node_ports_and_one_that_goes_does_not(
    cluster: Cluster, service: Service, node: Node, family: int
) -> None:
    prefix = {4: 24, 6: 64}[family]
    address = f"addr add {LATER[family]}/{prefix} dev eth0 {'nodad' if family == 6 else ''}"
    later = Target(LATER[family], service.node_port)
    namespaces.batch([address], namespace=node.namespace)
    try:
        cluster.wait_for(
            node, lambda: f"{later} is not served" if not served(node, later) else None
        )
        replies = cluster.traffic.ask(cluster.layout.outside, later, 8)
        assert distribution(replies) == {"a1": 2, "b1": 2, "a2": 2, "b2": 2}
    finally:
        namespaces.batch([f"addr del {LATER[family]}/{prefix} dev eth0"], namespace=node.namespace)
    cluster.wait_for(node, lambda: f"{later} is still served" if served(node, later) else None)


def served(node: Node, target: Target) -> bool:
    """Say whether a node has a virtual server for a target whose servers take connections."""
    name = f"[{target.address}]" if ":" in target.address else target.address
    found = witness.table(node.namespace).get(("tcp", f"{name}:{target.port}"))
    return found is not None and bool(found.serving)


@pytest.fixture
def host_port(cluster: Cluster, node: Node) -> Iterator[Pod]:
    """A pod with a hostPort, as network plugins make it: port 80 of every local address."""
    pod = cluster.layout.pod("m1")
    program = witness.iptables(node.namespace)
    rule = ("-m", "addrtype", "--dst-type", "LOCAL", "-p", "tcp", "--dport", "80")
    target = ("-j", "DNAT", "--to-destination", f"{pod.ipv4}:8080")
    words = (program, "-w", "-t", "nat")
    namespaces.run_inside(node.namespace, *words, "-A", "PREROUTING", *rule, *target)
    yield pod
    namespaces.run_inside(node.namespace, *words, "-D", "PREROUTING", *rule, *target)


def test_a_host_port_does_not_take_what_is_for_a_service(
    cluster: Cluster, service: Service, local: Service, node: Node, host_port: Pod
) -> None:
    """Nor does a Service take what is for the hostPort (kubernetes/kubernetes#61938)."""
    outside, pod = cluster.layout.outside, cluster.layout.pod("c1")
    for one in (service, local):
        pods = {endpoint.pod.name for endpoint in one.endpoints}
        for address in one.bound_addresses(4):
            for client in (outside, pod):
                replies = cluster.traffic.ask(client, Target(address), 4)
                assert not failures(replies)
                assert set(distribution(replies)) == pods
    assert distribution(cluster.traffic.ask(outside, Target(node.ipv4), 3)) == {host_port.name: 3}


@pytest.fixture(scope="module")
def daemon(cluster: Cluster) -> Iterator[Pod]:
    """Something of the first node that listens on all its addresses, as sshd does."""
    node = cluster.layout.node("node1")
    daemon = Pod("sshd", node.namespace, *node.addresses, node=node.name)
    with cluster.traffic.serve(daemon, port=SSH):
        yield daemon


@each_family
@pytest.mark.parametrize("client", ["outside", "c1"])
def test_daemons_of_the_node_are_not_had_at_service_addresses(
    cluster: Cluster, service: Service, daemon: Pod, client: str, family: int
) -> None:
    """By its own address the node is reached (kubernetes/kubernetes#72236)."""
    host, traffic = cluster.layout.host(client), cluster.traffic
    assert not failures(traffic.ask(host, Target(daemon.address(family), SSH), 1))
    for address in service.bound_addresses(family):
        for protocol in (Protocol.TCP, Protocol.UDP):
            [refusal] = failures(traffic.ask(host, Target(address, SSH, protocol), 1))
            assert refusal.reason == REFUSAL, address


@each_family
@pytest.mark.parametrize("client", ["outside", "c1", "node1"])
def test_a_ping_to_a_service_address_is_answered(
    cluster: Cluster, service: Service, local: Service, client: str, family: int
) -> None:
    host = cluster.layout.host(client)
    for one in (service, local):
        for address in one.bound_addresses(family):
            assert ping.answered(host, address), address


@each_family
@pytest.mark.parametrize(("name", "count"), [("node1", 2), ("node2", 0)])
def test_health_checks_of_a_load_balancer_are_answered_as_kube_proxy_does(
    cluster: Cluster, local: Service, name: str, count: int, family: int
) -> None:
    node = cluster.layout.node(name)
    where = node.address(family), local.health_check_node_port
    cluster.wait_for(node, lambda: health_check_missing(cluster, where))
    page = web.get(cluster.layout.outside, where)
    assert page.status == (200 if count else 503)
    assert json.loads(page.body) == {
        "service": {"namespace": "default", "name": local.name},
        "localEndpoints": count,
        "serviceProxyHealthy": True,
    }
    assert page.headers["content-type"] == "application/json"
    assert page.headers["x-content-type-options"] == "nosniff"
    assert page.headers["x-load-balancing-endpoint-weight"] == str(count)


def health_check_missing(cluster: Cluster, where: tuple[str, int]) -> str | None:
    """Say that nobody listens there yet; None once somebody does."""
    with contextlib.suppress(OSError):
        web.get(cluster.layout.outside, where)
        return None
    return f"nobody answers health checks at {where}"
