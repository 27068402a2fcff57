"""kube-proxy's measures of changes: how many wait, and how long they took."""

from __future__ import annotations

import msgspec
import pytest

from ipvsproxy.agent.wiring import wire
from ipvsproxy.config import Settings
from ipvsproxy.core.operations import AddRealServer, AddVirtualServer
from ipvsproxy.dataplane import Refusal
from ipvsproxy.kernel.fake import FakeDataplane, FaultyDataplane
from ipvsproxy.objects import EndpointSlice, KubernetesObject, Node, read_endpoint_slice
from ipvsproxy.store import KINDS, Gone, Listed, Put
from tests.unit.builders import Clock, part, service, settle, slice_reference

STARTED = 1_700_000_000.0
NAME = "kubeproxy_sync_proxy_rules"


class Agent:
    """An agent that has started, and its clock on the wall."""

    def __init__(self) -> None:
        self.now = STARTED
        self.kernel = FaultyDataplane(FakeDataplane())
        self.clock = Clock()
        self.wiring = wire(
            Settings(node_name="n"),
            self.kernel,
            clock=self.clock,
            wall_clock=lambda: self.now,
        )

    def put(self, *objects: KubernetesObject) -> None:
        for one in objects:
            self.wiring.take(Put(one, "test"))

    async def settle(self) -> None:
        await settle(self.wiring.reconciler)

    async def value(self, name: str) -> float | None:
        await self.wiring.scrape()
        return self.wiring.metrics.registry.get_sample_value(name)

    async def delays(self) -> tuple[float | None, float | None]:
        """Return how many were observed, and the seconds of all together."""
        name = "kubeproxy_network_programming_duration_seconds"
        return await self.value(f"{name}_count"), await self.value(f"{name}_sum")


@pytest.fixture
async def agent() -> Agent:
    agent = Agent()
    agent.put(service(), Node("n"))
    for kind in KINDS:
        agent.wiring.take(Listed(kind))
    await agent.settle()
    return agent


def triggered(moment: float | None, *addresses: str) -> EndpointSlice:
    return msgspec.structs.replace(part("web", *addresses), triggered=moment)


async def test_a_change_is_pending_until_a_cycle_has_carried_it_out(agent: Agent) -> None:
    assert await agent.value(f"{NAME}_service_changes_total") == 1
    assert await agent.value(f"{NAME}_service_changes_pending") == 0
    agent.put(service("web", "10.96.0.11"), service("other", "10.96.0.12"), part("web", "10.1.0.5"))
    agent.put(part("web", "10.1.0.6"))
    assert await agent.value(f"{NAME}_service_changes_pending") == 2
    assert await agent.value(f"{NAME}_endpoint_changes_pending") == 1
    await agent.settle()
    assert await agent.value(f"{NAME}_service_changes_pending") == 0
    assert await agent.value(f"{NAME}_endpoint_changes_pending") == 0
    assert await agent.value(f"{NAME}_service_changes_total") == 3
    assert await agent.value(f"{NAME}_endpoint_changes_total") == 2


async def test_an_object_that_says_nothing_new_is_no_change_and_a_deletion_is_one(
    agent: Agent,
) -> None:
    agent.put(part("web", "10.1.0.5"), part("web", "10.1.0.5"))
    agent.wiring.take(Gone(slice_reference()))
    agent.wiring.take(Gone(slice_reference()))
    assert await agent.value(f"{NAME}_endpoint_changes_total") == 2


async def test_the_way_of_a_change_is_measured_to_its_end(agent: Agent) -> None:
    agent.put(triggered(STARTED + 10, "10.1.0.5"))
    agent.now = STARTED + 12.5
    assert await agent.delays() == (0, 0)
    await agent.settle()
    assert await agent.delays() == (1, 2.5)
    await agent.settle()
    assert await agent.delays() == (1, 2.5)


async def test_a_refused_change_is_measured_when_it_is_in_the_kernel(agent: Agent) -> None:
    agent.kernel.refuse = lambda one: Refusal.FAILED if isinstance(one, AddRealServer) else None
    agent.put(triggered(STARTED + 10, "10.1.0.5"))
    await agent.settle()
    assert await agent.delays() == (0, 0)
    agent.kernel.refuse = lambda _: None
    agent.now = STARTED + 100
    agent.clock.now += 90
    await agent.settle()
    assert await agent.delays() == (1, 90)


@pytest.mark.parametrize("moment", [None, STARTED - 1])
async def test_what_is_not_told_or_older_than_the_agent_is_not_measured(
    agent: Agent, moment: float | None
) -> None:
    agent.put(triggered(moment, "10.1.0.5"))
    await agent.settle()
    assert await agent.delays() == (0, 0)


async def test_a_clock_that_goes_before_ours_counts_as_no_delay(agent: Agent) -> None:
    agent.put(triggered(STARTED + 10, "10.1.0.5"))
    agent.now = STARTED + 5
    await agent.settle()
    assert await agent.delays() == (1, 0)


@pytest.mark.parametrize(
    ("written", "moment"),
    [
        ("2023-11-14T22:13:20Z", STARTED),
        ("2023-11-14T22:13:20.123456789Z", STARTED + 0.123456),
        ("2023-11-14T23:13:20.5+01:00", STARTED + 0.5),
        ("yesterday", None),
        ("", None),
        (None, None),
    ],
)
def test_the_annotation_is_read_and_nonsense_passed_over(
    written: str | None, moment: float | None
) -> None:
    found = read_endpoint_slice(
        {
            "metadata": {
                "name": "web-1",
                "namespace": "default",
                "labels": {"kubernetes.io/service-name": "web"},
                "annotations": {"endpoints.kubernetes.io/last-change-trigger-time": written},
            },
            "addressType": "IPv4",
        }
    )
    assert found is not None
    assert found.triggered == moment


async def test_there_is_no_last_sync_until_nothing_was_left_undone(agent: Agent) -> None:
    """What waits out its pause after a refusal is no refusal, and is not in the kernel either."""
    last = f"{NAME}_last_timestamp_seconds"
    assert await Agent().value(last) == 0
    assert await agent.value(last) == STARTED
    agent.now = STARTED + 10
    agent.kernel.refuse = lambda one: Refusal.FAILED if isinstance(one, AddVirtualServer) else None
    agent.put(service("other", "10.96.0.12"))
    await agent.settle()
    agent.now = STARTED + 20
    await agent.wiring.reconciler.cycle()
    assert await agent.value(last) == STARTED

    agent.kernel.refuse = lambda _: None
    agent.now = STARTED + 30
    agent.clock.now += 60
    await agent.settle()
    assert await agent.value(last) == STARTED + 30
