"""Every way to a Service, and the source address that its pods see."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from testbed.client import Protocol, answers, distribution, failures
from testbed.cluster import target
from testbed.manifests import Service, endpoints_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from testbed.cluster import Cluster
    from testbed.layout import Host

pytestmark = [
    pytest.mark.parametrize("protocol", Protocol, ids=lambda protocol: protocol.name),
    pytest.mark.parametrize("family", [4, 6], ids=lambda family: f"IPv{family}"),
]

ALL = {"a1": 2, "b1": 2, "a2": 2, "b2": 2}


@pytest.fixture
def sources(
    cluster: Cluster, services: dict[str, Service], protocol: Protocol, family: int
) -> Callable[[Host], set[str]]:
    """Ask the rr Service from a host, reach every pod, and return the sources that they saw."""

    def ask(host: Host) -> set[str]:
        where = target(services["rr"], protocol=protocol, family=family)
        replies = cluster.traffic.ask(host, where, 8)
        assert not failures(replies)
        assert distribution(replies) == ALL
        return {answer.source for answer in answers(replies)}

    return ask


def of_node(cluster: Cluster, name: str) -> set[str]:
    """Return the addresses of a node, those of its bridge included."""
    node = cluster.layout.node(name)
    return {*node.addresses, *node.bridge_addresses}


@pytest.mark.parametrize("client", ["c1", "c2"])
def test_a_pod_keeps_its_address(
    cluster: Cluster, sources: Callable[[Host], set[str]], family: int, client: str
) -> None:
    pod = cluster.layout.pod(client)
    assert sources(pod) == {pod.address(family)}


@pytest.mark.parametrize("name", ["node1", "node2"])
def test_a_node_reaches_every_pod_from_an_address_of_its_own(
    cluster: Cluster, sources: Callable[[Host], set[str]], name: str
) -> None:
    assert sources(cluster.layout.node(name)) <= of_node(cluster, name)


def test_an_outside_client_is_masqueraded_by_the_node_that_it_came_through(
    cluster: Cluster, sources: Callable[[Host], set[str]]
) -> None:
    assert sources(cluster.layout.outside) <= of_node(cluster, "node1")


def test_a_pod_reaches_itself_through_its_own_service(
    cluster: Cluster, alone: Service, protocol: Protocol, family: int
) -> None:
    pod = alone.endpoints[0].pod
    replies = cluster.traffic.ask(pod, target(alone, protocol=protocol, family=family), 4)
    assert not failures(replies)
    assert distribution(replies) == {pod.name: 4}
    assert {answer.source for answer in answers(replies)} <= of_node(cluster, pod.node)


@pytest.fixture(scope="module")
def alone(cluster: Cluster) -> Service:
    """A Service whose one endpoint is its only client."""
    service = Service("alone", 90, endpoints_of([cluster.layout.pod("a1")]))
    cluster.apply(service)
    return service
