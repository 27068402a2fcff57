"""Faults that the state machine and a reading of the loop have found, each once."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from ipvsproxy.core.operations import AddRealServer, AddVirtualServer, Operation, SetRealServer
from ipvsproxy.dataplane import Outcome
from ipvsproxy.kernel.fake import FakeDataplane
from ipvsproxy.model import Address, VirtualServer
from ipvsproxy.objects import KubernetesObject
from tests.unit.builders import Agent, frontend, member, part, service

WEB = frontend()


async def test_a_restart_gives_nothing_to_a_first_service_that_an_older_one_owns() -> None:
    fake = FakeDataplane()
    objects: list[KubernetesObject] = [
        service("kubernetes"),
        part("kubernetes", "10.244.1.9"),
        service("a"),
        part("a", "10.244.1.5"),
    ]
    written = []
    for _ in range(2):
        agent = Agent(fake)
        agent.list_all(objects)
        await agent.settle()
        written.append(len(fake.applied))
    assert written[0] == written[1]
    assert fake.state.real_servers[WEB].keys() == {member("10.244.1.5")}


async def test_a_draining_virtual_server_that_somebody_removes_is_made_again_at_once() -> None:
    fake = FakeDataplane()
    agent = Agent(fake)
    agent.list_all([service(), part("web", "10.244.1.5")])
    await agent.settle()
    assert fake.connect(WEB, Address.parse("10.244.9.9")) is not None
    agent.put(part("web", "10.244.1.6"))
    await agent.settle()
    assert any(isinstance(one, SetRealServer) for one in fake.applied)
    del fake.state.virtual_servers[WEB], fake.state.real_servers[WEB]
    agent.clock.now += 6.0
    await agent.settle()
    assert fake.state.real_servers[WEB].keys() == {member("10.244.1.6")}
    assert isinstance(fake.applied[-1], AddRealServer)


class Thief(FakeDataplane):
    """Somebody else makes a virtual server in the moment in which we would."""

    def __init__(self) -> None:
        super().__init__()
        self.waits = False

    async def apply(self, operations: Sequence[Operation]) -> Sequence[Outcome]:
        for one in operations:
            if self.waits and isinstance(one, AddVirtualServer):
                self.state.virtual_servers[one.key] = VirtualServer("sed")
                self.state.real_servers[one.key] = {}
        return await super().apply(operations)


async def test_nothing_is_due_of_a_climb_at_a_virtual_server_that_is_somebody_elses_by_now() -> (
    None
):
    fake = Thief()
    agent = Agent(fake)
    slowly = (("ipvsproxy.io/slow-start", "60s"),)
    web = msgspec.structs.replace(service(), annotations=slowly)
    agent.list_all([web, part("web", "10.244.1.5")])
    await agent.settle()
    agent.put(part("web", "10.244.1.5", "10.244.1.6"))
    await agent.settle()
    assert fake.state.real_servers[WEB][member("10.244.1.6")].weight == 1
    del fake.state.virtual_servers[WEB], fake.state.real_servers[WEB]
    fake.waits = True
    for _ in range(5):
        agent.clock.now += 2.0
        await agent.settle()
    assert agent.said() == ["Service default/web ForeignVirtualServer"]
    agent.clock.now += 600.0
    await agent.settle()
