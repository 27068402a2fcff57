"""ClientIP affinity: a client stays with its pod, until the pod leaves."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from testbed.client import Protocol, distribution, failures
from testbed.cluster import target
from testbed.manifests import Service, endpoints_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from testbed.cluster import Cluster
    from testbed.layout import Pod

SECONDS = 600


@pytest.fixture
def sticky(cluster: Cluster, old: tuple[Pod, ...]) -> Iterator[Service]:
    """A Service that is spread by rr, but for its affinity."""
    service = Service("sticky", 91, endpoints_of(old), "rr", affinity_seconds=SECONDS)
    cluster.apply(service)
    yield service
    cluster.folder.withdraw(service)


@pytest.mark.parametrize("protocol", Protocol, ids=lambda protocol: protocol.name)
@pytest.mark.parametrize("family", [4, 6], ids=lambda family: f"IPv{family}")
def test_a_client_stays_with_its_pod(
    cluster: Cluster, sticky: Service, protocol: Protocol, family: int
) -> None:
    where = target(sticky, protocol=protocol, family=family)
    replies = cluster.traffic.ask(cluster.layout.pod("c1"), where, 8)
    assert not failures(replies)
    assert len(distribution(replies)) == 1


def test_clients_are_spread(cluster: Cluster, sticky: Service) -> None:
    hosts = [cluster.layout.pod(name) for name in ("c1", "a1", "b1", "n1")]
    pods = [distribution(cluster.traffic.ask(host, target(sticky), 1)) for host in hosts]
    assert len({name for counted in pods for name in counted}) > 1


def test_a_client_moves_when_its_pod_leaves(cluster: Cluster, sticky: Service) -> None:
    client, where = cluster.layout.pod("c1"), target(sticky)
    [first] = distribution(cluster.traffic.ask(client, where, 2))
    left = [one for one in sticky.endpoints if one.pod.name != first]
    cluster.apply(sticky.with_endpoints(left))
    cluster.traffic.refuse(first)
    try:
        replies = cluster.traffic.ask(client, where, 8)
        assert not failures(replies)
        [second] = distribution(replies)
        assert second != first
    finally:
        cluster.traffic.listen(first)
