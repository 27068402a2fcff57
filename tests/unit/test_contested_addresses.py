"""Two Services that want the same address and port: what is said of them, and to whom."""

from __future__ import annotations

import msgspec

from ipvsproxy.kernel.fake import FakeDataplane
from ipvsproxy.model import Address
from ipvsproxy.objects import Service
from ipvsproxy.store import Gone, Listed
from tests.unit.builders import Agent, service, service_reference

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
