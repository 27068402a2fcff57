"""A part that is read by itself is that part of a dump, and a glance sees what is there."""

from __future__ import annotations

import subprocess

import pytest

from ipvsproxy.core.operations import (
    AddMember,
    AddRealServer,
    AddVirtualServer,
    BindAddress,
    CreateLink,
    CreateSet,
    DestroySet,
    RemoveLink,
    RemoveMember,
    RemoveRealServer,
    RemoveVirtualServer,
    ReplaceChains,
    SetRealServer,
    SetSysctl,
    SetTimeouts,
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
    part_of,
)
from ipvsproxy.dataplane import Dataplane, Glance
from ipvsproxy.kernel.fake import FakeDataplane
from ipvsproxy.model import (
    Address,
    Chain,
    Family,
    Flags,
    ForwardingMethod,
    IpPortMember,
    Protocol,
    RealServer,
    RealServerKey,
    Ruleset,
    SetSpec,
    SetType,
    State,
    Timeouts,
    VirtualServer,
    VirtualServerKey,
)
from tests.contract.steps import ONE, OTHER_POD, POD, POD6, ROUND, ROUND6, WEB, WEB6, do

EMPTY = VirtualServerKey(Protocol.UDP, Address.parse("10.96.0.2"), 53)
STICKY = VirtualServerKey(Protocol.SCTP, Address.parse("10.96.0.3"), 9)
STICKY6 = VirtualServerKey(Protocol.UDP, Address.parse("fd00:96::3"), 9)
NOBODY = VirtualServerKey(Protocol.TCP, Address.parse("10.96.9.9"), 80)
NOBODY6 = VirtualServerKey(Protocol.TCP, Address.parse("fd00:96::99"), 80)
SET, SET6, EMPTY_SET = "KUBE-T", "KUBE-6-T", "KUBE-EMPTY"
MEMBER = IpPortMember(WEB.address, Protocol.TCP, 80)
MEMBER6 = IpPortMember(WEB6.address, Protocol.UDP, 53)
CHAIN = Chain("nat", "KUBE-SERVICES", (("-j", "RETURN"),))
KEYS = (WEB, WEB6, EMPTY, STICKY, STICKY6, NOBODY, NOBODY6)
PARTS: tuple[Part, ...] = (
    KernelSettings(),
    *map(Rules, Family),
    Addresses(),
    VirtualServers(),
    RealServers(KEYS),
    RealServers(()),
    *map(Members, (SET, SET6, EMPTY_SET, "KUBE-NONE")),
)


async def serve(dataplane: Dataplane) -> None:
    await do(
        dataplane,
        CreateLink(),
        *map(BindAddress, (WEB.address, WEB6.address, EMPTY.address)),
        AddVirtualServer(WEB, ROUND),
        AddVirtualServer(WEB6, ROUND6),
        AddVirtualServer(EMPTY, VirtualServer("wlc", Flags.ONE_PACKET)),
        AddVirtualServer(STICKY, VirtualServer("sh", Flags.SCHED_1, 10800, 24)),
        AddVirtualServer(STICKY6, VirtualServer("mh", Flags.SCHED_2, 60, 64)),
        AddRealServer(WEB, POD, RealServer(7, upper_threshold=9, lower_threshold=2)),
        AddRealServer(WEB, OTHER_POD, RealServer(0, ForwardingMethod.DIRECT_ROUTE)),
        AddRealServer(WEB6, POD6, ONE),
        CreateSet(SET, SetSpec(SetType.HASH_IP_PORT, Family.IPV4)),
        CreateSet(SET6, SetSpec(SetType.HASH_IP_PORT, Family.IPV6, maxelem=1000)),
        CreateSet(EMPTY_SET, SetSpec(SetType.BITMAP_PORT, Family.IPV4)),
        AddMember(SET, MEMBER),
        AddMember(SET6, MEMBER6),
        ReplaceChains(Family.IPV4, Ruleset(), Ruleset((CHAIN,))),
        SetSysctl("net/ipv4/vs/conntrack", "1"),
        SetTimeouts(Timeouts(7200, 60, 10)),
    )


async def all_parts(dataplane: Dataplane) -> State:
    """Read all parts after a dump, and hold each against it."""
    dump = await dataplane.dump()
    for part in PARTS:
        assert await dataplane.look(part) == part_of(dump, part), part
    return dump


async def test_every_part_of_an_untouched_kernel_is_as_a_dump_has_it(dataplane: Dataplane) -> None:
    assert not (await all_parts(dataplane)).virtual_servers


async def test_every_part_is_as_a_dump_has_it(dataplane: Dataplane) -> None:
    await serve(dataplane)
    dump = await all_parts(dataplane)
    found = await dataplane.look(RealServers(KEYS))
    assert found.real_servers.keys() == {WEB, WEB6}
    assert (await dataplane.look(Members(SET6))).members == {SET6: {MEMBER6}}
    assert dump.virtual_servers.keys() == {*KEYS} - {NOBODY, NOBODY6}


@pytest.mark.parametrize(
    ("part", "operation"),
    [
        (KernelSettings(), SetSysctl("net/ipv4/vs/conntrack", "0")),
        (KernelSettings(), SetTimeouts(Timeouts(7200, 60, 11))),
        (Rules(Family.IPV4), ReplaceChains(Family.IPV4, Ruleset((CHAIN,)), Ruleset())),
        (Addresses(), UnbindAddress(WEB.address)),
        (Addresses(), UnbindAddress(WEB6.address)),
        (Addresses(), RemoveLink()),
        (VirtualServers(), RemoveVirtualServer(EMPTY)),
        (VirtualServers(), RemoveVirtualServer(STICKY6)),
        (VirtualServers(), AddVirtualServer(NOBODY, ROUND)),
        (VirtualServers(), AddVirtualServer(NOBODY6, ROUND6)),
        (VirtualServers(), SetVirtualServer(STICKY, VirtualServer("sh", Flags.SCHED_1, 10801, 24))),
        (VirtualServers(), SetVirtualServer(STICKY, VirtualServer("sh", Flags.SCHED_1, 10800, 25))),
        (VirtualServers(), SetVirtualServer(EMPTY, VirtualServer("wlc"))),
        (VirtualServers(), SetVirtualServer(WEB6, ROUND6._replace(scheduler="lc"))),
        (RealServers(KEYS), AddRealServer(WEB, RealServerKey(POD.address, 1), ONE)),
        (RealServers(KEYS), AddRealServer(EMPTY, POD, ONE)),
        (RealServers(KEYS), AddRealServer(STICKY6, POD6, ONE)),
        (RealServers(KEYS), SetRealServer(WEB, OTHER_POD, RealServer(1))),
        (RealServers(KEYS), RemoveRealServer(WEB, POD)),
        (RealServers(KEYS), RemoveRealServer(WEB6, POD6)),
        (RealServers(KEYS), RemoveVirtualServer(WEB)),
        (RealServers(KEYS), RemoveVirtualServer(WEB6)),
        (Members(SET), RemoveMember(SET, MEMBER)),
        (Members(SET6), AddMember(SET6, MEMBER6._replace(port=54))),
        (Members(EMPTY_SET), DestroySet(EMPTY_SET)),
    ],
    ids=str,
)
async def test_what_changes_a_part_is_seen_in_it_without_another_dump(
    dataplane: Dataplane, part: Part, operation: SetSysctl
) -> None:
    await serve(dataplane)
    before = await dataplane.dump()
    await do(dataplane, operation)
    found = await dataplane.look(part)
    assert found != part_of(before, part)
    assert found == part_of(await dataplane.dump(), part)


async def test_a_glance_sees_what_it_is_asked_for(dataplane: Dataplane) -> None:
    await serve(dataplane)
    glance = await dataplane.glance([WEB, NOBODY, WEB6], [SET, "KUBE-NONE", EMPTY_SET])
    assert glance.link
    assert glance.virtual_servers == {WEB: ROUND, NOBODY: None, WEB6: ROUND6}
    assert glance.sets == {SET, EMPTY_SET}


async def test_a_glance_at_nothing_counts_all_the_same(dataplane: Dataplane) -> None:
    before = await dataplane.glance([], [])
    assert not before.link
    assert before.virtual_servers == {}
    assert before.sets == frozenset()
    await serve(dataplane)
    after = await dataplane.glance([], [])
    assert _more(before, after) == (3, 2), "virtual servers and addresses of IPv4"
    await do(dataplane, RemoveLink(), RemoveVirtualServer(WEB), RemoveVirtualServer(WEB6))
    last = await dataplane.glance([], [])
    assert _more(before, last) == (2, 0)
    assert not last.link


def _others_come() -> None:
    for words in (
        ("ipvsadm", "-A", "-f", "7", "-s", "rr"),
        ("ip", "link", "add", "eth7", "type", "dummy"),
        ("ip", "address", "add", "192.0.2.7/24", "dev", "eth7"),
    ):
        subprocess.run(words, check=True)


def _more(before: Glance, after: Glance) -> tuple[int, int]:
    assert before.ipv4_virtual_servers is not None
    assert before.ipv4_addresses is not None
    assert after.ipv4_virtual_servers is not None
    assert after.ipv4_addresses is not None
    return (
        after.ipv4_virtual_servers - before.ipv4_virtual_servers,
        after.ipv4_addresses - before.ipv4_addresses,
    )


async def test_a_glance_counts_what_others_have_too(dataplane: Dataplane) -> None:
    before = await dataplane.glance([], [])
    if isinstance(dataplane, FakeDataplane):
        pytest.skip("it has nothing that a dump does not tell")
    _others_come()
    assert _more(before, await dataplane.glance([], [])) == (1, 1)
    await all_parts(dataplane)


async def test_real_servers_of_another_family_are_seen(dataplane: Dataplane) -> None:
    """As somebody else may have them, behind a tunnel."""
    await serve(dataplane)
    tunnel = RealServer(1, ForwardingMethod.TUNNEL)
    if isinstance(dataplane, FakeDataplane):
        dataplane.state.real_servers[WEB][POD6] = tunnel
    else:
        await do(dataplane, AddRealServer(WEB, POD6, tunnel))
    await all_parts(dataplane)
