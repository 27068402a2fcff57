"""The real kube-proxy serves this node; ours takes it over, and hands it back: nothing fails.

Only where KUBEBUILDER_ASSETS names a folder with a kube-proxy. Without one, test_take_over does the
same from recorded chains.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from testbed import namespaces, witness
from testbed.cluster import Cluster
from testbed.layout import lay_out
from testbed.manifests import Exposure, Service, endpoints_of
from tests.e2e import kube_proxy
from tests.e2e.kube_proxy import KubeProxy
from tests.e2e.under_load import Way, Ways, under_load

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from testbed.agent import Agent
    from testbed.layout import Layout

pytestmark = [
    pytest.mark.apiserver,
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        not kube_proxy.PROGRAM.is_file(),
        reason="no real kube-proxy: KUBEBUILDER_ASSETS names no folder with one",
    ),
]

SERVICES = 40
EVERY = 0.01
"""Seconds between two new connections."""
SELDOM = 0.25
"""The same where the kernel may be an emulated one, in which every program takes seconds."""


@pytest.fixture
def layout() -> Layout:
    """Two nodes; the first one changes its proxy."""
    return lay_out({"node1": ("a1", "c1"), "node2": ("a2",)}, prefix="real-")


@pytest.fixture
def services(layout: Layout) -> tuple[Service, ...]:
    """Services of every type, of policy Cluster, that kube-proxy and we serve alike."""
    types = ("ClusterIP", "NodePort", "LoadBalancer")
    endpoints = endpoints_of([layout.pod("a1"), layout.pod("a2")])
    return tuple(
        Service(
            f"number-{number}",
            number,
            endpoints,
            protocols=("TCP",),
            families=(4,),
            exposure=Exposure(types[number % 3]),
        )
        for number in range(10, 10 + SERVICES)
    )


@pytest.fixture
def cluster(layout: Layout, services: tuple[Service, ...], tmp_path: Path) -> Iterator[Cluster]:
    """The cluster; our agent runs on the second node only."""
    with Cluster(layout, tmp_path) as cluster:
        cluster.publish(*services)
        cluster.agents["node2"].start()
        yield cluster


@pytest.fixture
def theirs(cluster: Cluster, tmp_path: Path) -> Iterator[KubeProxy]:
    """Yield a kube-proxy for the first node, which does not run yet."""
    node = cluster.layout.node("node1")
    theirs = KubeProxy(node, cluster.folder.path, tmp_path / "kube-proxy")
    yield theirs
    theirs.stop()


@pytest.fixture
def ours(cluster: Cluster) -> Agent:
    """Return our agent of the first node, which does not run yet."""
    return cluster.agents["node1"]


def ways(cluster: Cluster, services: tuple[Service, ...]) -> dict[str, Way]:
    """Every kind of client at every kind of frontend."""
    plain, balanced = services[2], services[1]  # number 12: ClusterIP, number 11: LoadBalancer
    inside, outside = Ways(cluster, plain), Ways(cluster, balanced)
    return {
        "pod to ClusterIP": inside.cluster_ip("c1"),
        "node to ClusterIP": inside.cluster_ip("node1"),
        "outside to load balancer": outside.balancer("outside"),
        "pod to load balancer": outside.balancer("c1"),
        "outside to NodePort": outside.node_port("outside", "node1"),
    }


def split_stands(agent: Agent) -> str | None:
    """Say that our chains do not stand; None when they do."""
    return None if "-j KUBE-SPLIT" in witness.rules(agent.node.namespace) else "no chains of ours"


def route_by_default(cluster: Cluster) -> None:
    """Give the first node the route that every node has; without IPVS ClusterIPs need it."""
    node, gateway = cluster.layout.node("node1"), cluster.layout.outside.address(4)
    namespaces.run_inside(node.namespace, "ip", "route", "add", "default", "via", gateway)


def nftables_tables(namespace: str) -> str:
    """Name the tables of nftables; CommandError where there are none to be had."""
    return namespaces.run_inside(namespace, "nft", "list", "tables")


def test_ipvs_mode_there_and_back(
    cluster: Cluster, theirs: KubeProxy, ours: Agent, services: tuple[Service, ...]
) -> None:
    theirs.start("ipvs")
    cluster.wait_for(ours.node, theirs.unfinished)
    cluster.wait_applied(*services)
    before = witness.table(ours.node.namespace)
    with under_load(cluster, ways(cluster, services), every=EVERY) as observed:
        theirs.stop()
        ours.start()
        cluster.wait_for(ours.node, lambda: split_stands(ours))
        cluster.wait_applied(*services)
        assert witness.table(ours.node.namespace) == before
        ours.stop()
        ours.run("cleanup", "--hand-over")
        theirs.start("ipvs")
        cluster.wait_for(ours.node, theirs.unfinished)
    observed.assert_nothing_failed()
    assert witness.table(ours.node.namespace) == before


def test_iptables_mode_there_and_back(
    cluster: Cluster, theirs: KubeProxy, ours: Agent, services: tuple[Service, ...]
) -> None:
    route_by_default(cluster)
    theirs.start("iptables")
    cluster.wait_for(ours.node, theirs.unfinished)
    with under_load(cluster, ways(cluster, services), every=EVERY) as observed:
        theirs.stop()
        ours.start()
        cluster.wait_for(ours.node, lambda: split_stands(ours))
        cluster.wait_applied(*services)
        assert "KUBE-SVC-" in ours.run("cleanup", "--foreign", "kube-proxy-iptables")
        assert "KUBE-SVC-" not in witness.rules(ours.node.namespace)
        ours.stop()
        theirs.start("iptables")
        cluster.wait_for(ours.node, theirs.unfinished)
        ours.run("cleanup", "--take-over")
    observed.assert_nothing_failed()
    assert not witness.table(ours.node.namespace)
    assert "KUBE-SPLIT" not in witness.rules(ours.node.namespace)


def test_nftables_mode_is_taken_over(
    cluster: Cluster, theirs: KubeProxy, ours: Agent, services: tuple[Service, ...]
) -> None:
    """Not back: before its own rules stand, kube-proxy flushes IPVS when it starts in that mode."""
    namespace = ours.node.namespace
    try:
        for verb in ("add", "delete"):
            namespaces.run_inside(namespace, "nft", verb, "table", "ip", "probe")
    except namespaces.CommandError as error:
        pytest.skip(f"no nftables here: {error}")
    route_by_default(cluster)
    theirs.start("nftables")
    cluster.wait_for(ours.node, theirs.unfinished)
    with under_load(cluster, ways(cluster, services), every=SELDOM) as observed:
        theirs.stop()
        ours.start()
        cluster.wait_for(ours.node, lambda: split_stands(ours))
        cluster.wait_applied(*services)
        assert "kube-proxy" in ours.run("cleanup", "--foreign", "kube-proxy-nftables")
        assert "kube-proxy" not in nftables_tables(namespace)
    observed.assert_nothing_failed()
    ours.stop()
    theirs.start("nftables")
    cluster.wait_for(ours.node, theirs.unfinished)
    ours.run("cleanup", "--take-over")
    with under_load(cluster, ways(cluster, services), every=SELDOM) as observed:
        ours.run("cleanup", "--take-over", "--dry-run")
    observed.assert_nothing_failed()
    assert not witness.table(namespace)
    assert "KUBE-SPLIT" not in witness.rules(namespace)
