"""A great deal to do, in portions: what is split off, what is not, and who is served when."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from itertools import chain

import msgspec
import pytest

from ipvsproxy.core.desired import Desired, Touched
from ipvsproxy.core.frontends import Kind
from ipvsproxy.core.operations import (
    AddMember,
    AddRealServer,
    AddVirtualServer,
    BindAddress,
    Operation,
    ReplaceChains,
)
from ipvsproxy.core.portions import AT_ONCE, Portion, Sort, portions
from ipvsproxy.core.redirect import Redirect
from ipvsproxy.core.translate import Fragment, Frontend
from ipvsproxy.dataplane import Outcome, Refusal
from ipvsproxy.kernel.fake import FakeDataplane, FaultyDataplane
from ipvsproxy.model import (
    Address,
    Family,
    IpMember,
    IpPortMember,
    Protocol,
    RealServer,
    RealServerKey,
    Ruleset,
    State,
    VirtualServer,
    VirtualServerKey,
)
from ipvsproxy.objects import KubernetesObject, Service, ServiceName
from ipvsproxy.reconciler import planning
from tests.unit.builders import Agent, part, service, settle

STRAY = Address.parse("10.96.9.9")
POD = RealServerKey(Address.parse("10.244.1.5"), 8080)
NAMES = [ServiceName("shop", f"web-{number}") for number in range(4)]


def key(number: int, port: int = 80) -> VirtualServerKey:
    return VirtualServerKey(Protocol.TCP, Address.parse(f"10.96.0.{number}"), port)


def wants(
    one: VirtualServerKey, redirect: Redirect | None = None, *, bind: bool = True
) -> Frontend:
    return Frontend(
        one,
        Kind.CLUSTER_IP,
        VirtualServer("rr"),
        {POD: RealServer(1)},
        frozenset(),
        frozenset(),
        bind=bind,
        members=frozenset({("KUBE-CLUSTER-IP", IpPortMember(one.address, one.protocol, one.port))}),
        whole=True,
        redirect=redirect,
    )


def merged(*wishes: Sequence[Frontend]) -> tuple[Desired, Touched]:
    """Let each Service want something."""
    desired, touched = Desired(), Touched()
    for name, frontends in zip(NAMES, wishes, strict=False):
        fragment = Fragment(name, None, tuple(frontends), (), False, "rr", "rr", {})
        touched.add(desired.put(fragment, 0.0))
    return desired, touched


async def kernel() -> State:
    """Give a kernel that has our chains, and no Service."""
    fake = FakeDataplane()
    agent = Agent(fake)
    agent.list_all()
    await settle(agent.reconciler)
    return fake.state


def split(
    touched: Touched, desired: Desired, state: State, at_once: int = AT_ONCE
) -> list[Portion]:
    """Give the portions, without what looking for them has cost."""
    found = portions(touched, desired, state, at_once)
    return [one for one in found if isinstance(one, Portion)]


async def test_what_is_new_and_stands_alone_is_a_portion_each_with_its_members() -> None:
    desired, touched = merged([wants(key(1))], [wants(key(2)), wants(key(2, 443))])
    found = split(touched, desired, await kernel(), at_once=0)
    assert [portion.touched.keys for portion in found] == [{key(1)}, {key(2), key(2, 443)}, set()]
    assert [portion.sort for portion in found] == [Sort.NEW, Sort.NEW, Sort.REST]
    assert found[0].touched.members == desired.held[key(1)].members
    assert found[-1].touched.members == set()


async def test_an_address_goes_with_the_virtual_servers_behind_it() -> None:
    """With it they are planned; without their members, which are not in the rest, they must not."""
    desired, touched = merged([wants(key(1))], [wants(key(2))])
    touched.addresses |= {key(1).address, STRAY}
    found = split(touched, desired, await kernel(), at_once=0)
    assert [one.touched.addresses for one in found] == [{key(1).address}, set(), {STRAY}]


async def test_a_member_that_others_need_too_is_in_the_rest_as_well() -> None:
    """It may be refused in the portion, and then it is not there for the others."""
    shared = ("KUBE-NODE-IP", IpMember(STRAY))
    frontends = [
        wants(one)._replace(members={*wants(one).members, shared}) for one in (key(1), key(2))
    ]
    leading = frontends[1]._replace(redirect=Redirect(Protocol.TCP, key(2).address, 80, key(3)))
    desired, touched = merged([frontends[0]], [leading, wants(key(3))])
    new, rest = split(touched, desired, await kernel(), at_once=0)
    assert new.touched.members == frontends[0].members
    assert shared in rest.touched.members
    assert rest.touched.members.isdisjoint(wants(key(1)).members)


@pytest.mark.parametrize("refusal", [Refusal.INVALID, Refusal.CONTRADICTED])
async def test_what_was_refused_of_a_portion_keeps_back_the_virtual_server_in_the_next_cycle_too(
    monkeypatch: pytest.MonkeyPatch, refusal: Refusal
) -> None:
    """Without its entry in the ledger it would be nobody's after a restart."""
    fake = FakeDataplane()
    faulty = FaultyDataplane(fake)
    monkeypatch.setattr(planning, "AT_ONCE", 0)
    agent = Agent(faulty)
    agent.list_all()
    await agent.settle()
    faulty.refuse = lambda one: refusal if isinstance(one, AddMember) else None
    agent.put(service(), part())
    for _ in range(3):
        agent.reconciler.audit_soon()
        await agent.reconciler.cycle()
    assert not fake.state.virtual_servers
    assert not fake.state.addresses
    faulty.refuse = lambda _: None
    agent.clock.now += 120
    await agent.settle()
    assert fake.state.addresses == {service().cluster_ips[0]}


async def test_little_is_one_portion() -> None:
    desired, touched = merged([wants(key(1))], [wants(key(2))])
    found = split(touched, desired, await kernel())
    assert found == [(touched, Sort.REST)]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        pytest.param([wants(key(1))], [wants(key(1))], id="a port that two claim"),
        pytest.param(
            [wants(key(1), bind=False)],
            [wants(key(1), bind=False)],
            id="a port that two claim at an address of the node",
        ),
        pytest.param([wants(key(1))], [wants(key(1, 443))], id="an address that two bind"),
    ],
)
async def test_what_two_services_share_is_left_for_the_end(
    first: Sequence[Frontend], second: Sequence[Frontend]
) -> None:
    desired, touched = merged(first, second, [wants(key(3))])
    found = split(touched, desired, await kernel(), at_once=0)
    assert [portion.touched.keys for portion in found] == [
        {key(3)},
        {one.key for one in chain(first, second)},
    ]


async def test_a_service_that_redirects_is_left_for_the_end_with_what_it_leads_to() -> None:
    leading = wants(key(2), Redirect(Protocol.TCP, key(2).address, 80, key(1)))
    desired, touched = merged([wants(key(1)), leading], [wants(key(3))])
    found = split(touched, desired, await kernel(), at_once=0)
    assert [portion.touched.keys for portion in found] == [{key(3)}, {key(1), key(2)}]


async def test_a_service_that_goes_without_an_address_is_left_for_the_end() -> None:
    desired, touched = merged([wants(key(1))], [wants(key(2))])
    state = await kernel()
    state.virtual_servers[key(1)] = VirtualServer("rr")
    desired.mark_foreign(key(1))
    found = split(touched, desired, state, at_once=0)
    assert [portion.touched.keys for portion in found] == [{key(2)}, {key(1)}]


async def test_what_the_kernel_has_already_is_another_sort_and_what_it_has_a_part_of_is_none() -> (
    None
):
    desired, touched = merged([wants(key(1))], [wants(key(2))], [wants(key(3)), wants(key(3, 443))])
    state = await kernel()
    for one in (key(1), key(3)):
        state.virtual_servers[one] = VirtualServer("rr")
        state.real_servers[one] = {}
    found = split(touched, desired, state, at_once=0)
    assert [(portion.touched.keys, portion.sort) for portion in found] == [
        ({key(1)}, Sort.STANDING),
        ({key(2)}, Sort.NEW),
        ({key(3), key(3, 443)}, Sort.REST),
    ]


async def test_nothing_is_split_before_our_chains_stand() -> None:
    """Else addresses would be bound before the rules that masquerade for them."""
    desired, touched = merged([wants(key(1))], [wants(key(2))])
    state = await kernel()
    state.rulesets[Family.IPV4] = Ruleset()
    (only,) = split(touched, desired, state, at_once=0)
    assert only == (touched, Sort.REST)


class Watched(FakeDataplane):
    """A fake that remembers in which order it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.order: list[Operation] = []
        self.together: list[Sequence[Operation]] = []
        """The same, by what was sent together."""

    async def apply(self, operations: Sequence[Operation]) -> Sequence[Outcome]:
        self.order += operations
        self.together.append(operations)
        return await super().apply(operations)

    def places(self, wanted: Callable[[Operation], bool]) -> list[int]:
        return [place for place, one in enumerate(self.order) if wanted(one)]


def cluster(size: int) -> list[Service]:
    return [
        service(f"web-{number}", f"10.96.{number // 200}.{number % 200 + 1}")
        for number in range(size)
    ]


async def test_at_a_cold_start_the_first_services_do_not_wait_for_the_last() -> None:
    fake = Watched()
    agent = Agent(fake)
    services = cluster(1200)
    agent.list_all([*services, *(part(one.name.name, "10.244.1.5") for one in services)])
    await settle(agent.reconciler)
    bound = fake.places(lambda one: isinstance(one, BindAddress))
    made = fake.places(lambda one: isinstance(one, AddVirtualServer))
    assert len(bound) == len(made) == len(services)
    assert bound[0] < made[len(services) // 2] < bound[-1]
    assert fake.places(lambda one: isinstance(one, ReplaceChains))[-1] < made[0]
    assert fake.state == agent.reconciler.state


async def test_clients_are_not_led_to_an_address_that_is_not_bound_yet() -> None:
    """A portion has no chains: those lead to what the other portions make."""
    fake = Watched()
    agent = Agent(fake)
    local = msgspec.structs.replace(
        service("local", "10.96.99.1"),
        type="LoadBalancer",
        ingress_ips=(Address.parse("203.0.113.5"),),
        external_traffic_local=True,
    )
    agent.list_all([local, part("local", "10.244.1.5")])
    await settle(agent.reconciler)
    fake.order.clear()
    elsewhere = Address.parse("10.96.99.2")
    agent.put(*cluster(1200), msgspec.structs.replace(local, cluster_ips=(elsewhere,)))
    await settle(agent.reconciler)
    (bound,) = fake.places(lambda one: one == BindAddress(elsewhere))
    replaced = fake.places(lambda one: isinstance(one, ReplaceChains))
    assert bound < replaced[0]


async def test_what_stands_and_is_to_change_is_changed_with_the_rest() -> None:
    fake = Watched()
    agent = Agent(fake)
    services = cluster(1200)
    objects: list[KubernetesObject] = [
        *services,
        *(part(one.name.name, "10.244.1.5") for one in services),
    ]
    agent.list_all(objects)
    await settle(agent.reconciler)
    fake.together.clear()
    again = Agent(fake)
    objects += [part(f"web-{one}", "10.244.1.6", name=f"web-{one}-2") for one in (7, 1100)]
    again.list_all(objects)
    await settle(again.reconciler)
    (both,) = fake.together
    assert [type(one) for one in both] == [AddRealServer, AddRealServer]


async def test_who_drains_and_is_passed_over_at_a_restart_goes_when_its_connections_end() -> None:
    fake = Watched()
    agent = Agent(fake)
    services = cluster(1200)
    here = [part(one.name.name, "10.244.1.5", "10.244.1.6") for one in services]
    agent.list_all([*services, *here])
    await settle(agent.reconciler)
    drained = VirtualServerKey(Protocol.TCP, services[7].cluster_ips[0], 80)
    leaving = RealServerKey(Address.parse("10.244.1.6"), 8080)
    opened = [fake.connect(drained, Address.parse("10.244.9.9")) for _ in range(2)]
    here[7] = part("web-7", "10.244.1.5")
    agent.put(here[7])
    await settle(agent.reconciler)
    assert fake.state.real_servers[drained][leaving].weight == 0
    again = Agent(fake)
    again.list_all([*services, *here])
    fake.order.clear()
    await settle(again.reconciler)
    assert fake.order == []
    for connection in opened:
        assert connection is not None
        fake.disconnect(connection)
    again.clock.now += 5
    await settle(again.reconciler)
    assert fake.state.real_servers[drained].keys() == {POD}


async def test_a_restart_looks_at_all_bit_by_bit_and_does_what_little_there_is_to_do() -> None:
    fake = Watched()
    agent = Agent(fake)
    services = cluster(1200)
    objects: list[KubernetesObject] = [
        *services,
        *(part(one.name.name, "10.244.1.5") for one in services),
    ]
    agent.list_all(objects)
    await settle(agent.reconciler)
    fake.order.clear()
    again = Agent(fake)
    again.list_all([*objects, part("web-7", "10.244.1.6", name="web-7-2")])
    turns = 0

    async def another() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(another())
    await settle(again.reconciler)
    task.cancel()
    (one,) = fake.order
    assert isinstance(one, AddRealServer)
    assert turns >= (1200 // 20 - 1) + 1200 // 300, "looked at, and then compared"


async def test_others_have_their_turn_while_many_services_are_looked_at() -> None:
    fake = FakeDataplane()
    agent = Agent(fake)
    agent.list_all(cluster(400))
    turns = 0

    async def another() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(another())
    await agent.reconciler.cycle()
    before = turns
    await agent.reconciler.cycle()
    task.cancel()
    assert agent.reconciler.desired.fragments.keys() == {one.name for one in cluster(400)}
    assert turns - before >= 400 // 20 - 1


async def test_what_changes_while_many_are_looked_at_is_not_lost() -> None:
    fake = FakeDataplane()
    agent = Agent(fake)
    services = cluster(400)
    agent.list_all(services)
    await agent.reconciler.cycle()

    async def meanwhile() -> None:
        agent.put(part("web-399", "10.244.9.9"))

    task = asyncio.create_task(meanwhile())
    report = await agent.reconciler.cycle()
    await task
    assert report.covers >= 0
    await settle(agent.reconciler)
    last = services[-1].cluster_ips[0]
    found = fake.state.real_servers[VirtualServerKey(Protocol.TCP, last, 80)]
    assert found.keys() == {RealServerKey(Address.parse("10.244.9.9"), 8080)}
