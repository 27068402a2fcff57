"""A server elsewhere takes connections only while its frontend's clients are masqueraded."""

from __future__ import annotations

import pytest

from ipvsproxy.core.drain import Wanted
from ipvsproxy.core.foundation import Foundation
from ipvsproxy.core.members import SetMember
from ipvsproxy.core.operations import (
    AddMember,
    AddRealServer,
    Operation,
    RemoveMember,
    SetRealServer,
)
from ipvsproxy.core.plan import Batch, Target, plan
from ipvsproxy.core.sets import (
    EXTERNAL_IP,
    EXTERNAL_IP_LOCAL,
    LOAD_BALANCER_LOCAL,
    frontend_member,
)
from ipvsproxy.model import (
    Address,
    Protocol,
    RealServer,
    RealServerKey,
    State,
    VirtualServer,
    VirtualServerKey,
)

KEY = VirtualServerKey(Protocol.TCP, Address.parse("203.0.113.5"), 80)
HERE = RealServerKey(Address.parse("10.244.1.5"), 8080)
ELSEWHERE = RealServerKey(Address.parse("10.244.2.5"), 8080)
MEMBER = frontend_member(KEY)
LOCAL = {LOAD_BALANCER_LOCAL: True, EXTERNAL_IP_LOCAL: True, EXTERNAL_IP: False}
"""Sets in which a frontend of external policy Local is, and is not."""


def planned(name: str, *, to_local: bool) -> Batch:
    """Plan the change of the external policy, as far as one set is concerned."""
    now = [HERE, ELSEWHERE] if to_local else [HERE]
    member_now = LOCAL[name] is not to_local
    state = State(
        virtual_servers={KEY: VirtualServer("rr")},
        real_servers={KEY: {one: RealServer(1) for one in now}},
        members={name: {MEMBER} if member_now else set()},
    )
    real_servers = {HERE: RealServer(1), ELSEWHERE: RealServer(0 if to_local else 1)}
    wanted = Wanted(VirtualServer("rr"), real_servers, frozenset({ELSEWHERE}))
    members: dict[SetMember, bool] = {(name, MEMBER): not member_now}
    return plan(Target(Foundation({}, {}, {}, 1 << 24), {KEY: wanted}, members=members), state)


def waits(batch: Batch, later: type[Operation], earlier: type[Operation]) -> bool:
    """Whether the step of one kind waits for that of another."""
    position = {type(step.operation): place for place, step in enumerate(batch.steps)}
    step = batch.steps[position[later]]
    return position[earlier] in (*step.needs, *step.follows)


@pytest.mark.parametrize("name", [EXTERNAL_IP, LOAD_BALANCER_LOCAL])
def test_masquerading_begins_before_a_server_elsewhere_is_added(name: str) -> None:
    batch = planned(name, to_local=False)
    assert waits(batch, AddRealServer, RemoveMember if LOCAL[name] else AddMember)


@pytest.mark.parametrize("name", [EXTERNAL_IP, LOAD_BALANCER_LOCAL])
def test_masquerading_ends_after_the_last_server_elsewhere_is_lowered(name: str) -> None:
    batch = planned(name, to_local=True)
    assert waits(batch, AddMember if LOCAL[name] else RemoveMember, SetRealServer)
