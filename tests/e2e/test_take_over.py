"""Another proxy served this node, the agent takes it over, and hands it back: nothing fails.

Each test has a hundred connections, open ones and new ones, while it happens. What kube-proxy's
IPVS mode leaves is set up by handing over what the agent has made, which tests/parity compares with
recorded states, and by putting kube-proxy's own recorded chains in the place of the others.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from testbed import namespaces, witness
from testbed.cluster import Cluster
from testbed.layout import CLUSTER_CIDR, lay_out
from testbed.manifests import Exposure, Service, endpoints_of
from tests.e2e.under_load import Way, Ways, under_load

if TYPE_CHECKING:
    from collections.abc import Iterator

    from testbed.agent import Agent
    from testbed.layout import Layout

RECORDED = Path(__file__).parents[1] / "parity" / "cases" / "health-check-two-services"
RECORDED_CIDR = "10.244.0.0/16"
PODS = CLUSTER_CIDR.partition(",")[0]
SOME = Exposure("LoadBalancer")
LOCAL = Exposure("LoadBalancer", policy="Local")


@pytest.fixture(scope="module")
def layout() -> Layout:
    """Two nodes; the first one changes its proxy."""
    return lay_out({"node1": ("a1", "c1"), "node2": ("a2",)}, prefix="over-")


@pytest.fixture(scope="module")
def services(layout: Layout) -> tuple[Service, ...]:
    """One that everybody reaches everywhere, one of policy Local, one without endpoint here."""
    return (
        served(layout, "all", 10, SOME, "a1", "a2"),
        served(layout, "local", 11, LOCAL, "a1", "a2"),
        served(layout, "elsewhere", 12, LOCAL, "a2"),
    )


def served(layout: Layout, name: str, number: int, exposure: Exposure, *pods: str) -> Service:
    """Make a Service of IPv4 and TCP."""
    endpoints = endpoints_of([layout.pod(pod) for pod in pods])
    return Service(name, number, endpoints, protocols=("TCP",), families=(4,), exposure=exposure)


@pytest.fixture(scope="module")
def cluster(
    layout: Layout, services: tuple[Service, ...], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Cluster]:
    """The cluster with both agents running and the Services applied."""
    with Cluster(layout, tmp_path_factory.mktemp("over")) as cluster:
        cluster.publish(*services)
        cluster.start_agents()
        cluster.wait_applied(*services)
        yield cluster


@pytest.fixture
def agent(cluster: Cluster, services: tuple[Service, ...]) -> Iterator[Agent]:
    """The first node's agent, which serves again afterwards."""
    agent = cluster.agents["node1"]
    yield agent
    if not agent.running:
        agent.start()
    cluster.wait_applied(*services)


@pytest.fixture
def ways(cluster: Cluster, services: tuple[Service, ...]) -> dict[str, Way]:
    """Every kind of client, at every kind of address that it is to reach."""
    every, near, far = (Ways(cluster, one) for one in services)
    return {
        "pod to ClusterIP": every.cluster_ip("c1"),
        "node to ClusterIP": every.cluster_ip("node1"),
        "outside to load balancer": every.balancer("outside"),
        "outside to NodePort": every.node_port("outside", "node1"),
        "outside to local load balancer": near.balancer("outside"),
        "pod to local load balancer": near.balancer("c1"),
        "pod to load balancer without local endpoints": far.balancer("c1"),
    }


def kube_proxys_chains(namespace: str) -> None:
    """Put kube-proxy's chains, as recorded, in the place of those that were handed over."""
    text = (RECORDED / "iptables.txt").read_text().partition("# ip6tables")[0]
    text = text.replace(RECORDED_CIDR, PODS).replace("# iptables ", "*")
    standing = witness.rules(namespace)
    lines: list[str] = []
    for line in text.splitlines():
        if line.startswith("*"):
            lines += ["COMMIT", line] if lines else [line]
        elif line.startswith(":"):
            lines.append(f"{line} [0:0]")
        elif line.startswith("-A KUBE-") or line not in standing:
            lines.append(line)
    restore(namespace, "\n".join([*lines, "COMMIT", ""]))


def restore(namespace: str, text: str, program: str = "") -> None:
    """Load rules, with the program that the agent uses, or with another one."""
    program = program or witness.iptables(namespace)
    namespaces.run_inside(namespace, f"{program}-restore", "--noflush", text=text)


def settled(namespace: str) -> dict[str, object]:
    """Read what has to be as before: not real servers, of which one still drains."""
    found = witness.everything(namespace)
    members = [line for line in found["ipset"].splitlines() if line.startswith("add ")]
    return {
        "virtual servers": set(witness.table(namespace)),
        "members": members,
        **{name: found[name] for name in ("iptables", "ip6tables", "addresses")},
    }


def split_stands(agent: Agent) -> str | None:
    """Say that our chains do not stand; None when they do."""
    return None if "-j KUBE-SPLIT" in witness.rules(agent.node.namespace) else "no chains of ours"


def test_kube_proxys_ipvs_mode_is_handed_the_node_and_taken_over_again(
    cluster: Cluster, agent: Agent, ways: dict[str, Way], services: tuple[Service, ...]
) -> None:
    namespace = agent.node.namespace
    before = settled(namespace)
    with under_load(cluster, ways) as observed:
        agent.stop()
        said = agent.run("cleanup", "--hand-over")
        assert "destroy set IPVSPROXY-OWN" in said
        kube_proxys_chains(namespace)
        assert "KUBE-SPLIT" not in witness.rules(namespace) + witness.sets(namespace)
        agent.start()
        cluster.wait_applied(*services)
        cluster.wait_for(agent.node, lambda: split_stands(agent))
    observed.assert_nothing_failed()
    assert settled(namespace) == before


def iptables_mode(service: Service) -> str:
    """Write rules as kube-proxy's iptables mode has them, for a ClusterIP with one endpoint."""
    pod = service.endpoints[0].pod.address(4)
    return f"""\
*nat
:KUBE-SERVICES - [0:0]
:KUBE-POSTROUTING - [0:0]
:KUBE-MARK-MASQ - [0:0]
:KUBE-SVC-AAAA - [0:0]
:KUBE-SEP-AAAA - [0:0]
-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A OUTPUT -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A POSTROUTING -m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING
-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --set-xmark 0x4000/0x0
-A KUBE-POSTROUTING -j MASQUERADE --random-fully
-A KUBE-SERVICES -d {service.address(4)}/32 -p tcp -m tcp --dport 80 -j KUBE-SVC-AAAA
-A KUBE-SERVICES -d {service.ingress_address(4)}/32 -p tcp -m tcp --dport 80 -j KUBE-SVC-AAAA
-A KUBE-SVC-AAAA ! -s {PODS} -j KUBE-MARK-MASQ
-A KUBE-SVC-AAAA -j KUBE-SEP-AAAA
-A KUBE-SEP-AAAA -p tcp -m tcp -j DNAT --to-destination {pod}:8080
COMMIT
*filter
:KUBE-SERVICES - [0:0]
-A OUTPUT -m conntrack --ctstate NEW -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
COMMIT
"""  # noqa: E501 - as iptables-save prints it


def test_iptables_mode_serves_until_ours_does_and_is_removed(
    cluster: Cluster, agent: Agent, services: tuple[Service, ...]
) -> None:
    namespace, service = agent.node.namespace, services[0]
    program = witness.iptables(namespace)
    agent.stop()
    agent.run("cleanup")
    restore(namespace, iptables_mode(service), program)
    every = Ways(cluster, service)
    ways = {
        "pod to ClusterIP": every.cluster_ip("c1"),
        "outside to load balancer": every.balancer("outside"),
    }
    with under_load(cluster, ways) as observed:
        with pytest.raises(namespaces.CommandError, match="still serve"):
            agent.run("cleanup", "--foreign", "kube-proxy-iptables")
        agent.start()
        cluster.wait_applied(*services)
        cluster.wait_for(agent.node, lambda: split_stands(agent))
        said = agent.run("cleanup", "--foreign", "kube-proxy-iptables")
        assert "KUBE-SVC-AAAA" in said
    observed.assert_nothing_failed()
    left = witness.rules(namespace)
    assert "AAAA" not in left
    assert "ctstate NEW -m comment" not in left


def as_kube_router(namespace: str, bound: list[str], node: str) -> None:
    """Make of what was handed over what kube-router's service proxy leaves."""
    program = witness.iptables(namespace)

    def run(*words: str) -> None:
        namespaces.run_inside(namespace, *words)

    for each in (program, program.replace("iptables", "ip6tables")):
        for table in ("nat", "filter"):
            run(each, "-t", table, "-F")
            run(each, "-t", table, "-X")
    run("ipset", "destroy")
    run("ipset", "create", "kube-router-svip-prt", "hash:ip,port", "timeout", "0")
    for line in witness.ipvs(namespace).splitlines():
        if line.startswith("-A -t") and "[" not in line:
            address, _, port = line.split()[2].partition(":")
            run("ipset", "add", "kube-router-svip-prt", f"{address},tcp:{port}")
    run("ip", "link", "add", "kube-dummy-if", "type", "dummy")
    run("ip", "link", "set", "kube-dummy-if", "up")
    for address in bound:
        run("ip", "address", "add", f"{address}/32", "dev", "kube-dummy-if")
        route = ("local", address, "dev", "kube-dummy-if", "table", "local", "src", node)
        run("ip", "route", "replace", *route)
    masquerade = ("-m", "ipvs", "--ipvs", "--vdir", "ORIGINAL", "--vmethod", "MASQ")
    source = ("!", "-s", PODS, "-j", "SNAT", "--to-source", node)
    run(program, "-t", "nat", "-A", "POSTROUTING", *masquerade, *source)
    run("ip", "link", "del", "kube-ipvs0")


def test_kube_router_is_taken_over_and_removed(
    cluster: Cluster, agent: Agent, services: tuple[Service, ...]
) -> None:
    namespace, node = agent.node.namespace, agent.node.address(4)
    agent.stop()
    agent.run("cleanup", "--hand-over")
    bound = [address for service in services for address in service.bound_addresses(4)]
    as_kube_router(namespace, bound, node)
    every = Ways(cluster, services[0])
    ways = {
        "pod to ClusterIP": every.cluster_ip("c1"),
        "node to ClusterIP": every.cluster_ip("node1"),
        "outside to load balancer": every.balancer("outside"),
        "outside to NodePort": every.node_port("outside", "node1"),
    }
    with under_load(cluster, ways) as observed:
        agent.start()
        cluster.wait_applied(*services)
        cluster.wait_for(agent.node, lambda: split_stands(agent))
        said = agent.run("cleanup", "--foreign", "kube-router")
        assert "remove interface kube-dummy-if" in said
    observed.assert_nothing_failed()
    assert "vdir" not in witness.rules(namespace)
    assert "kube-dummy-if" not in namespaces.run_inside(namespace, "ip", "-o", "link")
