"""Whatever somebody else does to the kernel is found within the time that we promise, and mended.

The agent has settled on the fake kernel; then one thing is changed behind its back, at any moment
between two looks, and the clock goes on in small steps. Without a change nothing is written, and
nothing is read as a whole after the first time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import msgspec
import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st

from ipvsproxy.config import Settings
from ipvsproxy.kernel.fake import FakeDataplane, copy_state
from ipvsproxy.model import (
    Address,
    Family,
    Flags,
    IpMember,
    NodeNetwork,
    Protocol,
    RealServer,
    RealServerKey,
    Ruleset,
    State,
    VirtualServer,
    VirtualServerKey,
)
from ipvsproxy.objects import Service
from tests.unit.builders import Agent, part, service

PERIOD = 60.0
GLANCE = PERIOD / 12
STEP = 0.5
SERVICES = 6
STRANGE = Address.parse("10.96.7.7")
STRANGE6 = Address.parse("fd00:96::77")
Change: TypeAlias = Callable[[State, st.DataObject], None]


@pytest.fixture(autouse=True, scope="module")
def _no_log() -> Iterator[None]:
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    yield
    structlog.configure(**before)


def both(index: int) -> Service:
    addresses = (Address.parse(f"10.96.0.{index}"), Address.parse(f"fd00:96::{index}"))
    return msgspec.structs.replace(service(f"s{index}"), cluster_ips=addresses)


async def settled(fake: FakeDataplane, period: float = PERIOD) -> Agent:
    settings = Settings(node_name="node-a", sync_period=period, ipvs_tcp_timeout=900)
    agent = Agent(fake, settings=settings)
    for index in range(1, SERVICES + 1):
        six = msgspec.structs.replace(
            part(f"s{index}", f"fd00:1::{index}", name=f"s{index}-6"), family=Family.IPV6
        )
        agent.put(both(index), part(f"s{index}", f"10.244.1.{index}", f"10.244.2.{index}"), six)
    agent.list_all()
    await agent.settle()
    return agent


async def run(agent: Agent, seconds: float, *, until: Callable[[], bool] | None = None) -> float:
    """Let time pass in small steps; give the seconds after which `until` was so."""
    begun = agent.clock.now
    while agent.clock.now < begun + seconds and not (until and until()):
        agent.clock.now += STEP
        if agent.reconciler.busy:
            await agent.settle()
    return agent.clock.now - begun


def keys_of(state: State, family: Family) -> list[VirtualServerKey]:
    return sorted(key for key in state.virtual_servers if key.family is family)


def remove_virtual_server(family: Family) -> Change:
    def change(state: State, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(keys_of(state, family)))
        del state.virtual_servers[key], state.real_servers[key]

    return change


def add_virtual_server(address: Address) -> Change:
    def change(state: State, data: st.DataObject) -> None:
        key = VirtualServerKey(data.draw(st.sampled_from(Protocol)), address, 80)
        state.virtual_servers[key] = VirtualServer("wlc", persistence_prefix=24)
        state.real_servers[key] = {}

    return change


def set_virtual_server(state: State, data: st.DataObject) -> None:
    key = data.draw(st.sampled_from(sorted(state.virtual_servers)))
    found = state.virtual_servers[key]
    state.virtual_servers[key] = data.draw(
        st.sampled_from(
            (
                found._replace(scheduler="lc"),
                found._replace(persistence=7),
                found._replace(flags=Flags.ONE_PACKET),
            )
        )
    )


def change_real_servers(state: State, data: st.DataObject) -> None:
    key = data.draw(st.sampled_from(sorted(state.real_servers)))
    members = state.real_servers[key]
    member = data.draw(st.sampled_from(sorted(members)))
    match data.draw(st.sampled_from(("remove", "weight", "add"))):
        case "remove":
            del members[member]
        case "weight":
            members[member] = members[member]._replace(weight=0)
        case _:
            members[RealServerKey(member.address, 99)] = RealServer(1)


def unbind(family: Family) -> Change:
    def change(state: State, data: st.DataObject) -> None:
        bound = sorted(address for address in state.addresses if address.family is family)
        state.addresses.discard(data.draw(st.sampled_from(bound)))

    return change


def bind(address: Address) -> Change:
    return lambda state, _: state.addresses.add(address)


def remove_link(state: State, _: st.DataObject) -> None:
    state.link = False
    state.addresses.clear()


def destroy_set(state: State, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(state.sets)))
    del state.sets[name], state.members[name]


def change_members(state: State, data: st.DataObject) -> None:
    filled = sorted(name for name, members in state.members.items() if members)
    name = data.draw(st.sampled_from(filled))
    if data.draw(st.booleans()):
        state.members[name].discard(data.draw(st.sampled_from(sorted(state.members[name]))))
    else:
        state.members["KUBE-IPVS-IPS"].add(IpMember(STRANGE))


def change_rules(state: State, data: st.DataObject) -> None:
    family = data.draw(st.sampled_from(Family))
    found = state.rulesets[family]
    state.rulesets[family] = data.draw(
        st.sampled_from(
            (
                Ruleset(),
                found._replace(jumps=found.jumps[1:]),
                found._replace(chains=found.chains[:-1]),
                found._replace(
                    chains=(
                        found.chains[0]._replace(rules=(("-j", "DROP"),)),
                        *found.chains[1:],
                    )
                ),
            )
        )
    )


def change_settings(state: State, data: st.DataObject) -> None:
    if data.draw(st.booleans()):
        state.sysctls["net/ipv4/vs/conntrack"] = "0"
    else:
        state.timeouts = state.timeouts._replace(tcp=7)


@dataclass(frozen=True)
class Promise:
    """What others do, and the seconds after which it is found, without those of the round."""

    change: Change
    found: float
    mended: bool = True


PROMISES = {
    "a virtual server of IPv4 goes": Promise(remove_virtual_server(Family.IPV4), GLANCE),
    "a virtual server of IPv4 comes": Promise(add_virtual_server(STRANGE), GLANCE, mended=False),
    "the link goes": Promise(remove_link, GLANCE),
    "an address of IPv4 goes": Promise(unbind(Family.IPV4), GLANCE),
    "an address of IPv4 comes": Promise(bind(STRANGE), GLANCE),
    "a set goes": Promise(destroy_set, GLANCE),
    "chains change": Promise(change_rules, PERIOD),
    "settings change": Promise(change_settings, PERIOD),
    "a virtual server of IPv6 goes": Promise(remove_virtual_server(Family.IPV6), PERIOD + GLANCE),
    "a virtual server of IPv6 comes": Promise(
        add_virtual_server(STRANGE6), PERIOD + GLANCE, mended=False
    ),
    "a virtual server changes": Promise(set_virtual_server, PERIOD + GLANCE),
    "real servers change": Promise(change_real_servers, PERIOD + GLANCE),
    "an address of IPv6 goes": Promise(unbind(Family.IPV6), PERIOD + GLANCE),
    "an address of IPv6 comes": Promise(bind(STRANGE6), PERIOD + GLANCE),
    "members change": Promise(change_members, PERIOD + GLANCE),
}


@pytest.mark.parametrize("what", PROMISES)
def test_what_others_do_is_found_in_time_and_mended(what: str) -> None:
    promise = PROMISES[what]

    @settings(max_examples=25, deadline=None)
    @given(data=st.data(), before=st.integers(0, 300))
    def found(data: st.DataObject, before: int) -> None:
        asyncio.run(_found(promise, data, before * STEP))

    found()


async def _found(promise: Promise, data: st.DataObject, before: float) -> None:
    fake = FakeDataplane()
    agent = await settled(fake)
    await run(agent, before)
    right, dumps = copy_state(fake.state), fake.dumps
    promise.change(fake.state, data)
    fake.traffic.settle()
    seconds = await run(agent, promise.found + STEP, until=lambda: fake.dumps > dumps)
    assert fake.dumps == dumps + 1, f"not found after {seconds} s"
    if promise.mended:
        await agent.settle()
        assert fake.state == right
    writes = fake.writes
    await run(agent, 2 * PERIOD)
    assert fake.dumps == dumps + 1, "what is mended is no reason to read everything again"
    assert fake.writes == writes


@given(period=st.sampled_from((1.0, 7.0, 60.0, 300.0)))
@settings(max_examples=8, deadline=None)
def test_when_nobody_does_anything_nothing_is_written_nor_read_as_a_whole(period: float) -> None:
    asyncio.run(_idle(period))


async def _idle(period: float) -> None:
    fake = FakeDataplane()
    fake.state.network = NodeNetwork({"eth0": frozenset({Address.parse("192.0.2.1")})})
    agent = await settled(fake, period)
    dumps, writes = fake.dumps, fake.writes
    await run(agent, 4 * period)
    assert (fake.dumps, fake.writes) == (dumps, writes)
    assert agent.reconciler.looks["rounds"] >= 2
