"""What a change costs, in counts that are the same on every machine; seconds are for `make bench`.

An operation of the IPVS table or on an address is a netlink message; those on sets, chains and
conntrack launch programs (ipvsproxy.kernel.linux).
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from bench.inner import everything_new
from bench.workload import Size
from ipvsproxy.core.operations import (
    AddMember,
    AddRealServer,
    AddVirtualServer,
    BindAddress,
    CreateSet,
    Operation,
    RemoveMember,
    RemoveRealServer,
    RemoveVirtualServer,
    SetRealServer,
    SetVirtualServer,
    UnbindAddress,
)
from ipvsproxy.dataplane import Outcome
from ipvsproxy.kernel.fake import FakeDataplane
from ipvsproxy.model import Address, RealServer
from ipvsproxy.objects import Endpoint, EndpointSlice
from tests.unit.builders import Agent, frontend, member, part, service

SERVICES = 30
WEB = frontend("10.96.1.7")
MESSAGES = (
    *(AddVirtualServer, SetVirtualServer, RemoveVirtualServer),
    *(AddRealServer, SetRealServer, RemoveRealServer, BindAddress, UnbindAddress),
)


class CountedDataplane(FakeDataplane):
    """A fake that remembers what came together in one call."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Sequence[Operation]] = []

    async def apply(self, operations: Sequence[Operation]) -> Sequence[Outcome]:
        self.calls.append(operations)
        return await super().apply(operations)

    @property
    def programs(self) -> int:
        """Launched at the least: one for the members that come in one call, one for each other."""
        with_members = sum(
            any(isinstance(one, AddMember | RemoveMember | CreateSet) for one in call)
            for call in self.calls
        )
        others = sum(
            not isinstance(one, (*MESSAGES, AddMember, RemoveMember, CreateSet))
            for one in self.applied
        )
        return with_members + others


def endpoints(index: int) -> EndpointSlice:
    return part(f"s{index}", f"10.244.{index}.1", f"10.244.{index}.2")


def list_all(agent: Agent, count: int = SERVICES) -> None:
    for index in range(count):
        agent.put(service(f"s{index}", f"10.96.{1 + index // 200}.{index % 200}"))
        agent.put(endpoints(index % 200) if index < 200 else part(f"s{index}", "10.245.0.1"))
    agent.list_all()


async def settled(fake: CountedDataplane, count: int = SERVICES) -> Agent:
    agent = Agent(fake)
    list_all(agent, count)
    await agent.settle()
    assert len(fake.state.virtual_servers) == count
    return agent


async def spent(agent: Agent, fake: CountedDataplane, *changed: EndpointSlice) -> Counter[str]:
    """Carry out a change; give what it cost, and leave its operations in `fake.applied`.

    Operations, dumps, virtual servers that were read, programs, Services that were translated.
    """
    fake.applied.clear()
    fake.calls.clear()
    before = (fake.writes, fake.dumps, fake.reads)
    agent.put(*changed)
    translated = 0
    while agent.reconciler.busy:
        translated += (await agent.reconciler.cycle()).translated
    after = (fake.writes, fake.dumps, fake.reads)
    names = ("writes", "dumps", "reads")
    counts = {name: new - old for name, new, old in zip(names, after, before, strict=True)}
    return Counter({**counts, "programs": fake.programs, "translated": translated})


async def test_the_same_objects_again_cost_nothing() -> None:
    fake = CountedDataplane()
    agent = await settled(fake)
    assert not (await spent(agent, fake, *map(endpoints, range(SERVICES)))).total()


async def test_a_restart_with_nothing_changed_reads_once_and_writes_nothing() -> None:
    fake = CountedDataplane()
    await settled(fake)
    agent = Agent(fake)
    list_all(agent)
    assert +(await spent(agent, fake)) == {"dumps": 1, "translated": SERVICES}


async def test_an_audit_that_finds_nothing_reads_once_and_writes_nothing() -> None:
    fake = CountedDataplane()
    agent = await settled(fake)
    agent.reconciler.audit_soon()
    assert +(await spent(agent, fake)) == {"dumps": 1}


async def test_an_endpoint_that_comes_is_one_message() -> None:
    fake = CountedDataplane()
    agent = await settled(fake)
    changed = part("s7", "10.244.7.1", "10.244.7.2", "10.244.7.3")
    assert +(await spent(agent, fake, changed)) == {"writes": 1, "translated": 1}
    assert fake.applied == [AddRealServer(WEB, member("10.244.7.3"), RealServer(1))]


async def test_an_endpoint_that_is_replaced_is_three_messages_and_one_reading() -> None:
    fake = CountedDataplane()
    agent = await settled(fake)
    changed = part("s7", "10.244.7.1", "10.244.7.3")
    assert +(await spent(agent, fake, changed)) == {"writes": 3, "reads": 1, "translated": 1}
    assert fake.applied == [
        AddRealServer(WEB, member("10.244.7.3"), RealServer(1)),
        SetRealServer(WEB, member("10.244.7.2"), RealServer(0)),
        RemoveRealServer(WEB, member("10.244.7.2")),
    ]


async def test_local_endpoints_that_come_launch_one_program_however_many_they_are() -> None:
    fake = CountedDataplane()
    agent = await settled(fake)
    slices = [_with_local(index, f"10.244.99.{index}") for index in range(1, 6)]
    cost = await spent(agent, fake, *slices)
    assert +cost == {"writes": 10, "programs": 1, "translated": 5}


def _with_local(index: int, address: str) -> EndpointSlice:
    before = endpoints(index)
    local = Endpoint(Address.parse(address), node_name="node-a")
    return msgspec.structs.replace(before, endpoints=(*before.endpoints, local))


@pytest.mark.parametrize(
    "changed",
    [part("s7", "10.244.7.1", "10.244.7.2", "10.244.7.3"), part("s7", "10.244.7.1", "10.244.7.3")],
    ids=["added", "replaced"],
)
async def test_a_change_costs_the_same_in_a_cluster_of_any_size(changed: EndpointSlice) -> None:
    small, large = [await _calls(count, changed) for count in (20, 400)]
    assert large <= small * 1.02


async def _calls(count: int, changed: EndpointSlice) -> int:
    """Count the calls of functions that a change makes in a cluster of `count` Services."""
    fake = CountedDataplane()
    agent = await settled(fake, count)
    calls = 0

    def count_call(_frame: object, event: str, _argument: Any) -> None:
        nonlocal calls
        calls += event in {"call", "c_call"}

    sys.setprofile(count_call)
    try:
        await spent(agent, fake, changed)
    finally:
        sys.setprofile(None)
    assert fake.writes
    return calls


def test_what_steps_wait_for_grows_with_the_cluster_and_no_faster() -> None:
    small, large = [
        sum(
            len(step.needs) + len(step.needs_any) + len(step.follows)
            for step in everything_new(Size(services, 5)).steps
        )
        for services in (100, 400)
    ]
    assert large <= 4.2 * small
