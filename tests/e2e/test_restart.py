"""The agent is killed, and comes back: the kernel goes on serving, and ends as it should."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from testbed import namespaces, witness
from testbed.client import failures
from testbed.cluster import target
from testbed.manifests import Service, documents, endpoints_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from testbed.agent import Agent
    from testbed.cluster import Cluster
    from testbed.layout import Pod

MANY = 60
"""Services of six virtual servers each: enough that an agent can be caught in the middle."""
FIRST_NUMBER = 1000
POLLS = 20_000


@pytest.fixture
def agent(cluster: Cluster) -> Iterator[Agent]:
    """The first node's agent, which runs again afterwards."""
    agent = cluster.agents["node1"]
    yield agent
    if not agent.running:
        agent.start()


def operations(agent: Agent) -> float:
    """Return how many operations on the kernel's tables the agent says it has tried."""
    counters = agent.metrics()
    return sum(
        value for name, value in counters.items() if name.startswith("ipvsproxy_operations_total")
    )


def cycles_missing(agent: Agent) -> str | None:
    """Say that the agent has not yet completed a cycle; None once it has."""
    try:
        counters = agent.metrics()
    except OSError as error:
        return f"no metrics yet: {error}"
    completed = sum(
        value
        for name, value in counters.items()
        if name.startswith("ipvsproxy_cycles_total") and "failed" not in name
    )
    return None if completed else "no cycle yet"


def test_a_restart_with_nothing_changed_writes_nothing(
    cluster: Cluster, services: dict[str, Service], agent: Agent
) -> None:
    before = witness.everything(agent.node.namespace)
    agent.kill()
    agent.start()
    cluster.wait_for(agent.node, lambda: cycles_missing(agent))
    cluster.wait_applied(*services.values())
    assert operations(agent) == 0
    assert witness.everything(agent.node.namespace) == before


def test_traffic_goes_on_without_an_agent(
    cluster: Cluster, services: dict[str, Service], agent: Agent
) -> None:
    client, where = cluster.layout.pod("c1"), target(services["rr"])
    with cluster.traffic.hold(client, where, 4) as held:
        agent.kill()
        assert not failures(cluster.traffic.ask(client, where, 40))
        assert not failures([one.talk() for one in held])


def bound_addresses(namespace: str) -> int:
    """Count the IPv6 addresses of kube-ipvs0, by a read of one file: no process."""
    with namespaces.inside(namespace):
        lines = Path("/proc/thread-self/net/if_inet6").read_text().splitlines()
    return sum(line.endswith("kube-ipvs0") and line.startswith("fd00") for line in lines)


def kill_in_the_middle(agent: Agent, before: int) -> int:
    """Kill an agent while it binds addresses; return how many it had bound of those to come."""
    for _ in range(POLLS):
        bound = bound_addresses(agent.node.namespace) - before
        if bound > 0:
            agent.kill()
            return bound_addresses(agent.node.namespace) - before
    pytest.fail("the agent began nothing")


def test_an_agent_killed_in_the_middle_is_continued_without_a_loss(
    cluster: Cluster, services: dict[str, Service], old: tuple[Pod, ...], agent: Agent
) -> None:
    client, where = cluster.layout.pod("c1"), target(services["rr"])
    many = [
        Service(f"many-{number}", number, endpoints_of(old), "wlc")
        for number in range(FIRST_NUMBER, FIRST_NUMBER + MANY)
    ]
    before = bound_addresses(agent.node.namespace)
    with (
        cluster.traffic.hold(client, where, 4) as held,
        cluster.traffic.load(client, where, workers=1) as load,
    ):
        cluster.folder.write("many", [one for service in many for one in documents(service)])
        assert 0 < kill_in_the_middle(agent, before) < MANY
        agent.start()
        cluster.wait_applied(*services.values(), *many)
        assert not failures([one.talk() for one in held])
    assert not failures(load.replies)
    here, there = (witness.everything(node.namespace) for node in cluster.layout.nodes)
    assert here["ipvs"] == there["ipvs"]
    assert not failures(cluster.traffic.ask(client, target(many[-1], family=6), 4))
    (cluster.folder.path / "many.yaml").unlink()
