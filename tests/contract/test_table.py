"""The IPVS table: what exists, what changes in place, and what is refused for which reason."""

from __future__ import annotations

import asyncio

import pytest

from ipvsproxy.core.operations import (
    AddMember,
    AddRealServer,
    AddVirtualServer,
    Operation,
    RemoveRealServer,
    RemoveVirtualServer,
    SetRealServer,
    SetTimeouts,
    SetVirtualServer,
)
from ipvsproxy.dataplane import Dataplane, Refusal
from ipvsproxy.model import (
    KERNEL_TIMEOUTS,
    Address,
    Connections,
    Family,
    Flags,
    ForwardingMethod,
    IpMember,
    Protocol,
    RealServer,
    RealServerKey,
    Scheduler,
    Timeouts,
    VirtualServer,
    VirtualServerKey,
)
from tests.contract.steps import (
    ONE,
    OTHER_POD,
    POD,
    POD6,
    ROUND,
    ROUND6,
    SERVE_WEB,
    WEB,
    WEB6,
    do,
    reading,
    refused,
)
from tests.strategies import SCHEDULERS

ADD_POD = AddRealServer(WEB, POD, ONE)


@pytest.mark.parametrize(
    ("before", "operation"),
    [
        pytest.param([SERVE_WEB], SERVE_WEB, id="virtual server that exists"),
        pytest.param([SERVE_WEB, ADD_POD], ADD_POD, id="real server that exists"),
        pytest.param([], SetVirtualServer(WEB, ROUND), id="virtual server to be set is missing"),
        pytest.param([], ADD_POD, id="virtual server of a new real server is missing"),
        pytest.param(
            [SERVE_WEB], SetRealServer(WEB, POD, ONE), id="real server to be set is missing"
        ),
        pytest.param(
            [], SetRealServer(WEB, POD, ONE), id="virtual server of one to be set is missing"
        ),
        pytest.param(
            [SERVE_WEB], AddVirtualServer(WEB, VirtualServer("nosuch")), id="before the scheduler"
        ),
        pytest.param(
            [], SetVirtualServer(WEB, VirtualServer("nosuch")), id="before the scheduler, missing"
        ),
    ],
)
async def test_a_wrong_picture_is_contradicted(
    dataplane: Dataplane, before: list[Operation], operation: Operation
) -> None:
    await do(dataplane, *before)
    state = await dataplane.dump()
    refusal, _ = await refused(dataplane, operation)
    assert refusal is Refusal.CONTRADICTED
    assert await dataplane.dump() == state


async def test_what_is_gone_already_is_removed(dataplane: Dataplane) -> None:
    await do(dataplane, RemoveVirtualServer(WEB), RemoveRealServer(WEB, POD))
    await do(dataplane, SERVE_WEB, RemoveRealServer(WEB, POD))
    assert (await dataplane.dump()).real_servers == {WEB: {}}


async def test_real_servers_go_with_their_virtual_server(dataplane: Dataplane) -> None:
    await do(dataplane, SERVE_WEB, ADD_POD, AddRealServer(WEB, OTHER_POD, ONE))
    await do(dataplane, RemoveVirtualServer(WEB))
    assert (await dataplane.dump()).virtual_servers == {}
    await do(dataplane, SERVE_WEB)
    state = await dataplane.dump()
    assert state.virtual_servers == {WEB: ROUND}
    assert state.real_servers == {WEB: {}}


async def test_setting_a_virtual_server_keeps_its_real_servers(dataplane: Dataplane) -> None:
    await do(dataplane, SERVE_WEB, AddRealServer(WEB, POD, RealServer(3)))
    await do(dataplane, SetVirtualServer(WEB, VirtualServer("sh", Flags.SCHED_1, 300, 24)))
    await do(dataplane, SetVirtualServer(WEB, VirtualServer("wlc")))
    state = await dataplane.dump()
    assert state.virtual_servers == {WEB: VirtualServer("wlc")}
    assert state.real_servers == {WEB: {POD: RealServer(3)}}


async def test_setting_a_real_server_leaves_the_others_alone(dataplane: Dataplane) -> None:
    await do(
        dataplane,
        SERVE_WEB,
        ADD_POD,
        AddRealServer(WEB, OTHER_POD, RealServer(7, upper_threshold=9)),
    )
    await do(dataplane, SetRealServer(WEB, POD, RealServer(0)))
    assert (await dataplane.dump()).real_servers[WEB] == {
        POD: RealServer(0),
        OTHER_POD: RealServer(7, upper_threshold=9),
    }


@pytest.mark.parametrize("scheduler", SCHEDULERS)
async def test_every_scheduler_of_the_kernel_can_be_used(
    dataplane: Dataplane, scheduler: str
) -> None:
    await do(dataplane, AddVirtualServer(WEB, VirtualServer(scheduler)), ADD_POD)
    state = await dataplane.dump()
    assert state.virtual_servers == {WEB: VirtualServer(scheduler)}
    assert state.real_servers == {WEB: {POD: ONE}}


@pytest.mark.parametrize("scheduler", ["nosuch", Scheduler.TWOS])
async def test_a_scheduler_that_the_kernel_lacks_is_named(
    dataplane: Dataplane, scheduler: str
) -> None:
    lacking = VirtualServer(scheduler)
    refusal, reason = await refused(dataplane, AddVirtualServer(WEB, lacking))
    assert (refusal, scheduler in reason) == (Refusal.UNSUPPORTED, True)
    await do(dataplane, SERVE_WEB)
    refusal, reason = await refused(dataplane, SetVirtualServer(WEB, lacking))
    assert (refusal, scheduler in reason) == (Refusal.UNSUPPORTED, True)
    assert (await dataplane.dump()).virtual_servers == {WEB: ROUND}


async def test_a_dump_is_what_was_applied(dataplane: Dataplane) -> None:
    flags = (
        Flags.NONE,
        Flags.SCHED_1,
        Flags.SCHED_1 | Flags.SCHED_2 | Flags.SCHED_3,
        Flags.ONE_PACKET,
    )
    wanted = {}
    for family, host in ((Family.IPV4, "10.96.0.{}"), (Family.IPV6, "fd00:96::{}")):
        for protocol in Protocol:
            for number, flag in enumerate(flags):
                key = VirtualServerKey(protocol, Address.parse(host.format(number + 1)), 65535)
                prefix = family.host_prefix - number
                wanted[key] = VirtualServer("mh", flag, 0 if number else 10800, prefix)
    real = RealServer(65535, ForwardingMethod.MASQUERADE, 100, 75)
    behind = {
        key: RealServerKey(POD.address if key.family is Family.IPV4 else POD6.address, 1)
        for key in wanted
    }
    made = await dataplane.apply([AddVirtualServer(key, one) for key, one in wanted.items()])
    filled = await dataplane.apply([AddRealServer(key, one, real) for key, one in behind.items()])
    assert not [outcome for outcome in (*made, *filled) if outcome.refusal]
    state = await dataplane.dump()
    assert state.virtual_servers == wanted
    assert state.real_servers == {key: {one: real} for key, one in behind.items()}


@pytest.mark.parametrize("method", [*ForwardingMethod])
async def test_every_forwarding_method_is_read_back(
    dataplane: Dataplane, method: ForwardingMethod
) -> None:
    real = RealServer(1, method)
    await do(dataplane, SERVE_WEB, AddRealServer(WEB, POD, real))
    assert (await dataplane.dump()).real_servers == {WEB: {POD: real}}


@pytest.mark.parametrize(
    "operation",
    [
        pytest.param(AddRealServer(WEB, POD, RealServer(-1)), id="negative weight"),
        pytest.param(AddRealServer(WEB, POD, RealServer(1 << 31)), id="weight beyond an int"),
        pytest.param(AddRealServer(WEB, POD, RealServer(1 << 32)), id="weight beyond 32 bits"),
        pytest.param(
            AddRealServer(WEB, POD, RealServer(1, lower_threshold=2, upper_threshold=1)),
            id="thresholds",
        ),
        pytest.param(AddRealServer(WEB, RealServerKey(POD.address, 1 << 16), ONE), id="port"),
        pytest.param(AddRealServer(WEB, POD6, ONE), id="other family"),
        *(
            pytest.param(AddRealServer(WEB, RealServerKey(Address.parse(text), 80), ONE), id=text)
            for text in ("224.0.0.1", "255.255.255.255", "0.0.0.0")
        ),
        *(
            pytest.param(AddRealServer(WEB6, RealServerKey(Address.parse(text), 80), ONE), id=text)
            for text in ("ff02::1", "::", "fe80::1")
        ),
        pytest.param(
            SetVirtualServer(WEB, VirtualServer("rr", persistence_prefix=33)), id="IPv4 netmask"
        ),
        pytest.param(
            SetVirtualServer(WEB6, VirtualServer("rr", persistence_prefix=0)), id="no IPv6 netmask"
        ),
        pytest.param(
            SetVirtualServer(WEB6, VirtualServer("rr", persistence_prefix=129)), id="IPv6 netmask"
        ),
        pytest.param(
            AddVirtualServer(VirtualServerKey(Protocol.TCP, WEB.address, 1 << 16), ROUND),
            id="port of a virtual server",
        ),
    ],
)
async def test_arguments_out_of_range_are_invalid(
    dataplane: Dataplane, operation: Operation
) -> None:
    await do(dataplane, SERVE_WEB, AddVirtualServer(WEB6, ROUND6))
    refusal, _ = await refused(dataplane, operation)
    assert refusal is Refusal.INVALID


@pytest.mark.parametrize(
    "operation",
    [
        pytest.param(AddRealServer(WEB, POD, RealServer(70000)), id="weight above ipvsadm's limit"),
        pytest.param(AddRealServer(WEB, RealServerKey(POD.address, 0), ONE), id="real port 0"),
        pytest.param(
            AddRealServer(WEB, RealServerKey(Address.parse("127.0.0.1"), 80), ONE), id="loopback"
        ),
        pytest.param(
            AddRealServer(WEB6, RealServerKey(Address.parse("::1"), 80), ONE), id="IPv6 loopback"
        ),
        pytest.param(
            AddRealServer(WEB, RealServerKey(Address.parse("0.1.2.3"), 80), ONE), id="0.1.2.3"
        ),
        pytest.param(
            AddVirtualServer(VirtualServerKey(Protocol.TCP, WEB.address, 0), ROUND), id="port 0"
        ),
        pytest.param(
            SetVirtualServer(WEB, VirtualServer("rr", persistence_prefix=0)), id="no IPv4 netmask"
        ),
    ],
)
async def test_what_the_kernel_accepts_is_for_us_to_refuse(
    dataplane: Dataplane, operation: Operation
) -> None:
    await do(dataplane, SERVE_WEB, AddVirtualServer(WEB6, ROUND6), operation)


async def test_protocols_and_ports_are_virtual_servers_of_their_own(dataplane: Dataplane) -> None:
    keys = [
        VirtualServerKey(protocol, WEB.address, port) for protocol in Protocol for port in (53, 80)
    ]
    await do(dataplane, *(AddVirtualServer(key, ROUND) for key in keys))
    await do(dataplane, RemoveVirtualServer(keys[0]))
    assert (await dataplane.dump()).virtual_servers.keys() == {*keys[1:]}


async def test_a_reading_has_counts_and_none_for_what_is_missing(dataplane: Dataplane) -> None:
    await do(dataplane, SERVE_WEB, AddRealServer(WEB, POD, RealServer(5)))
    readings = await dataplane.read([WEB, WEB6])
    assert readings.keys() == {WEB, WEB6}
    assert readings[WEB6] is None
    web = readings[WEB]
    assert web is not None
    assert web.server == ROUND
    assert dict(web.real_servers) == {POD: RealServer(5)}
    assert dict(web.connections) == {POD: Connections(0, 0, 0)}
    assert await dataplane.read([]) == {}


async def test_one_refusal_among_many_holds_up_no_other(dataplane: Dataplane) -> None:
    keys = [VirtualServerKey(Protocol.UDP, WEB.address, port) for port in range(1, 501)]
    batch: list[Operation] = [AddVirtualServer(key, ROUND) for key in keys]
    poisoned = 250
    batch[poisoned] = AddVirtualServer(keys[poisoned], VirtualServer("nosuch"))
    batch.insert(400, AddMember("KUBE-NONE", IpMember(WEB.address)))
    outcomes = await dataplane.apply(batch)
    assert [index for index, one in enumerate(outcomes) if one.refusal] == [poisoned, 400]
    assert outcomes[poisoned].refusal is Refusal.UNSUPPORTED
    assert outcomes[400].refusal is Refusal.CONTRADICTED
    assert (await dataplane.dump()).virtual_servers.keys() == {*keys} - {keys[poisoned]}


async def test_an_empty_batch_has_no_outcomes(dataplane: Dataplane) -> None:
    assert list(await dataplane.apply([])) == []


async def test_a_cancelled_call_is_carried_out_to_its_end(dataplane: Dataplane) -> None:
    keys = [VirtualServerKey(Protocol.UDP, WEB.address, port) for port in range(1, 201)]
    call = asyncio.ensure_future(dataplane.apply([AddVirtualServer(key, ROUND) for key in keys]))
    await asyncio.sleep(0)
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    assert await reading(dataplane, keys[-1]) is not None


async def test_the_timeouts_are_the_kernel_s_own_until_they_are_set(dataplane: Dataplane) -> None:
    assert (await dataplane.dump()).timeouts == KERNEL_TIMEOUTS
    await do(dataplane, SetTimeouts(Timeouts(7200, 0, 10)))
    assert (await dataplane.dump()).timeouts == Timeouts(7200, KERNEL_TIMEOUTS.tcp_fin, 10)


async def test_a_timeout_beyond_the_kernel_s_clock_is_invalid(dataplane: Dataplane) -> None:
    refusal, _ = await refused(dataplane, SetTimeouts(Timeouts(1 << 31, 60, 10)))
    assert refusal is Refusal.INVALID
    assert (await dataplane.dump()).timeouts == KERNEL_TIMEOUTS
