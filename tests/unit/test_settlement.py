"""From wishes to targets: departures, leftovers, and what half a picture holds."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from ipvsproxy.config import Settings
from ipvsproxy.core.desired import Desired, Touched
from ipvsproxy.core.foundation import foundation
from ipvsproxy.core.frontends import Kind
from ipvsproxy.core.pieces import whole
from ipvsproxy.core.plan import Target
from ipvsproxy.core.sets import frontend_member
from ipvsproxy.core.settlement import Holds, Settlement
from ipvsproxy.core.surroundings import Surroundings
from ipvsproxy.core.translate import Fragment, Frontend
from ipvsproxy.kernel.fake import FakeDataplane, fresh_state
from ipvsproxy.model import (
    Address,
    IpMember,
    IpPortIpMember,
    Network,
    Protocol,
    RealServer,
    RealServerKey,
    State,
    VirtualServer,
    VirtualServerKey,
)
from ipvsproxy.objects import ServiceName
from ipvsproxy.store import Gone
from tests.unit.builders import Agent, service, service_reference

IP = Address.parse("10.96.0.1")
KEY = VirtualServerKey(Protocol.TCP, IP, 80)
SECOND = VirtualServerKey(Protocol.TCP, IP, 443)
LEFT = VirtualServerKey(Protocol.TCP, Address.parse("10.96.0.9"), 80)
FOREIGN = VirtualServerKey(Protocol.TCP, Address.parse("192.0.2.1"), 80)
POD = RealServerKey(Address.parse("10.1.0.1"), 8080)
NAME = ServiceName("shop", "web")


def a_frontend(key: VirtualServerKey, *members: RealServerKey) -> Frontend:
    return Frontend(
        key,
        Kind.CLUSTER_IP,
        VirtualServer("rr"),
        {member: RealServer(1) for member in members},
        frozenset(),
        frozenset(),
        bind=True,
        members=frozenset(
            {("IPVSPROXY-OWN", frontend_member(key)), ("KUBE-IPVS-IPS", IpMember(key.address))}
        ),
        whole=True,
    )


def around(state: State) -> Surroundings:
    return Surroundings(Settings(node_name="n"), state)


def put(desired: Desired, *keys: VirtualServerKey, now: float = 0.0) -> Touched:
    frontends = tuple(a_frontend(key, POD) for key in keys)
    return desired.put(
        Fragment(NAME, None, frontends, (), annotated=False, asked="rr", scheduler="rr", kept={}),
        now,
    )


def kernel(*keys: VirtualServerKey, weight: int = 1) -> State:
    state = fresh_state()
    state.link = True
    state.sets = dict(foundation(Settings(node_name="n"), state).sets)
    state.members = {name: set() for name in state.sets}
    for key in keys:
        state.virtual_servers[key] = VirtualServer("rr")
        state.real_servers[key] = {POD: RealServer(weight)}
        state.addresses.add(key.address)
        for name, member in a_frontend(key).members:
            state.members[name].add(member)
    state.virtual_servers[FOREIGN] = VirtualServer("rr")
    state.real_servers[FOREIGN] = {}
    return state


def settlement(desired: Desired, *exclude: str) -> Settlement:
    networks = tuple(map(Network.parse, exclude))
    return Settlement(desired, Settings(node_name="n", exclude_cidrs=networks))


def target_of(
    here: Settlement,
    touched: Touched,
    surroundings: Surroundings,
    *,
    connections: Mapping[VirtualServerKey, Mapping[RealServerKey, int]],
    now: float,
) -> Target:
    return whole(here.target(touched, surroundings, connections=connections, now=now))


def sweep(here: Settlement, state: State, holds: Holds, now: float) -> Touched:
    touched = Touched()
    whole(here.sweep(touched, state, holds, now))
    return touched


def test_what_is_named_is_named_with_its_address_and_members() -> None:
    desired = Desired()
    target = target_of(
        settlement(desired), put(desired, KEY), around(fresh_state()), connections={}, now=0.0
    )
    assert target.virtual_servers.keys() == {KEY}
    assert target.addresses == {IP: True}
    assert target.members == dict.fromkeys(a_frontend(KEY).members, True)


@pytest.mark.parametrize("bound", [False, True])
def test_an_address_to_be_bound_comes_with_all_that_stands_behind_it(bound: bool) -> None:
    desired = Desired()
    put(desired, KEY)
    touched = put(desired, KEY, SECOND)
    state = kernel(KEY) if bound else fresh_state()
    target = target_of(settlement(desired), touched, around(state), connections={}, now=0.0)
    assert target.virtual_servers.keys() == ({SECOND} if bound else {KEY, SECOND})


def test_a_deleted_service_drains_and_then_nothing_is_left_of_it() -> None:
    desired, state = Desired(), kernel(KEY)
    here = settlement(desired)
    put(desired, KEY)
    touched = desired.drop(NAME, 100.0)
    target = target_of(here, touched, around(state), connections={}, now=100.0)
    wanted = target.virtual_servers[KEY]
    assert wanted is not None
    assert wanted.real_servers == {POD: RealServer(0)}
    assert target.addresses == {IP: True}
    assert here.draining == {KEY: {POD}}
    state.real_servers[KEY] = {POD: RealServer(0)}
    late = target_of(
        here, Touched(keys={KEY}), around(state), connections={KEY: {POD: 3}}, now=159.0
    )
    assert late.virtual_servers[KEY] is not None
    over = target_of(
        here, Touched(keys={KEY}), around(state), connections={KEY: {POD: 3}}, now=160.0
    )
    assert over.virtual_servers == {KEY: None}
    assert over.addresses == {IP: False}
    assert over.members == dict.fromkeys(a_frontend(KEY).members, False)
    assert not here.draining
    assert not desired.departing


def test_a_deleted_service_without_connections_goes_at_once() -> None:
    desired, state = Desired(), kernel(KEY, weight=0)
    put(desired, KEY)
    target = target_of(
        settlement(desired),
        desired.drop(NAME, 1.0),
        around(state),
        connections={KEY: {POD: 0}},
        now=1.0,
    )
    assert target.virtual_servers == {KEY: None}


@pytest.mark.parametrize(
    ("own", "moments", "stays"),
    [
        pytest.param(None, (0.0, 500.0, 899.0, 900.0), [True, True, True, False], id="setting"),
        pytest.param(60.0, (0.0, 59.0, 60.0), [True, True, False], id="shorter than the setting"),
        pytest.param(2000.0, (0.0, 1999.0, 2000.0), [True, True, False], id="longer"),
        pytest.param(0.0, (0.0,), [False], id="not at all"),
    ],
)
def test_the_deadline_of_a_server_runs_from_when_it_left(
    own: float | None, moments: tuple[float, ...], stays: list[bool]
) -> None:
    desired, state = Desired(), kernel(KEY, weight=0)
    here = settlement(desired)
    frontend = a_frontend(KEY)._replace(drain_deadline=own)
    fragment = Fragment(
        NAME, None, (frontend,), (), annotated=False, asked="rr", scheduler="rr", kept={}
    )
    desired.put(fragment, 0.0)
    found = []
    for now in moments:
        target = target_of(
            here, Touched(keys={KEY}), around(state), connections={KEY: {POD: 1}}, now=now
        )
        wanted = target.virtual_servers[KEY]
        assert wanted is not None
        found.append(POD in wanted.real_servers)
    assert found == stays


def test_a_service_that_is_deleted_has_the_deadline_of_those_and_not_its_own() -> None:
    desired, state = Desired(), kernel(KEY, weight=0)
    here = settlement(desired)
    frontend = a_frontend(KEY, POD)._replace(drain_deadline=5.0)
    fragment = Fragment(
        NAME, None, (frontend,), (), annotated=False, asked="rr", scheduler="rr", kept={}
    )
    desired.put(fragment, 0.0)
    desired.drop(NAME, 0.0)
    for now, stays in ((59.0, True), (60.0, False)):
        target = target_of(
            here, Touched(keys={KEY}), around(state), connections={KEY: {POD: 1}}, now=now
        )
        assert (target.virtual_servers[KEY] is not None) == stays


@pytest.mark.parametrize(
    ("holds", "exclude", "departs"),
    [
        pytest.param(Holds(), (), True, id="a leftover"),
        pytest.param(Holds(everything=True), (), False, id="the picture is not whole"),
        pytest.param(
            Holds(addresses=frozenset({LEFT.address})), (), False, id="may be a nonsense object's"
        ),
        pytest.param(Holds(addresses=frozenset({IP})), (), True, id="another's address is held"),
        pytest.param(Holds(), ("10.96.0.8/30",), False, id="excluded"),
    ],
)
def test_leftovers_depart_where_the_picture_allows(
    holds: Holds, exclude: tuple[str, ...], departs: bool
) -> None:
    desired, state = Desired(), kernel(KEY, LEFT)
    here = settlement(desired, *exclude)
    put(desired, KEY)
    touched = sweep(here, state, holds, 5.0)
    assert desired.departing == ({LEFT: 5.0} if departs else {})
    assert touched.keys >= {KEY}
    assert FOREIGN not in touched.keys
    assert (LEFT.address in touched.addresses) == departs


def test_a_member_that_nobody_wants_is_stale_unless_something_is_held() -> None:
    desired, state = Desired(), kernel(KEY)
    put(desired, KEY)
    endpoint = IpPortIpMember(IP, KEY.protocol, 8080, IP)
    state.members["KUBE-LOOP-BACK"] = {endpoint}
    here = settlement(desired)
    stale = ("KUBE-LOOP-BACK", endpoint)
    assert stale in sweep(here, state, Holds(), 0.0).members
    held = sweep(here, state, Holds(addresses=frozenset({LEFT.address})), 0.0)
    assert stale not in held.members
    assert Holds().any is False


def test_a_departure_that_has_ended_does_not_begin_anew_where_the_removal_was_refused() -> None:
    desired, state = Desired(), kernel(LEFT)
    here = settlement(desired)
    idle = {LEFT: {POD: 0}}
    touched = sweep(here, state, Holds(), 0.0)
    target_of(here, touched, around(state), connections={}, now=0.0)
    target_of(here, touched, around(state), connections=idle, now=61.0)
    assert LEFT not in desired.departing
    again = sweep(here, state, Holds(), 62.0)
    assert LEFT not in desired.departing
    assert target_of(here, again, around(state), connections={}, now=62.0).virtual_servers == {
        LEFT: None
    }


def test_a_foreign_virtual_server_is_in_no_target_and_no_leftover() -> None:
    desired, state = Desired(), kernel(KEY)
    desired.mark_foreign(FOREIGN)
    put(desired, KEY, FOREIGN)
    here = settlement(desired)
    touched = sweep(here, state, Holds(), 0.0)
    touched.keys.add(FOREIGN)
    target = target_of(here, touched, around(state), connections={}, now=0.0)
    assert target.virtual_servers.keys() == {KEY}
    assert not desired.departing


def test_what_nobody_wants_any_more_is_left_alone_where_it_is_not_ours() -> None:
    """A Service that wanted somebody else's virtual server, and moves away from it."""
    desired = Desired()
    state = fresh_state()
    state.virtual_servers = {KEY: VirtualServer("wlc"), FOREIGN: VirtualServer("wlc")}
    state.real_servers = {KEY: {}, FOREIGN: {}}
    here = settlement(desired)
    desired.mark_foreign(FOREIGN)
    put(desired, FOREIGN)
    touched = put(desired, SECOND)
    touched.keys |= {FOREIGN, KEY}
    target = target_of(here, touched, around(state), connections={}, now=0.0)
    assert set(target.virtual_servers) == {SECOND}


async def test_an_agent_whose_service_moves_away_from_a_foreign_server_leaves_that() -> None:
    fake = FakeDataplane()
    foreign = VirtualServerKey(Protocol.TCP, Address.parse("10.96.0.3"), 80)
    fake.state.virtual_servers[foreign] = VirtualServer("wlc")
    fake.state.real_servers[foreign] = {POD: RealServer(7)}
    agent = Agent(fake)
    agent.list_all([service("kubernetes", "10.96.0.1"), service("a", "10.96.0.3")])
    await agent.settle()
    agent.put(service("a", "10.96.0.1"))
    await agent.settle()
    assert fake.state.real_servers[foreign] == {POD: RealServer(7)}


async def test_nothing_is_remembered_of_virtual_servers_that_are_gone() -> None:
    agent = Agent(FakeDataplane())
    agent.list_all()
    for number in range(5):
        agent.put(service("web", f"10.96.1.{number}"))
        await agent.settle()
        agent.store.apply(Gone(service_reference()))
        agent.clock.now += 100.0
        await agent.settle()
    assert len(agent.reconciler._settlement._over) <= 1, "there is an audit only after a doubt"
