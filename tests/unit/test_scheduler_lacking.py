"""A scheduler that the kernel lacks: nothing is written for it, whatever weights it would have."""

from __future__ import annotations

import msgspec
import pytest

from ipvsproxy.kernel.fake import FakeDataplane
from ipvsproxy.model import Scheduler
from ipvsproxy.objects import Service
from tests.unit.builders import Agent, part, service

PODS = ("10.244.1.1", "10.244.1.2")
SCHEDULERS = frozenset(Scheduler) - {Scheduler.TWOS}


def web(scheduler: str) -> Service:
    annotations = {"ipvsproxy.io/scheduler": scheduler, "ipvsproxy.io/weights": "node=node-a:30"}
    return msgspec.structs.replace(service(), annotations=tuple(annotations.items()))


@pytest.mark.parametrize("before", ["mh", "ovf", "lblc"])
async def test_weights_stay_in_the_numbers_of_the_scheduler_that_stays(before: str) -> None:
    """To mh, ovf and lblc weights are given as they are written, to others divided."""
    fake = FakeDataplane(schedulers=SCHEDULERS)
    agent = Agent(fake)
    endpoints = part("web", *PODS)
    here = tuple(msgspec.structs.replace(one, node_name="node-a") for one in endpoints.endpoints)
    endpoints = msgspec.structs.replace(endpoints, endpoints=here)
    agent.list_all([web(before), endpoints])
    await agent.settle()
    (servers,) = fake.state.real_servers.values()
    assert {one.weight for one in servers.values()} == {30}
    done = list(fake.applied)
    agent.put(web("twos"))
    await agent.settle()
    assert agent.said() == ["Service default/web SchedulerUnavailable"]
    for _ in range(2):
        agent.clock.now += 301
        await agent.settle()
    again = Agent(fake)
    again.list_all([web("twos"), endpoints])
    await again.settle()
    assert fake.applied == done
