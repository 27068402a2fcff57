"""What follows from a verdict: connections, flapping, who is probed, and what an operator sees."""

from __future__ import annotations

import contextlib
from functools import partial
from typing import TYPE_CHECKING

from testbed import witness
from testbed.backend import Web
from testbed.client import distribution, failures
from testbed.cluster import target
from testbed.manifests import SERVICE_PORT, endpoints_of
from tests.e2e.test_health_checks import OPTIONS, ignored, wait_for
from tests.e2e.test_weights import weights_in

if TYPE_CHECKING:
    from collections.abc import Callable

    from testbed.cluster import Cluster
    from testbed.layout import Node, Pod
    from testbed.manifests import Service

    Own = Callable[..., list[Service]]

FLAPS = 6
PROBES = 3


def test_connections_of_an_unhealthy_endpoint_stay_or_are_cut_as_is_asked_for(
    cluster: Cluster, own: Own, old: tuple[Pod, ...]
) -> None:
    client, traffic, made = cluster.layout.pod("c1"), cluster.traffic, own("rr", "rr")
    kept = made[0].checked("tcp", OPTIONS)
    cut = made[1].checked("tcp", f"{OPTIONS}, on-failure=cut")
    cluster.apply(kept, cut)
    with (
        traffic.hold(client, target(kept), 4) as stay,
        traffic.hold(client, target(cut), 4) as end,
    ):
        assert len(distribution(one.first for one in (*stay, *end))) == len(old)
        traffic.refuse(old[0].name)
        for service in (kept, cut):
            wait_for(cluster, service, old[1:])
        assert not failures(traffic.talk(stay))
        replies = traffic.talk(end)
        [failure] = failures(replies)
        assert failure.reason == "Connection reset by peer"
        assert old[0].name not in distribution(replies)
        assert not failures(traffic.ask(client, target(cut), 20))
        assert not failures(traffic.talk(stay))


def probes_of(cluster: Cluster, node: Node, pod: Pod) -> int:
    """Count what a pod has had from a node's own addresses."""
    seen = cluster.traffic.seen(pod.name)
    return sum(seen[address] for address in (*node.addresses, *node.bridge_addresses))


def few(cluster: Cluster, pod: Pod, counts: dict[str, int], needed: int) -> str | None:
    """Say what is missing until every node has probed a pod so often since `counts`."""
    for node in cluster.layout.nodes:
        had = probes_of(cluster, node, pod) - counts[node.name]
        if had < needed:
            return f"{pod.name} has had {had} probes of {node.name}"
    return None


def test_an_endpoint_that_flaps_stays_as_it_is_and_is_not_written_again_and_again(
    cluster: Cluster, own: Own, old: tuple[Pod, ...]
) -> None:
    client, traffic, [made] = cluster.layout.pod("c1"), cluster.traffic, own("rr")
    service, flapping = made.checked("http:/", OPTIONS), old[0]
    with contextlib.ExitStack() as stack:
        for pod in old:
            stack.enter_context(traffic.answering(pod.name, Web(200)))
        cluster.apply(service)
        agents = [cluster.agents[node.name] for node in cluster.layout.nodes]
        wait_until_probed(cluster, service, len(old))
        writes = [written(agent.metrics()) for agent in agents]
        stack.enter_context(traffic.answering(flapping.name, Web(500), Web(200)))
        counts = {node.name: probes_of(cluster, node, flapping) for node in cluster.layout.nodes}
        with traffic.load(client, target(service)) as load:
            for node in cluster.layout.nodes:
                cluster.wait_for(node, partial(few, cluster, flapping, counts, FLAPS))
        assert not failures(load.replies)
        assert flapping.name in distribution(load.replies)
        assert [written(agent.metrics()) for agent in agents] == writes
        for node in cluster.layout.nodes:
            assert set(weights_in(node, service).values()) == {1}


def written(metrics: dict[str, float]) -> float:
    """Add up the changes of real servers that an agent has carried out."""
    return sum(
        value
        for name, value in metrics.items()
        if name.startswith("ipvsproxy_operations_total") and "RealServer" in name
    )


def wait_until_probed(cluster: Cluster, service: Service, targets: int) -> None:
    """Wait until every node probes so many endpoints, of this Service alone."""
    for node in cluster.layout.nodes:
        agent = cluster.agents[node.name]

        def lacking() -> str | None:
            found = agent.metrics()["ipvsproxy_health_check_targets"]  # noqa: B023 - called at once
            return None if found == targets else f"{service.name}: {found} are probed"

        cluster.wait_for(node, lacking)


def uncounted(node: Node, service: Service) -> str | None:
    """Say so while the kernel of a node has not counted a Service's connections: it takes 2 s."""
    name = f"{service.address(4)}:{SERVICE_PORT}"
    counted = witness.connections(node.namespace, name)
    return None if counted else f"{name} has no connection yet"


def test_only_what_has_traffic_from_a_node_is_probed_by_it(
    cluster: Cluster, own: Own, old: tuple[Pod, ...], new: tuple[Pod, ...]
) -> None:
    """Of two Services one is used, through one of two nodes; the pods say who has asked them."""
    used, idle = own("rr", "rr")
    idle = idle.with_endpoints(endpoints_of(new))
    cluster.apply(idle)
    first, second = cluster.layout.nodes
    assert not failures(cluster.traffic.ask(cluster.layout.pod("c1"), target(used), 8))
    cluster.wait_for(first, partial(uncounted, first, used))
    before = {
        (node.name, pod.name): probes_of(cluster, node, pod)
        for node in cluster.layout.nodes
        for pod in (*old, *new)
    }
    options = "interval=1s, timeout=500ms, only=traffic"
    cluster.publish(used.checked("tcp", options), idle.checked("tcp", options))

    def resting(node: Node) -> float:
        return cluster.agents[node.name].metrics()["ipvsproxy_health_check_resting_targets"]

    def lacking() -> str | None:
        found = [probes_of(cluster, first, pod) - before[first.name, pod.name] for pod in old]
        rest = [resting(node) for node in (first, second)]
        wanted = [len(new), len(old) + len(new)]
        right = min(found) >= PROBES and rest == wanted
        return None if right else f"{found} probes of {first.name}; {rest} endpoints rest"

    cluster.wait_for(first, lacking)
    for pod in new:
        assert probes_of(cluster, first, pod) == before[first.name, pod.name]
    for pod in (*old, *new):
        assert probes_of(cluster, second, pod) == before[second.name, pod.name]
    status = cluster.agents[second.name].run_anyway("status")
    assert f"default/{used.name}: 0 of 4 endpoints probed, the others have no traffic" in status


def test_what_an_operator_sees_of_an_unhealthy_endpoint(
    cluster: Cluster, own: Own, old: tuple[Pod, ...]
) -> None:
    """`status`, `explain` and the metrics, as docs/operations.md names them."""
    [made] = own("rr")
    service = made.checked("tcp", OPTIONS)
    cluster.apply(service)
    cluster.traffic.refuse(old[0].name)
    wait_for(cluster, service, old[1:])
    agent, name = cluster.agents["node1"], f"{old[0].ipv4}:8080"
    lines = agent.run_anyway("status").splitlines()
    [line] = [one for one in lines if name in one and "unhealthy" in one]
    assert line.split()[-1] == "unhealthy"
    said = agent.run_anyway("explain", "--service", f"default/{service.name}")
    assert f"{name}  weight 0  takes no new connection: it fails its health check" in said
    metrics = agent.metrics()
    labels = f'namespace="default",service="{service.name}"'
    assert metrics[f"ipvsproxy_unhealthy_endpoints{{{labels}}}"] == 1
    assert metrics['ipvsproxy_health_checks_total{outcome="refused"}'] >= 2
    assert metrics["ipvsproxy_health_check_targets"] == len(old)
    assert metrics["ipvsproxy_health_checks_under_way_worst"] == 2, "4 of 500 ms in a second"
    assert metrics["ipvsproxy_health_checks_under_way_limit"] >= 100
    for pod in old[1:]:
        cluster.traffic.refuse(pod.name)
    wait_for(cluster, service, old)

    def lacking() -> str | None:
        return None if ignored(cluster) else "nothing is passed over yet"

    cluster.wait_for(agent.node, lacking)
    said = agent.run_anyway("status")
    assert "4 of 4 endpoints of port tcp (IPv4) fail their health check from this node" in said
