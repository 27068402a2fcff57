"""One cluster for all end-to-end tests: two nodes, each with the real agent.

Tests run in any order and share it, so a test that changes something has Services of its own
(fixture `own`), and leaves every pod listening and every agent running.
"""

from __future__ import annotations

import itertools
import os
from typing import TYPE_CHECKING

import pytest

from testbed.cluster import Cluster
from testbed.layout import lay_out
from testbed.manifests import Service, endpoints_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from testbed.layout import Pod

SCHEDULERS = (
    *("rr", "wrr", "lc", "wlc", "lblc", "lblcr", "sh", "dh", "sed", "nq", "fo", "ovf", "mh"),
)
OLD = ("a1", "b1", "a2", "b2")
NEW = ("n1", "m1", "n2", "m2")
WEIGHTS = {"a1": 1, "b1": 2, "a2": 3, "b2": 4}
OVERFLOW = dict.fromkeys(OLD, 100)  # ovf: connections that a server takes before the next does
WEIGHTS_OF = {"wrr": WEIGHTS, "wlc": WEIGHTS, "sed": WEIGHTS, "ovf": OVERFLOW}
OWN = itertools.count(100)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "tests/e2e/" in item.nodeid:
            item.add_marker(pytest.mark.e2e)
            if "IPVSPROXY_RIG_GUEST" not in os.environ:
                item.add_marker(pytest.mark.skip(reason="outside the rig"))


@pytest.fixture(scope="session")
def bare_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """The cluster before its agents have started."""
    layout = lay_out(
        {"node1": ("a1", "b1", "n1", "m1", "c1"), "node2": ("a2", "b2", "n2", "m2", "c2")}
    )
    with Cluster(layout, tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def old(bare_cluster: Cluster) -> tuple[Pod, ...]:
    """The pods that every Service starts with."""
    return tuple(map(bare_cluster.layout.pod, OLD))


@pytest.fixture(scope="session")
def new(bare_cluster: Cluster) -> tuple[Pod, ...]:
    """The pods that replace them."""
    return tuple(map(bare_cluster.layout.pod, NEW))


@pytest.fixture(scope="session")
def services(old: tuple[Pod, ...]) -> dict[str, Service]:
    """A Service for each scheduler, by the scheduler's name; no test changes them."""
    return {
        scheduler: Service(
            f"by-{scheduler}",
            number,
            endpoints_of(old, weights=WEIGHTS_OF.get(scheduler)),
            scheduler,
        )
        for number, scheduler in enumerate(SCHEDULERS, start=10)
    }


@pytest.fixture(scope="session")
def cluster(bare_cluster: Cluster, services: dict[str, Service]) -> Cluster:
    """The cluster with both agents running and the Services of `services` applied."""
    bare_cluster.publish(*services.values())
    bare_cluster.start_agents()
    bare_cluster.wait_applied(*services.values())
    return bare_cluster


@pytest.fixture
def own(cluster: Cluster, old: tuple[Pod, ...]) -> Iterator[Callable[..., Service]]:
    """Make Services for one test, applied: `own(scheduler, pods=..., weights=...)`."""
    made: list[Service] = []

    def make(scheduler: str | None = None, *, pods: tuple[Pod, ...] = old) -> Service:
        number = next(OWN)
        service = Service(f"own-{number}", number, endpoints_of(pods), scheduler)
        made.append(service)
        cluster.apply(service)
        return service

    yield make
    for service in made:
        cluster.folder.withdraw(service)
    for pod in cluster.layout.pods:
        cluster.traffic.listen(pod.name)
