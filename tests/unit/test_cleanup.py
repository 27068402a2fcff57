"""Leaving no trace, and leaving everybody else's."""

from __future__ import annotations

import pytest

from ipvsproxy.config import Settings, WatchNodes
from ipvsproxy.core.cleanup import cleanup
from ipvsproxy.core.execution import Execution
from ipvsproxy.core.foundation import foundation
from ipvsproxy.core.operations import DestroySet, RemoveVirtualServer
from ipvsproxy.core.packet import Packet, Sender, SenderKind
from ipvsproxy.core.sets import frontend_member, loop_back_member
from ipvsproxy.core.trace import trace
from ipvsproxy.kernel.fake import ALL_SCHEDULERS, FakeDataplane, copy_state, fresh_state
from ipvsproxy.kernel.iptables_text import parse_save
from ipvsproxy.kernel.rules import carry_out
from ipvsproxy.model import (
    Address,
    Family,
    IpMember,
    Member,
    Network,
    NodeNetwork,
    Protocol,
    RealServer,
    RealServerKey,
    Ruleset,
    SetSpec,
    SetType,
    State,
    VirtualServer,
    VirtualServerKey,
)
from ipvsproxy.objects import Service, ServiceName, ServicePort
from tests.unit.builders import Agent, part
from tests.unit.test_foreign import IPTABLES_MODE

BOUND = VirtualServerKey(Protocol.TCP, Address.parse("10.96.0.1"), 80)
LISTED = VirtualServerKey(Protocol.TCP, Address.parse("192.0.2.1"), 80)
KEPT = VirtualServerKey(Protocol.TCP, Address.parse("198.51.100.1"), 80)
FOREIGN = VirtualServerKey(Protocol.TCP, Address.parse("192.0.2.2"), 80)


def kernel() -> State:
    state = fresh_state()
    wanted = foundation(Settings(node_name="n"), state)
    state.link = True
    state.sets = {**wanted.sets, "OTHER": SetSpec(SetType.HASH_IP, BOUND.family)}
    state.members = {name: set() for name in state.sets}
    state.rulesets = dict(wanted.rulesets)
    state.virtual_servers = dict.fromkeys((BOUND, LISTED, FOREIGN), VirtualServer("rr"))
    state.real_servers = {key: {} for key in state.virtual_servers}
    state.addresses = {BOUND.address}
    state.members["IPVSPROXY-OWN"] = {frontend_member(LISTED)}
    return state


def cleaned(state: State, *exclude: str) -> list[object]:
    execution = Execution(cleanup(state, [Network.parse(one) for one in exclude]), lambda _: False)
    done: list[object] = []
    while ready := execution.ready():
        for position in ready:
            operation = execution.operation(position)
            assert carry_out(state, operation, ALL_SCHEDULERS).refusal is None
            execution.answer(position, acknowledged=True)
            done.append(operation)
    return done


def test_all_that_is_ours_goes_and_nothing_else() -> None:
    state = kernel()
    cleaned(state)
    assert state.virtual_servers.keys() == {FOREIGN}
    assert state.sets.keys() == {"OTHER"}
    assert not state.link
    assert not state.addresses
    assert all(not ruleset.chains and not ruleset.jumps for ruleset in state.rulesets.values())
    assert cleaned(state) == []


def serving(state: State, key: VirtualServerKey, real: RealServerKey) -> set[tuple[str, Member]]:
    """Serve a frontend from an endpoint of this node; return the members that this takes."""
    state.virtual_servers[key] = VirtualServer("rr")
    state.real_servers[key] = {real: RealServer(1)}
    state.addresses.add(key.address)
    taken: set[tuple[str, Member]] = {
        ("KUBE-CLUSTER-IP", frontend_member(key)),
        ("IPVSPROXY-OWN", frontend_member(key)),
        ("KUBE-IPVS-IPS", IpMember(key.address)),
        ("KUBE-LOOP-BACK", loop_back_member(key.protocol, real)),
    }
    for name, one in taken:
        state.members[name].add(one)
    return taken


def all_members(state: State) -> set[tuple[str, Member]]:
    return {(name, one) for name, members in state.members.items() for one in members}


def test_what_is_excluded_goes_on_serving_and_the_rest_goes() -> None:
    state = kernel()
    serving(state, LISTED, RealServerKey(Address.parse("10.244.1.5"), 8080))
    kept = serving(state, KEPT, RealServerKey(Address.parse("10.244.1.6"), 8080))
    rulesets, sets = dict(state.rulesets), dict(state.sets)
    cleaned(state, "198.51.100.0/24")
    assert state.virtual_servers.keys() == {KEPT, FOREIGN}
    assert state.real_servers[KEPT]
    assert state.link
    assert state.addresses == {KEPT.address}
    assert all_members(state) == kept
    assert (state.rulesets, state.sets) == (rulesets, sets)
    assert cleaned(state, "198.51.100.0/24") == []
    cleaned(state)
    assert state.virtual_servers.keys() == {FOREIGN}
    assert state.sets.keys() == {"OTHER"}


def test_an_excluded_network_in_which_nothing_is_ours_keeps_nothing() -> None:
    state = kernel()
    cleaned(state, "192.0.2.2/32")
    assert state.virtual_servers.keys() == {FOREIGN}
    assert state.sets.keys() == {"OTHER"}
    assert not state.link


def test_an_excluded_virtual_server_that_has_no_address_keeps_no_interface() -> None:
    state = kernel()
    cleaned(state, "192.0.2.0/24")
    assert state.virtual_servers.keys() == {LISTED, FOREIGN}
    assert all_members(state) == {("IPVSPROXY-OWN", frontend_member(LISTED))}
    assert not state.link


@pytest.mark.parametrize("exclude", [(), ("198.51.100.0/24",)], ids=["all", "excluding"])
@pytest.mark.parametrize("seen", range(20))
def test_an_interrupted_clean_up_still_knows_what_is_ours(
    seen: int, exclude: tuple[str, ...]
) -> None:
    state = kernel()
    serving(state, LISTED, RealServerKey(Address.parse("10.244.1.5"), 8080))
    serving(state, KEPT, RealServerKey(Address.parse("10.244.1.6"), 8080))
    neighbour = LISTED._replace(port=81)
    state.virtual_servers[neighbour] = VirtualServer("rr")
    state.real_servers[neighbour] = {}
    left = seen
    execution = Execution(cleanup(state, [Network.parse(one) for one in exclude]), lambda _: False)
    while left > 0 and (ready := execution.ready()):
        for position in ready[:left]:
            carry_out(state, execution.operation(position), ALL_SCHEDULERS)
            execution.answer(position, acknowledged=True)
        left -= len(ready)
    cleaned(state, *exclude)
    stays = {FOREIGN, neighbour} | ({KEPT} if exclude else set())
    assert state.virtual_servers.keys() == stays


def test_a_predecessor_without_a_ledger_is_cleaned_up_too() -> None:
    state = kernel()
    state.addresses = set()
    state.members["IPVSPROXY-OWN"] = set()
    state.members["KUBE-CLUSTER-IP"] = {frontend_member(LISTED)}
    done = cleaned(state)
    removed = [one.key for one in done if isinstance(one, RemoveVirtualServer)]
    assert removed == [LISTED]
    last = done[-1]
    assert isinstance(last, DestroySet)


OWN = Address.parse("192.0.2.10")
BALANCED = Service(
    ServiceName("shop", "web"),
    type="LoadBalancer",
    cluster_ips=(BOUND.address,),
    ports=tuple(
        ServicePort(protocol.name, protocol, 80, 30080 + index)
        for index, protocol in enumerate(Protocol)
    ),
    external_ips=(Address.parse("203.0.113.5"), OWN),
    ingress_ips=(Address.parse("203.0.113.6"),),
    source_ranges=(Network.parse("198.51.100.0/24"), Network.parse("192.0.2.0/24")),
    health_check_node_port=32080,
    external_traffic_local=True,
)


async def everything() -> FakeDataplane:
    """Give a kernel in which every kind of frontend is served, and somebody else's too."""
    fake = FakeDataplane()
    fake.state.network = NodeNetwork({"eth0": frozenset({OWN})})
    fake.state.virtual_servers[FOREIGN], fake.state.real_servers[FOREIGN] = VirtualServer("rr"), {}
    settings = Settings(node_name="node-a", watch_nodes=WatchNodes.NEVER)
    agent = Agent(fake, settings=settings)
    agent.list_all([BALANCED, part("web", "10.244.1.5")])
    await agent.settle()
    assert len(fake.state.virtual_servers) == 1 + 3 * 5
    return fake


async def test_every_kind_of_frontend_goes_without_a_trace() -> None:
    fake = await everything()
    cleaned(fake.state)
    assert fake.state.virtual_servers.keys() == {FOREIGN}
    assert not fake.state.sets
    assert not fake.state.link
    assert all(found == Ruleset() for found in fake.state.rulesets.values())


@pytest.mark.parametrize("exclude", ["192.0.2.10/32", "203.0.113.6/32", "203.0.113.0/24"])
async def test_an_excluded_frontend_of_any_kind_keeps_what_it_serves_by(exclude: str) -> None:
    fake = await everything()
    before = copy_state(fake.state)
    cleaned(fake.state, exclude)
    network = Network.parse(exclude)
    kept = {key for key in before.virtual_servers if key.address in network}
    assert kept
    assert fake.state.virtual_servers.keys() == kept | {FOREIGN}
    outside = Sender(SenderKind.OUTSIDE, Address.parse("198.51.100.7"), "eth0")
    for key in kept:
        packet = Packet(outside, key.protocol, key.address, key.port)
        assert trace(fake.state, packet).fate == trace(before, packet).fate, key


def test_chains_in_which_iptables_mode_serves_by_now_stay() -> None:
    state = kernel()
    ours = state.rulesets[Family.IPV4]
    theirs = parse_save(IPTABLES_MODE)
    named = {chain[:2] for chain in theirs.chains}
    both = (*theirs.chains, *(chain for chain in ours.chains if chain[:2] not in named))
    jumps = {*theirs.jumps, *ours.jumps}
    state.rulesets[Family.IPV4] = Ruleset(
        tuple(sorted(both)), tuple(sorted(jumps, key=lambda jump: jump[:2]))
    )
    cleaned(state)
    left = state.rulesets[Family.IPV4]
    assert {chain[:2] for chain in left.chains} == named
    assert set(theirs.jumps) <= set(left.jumps)
    assert "KUBE-CLUSTER-IP" not in state.sets
