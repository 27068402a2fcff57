"""A pod that takes no connection although Kubernetes says ready is taken out, and comes back."""

from __future__ import annotations

import contextlib
import time
from functools import partial
from typing import TYPE_CHECKING

from testbed.applied import missing
from testbed.client import distribution, failures
from testbed.cluster import target
from testbed.manifests import endpoints_of
from tests.e2e.test_changes import LEAST_REPLIES, still_there

if TYPE_CHECKING:
    from collections.abc import Callable

    from testbed.cluster import Cluster
    from testbed.layout import Pod
    from testbed.manifests import Service

OPTIONS = "interval=1s, timeout=500ms, rise=2, fall=2, jitter=0%"
DETECTED_SECONDS = 2 * 1 + 0.5
SLACK_SECONDS = 8.0
"""The guest has one processor, on which all pods, clients and two agents run."""
HELD = 4


def wait_for(cluster: Cluster, service: Service, pods: tuple[Pod, ...]) -> float:
    """Wait until every node sends new connections to these pods only; say how long it took."""
    began = time.monotonic()
    expected = service.with_endpoints(endpoints_of(pods))
    for node in cluster.layout.nodes:
        cluster.wait_for(node, partial(missing, node, (expected,)))
    return time.monotonic() - began


def test_a_pod_that_takes_no_connection_is_taken_out_and_comes_back(
    cluster: Cluster, own: Callable[..., list[Service]], old: tuple[Pod, ...]
) -> None:
    client, traffic, [made] = cluster.layout.pod("c1"), cluster.traffic, own("rr")
    service, where = made.checked("tcp", OPTIONS), target(made)
    cluster.apply(service)
    with traffic.hold(client, where, HELD) as held:
        with traffic.load(client, where) as load:
            traffic.refuse(old[0].name)
            took = wait_for(cluster, service, old[1:])
        assert took <= DETECTED_SECONDS + SLACK_SECONDS
        failed = failures(load.replies)
        assert len(failed) <= len(load.replies) / len(old) + 2
        with traffic.load(client, where) as load:
            replies = traffic.ask(client, where, 60)
            assert not failures(replies)
            assert set(distribution(replies)) == {pod.name for pod in old[1:]}
            assert still_there(held)
            traffic.listen(old[0].name)
            took = wait_for(cluster, service, old)
        assert took <= DETECTED_SECONDS + SLACK_SECONDS
        assert not failures(load.replies)
        assert len(load.replies) >= LEAST_REPLIES
        assert len(distribution(traffic.ask(client, where, 40))) == len(old)


def test_when_all_pods_seem_dead_none_is_taken_out_and_a_restart_keeps_who_was(
    cluster: Cluster, own: Callable[..., list[Service]], old: tuple[Pod, ...]
) -> None:
    [made] = own("rr")
    service = made.checked("tcp", OPTIONS)
    cluster.apply(service)
    cluster.traffic.refuse(old[0].name)
    wait_for(cluster, service, old[1:])
    agent = cluster.agents["node1"]
    agent.kill()
    agent.start()
    wait_until_synced(cluster)
    wait_for(cluster, service, old[1:])
    for pod in old[1:]:
        cluster.traffic.refuse(pod.name)
    wait_for(cluster, service, old)
    assert ignored(cluster) == 1
    cluster.apply(made)
    assert ignored(cluster) == 0


def ignored(cluster: Cluster) -> float:
    """Count the Services whose checks node1 passes over."""
    return cluster.agents["node1"].metrics()['ipvsproxy_conditions{type="HealthChecksIgnored"}']


def wait_until_synced(cluster: Cluster) -> None:
    """Wait until the agent of node1 has carried out all that it read at its start."""
    agent = cluster.agents["node1"]

    def lacking() -> str | None:
        with contextlib.suppress(OSError):
            if agent.metrics().get("ipvsproxy_health_check_targets"):
                return None
        return "it probes nobody yet"

    cluster.wait_for(agent.node, lacking)


def test_a_check_of_what_no_pod_answers_takes_nobody_out(
    cluster: Cluster, own: Callable[..., list[Service]], old: tuple[Pod, ...]
) -> None:
    """The pods of the testbed speak no HTTP, so that all of them fail."""
    [made] = own("rr")
    service = made.checked("http:/healthz", OPTIONS)
    cluster.apply(service)
    agent = cluster.agents["node1"]

    def lacking() -> str | None:
        return None if ignored(cluster) else "nobody fails yet"

    cluster.wait_for(agent.node, lacking)
    client = cluster.layout.pod("c1")
    replies = cluster.traffic.ask(client, target(service), 20)
    assert not failures(replies)
    assert set(distribution(replies)) == {pod.name for pod in old}
