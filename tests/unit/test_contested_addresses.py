"""Two Services that want the same address and port: what is said of them, and to whom."""

from __future__ import annotations

import msgspec

from ipvsproxy.kernel.fake import FakeDataplane
from ipvsproxy.model import Address, Flags, RealServer, VirtualServer
from ipvsproxy.objects import Service
from ipvsproxy.store import Gone, Listed
from tests.unit.builders import Agent, frontend, member, part, service, service_reference

SHARED = Address.parse("203.0.113.9")


def claiming(name: str, address: str, *, created: float) -> Service:
    return msgspec.structs.replace(service(name, address), external_ips=(SHARED,), created=created)


async def contested() -> Agent:
    """Give an agent with two Services that want the same of one address, b being the younger."""
    agent = Agent(FakeDataplane())
    agent.store.apply(Listed("Nodes"))
    agent.list_all(
        [claiming("a", "10.96.0.11", created=1.0), claiming("b", "10.96.0.12", created=2.0)]
    )
    await agent.settle()
    assert agent.said() == ["Service default/b ContestedAddress"]
    return agent


async def test_nothing_is_wrong_any_more_when_the_owner_goes() -> None:
    agent = await contested()
    agent.store.apply(Gone(service_reference("a")))
    await agent.settle()
    assert agent.said() == []


async def test_an_owner_that_is_made_anew_loses_the_address() -> None:
    agent = await contested()
    agent.put(claiming("a", "10.96.0.11", created=3.0))
    await agent.settle()
    assert agent.said() == ["Service default/a ContestedAddress"]


def web(name: str, created: float, *ports: int, scheduler: str) -> Service:
    return msgspec.structs.replace(
        service(name, "10.96.0.10", *ports),
        created=created,
        annotations=(("ipvsproxy.io/scheduler", scheduler),),
    )


async def test_after_a_restart_the_owners_scheduler_is_not_taken_for_the_others() -> None:
    """What is wrong was `rr` until now, which another virtual server of that Service still is."""
    fake = FakeDataplane()
    agent = Agent(fake)
    agent.list_all([web("old", 1.0, 80, scheduler="sh"), web("a", 2.0, 80, 81, scheduler="rr")])
    await agent.settle()
    agent.put(wrong := web("a", 2.0, 80, 81, scheduler="bogus"))
    await agent.settle()
    writes = fake.writes
    restarted = Agent(fake)
    restarted.list_all([wrong, web("old", 1.0, 80, scheduler="sh")])
    await restarted.settle()
    assert fake.writes == writes
    assert fake.state.virtual_servers[frontend(port=81)].scheduler == "rr"


async def test_what_somebody_else_has_made_is_no_last_good_state() -> None:
    fake = FakeDataplane()
    foreign = frontend()
    fake.state.virtual_servers[foreign] = VirtualServer("sh", flags=Flags.ONE_PACKET)
    fake.state.real_servers[foreign] = {}
    agent = Agent(fake)
    agent.list_all([web("a", 2.0, 80, 81, scheduler="bogus")])
    await agent.settle()
    found = fake.state.virtual_servers[frontend(port=81)]
    assert (found.scheduler, found.flags) == ("rr", Flags.NONE)


async def test_a_weight_of_0_that_the_owner_before_had_asked_for_takes_no_service_down() -> None:
    """The new owner has only that endpoint; its weights are wrong, and the agent is a new one."""
    fake = FakeDataplane()
    agent = Agent(fake)
    before = msgspec.structs.replace(service("b", "10.96.0.10"), created=2.0)
    parts = (part("b", "10.244.1.1", name="b-1"), part("b", "10.244.1.2", name="b-2"))
    agent.list_all([before, msgspec.structs.replace(parts[0], weight="0"), parts[1]])
    await agent.settle()
    owner = msgspec.structs.replace(
        service("a", "10.96.0.10"),
        created=1.0,
        annotations=(("ipvsproxy.io/weights", "nonsense"),),
    )
    restarted = Agent(fake)
    restarted.list_all([before, *parts, owner, part("a", "10.244.1.1")])
    await restarted.settle()
    assert fake.state.real_servers[frontend()] == {member("10.244.1.1"): RealServer(1)}
