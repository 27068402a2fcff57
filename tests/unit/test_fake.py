"""What only the fake can show: connections, faults, death, dry runs (see tests/contract too)."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable

import pytest

from ipvsproxy.core.operations import (
    AddRealServer,
    AddVirtualServer,
    CreateLink,
    Operation,
    RemoveRealServer,
    RemoveVirtualServer,
    SetRealServer,
    SetSysctl,
    SetVirtualServer,
)
from ipvsproxy.dataplane import Dataplane, NodeNetworkChanged, Refusal
from ipvsproxy.kernel.balance import Connection
from ipvsproxy.kernel.dry_run import DryRunDataplane
from ipvsproxy.kernel.fake import (
    DyingDataplane,
    FakeDataplane,
    FaultyDataplane,
    Killed,
    copy_state,
    fresh_state,
    random_refusals,
)
from ipvsproxy.model import (
    Address,
    Connections,
    Family,
    Flags,
    Protocol,
    RealServer,
    RealServerKey,
    VirtualServer,
    VirtualServerKey,
)

WEB = VirtualServerKey(Protocol.TCP, Address.parse("10.96.0.1"), 80)
DNS = VirtualServerKey(Protocol.UDP, Address.parse("10.96.0.10"), 53)
FIRST, SECOND, THIRD = (
    RealServerKey(Address.parse(f"10.1.0.{number}"), 8080) for number in (1, 2, 3)
)
CLIENTS = tuple(Address.parse(f"192.0.2.{number}") for number in range(1, 31))
ADD_WEB = AddVirtualServer(WEB, VirtualServer("rr"))
EXPIRE = SetSysctl("net/ipv4/vs/expire_quiescent_template", "1")


async def serving(
    server: VirtualServer, weights: Iterable[int] = (1, 1, 1), key: VirtualServerKey = WEB
) -> FakeDataplane:
    fake = FakeDataplane()
    await fake.apply([AddVirtualServer(key, server)])
    members = zip((FIRST, SECOND, THIRD), weights, strict=False)
    await fake.apply([AddRealServer(key, one, RealServer(weight)) for one, weight in members])
    return fake


def taken(
    fake: FakeDataplane, clients: Iterable[Address] = CLIENTS
) -> Counter[RealServerKey | None]:
    """Let clients connect and stay; count who took them, None for the refused."""
    opened = [fake.connect(WEB, client) for client in clients]
    return Counter(None if one is None else one.member for one in opened)


def connected(connection: Connection | None) -> Connection:
    assert connection is not None
    return connection


async def test_a_round_is_even_and_weights_are_shares() -> None:
    assert taken(await serving(VirtualServer("rr"))) == {FIRST: 10, SECOND: 10, THIRD: 10}
    weighted = await serving(VirtualServer("wrr"), (1, 2, 3))
    assert taken(weighted) == {FIRST: 5, SECOND: 10, THIRD: 15}


async def test_fewest_connections_win() -> None:
    fake = await serving(VirtualServer("lc"))
    busy = [connected(fake.connect(WEB, client)) for client in CLIENTS[:3]]
    for connection in busy:
        if connection.member != FIRST:
            fake.disconnect(connection)
    assert taken(fake, CLIENTS[:2]) == {SECOND: 1, THIRD: 1}


@pytest.mark.parametrize("scheduler", ["sh", "mh"])
async def test_a_source_hash_gives_a_client_one_server(scheduler: str) -> None:
    fake = await serving(VirtualServer(scheduler))
    for client in CLIENTS:
        assert len(taken(fake, [client] * 3)) == 1
    assert len(taken(fake)) == 3


async def test_a_destination_hash_gives_everybody_one_server() -> None:
    assert len(taken(await serving(VirtualServer("dh")))) == 1


@pytest.mark.parametrize("scheduler", ["rr", "wrr", "lc", "wlc", "sed", "nq", "fo", "ovf", "lblc"])
async def test_weight_0_takes_no_new_connection_and_refuses_nobody(scheduler: str) -> None:
    fake = await serving(VirtualServer(scheduler), (0, 1, 0))
    assert taken(fake) == {SECOND: 30}


@pytest.mark.parametrize("scheduler", ["sh", "mh"])
async def test_a_source_hash_refuses_at_weight_0_unless_it_falls_back(scheduler: str) -> None:
    fake = await serving(VirtualServer(scheduler), (0, 1, 1))
    assert taken(fake)[None] > 0
    await fake.apply([SetVirtualServer(WEB, VirtualServer(scheduler, Flags.SCHED_1))])
    counted = taken(fake)
    assert (counted[None], counted[FIRST]) == (0, 0)


async def test_dh_refuses_everybody_when_its_server_is_at_weight_0_and_fo_nobody() -> None:
    fake = await serving(VirtualServer("dh", Flags.SCHED_1))
    (chosen,) = taken(fake)
    assert chosen is not None
    await fake.apply([SetRealServer(WEB, chosen, RealServer(0))])
    assert taken(fake) == {None: 30}
    await fake.apply([SetVirtualServer(WEB, VirtualServer("fo"))])
    (other,) = taken(fake)
    assert other not in {None, chosen}
    assert not fake.traffic.broken


async def test_a_draining_server_keeps_its_connections_and_a_removed_one_breaks_them() -> None:
    fake = await serving(VirtualServer("rr"), (1, 1))
    held = [connected(fake.connect(WEB, client)) for client in CLIENTS[:2]]
    await fake.apply([SetRealServer(WEB, FIRST, RealServer(0))])
    web = (await fake.read([WEB]))[WEB]
    assert web is not None
    assert web.connections[FIRST] == Connections(1, 0)
    assert not fake.traffic.broken
    await fake.apply([RemoveRealServer(WEB, FIRST)])
    assert fake.traffic.broken == [one for one in held if one.member == FIRST]
    await fake.apply([RemoveVirtualServer(WEB)])
    assert {*fake.traffic.broken} == {*held}
    assert fake.connect(WEB, CLIENTS[0]) is None


async def test_a_persistent_client_goes_back_until_the_setting_ends_it() -> None:
    fake = await serving(VirtualServer("rr", persistence=300))
    (member,) = taken(fake, [CLIENTS[0]] * 4)
    assert member is not None
    await fake.apply([SetRealServer(WEB, member, RealServer(0))])
    assert taken(fake, [CLIENTS[0]]) == {member: 1}
    await fake.apply([EXPIRE])
    assert taken(fake, [CLIENTS[0]])[member] == 0


async def test_clients_of_one_network_are_one_client_for_persistence() -> None:
    fake = await serving(VirtualServer("rr", persistence=300, persistence_prefix=24))
    assert len(taken(fake)) == 1


async def test_flows_of_udp_count_as_inactive() -> None:
    fake = await serving(VirtualServer("rr"), (1,), key=DNS)
    fake.connect(DNS, CLIENTS[0])
    dns = (await fake.read([DNS]))[DNS]
    assert dns is not None
    assert dns.connections[FIRST] == Connections(0, 1)


async def test_the_text_is_the_table_in_order() -> None:
    fake = await serving(VirtualServer("sh", Flags.SCHED_1, 300), (2, 0))
    await fake.apply([AddVirtualServer(DNS, VirtualServer("rr"))])
    assert fake.text() == (
        "-A -t 10.96.0.1:80 -s sh -p 300 -b sh-fallback\n"
        "-a -t 10.96.0.1:80 -r 10.1.0.1:8080 -m -w 2\n"
        "-a -t 10.96.0.1:80 -r 10.1.0.2:8080 -m -w 0\n"
        "-A -u 10.96.0.10:53 -s rr\n"
    )


async def test_a_dump_is_a_copy_and_a_foreign_edit_is_seen() -> None:
    fake = FakeDataplane()
    await fake.apply([ADD_WEB])
    dumped = await fake.dump()
    del fake.state.virtual_servers[WEB], fake.state.real_servers[WEB]
    assert WEB in dumped.virtual_servers
    assert await fake.dump() == fresh_state()


async def test_only_what_was_acknowledged_is_applied() -> None:
    fake = FakeDataplane(schedulers=frozenset({"rr"}))
    lacking = AddVirtualServer(DNS, VirtualServer("sh"))
    outcomes = await fake.apply([ADD_WEB, lacking, ADD_WEB])
    assert [one.refusal for one in outcomes] == [None, Refusal.UNSUPPORTED, Refusal.CONTRADICTED]
    assert fake.applied == [ADD_WEB]
    assert fake.writes == 3


async def test_a_kernel_without_ipv6_has_no_chains_for_it() -> None:
    state = fresh_state({Family.IPV4})
    assert (await FakeDataplane(state).dump()).rulesets.keys() == {Family.IPV4}


async def test_announced_changes_are_reported() -> None:
    fake = FakeDataplane()
    fake.announce(NodeNetworkChanged())
    changes = fake.changes()
    assert await anext(changes) == NodeNetworkChanged()


async def test_faults_reach_no_kernel_and_hold_up_no_other() -> None:
    fake = FakeDataplane()
    faulty = FaultyDataplane(
        fake, lambda operation: Refusal.BUSY if isinstance(operation, CreateLink) else None
    )
    add_dns = AddVirtualServer(DNS, VirtualServer("rr"))
    outcomes = await faulty.apply([ADD_WEB, CreateLink(), ADD_WEB, add_dns])
    assert [one.refusal for one in outcomes] == [None, Refusal.BUSY, Refusal.CONTRADICTED, None]
    assert faulty.refused == [CreateLink()]
    assert not (await faulty.dump()).link
    assert fake.applied == [ADD_WEB, add_dns]


async def test_random_faults_are_the_same_for_the_same_seed() -> None:
    async def refusals(seed: int) -> list[Refusal | None]:
        refuse = random_refusals(random.Random(seed), 0.5)
        faulty = FaultyDataplane(FakeDataplane(), refuse)
        return [one.refusal for one in await faulty.apply([EXPIRE] * 100)]

    once = await refusals(1)
    assert once == await refusals(1)
    assert once != await refusals(2)
    assert 20 < once.count(None) < 80


async def test_death_comes_after_exactly_so_many_operations() -> None:
    fake = FakeDataplane()
    dying = DyingDataplane(fake, operations=3)
    pods = [AddRealServer(WEB, one, RealServer(1)) for one in (FIRST, SECOND, THIRD)]
    await dying.apply([ADD_WEB])
    with pytest.raises(Killed):
        await dying.apply(pods)
    assert fake.applied == [ADD_WEB, *pods[:2]]
    with pytest.raises(Killed):
        await dying.apply(pods)


async def test_a_dry_run_answers_as_the_kernel_would_and_writes_nothing() -> None:
    fake = await serving(VirtualServer("rr"), (1, 1))
    connection = connected(fake.connect(WEB, CLIENTS[0]))
    before, writes = copy_state(fake.state), fake.writes
    dry: Dataplane = DryRunDataplane(fake)
    assert await dry.dump() == before
    change: list[Operation] = [
        SetRealServer(WEB, connection.member, RealServer(0)),
        AddRealServer(WEB, THIRD, RealServer(1)),
        ADD_WEB,
    ]
    outcomes = await dry.apply(change)
    assert [one.refusal for one in outcomes] == [None, None, Refusal.CONTRADICTED]
    assert isinstance(dry, DryRunDataplane)
    assert dry.recorded == (*change[:2],)
    planned = (await dry.read([WEB]))[WEB]
    assert planned is not None
    assert planned.real_servers[connection.member] == RealServer(0)
    assert planned.real_servers[THIRD] == RealServer(1)
    assert planned.connections[connection.member] == Connections(1, 0)
    assert planned.connections[THIRD] == Connections(0, 0)
    assert THIRD in (await dry.dump()).real_servers[WEB]
    assert (fake.state, fake.writes) == (before, writes)
