"""Looks at the connections of draining real servers, when something is wrong."""

from __future__ import annotations

import pytest

from ipvsproxy.core.pieces import Pieces
from ipvsproxy.core.plan import Batch, Target, plan_in_pieces
from ipvsproxy.kernel.fake import FakeDataplane
from ipvsproxy.model import Address, State
from ipvsproxy.reconciler import planning as planning_module
from tests.unit.builders import Agent, frontend, member, part, service

WEB = frontend()


async def test_a_mistake_in_planning_what_drains_leaves_the_agent_at_rest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fake = FakeDataplane()
    agent = Agent(fake)
    agent.list_all([service(), part("web", "10.244.1.1")])
    await agent.settle()
    connection = fake.connect(WEB, Address.parse("10.244.9.9"))
    assert connection is not None
    agent.put(part("web", "10.244.1.2"))
    await agent.settle()
    assert agent.reconciler.draining == {WEB: {member("10.244.1.1")}}

    def planning(target: Target, state: State, seed: bytes) -> Pieces[Batch]:
        if WEB in target.virtual_servers:
            raise ZeroDivisionError("it divides by zero")
        return (yield from plan_in_pieces(target, state, seed))

    monkeypatch.setattr(planning_module, "plan_in_pieces", planning)
    agent.clock.now += 1
    await agent.settle()
    assert agent.said() == ["Service default/web InternalError"]
    monkeypatch.undo()
    fake.disconnect(connection)
    agent.clock.now += 10
    await agent.settle()
    assert fake.state.real_servers[WEB].keys() == {member("10.244.1.2")}
    assert agent.reconciler.draining == {}
