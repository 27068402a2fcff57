"""Who answers under each scheduler: a thousand connections each."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from testbed.client import distribution, failures
from testbed.cluster import target

if TYPE_CHECKING:
    from collections import Counter

    from testbed.cluster import Cluster
    from testbed.manifests import Service

CONNECTIONS = 1000
AT_ONCE = 8


def thousand(cluster: Cluster, service: Service, *, client: str = "c1") -> Counter[str]:
    """Make a thousand connections, none of which may fail; return who answered how often."""
    host = cluster.layout.pod(client)
    replies = cluster.traffic.ask(host, target(service), CONNECTIONS, at_once=AT_ONCE)
    assert not failures(replies)
    return distribution(replies)


def test_rr_is_even(cluster: Cluster, services: dict[str, Service]) -> None:
    counted = thousand(cluster, services["rr"])
    assert counted == pytest.approx(dict.fromkeys(("a1", "b1", "a2", "b2"), 250), abs=2)


def test_wrr_follows_the_weights(cluster: Cluster, services: dict[str, Service]) -> None:
    counted = thousand(cluster, services["wrr"])
    assert counted == pytest.approx({"a1": 100, "b1": 200, "a2": 300, "b2": 400}, abs=4)


def test_lc_avoids_the_busy_pod(cluster: Cluster, services: dict[str, Service]) -> None:
    with cluster.traffic.busy("a1", seconds=0.3):
        counted = thousand(cluster, services["lc"])
    assert 0 < counted["a1"] < min(counted[pod] for pod in ("b1", "a2", "b2")) / 4


def test_sh_keeps_a_client_on_one_pod(cluster: Cluster, services: dict[str, Service]) -> None:
    for client in ("c1", "c2"):
        assert list(thousand(cluster, services["sh"], client=client).values()) == [CONNECTIONS]


def test_dh_keeps_a_service_on_one_pod(cluster: Cluster, services: dict[str, Service]) -> None:
    first = thousand(cluster, services["dh"], client="c1")
    assert list(first.values()) == [CONNECTIONS]
    assert thousand(cluster, services["dh"], client="c2") == first


def test_mh_keeps_a_client_on_one_pod(cluster: Cluster, services: dict[str, Service]) -> None:
    assert list(thousand(cluster, services["mh"]).values()) == [CONNECTIONS]


@pytest.mark.parametrize("scheduler", ["wlc", "sed", "nq", "fo", "ovf", "lblc", "lblcr"])
def test_no_connection_fails(
    cluster: Cluster, services: dict[str, Service], scheduler: str
) -> None:
    assert thousand(cluster, services[scheduler]).total() == CONNECTIONS


@pytest.mark.parametrize("scheduler", ["wlc", "sed"])
def test_heavier_pods_get_more(
    cluster: Cluster, services: dict[str, Service], scheduler: str
) -> None:
    counted = thousand(cluster, services[scheduler])
    assert counted["b2"] > counted["a1"]
