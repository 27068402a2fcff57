"""The worker thread: what is cancelled is done all the same, and nothing is left open."""

import asyncio
import os
import threading
from collections.abc import AsyncIterator

import pytest

from ipvsproxy.core.operations import (
    AddMember,
    AddRealServer,
    AddVirtualServer,
    BindAddress,
    CreateLink,
    CreateSet,
    ForgetFlows,
    Operation,
    ReplaceChains,
    SetSysctl,
)
from ipvsproxy.dataplane import DONE, Dataplane, Refusal
from ipvsproxy.kernel.linux import LinuxDataplane
from ipvsproxy.model import (
    Address,
    Chain,
    Family,
    IpPortMember,
    Protocol,
    RealServer,
    RealServerKey,
    Ruleset,
    SetSpec,
    SetType,
    VirtualServer,
    VirtualServerKey,
)

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif("IPVSPROXY_RIG_GUEST" not in os.environ, reason="outside the rig"),
    pytest.mark.usefixtures("own_namespace"),
]

ADDRESS = Address.parse("10.0.0.1")
WEB = VirtualServerKey(Protocol.TCP, ADDRESS, 80)
POD = RealServerKey(Address.parse("10.1.0.1"), 8080)
CONNTRACK = "net/ipv4/vs/conntrack"
CHAINS = Ruleset(chains=(Chain("nat", "KUBE-MARK-MASQ", (("-j", "RETURN"),)),))
SPEC = SetSpec(SetType.HASH_IP_PORT, Family.IPV4)
MEMBER = IpPortMember(ADDRESS, Protocol.TCP, 80)


@pytest.fixture
async def dataplane() -> AsyncIterator[LinuxDataplane]:
    plane = LinuxDataplane({CONNTRACK, "net/ipv4/vs/no_such"})
    yield plane
    await plane.close()


async def test_every_kind_is_carried_out_answered_in_order_and_read_back(
    dataplane: LinuxDataplane,
) -> None:
    before = await dataplane.dump()
    assert before.sysctls == {CONNTRACK: "0"}
    first: list[Operation] = [
        AddVirtualServer(WEB, VirtualServer("rr")),
        CreateSet("IPVSPROXY-OWN", SPEC),
        SetSysctl("net/ipv4/vs/no_such", "1"),
        CreateLink(),
        ReplaceChains(Family.IPV4, CHAINS, before.rulesets[Family.IPV4]),
        AddVirtualServer(WEB._replace(port=81), VirtualServer("nosuch")),
        SetSysctl(CONNTRACK, "1"),
    ]
    then: list[Operation] = [
        AddMember("IPVSPROXY-OWN", MEMBER),
        AddRealServer(WEB, POD, RealServer(1)),
        BindAddress(ADDRESS),
        AddRealServer(WEB, POD, RealServer(1)),
        ForgetFlows(WEB._replace(protocol=Protocol.UDP), POD),
    ]
    unsupported = Refusal.UNSUPPORTED
    assert [outcome.refusal for outcome in await dataplane.apply(first)] == [
        *(None, None, unsupported, None, None, unsupported, None)
    ]
    assert [outcome.refusal for outcome in await dataplane.apply(then)] == [
        *(None, None, None, Refusal.CONTRADICTED, None)
    ]

    after = await dataplane.dump()
    assert after.virtual_servers == {WEB: VirtualServer("rr")}
    assert after.real_servers == {WEB: {POD: RealServer(1)}}
    assert after.link
    assert after.addresses == {ADDRESS}
    assert after.members["IPVSPROXY-OWN"] == {MEMBER}
    assert after.rulesets[Family.IPV4] == CHAINS
    assert after.sysctls == {CONNTRACK: "1"}
    counts = dict(dataplane.counts)
    assert 0 < counts.pop("processes") <= 5
    assert counts == {"sysctl": 2, "link": 2, "ipvs": 4, "set": 2, "chain": 1, "conntrack": 1}


async def test_reading_writes_nothing_and_where_nothing_is_launches_nothing(
    dataplane: LinuxDataplane,
) -> None:
    found = await dataplane.dump()
    await dataplane.read([WEB])
    assert found.rulesets == dict.fromkeys(found.families, Ruleset())
    assert dataplane.counts["processes"] == 0
    writes = {kind: count for kind, count in dataplane.counts.items() if kind != "processes"}
    assert set(writes.values()) == {0}


async def test_a_cancelled_call_is_carried_out_to_its_end(dataplane: LinuxDataplane) -> None:
    keys = [WEB._replace(port=port) for port in range(1, 500)]
    task = asyncio.create_task(
        dataplane.apply([AddVirtualServer(key, VirtualServer("rr")) for key in keys])
    )
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert set(await dataplane.read(keys)) == set(keys)
    assert all((await dataplane.read(keys)).values())


async def test_closing_leaves_no_thread_and_no_socket_and_may_be_done_twice() -> None:
    threads, files = threading.active_count(), len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - a count
    plane = LinuxDataplane(())
    await plane.dump()
    assert await plane.apply([CreateLink(), BindAddress(ADDRESS)]) == [DONE, DONE]
    await plane.close()
    await plane.close()
    assert threading.active_count() == threads
    assert len(os.listdir("/proc/self/fd")) == files  # noqa: PTH208 - as above


def test_it_is_a_dataplane() -> None:
    kind: type[Dataplane] = LinuxDataplane
    assert kind is LinuxDataplane
