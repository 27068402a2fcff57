"""The writer and its shadow of the kernel."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import pytest

from ipvsproxy.core.operations import (
    AddRealServer,
    AddVirtualServer,
    BindAddress,
    CreateLink,
    Operation,
    RemoveRealServer,
    SetRealServer,
    SetVirtualServer,
    describe,
)
from ipvsproxy.core.pieces import whole
from ipvsproxy.core.plan import Batch, Step
from ipvsproxy.dataplane import DataplaneError, Outcome, Reading, Refusal
from ipvsproxy.kernel.fake import ALL_SCHEDULERS, FakeDataplane, FaultyDataplane
from ipvsproxy.model import (
    Chain,
    Family,
    RealServer,
    RealServerKey,
    Ruleset,
    State,
    VirtualServer,
    VirtualServerKey,
)
from ipvsproxy.reconciler.writer import Writer, drift, virtual_server_of
from tests.unit.builders import Clock, frontend, member

WEB, OTHER = frontend(), frontend("10.96.0.11")
RR = VirtualServer("rr")
ONE, TWO = member("10.244.1.1"), member("10.244.1.2")


class Recorder(FakeDataplane):
    """Remembers what was sent together."""

    def __init__(self, *, schedulers: frozenset[str] = ALL_SCHEDULERS) -> None:
        super().__init__(schedulers=schedulers)
        self.groups: list[list[str]] = []
        self.unreadable = False

    async def dump(self) -> State:
        if self.unreadable:
            raise DataplaneError("no netlink")
        return await super().dump()

    async def read(
        self, keys: Collection[VirtualServerKey]
    ) -> Mapping[VirtualServerKey, Reading | None]:
        if self.unreadable:
            raise DataplaneError("no netlink")
        return await super().read(keys)

    async def apply(self, operations: Sequence[Operation]) -> Sequence[Outcome]:
        self.groups.append([describe(operation).partition(" to ")[0] for operation in operations])
        return await super().apply(operations)


def batch(*steps: Operation | Step) -> tuple[Batch]:
    return (Batch(tuple(step if isinstance(step, Step) else Step(step) for step in steps)),)


def add(server: RealServerKey = ONE, weight: int = 1) -> AddRealServer:
    return AddRealServer(WEB, server, RealServer(weight))


async def writer_on(dataplane: Recorder | FaultyDataplane, clock: Clock | None = None) -> Writer:
    writer = Writer(dataplane, clock or Clock())
    await writer.dump()
    return writer


async def test_steps_that_do_not_wait_are_sent_together_and_the_others_after_them() -> None:
    fake = Recorder()
    writer = await writer_on(fake)
    written = await writer.carry_out(
        batch(
            AddVirtualServer(WEB, RR),
            AddVirtualServer(OTHER, RR),
            Step(add(ONE), needs=(0,)),
            Step(add(TWO), needs=(0,)),
        )
    )
    assert fake.groups == [
        [
            "add virtual server 10.96.0.10:80/TCP scheduler rr",
            "add virtual server 10.96.0.11:80/TCP scheduler rr",
        ],
        ["add real server 10.244.1.1:8080 weight 1", "add real server 10.244.1.2:8080 weight 1"],
    ]
    assert written.done == {"AddVirtualServer": 2, "AddRealServer": 2}
    assert writer.state == fake.state
    assert writer.unfinished.keys == set()


async def test_the_shadow_does_not_advance_by_what_was_refused_nor_by_what_hangs_on_it() -> None:
    fake = Recorder()
    writer = await writer_on(
        FaultyDataplane(fake, lambda one: Refusal.BUSY if virtual_server_of(one) == WEB else None)
    )
    written = await writer.carry_out(
        batch(AddVirtualServer(WEB, RR), AddVirtualServer(OTHER, RR), Step(add(), needs=(0,)))
    )
    assert writer.state.virtual_servers.keys() == {OTHER}
    assert [refused.operation for refused in written.refused] == [AddVirtualServer(WEB, RR)]
    assert writer.unfinished.keys == {WEB}
    assert not written.contradicted


async def test_a_refused_operation_waits_longer_each_time_and_another_one_does_not() -> None:
    clock, fake = Clock(), Recorder()
    faulty = FaultyDataplane(fake, lambda _: Refusal.FAILED)
    writer = await writer_on(faulty, clock)
    tries: list[float] = []
    for second in range(300):
        clock.now = 1000.0 + second
        before = len(faulty.refused)
        await writer.carry_out(batch(AddVirtualServer(WEB, RR)))
        if len(faulty.refused) > before:
            tries.append(second)
    assert tries == [0, 1, 3, 7, 15, 31, 63, 123, 183, 243]
    assert writer.next_due() == 1000.0 + 303

    await writer.carry_out(batch(AddVirtualServer(WEB, VirtualServer("lc"))))
    assert faulty.refused[-1] == AddVirtualServer(WEB, VirtualServer("lc"))


async def test_what_is_withheld_is_still_refused_and_still_unfinished() -> None:
    faulty = FaultyDataplane(Recorder(), lambda _: Refusal.FAILED)
    writer = await writer_on(faulty)
    for _ in range(2):
        await writer.carry_out(batch(AddVirtualServer(WEB, RR)))
    assert len(faulty.refused) == 1
    assert [refused.operation for refused in writer.refusals] == [AddVirtualServer(WEB, RR)]
    assert writer.unfinished.keys == {WEB}


async def test_a_refusal_is_forgotten_when_nobody_wants_the_operation_any_more() -> None:
    writer = await writer_on(FaultyDataplane(Recorder(), lambda _: Refusal.FAILED))
    await writer.carry_out(batch(AddVirtualServer(WEB, RR)))
    await writer.carry_out(batch())
    assert writer.refusals == []
    assert writer.next_due() is None
    assert writer.unfinished.keys == set()


async def test_what_the_kernel_contradicts_is_read_anew_at_once() -> None:
    fake = Recorder()
    fake.state.virtual_servers[WEB] = RR
    fake.state.real_servers[WEB] = {ONE: RealServer(1), TWO: RealServer(1)}
    writer = await writer_on(fake)
    del fake.state.real_servers[WEB][ONE]
    written = await writer.carry_out(batch(SetRealServer(WEB, ONE, RealServer(5))))
    assert writer.state == fake.state
    assert fake.reads == 1
    assert not written.contradicted, "what was read anew needs no audit"

    del fake.state.virtual_servers[WEB], fake.state.real_servers[WEB]
    await writer.carry_out(batch(SetVirtualServer(WEB, VirtualServer("lc"))))
    assert writer.state == fake.state


async def test_a_real_server_is_noted_though_its_virtual_server_was_not_known() -> None:
    """Another program has made it since it was read, and the kernel has taken the real server."""
    dataplane = FakeDataplane()
    writer = Writer(dataplane, Clock())
    await writer.dump()
    await dataplane.apply([AddVirtualServer(WEB, RR)])
    await writer.carry_out(batch(AddRealServer(WEB, ONE, RealServer(1))))
    assert writer.state.real_servers == {WEB: {ONE: RealServer(1)}}
    assert not writer.refusals


async def test_a_contradiction_beyond_virtual_servers_asks_for_an_audit() -> None:
    fake = Recorder()
    writer = await writer_on(fake)
    written = await writer.carry_out(batch(BindAddress(WEB.address)))
    assert written.contradicted
    assert fake.reads == 0


async def test_schedulers_that_the_kernel_lacks_are_named() -> None:
    fake = Recorder(schedulers=frozenset({"rr"}))
    writer = await writer_on(fake)
    written = await writer.carry_out(batch(AddVirtualServer(WEB, VirtualServer("lc"))))
    assert written.unsupported == {"lc"}


async def test_connections_are_the_active_and_the_inactive_ones() -> None:
    fake = Recorder()
    writer = await writer_on(fake)
    await writer.carry_out(batch(AddVirtualServer(WEB, RR), Step(add(), needs=(0,))))
    for _ in range(3):
        fake.connect(WEB, ONE.address)
    assert await writer.read([WEB, OTHER]) == {WEB: {}}, "of who is at weight 0"
    await writer.carry_out(batch(SetRealServer(WEB, ONE, RealServer(0))))
    assert await writer.read([WEB, OTHER]) == {WEB: {ONE: 3}}
    assert await writer.read([]) == {}


async def test_what_is_read_and_as_before_is_the_same_object() -> None:
    fake = Recorder()
    writer = await writer_on(fake)
    await writer.carry_out(batch(AddVirtualServer(WEB, RR), Step(add(), needs=(0,))))
    before = writer.state.real_servers[WEB]
    await writer.read([WEB])
    await writer.dump()
    assert writer.state.real_servers[WEB] is before
    fake.state.real_servers[WEB][ONE] = RealServer(9)
    await writer.dump()
    assert writer.state.real_servers[WEB] == {ONE: RealServer(9)}


async def test_a_reading_that_fails_tells_nothing_and_ends_nothing() -> None:
    fake = Recorder()
    writer = await writer_on(fake)
    await writer.carry_out(batch(AddVirtualServer(WEB, RR), Step(add(), needs=(0,))))
    fake.unreadable = True
    assert await writer.read([WEB]) == {}
    assert writer.trouble
    assert writer.state == fake.state
    fake.unreadable = False
    await writer.read([WEB])
    assert not writer.trouble


async def test_a_dump_that_fails_leaves_the_shadow_as_it_was() -> None:
    fake = Recorder()
    writer = await writer_on(fake)
    await writer.carry_out(batch(CreateLink()))
    fake.unreadable = True
    with pytest.raises(DataplaneError):
        await writer.dump()
    assert writer.known
    assert writer.state.link


async def test_chains_that_a_dump_could_not_read_stay_in_the_shadow_as_they_were() -> None:
    fake = FakeDataplane()
    chains = Ruleset((Chain("nat", "KUBE-SPLIT", (("-j", "RETURN"),)),))
    fake.state.rulesets = {Family.IPV4: chains, Family.IPV6: chains}
    writer = Writer(fake, Clock())
    await writer.dump()
    del fake.state.rulesets[Family.IPV4]
    fake.state.lacks = {"IPv4 chains": "iptables-save took too long"}
    assert await writer.dump() == {}
    assert writer.state.rulesets == {Family.IPV4: chains, Family.IPV6: chains}
    assert writer.state.lacks == fake.state.lacks

    fake.state.families = frozenset({Family.IPV6})
    await writer.dump()
    assert writer.state.rulesets == {Family.IPV6: chains}


async def test_a_dump_counts_what_others_have_changed() -> None:
    fake = Recorder()
    writer = await writer_on(fake)
    await writer.carry_out(batch(AddVirtualServer(WEB, RR), Step(add(), needs=(0,))))
    fake.state.link = True
    fake.state.addresses |= {WEB.address, OTHER.address}
    fake.state.real_servers[WEB][ONE] = RealServer(7)
    fake.state.sysctls["net/ipv4/ip_forward"] = "1"
    assert await writer.dump() == {"link": 1, "addresses": 2, "real_servers": 1, "sysctls": 1}
    assert await writer.dump() == {}


def test_equal_pictures_do_not_drift() -> None:
    assert whole(drift(State(), State())) == {}


async def test_operations_of_equal_shape_are_told_apart() -> None:
    faulty = FaultyDataplane(
        Recorder(), lambda one: Refusal.FAILED if isinstance(one, SetVirtualServer) else None
    )
    writer = await writer_on(faulty)
    await writer.carry_out(batch(AddVirtualServer(WEB, RR)))
    await writer.carry_out(batch(SetVirtualServer(WEB, RR)))
    assert [refused.operation for refused in writer.refusals] == [SetVirtualServer(WEB, RR)]
    assert isinstance(writer.refusals[0].operation, SetVirtualServer)
    await writer.carry_out(batch(RemoveRealServer(WEB, ONE)))
    assert writer.refusals == []
