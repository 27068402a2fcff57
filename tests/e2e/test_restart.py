"""The agent is killed, and comes back: the kernel goes on serving, and ends as it should."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from testbed import namespaces, witness
from testbed.client import failures
from testbed.cluster import Cluster, target
from testbed.layout import lay_out
from testbed.manifests import Service, documents, endpoints_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from testbed.agent import Agent
    from testbed.layout import Layout

MANY = 300
"""Services: enough that an agent can be caught in the middle."""
FIRST_NUMBER = 1000
POLLS = 50_000
MENDED_SECONDS = 15
LEAST_REPLIES = 20
"""Fewer under a load say nothing: it ran beside too little of what happened."""


@pytest.fixture(scope="module")
def layout() -> Layout:
    """A cluster of this module's own: in it nothing drains but what these tests leave."""
    return lay_out({"node1": ("a1", "c1"), "node2": ("a2",)}, prefix="restart-")


@pytest.fixture(scope="module")
def service(layout: Layout) -> Service:
    """A Service that is served all the time."""
    return Service("served", 10, endpoints_of([layout.pod("a1"), layout.pod("a2")]), "rr")


@pytest.fixture(scope="module")
def steered(service: Service) -> tuple[Service, ...]:
    """Services with all that an annotation may say of virtual and real servers."""
    sticky = replace(service, name="sticky", number=11, scheduler="mh", affinity_seconds=600)
    single = replace(service, name="single", number=12, protocols=("UDP",))
    return (
        sticky.annotated(
            scheduler_flags="mh-port", affinity_prefix="24,64", connection_limit="100,75"
        ),
        single.annotated(one_packet="one-way", drain_deadline="1m"),
    )


@pytest.fixture(scope="module")
def cluster(
    layout: Layout,
    service: Service,
    steered: tuple[Service, ...],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Cluster]:
    """The cluster with both agents running and the Service applied."""
    with Cluster(layout, tmp_path_factory.mktemp("restart")) as cluster:
        cluster.publish(service, *steered)
        cluster.start_agents()
        cluster.wait_applied(service, *steered)
        yield cluster


@pytest.fixture
def agent(cluster: Cluster) -> Iterator[Agent]:
    """The first node's agent, which runs again afterwards."""
    agent = cluster.agents["node1"]
    yield agent
    if not agent.running:
        agent.start()
        cluster.wait_for(agent.node, lambda: cycles_missing(agent))


def operations(agent: Agent) -> float:
    """Return how many operations on the kernel's tables the agent says it has tried."""
    counters = agent.metrics()
    return sum(
        value for name, value in counters.items() if name.startswith("ipvsproxy_operations_total")
    )


def drift(agent: Agent) -> float:
    """Return how many differences the agent says that it has found and not made."""
    counters = agent.metrics()
    return sum(value for name, value in counters.items() if "ipvsproxy_drift_total" in name)


def cycles_missing(agent: Agent) -> str | None:
    """Say that the agent has not yet completed a cycle; None once it has."""
    try:
        counters = agent.metrics()
    except OSError as error:
        return f"no metrics yet: {error}"
    completed = sum(
        value for name, value in counters.items() if name.startswith("ipvsproxy_cycles_total")
    )
    return None if completed else "no cycle yet"


def test_a_restart_with_nothing_changed_writes_nothing(
    cluster: Cluster, service: Service, agent: Agent
) -> None:
    cluster.wait_for(agent.node, lambda: cycles_missing(agent))
    before = witness.everything(agent.node.namespace)
    agent.kill()
    agent.start()
    cluster.wait_for(agent.node, lambda: cycles_missing(agent))
    cluster.wait_applied(service)
    assert operations(agent) == 0
    assert witness.everything(agent.node.namespace) == before


@pytest.mark.parametrize(
    "command",
    [
        ("ipvsadm", "-C"),
        ("ip", "link", "delete", "kube-ipvs0"),
        ("ip", "address", "flush", "dev", "kube-ipvs0"),
    ],
    ids=" ".join,
)
def test_what_another_program_takes_away_is_there_again_within_seconds(
    cluster: Cluster, agent: Agent, command: tuple[str, ...]
) -> None:
    """docs/operations.md, "What others change": 5 s; the guest's programs take some more."""
    namespace = agent.node.namespace
    before, found = witness.everything(namespace), drift(agent)
    namespaces.run_inside(namespace, *command)
    begun = time.monotonic()
    cluster.wait_for(
        agent.node, lambda: None if drift(agent) > found else "that something is gone is not seen"
    )
    assert time.monotonic() - begun < MENDED_SECONDS
    cluster.wait_for(
        agent.node,
        lambda: None if witness.everything(namespace) == before else "it is not all there again",
    )


def test_traffic_goes_on_without_an_agent(cluster: Cluster, service: Service, agent: Agent) -> None:
    client, where = cluster.layout.pod("c1"), target(service)
    with cluster.traffic.hold(client, where, 4) as held:
        agent.kill()
        assert not failures(cluster.traffic.ask(client, where, 40))
        assert not failures([one.talk() for one in held])


def count_lines(namespace: str, name: str, word: str) -> int:
    """Count lines with a word in a file of /proc/net: a read, and no process."""
    with namespaces.inside(namespace):
        text = (Path("/proc/thread-self/net") / name).read_text()
    return sum(word in line for line in text.splitlines())


def bound(agent: Agent) -> int:
    """Count the IPv6 service addresses that a node has bound."""
    return count_lines(agent.node.namespace, "if_inet6", "kube-ipvs0")


def kill_in_the_middle(agent: Agent) -> None:
    """Kill an agent as soon as it has created one of the virtual servers that use wlc."""
    for _ in range(POLLS):
        if count_lines(agent.node.namespace, "ip_vs", "wlc"):
            agent.kill()
            return
    pytest.fail("the agent began nothing")


def test_an_agent_killed_in_the_middle_is_continued_without_a_loss(
    cluster: Cluster, service: Service, agent: Agent
) -> None:
    client, where = cluster.layout.pod("c1"), target(service)
    many = [
        Service(f"many-{number}", number, service.endpoints, "wlc", protocols=("TCP",))
        for number in range(FIRST_NUMBER, FIRST_NUMBER + MANY)
    ]
    before = bound(agent)
    with (
        cluster.traffic.hold(client, where, 4) as held,
        cluster.traffic.load(client, where, workers=1) as load,
    ):
        cluster.folder.write("many", [one for other in many for one in documents(other)])
        kill_in_the_middle(agent)
        assert bound(agent) - before < MANY
        agent.start()
        cluster.wait_applied(service, *many)
        assert not failures([one.talk() for one in held])
    assert not failures(load.replies)
    assert len(load.replies) >= LEAST_REPLIES
    here, there = (witness.everything(node.namespace) for node in cluster.layout.nodes)
    assert here["ipvs"] == there["ipvs"]
    assert not failures(cluster.traffic.ask(client, target(many[-1], family=6), 4))
