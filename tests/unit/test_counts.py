"""What a change costs, in counts that are the same on every machine; seconds are for `make bench`.

An operation of the IPVS table or on an address is a netlink message, and so is that on many members
of one set; those on sets themselves, on chains and conntrack launch programs
(ipvsproxy.kernel.linux).
"""

from __future__ import annotations

import gc
import socket
import sys
import tracemalloc
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec
import pytest

from bench.inner import everything_new
from bench.workload import Size
from ipvsproxy.agent.wiring import wire
from ipvsproxy.config import Settings
from ipvsproxy.core.operations import (
    AddMember,
    AddRealServer,
    AddVirtualServer,
    BindAddress,
    CreateSet,
    ForgetFlows,
    Operation,
    RemoveMember,
    RemoveRealServer,
    RemoveVirtualServer,
    SetRealServer,
    SetVirtualServer,
    UnbindAddress,
)
from ipvsproxy.core.parts import (
    Addresses,
    KernelSettings,
    Members,
    Part,
    RealServers,
    Rules,
    VirtualServers,
)
from ipvsproxy.dataplane import DONE, Outcome
from ipvsproxy.kernel import message
from ipvsproxy.kernel.fake import FakeDataplane
from ipvsproxy.kernel.netlink import NetlinkSocket, Request
from ipvsproxy.model import Address, Family, NodeNetwork, Protocol, RealServer, State
from ipvsproxy.objects import Endpoint, EndpointSlice, ServicePort, SlicePort
from ipvsproxy.reconciler import rounds
from ipvsproxy.store import KINDS, Gone, Listed, Put
from tests.unit.builders import Agent, Clock, frontend, member, part, service, service_reference

SERVICES = 30
WEB = frontend("10.96.1.7")
MESSAGES = (
    *(AddVirtualServer, SetVirtualServer, RemoveVirtualServer),
    *(AddRealServer, SetRealServer, RemoveRealServer, BindAddress, UnbindAddress),
    *(AddMember, RemoveMember),
)


class CountedDataplane(FakeDataplane):
    """A fake that remembers what came together in one call."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Sequence[Operation]] = []
        self.networks = 0

    async def network(self) -> NodeNetwork:
        self.networks += 1
        return await super().network()

    async def apply(self, operations: Sequence[Operation]) -> Sequence[Outcome]:
        self.calls.append(operations)
        return await super().apply(operations)

    @property
    def programs(self) -> int:
        """Launched at the least: one for the sets that come in one call, one for each other."""
        with_sets = sum(any(isinstance(one, CreateSet) for one in call) for call in self.calls)
        others = sum(not isinstance(one, (*MESSAGES, CreateSet)) for one in self.applied)
        return with_sets + others

    @property
    def set_messages(self) -> int:
        """Sent for members: one for each set and direction in each call."""
        return sum(
            len(
                {(type(one), one.name) for one in call if isinstance(one, AddMember | RemoveMember)}
            )
            for call in self.calls
        )


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


@pytest.mark.parametrize(("services", "per_period"), [(20, 40), (400, 40)])
async def test_an_idle_minute_costs_the_same_in_a_cluster_of_any_size(
    monkeypatch: pytest.MonkeyPatch, services: int, per_period: int
) -> None:
    """Where there is more than is read in a minute; here that is less than it really is."""
    monkeypatch.setattr(rounds, "PER_PERIOD", per_period)
    fake = CountedDataplane()
    agent = await settled(fake, services)
    await idle(agent, 60)
    fake.applied.clear()
    fake.calls.clear()
    fake.parts.clear()
    before = (fake.dumps, fake.reads, fake.glances, fake.networks)
    await idle(agent, 60)
    after = (fake.dumps, fake.reads, fake.glances, fake.networks)
    assert [new - old for new, old in zip(after, before, strict=True)] == [0, 0, 12, 0]
    assert not fake.calls
    rules = [part for part in fake.parts if isinstance(part, Rules)]
    assert rules == [Rules(Family.IPV4), Rules(Family.IPV6)], "the only programs"
    assert fake.parts.count(KernelSettings()) == 1
    # All parts that weigh, with one that may go beyond: never more than that many real servers,
    # or four times as many of what is light.
    assert _read(fake) <= 4 * (per_period + 50)


async def test_an_idle_minute_covers_ten_thousand_real_servers() -> None:
    fake = CountedDataplane()
    agent = await settled(fake, 400)
    await idle(agent, 60)
    fake.parts.clear()
    await idle(agent, 60)
    keys = [key for one in fake.parts if isinstance(one, RealServers) for key in one.keys]
    assert Counter(keys) == dict.fromkeys(fake.state.virtual_servers, 1)
    sets = [one.name for one in fake.parts if isinstance(one, Members)]
    assert Counter(sets) == dict.fromkeys(fake.state.sets, 1)
    assert fake.parts.count(Addresses()) == fake.parts.count(VirtualServers()) == 1


async def test_no_step_of_an_audit_reads_much() -> None:
    """For a change has to wait for it."""
    fake = CountedDataplane()
    agent = await settled(fake, 400)
    await idle(agent, 60)
    of_parts = [one.keys for one in fake.parts if isinstance(one, RealServers)]
    assert max(map(len, of_parts)) == 50


async def test_a_change_goes_before_what_is_left_of_an_audit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fake = CountedDataplane()
    agent = await settled(fake, 400)
    original = fake.look

    async def look(one: Part) -> State:
        """Have a change come while a part is read."""
        if isinstance(one, VirtualServers):
            agent.put(part("s7", "10.244.7.1", "10.244.7.2", "10.244.7.3"))
            agent.reconciler.wake()
        return await original(one)

    monkeypatch.setattr(fake, "look", look)
    agent.clock.now += 9.9
    await agent.reconciler.cycle()
    assert fake.applied[-1] == AddRealServer(WEB, member("10.244.7.3"), RealServer(1))
    assert fake.parts == [Addresses(), VirtualServers()]
    await agent.settle()
    assert isinstance(fake.parts[2], Members), "the rest comes afterwards"


def _read(fake: CountedDataplane) -> int:
    """Count what was read in parts."""
    state = fake.state
    total = 0
    for one in fake.parts:
        match one:
            case RealServers(keys):
                total += sum(len(state.real_servers[key]) for key in keys)
            case Members(name):
                total += len(state.members[name])
            case Addresses():
                total += len(state.addresses)
            case VirtualServers():
                total += len(state.virtual_servers)
            case _:
                pass
    return total


async def idle(agent: Agent, seconds: int) -> None:
    """Let time pass, second by second."""
    for _ in range(seconds):
        agent.clock.now += 1.0
        while agent.reconciler.busy:
            await agent.reconciler.cycle()


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


async def test_local_endpoints_that_come_launch_nothing_however_many_they_are() -> None:
    fake = CountedDataplane()
    agent = await settled(fake)
    slices = [_with_local(index, f"10.244.99.{index}") for index in range(1, 6)]
    cost = await spent(agent, fake, *slices)
    assert +cost == {"writes": 10, "translated": 5}
    assert fake.set_messages == 1


def _with_local(index: int, address: str) -> EndpointSlice:
    before = endpoints(index)
    local = Endpoint(Address.parse(address), node_name="node-a")
    return msgspec.structs.replace(before, endpoints=(*before.endpoints, local))


async def test_a_service_that_comes_and_goes_concerns_no_other_and_launches_nothing() -> None:
    fake = CountedDataplane()
    agent = await settled(fake)
    agent.put(service("new", "10.96.9.9"))
    cost = await spent(agent, fake, part("new", "10.244.200.1"))
    assert (cost["translated"], cost["programs"], cost["dumps"], cost["reads"]) == (1, 0, 0, 0)
    # A virtual server, its real server, its address; a member each in the ledger, the addresses
    # and who is masqueraded.
    assert cost["writes"] == 6
    assert fake.set_messages == 3
    agent.store.apply(Gone(service_reference("new")))
    cost = await spent(agent, fake)
    assert (cost["translated"], cost["programs"], cost["dumps"]) == (1, 0, 0)
    # The real server is lowered, seen without connections, and goes with the virtual server.
    assert cost["reads"] <= 1
    assert cost["writes"] <= 6


@pytest.mark.parametrize("drains", [1, 4])
async def test_while_a_server_drains_each_poll_is_one_reading(drains: int) -> None:
    """Of its virtual server, and nothing else is read or written."""
    fake = CountedDataplane()
    agent = await settled(fake)
    clients = [Address.parse(f"10.244.9.{number}") for number in range(1, 2 * drains + 1)]
    assert all(fake.connect(WEB, client) is not None for client in clients)
    changed = part("s7", "10.244.7.1", "10.244.7.3")
    assert +(await spent(agent, fake, changed)) == {"writes": 2, "reads": 1, "translated": 1}
    agent.clock.now += 5.0
    assert +(await spent(agent, fake)) == {"reads": 1}


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
    with counted_calls() as calls:
        await spent(agent, fake, changed)
    assert fake.writes
    return calls.total()


@contextmanager
def counted_calls() -> Iterator[Counter[str]]:
    """Count the calls of functions within."""
    calls = Counter[str]()

    def count_call(_frame: object, event: str, _argument: Any) -> None:
        if event in {"call", "c_call"}:
            calls[event] += 1

    sys.setprofile(count_call)
    try:
        yield calls
    finally:
        sys.setprofile(None)


@pytest.mark.parametrize("stage", ["start", "status"])
async def test_a_service_costs_in_proportion_to_its_ports(stage: str) -> None:
    few, many = [await _calls_of_ports(count, stage) for count in (600, 1200)]
    assert many <= few * 2.1


async def _calls_of_ports(count: int, stage: str) -> int:
    """Count the calls that a start or the status make for a Service with so many ports."""
    wiring = wire(Settings(node_name="node-a"), FakeDataplane(), clock=Clock(), wall_clock=Clock())
    wiring.take(Put(service("web", "10.96.0.10", *range(1, count + 1)), "a.yaml"))
    for kind in sorted(KINDS):
        wiring.take(Listed(kind))
    await wiring.reconciler.cycle()  # those that all others wait for
    with counted_calls() as of_start:
        await wiring.reconciler.cycle()
    with counted_calls() as of_status:
        (told,) = (await wiring.status()).services
    assert len(told.frontends) == count
    assert told.frontends[0].port == "port-1"
    return (of_start if stage == "start" else of_status).total()


class Acknowledging(FakeDataplane):
    """A kernel that says yes, and costs nothing itself."""

    async def apply(self, operations: Sequence[Operation]) -> Sequence[Outcome]:
        return [DONE] * len(operations)


async def test_a_service_of_a_cold_start_costs_so_many_calls_and_bytes() -> None:
    """What is decided of it, of two endpoints, and what is kept; tables grow in jumps."""
    few, many = [await _cold_start(count) for count in (200, 700)]
    assert (many["calls"] - few["calls"]) / 500 <= CALLS_OF_A_SERVICE
    assert (many["bytes"] - few["bytes"]) / 500 <= BYTES_OF_A_SERVICE


CALLS_OF_A_SERVICE = 600
BYTES_OF_A_SERVICE = 2700
"""Besides the objects that were read; it was 780 and 2,850 by itself before anybody looked."""


async def _cold_start(count: int) -> Counter[str]:
    """Count what the cycles of a start cost, and what is kept for it."""
    agent = Agent(Acknowledging())
    list_all(agent, count)
    await agent.reconciler.cycle()  # those that all others wait for, and the sets
    tracemalloc.start()
    try:
        with counted_calls() as calls:
            await agent.settle()
        gc.collect()
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    state = agent.reconciler.state
    assert state is not None
    assert len(state.virtual_servers) == count
    return Counter(calls=calls.total(), bytes=kept)


@pytest.mark.parametrize("starting", [0, 3], ids=["all ready", "some starting"])
async def test_an_endpoint_of_a_large_service_costs_what_its_slice_does(starting: int) -> None:
    """For each other slice there are a few calls, and for the endpoints in them none."""
    few, many = [await _replaced(slices, starting) for slices in (10, 40)]
    for_others = many["calls"] - few["calls"]
    assert for_others / 30 <= CALLS_FOR_EACH_SLICE
    many["calls"] = few["calls"] = 0
    assert +few == +many == {"writes": 3, "reads": 1, "translated": 1}


CALLS_FOR_EACH_SLICE = 15
"""In both cycles, the fake's own included."""


async def _replaced(slices: int, starting: int) -> Counter[str]:
    """Replace an endpoint of a Service with slices of 100, where so many are starting."""
    fake = CountedDataplane()
    agent = Agent(fake)
    agent.put(service("s0", "10.96.1.7"))
    agent.list_all(_hundred(index, starting if index else 0) for index in range(slices))
    await agent.settle()
    await spent(agent, fake, _hundred(0, 0, last=100))
    agent.clock.now += 1  # each comes after quiet
    cost = await spent(agent, fake, _hundred(0, 0))
    agent.clock.now += 1
    with counted_calls() as calls:
        await spent(agent, fake, _hundred(0, 0, last=100))
    cost["calls"] = calls.total()
    return cost


def _hundred(index: int, starting: int, last: int = 99) -> EndpointSlice:
    return msgspec.structs.replace(
        part("s0", name=f"s0-{index}"),
        endpoints=tuple(
            Endpoint(Address((10, 244, index, number)), ready=number >= starting)
            for number in (*range(99), last)
        ),
    )


@pytest.mark.parametrize("stage", ["added", "replaced"])
async def test_a_change_allocates_the_same_in_a_cluster_of_any_size(stage: str) -> None:
    """At its highest point: nothing that is as large as the cluster is made for one change."""
    changed = {
        "added": part("s7", "10.244.7.1", "10.244.7.2", "10.244.7.3"),
        "replaced": part("s7", "10.244.7.1", "10.244.7.3"),
    }[stage]
    small, large = [await _allocated(count, changed) for count in (20, 400)]
    assert large <= small * 1.25


async def _allocated(count: int, changed: EndpointSlice) -> int:
    """Give the bytes that a change had allocated at the most, in a cluster of `count` Services."""
    fake = CountedDataplane()
    agent = await settled(fake, count)
    await spent(agent, fake, changed)  # tables grow in jumps: this one may, the next does not
    await spent(agent, fake, endpoints(7))
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        await spent(agent, fake, changed)
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


async def test_changes_that_go_to_and_fro_leave_nothing_behind() -> None:
    """Memory is flat under churn: as many objects after hundreds of changes as after a few."""
    fake = CountedDataplane()
    agent = await settled(fake)
    objects: list[int] = []
    for _ in range(3):
        for number in range(40):
            other = part("s7", "10.244.7.1", f"10.244.200.{number + 1}")
            await spent(agent, fake, other)
            await spent(agent, fake, endpoints(7))
        gc.collect()
        objects.append(len(gc.get_objects()))
    assert objects[2] <= objects[1] + 5


async def test_udp_endpoints_that_leave_have_their_flows_forgotten_by_one_program_each() -> None:
    """And TCP ones by none; where there are many, conntrack lists its table first."""
    fake = CountedDataplane()
    agent = await settled(fake)
    dns = service("dns", "10.96.9.9")
    agent.put(msgspec.structs.replace(dns, ports=(ServicePort("", Protocol.UDP, 53),)))
    await spent(agent, fake, _udp("10.244.9.1", "10.244.9.2"))
    await spent(agent, fake, _udp("10.244.9.1"))
    assert sum(isinstance(one, ForgetFlows) for one in fake.applied) == 1
    await spent(agent, fake, part("s7", "10.244.7.1"))
    assert not any(isinstance(one, ForgetFlows) for one in fake.applied)


def _udp(*addresses: str) -> EndpointSlice:
    ports = (SlicePort("", Protocol.UDP, 53),)
    return msgspec.structs.replace(part("dns", *addresses), ports=ports)


@pytest.mark.parametrize(("requests", "calls"), [(1, 2), (4, 2), (100, 2), (250, 6)])
def test_a_batch_of_netlink_requests_is_two_system_calls(
    monkeypatch: pytest.MonkeyPatch, requests: int, calls: int
) -> None:
    kernel = CountedSocket()
    monkeypatch.setattr(socket, "socket", lambda *_: kernel)
    answers = NetlinkSocket(16).exchange([Request(16, b"four")] * requests)
    assert [one.error for one in answers] == [0] * requests
    assert kernel.calls == calls


class CountedSocket:
    """A netlink socket whose kernel carries everything out, with a count of the calls."""

    def __init__(self) -> None:
        self.calls = 0
        self._last = 0

    def setsockopt(self, *_: object) -> None:
        pass

    def bind(self, _: object) -> None:
        pass

    def send(self, data: bytes) -> int:
        self.calls += 1
        self._last = max(one.sequence for one in message.messages(data))
        return len(data)

    def recvfrom(self, _: int) -> tuple[bytes, tuple[int, int]]:
        self.calls += 1
        return message.frame(2, bytes(4), flags=0, sequence=self._last), (0, 0)


def test_what_steps_wait_for_grows_with_the_cluster_and_no_faster() -> None:
    small, large = [
        sum(
            len(step.needs) + len(step.needs_any) + len(step.follows)
            for step in everything_new(Size(services, 5)).steps
        )
        for services in (100, 400)
    ]
    assert large <= 4.2 * small
