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
from testbed.manifests import PROTOCOLS, Service, endpoints_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from testbed.layout import Layout, Pod

    Own = Callable[..., list[Service]]

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
def layout() -> Layout:
    """Two nodes with four pods to begin with, four to replace them, and a client each."""
    return lay_out(
        {"node1": ("a1", "b1", "n1", "m1", "c1"), "node2": ("a2", "b2", "n2", "m2", "c2")}
    )


@pytest.fixture(scope="session")
def old(layout: Layout) -> tuple[Pod, ...]:
    """The pods that every Service starts with."""
    return tuple(map(layout.pod, OLD))


@pytest.fixture(scope="session")
def new(layout: Layout) -> tuple[Pod, ...]:
    """The pods that replace them."""
    return tuple(map(layout.pod, NEW))


@pytest.fixture(scope="session")
def services(old: tuple[Pod, ...]) -> dict[str, Service]:
    """A Service for each scheduler, by the scheduler's name; no test changes them."""
    return {
        scheduler: Service(
            f"by-{scheduler}",
            number,
            endpoints_of(old, weights=WEIGHTS_OF.get(scheduler)),
            scheduler,
            protocols=PROTOCOLS if scheduler == "rr" else ("TCP",),
        )
        for number, scheduler in enumerate(SCHEDULERS, start=10)
    }


@pytest.fixture(scope="session")
def cluster(
    layout: Layout, services: dict[str, Service], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Cluster]:
    """The cluster with both agents running and the Services of `services` applied."""
    with Cluster(layout, tmp_path_factory.mktemp("cluster")) as cluster:
        cluster.publish(*services.values())
        cluster.start_agents()
        cluster.wait_applied(*services.values())
        yield cluster


@pytest.fixture
def own(cluster: Cluster, old: tuple[Pod, ...]) -> Iterator[Own]:
    """Make Services for one test, applied: `own(scheduler, ...)`."""
    made: list[Service] = []

    def make(*schedulers: str, protocol: str = "TCP") -> list[Service]:
        services = [
            Service(
                f"own-{number}",
                number,
                endpoints_of(old),
                scheduler,
                protocols=(protocol,),
                families=(4,),
            )
            for number, scheduler in zip(OWN, schedulers, strict=False)
        ]
        made.extend(services)
        cluster.apply(*services)
        return services

    yield make
    for service in made:
        cluster.folder.withdraw(service)
    for pod in cluster.layout.pods:
        cluster.traffic.listen(pod.name)
