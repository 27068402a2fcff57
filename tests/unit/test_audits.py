"""When the kernel is looked at, and when all of it is read.

What is found by that, and in which time: tests/properties/test_audits.py.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import pytest

from ipvsproxy.config import Settings
from ipvsproxy.core.parts import Addresses, KernelSettings, Part, RealServers, Rules
from ipvsproxy.dataplane import DataplaneError, Glance, Reading
from ipvsproxy.kernel.fake import FakeDataplane, copy_state
from ipvsproxy.model import (
    Address,
    Network,
    NodeNetwork,
    RealServer,
    State,
    VirtualServer,
    VirtualServerKey,
)
from ipvsproxy.objects import ObjectReference
from ipvsproxy.reconciler.doubts import Doubt, Numbers, doubts, numbers, unseen, watched_sets
from ipvsproxy.reconciler.rounds import Rounds
from ipvsproxy.store import Gone
from tests.unit.builders import Agent, frontend, member, part, service

WEB = frontend()
PERIOD = Settings(node_name="a").sync_period
GLANCE = PERIOD / 12


class Kernel(FakeDataplane):
    """A kernel that counts more than is looked at, or cannot be looked at."""

    def __init__(self) -> None:
        super().__init__()
        self.marked: int | None = 0
        self.fails: Collection[str] = ()
        """What cannot be asked."""

    async def glance(self, keys: Collection[VirtualServerKey], sets: Collection[str]) -> Glance:
        if "glance" in self.fails:
            raise DataplaneError("not just now")
        glance = await super().glance(keys, sets)
        assert glance.ipv4_virtual_servers is not None
        counted = None if self.marked is None else glance.ipv4_virtual_servers + self.marked
        return glance._replace(ipv4_virtual_servers=counted)

    async def look(self, one: Part) -> State:
        if "look" in self.fails or (
            "only real servers" in self.fails and isinstance(one, RealServers)
        ):
            raise DataplaneError("not just now")
        if "look once" in self.fails:
            self.fails = []
            raise DataplaneError("not just now")
        return await super().look(one)

    async def read(
        self, keys: Collection[VirtualServerKey]
    ) -> Mapping[VirtualServerKey, Reading | None]:
        if "read" in self.fails:
            raise DataplaneError("not just now")
        return await super().read(keys)


async def settled(fake: FakeDataplane, period: float = PERIOD) -> Agent:
    agent = Agent(fake, settings=Settings(node_name="node-a", sync_period=period))
    agent.list_all([service(), part("web", "10.244.1.5", "10.244.2.5")])
    await agent.settle()
    return agent


async def later(agent: Agent, seconds: float) -> None:
    agent.clock.now += seconds
    while agent.reconciler.busy:
        await agent.reconciler.cycle()


async def test_others_that_the_kernel_counts_are_no_reason_to_read_everything() -> None:
    fake = Kernel()
    fake.marked = 3
    agent = await settled(fake)
    for _ in range(13):
        await later(agent, GLANCE)
    assert (fake.dumps, agent.reconciler.looks["glances"]) == (1, 13)


async def test_one_more_of_others_is_looked_into_once() -> None:
    fake = Kernel()
    agent = await settled(fake)
    fake.marked = 1
    for _ in range(13):
        await later(agent, GLANCE)
    assert fake.dumps == 2


async def test_a_kernel_that_does_not_count_is_believed_otherwise() -> None:
    fake = Kernel()
    fake.marked = None
    agent = await settled(fake)
    del fake.state.virtual_servers[WEB], fake.state.real_servers[WEB]
    await later(agent, GLANCE)
    assert fake.dumps == 2, "one of a few is asked for each time"
    assert fake.state.real_servers[WEB]


async def test_addresses_of_the_node_come_and_go_without_everything_being_read() -> None:
    fake = FakeDataplane()
    agent = await settled(fake)
    writes = fake.writes
    for addresses in ({"192.0.2.1"}, {"192.0.2.1", "192.0.2.2"}, set[str]()):
        fake.state.network = NodeNetwork({"eth0": frozenset(map(Address.parse, addresses))})
        await later(agent, GLANCE)
        assert agent.reconciler.state is not None
        assert agent.reconciler.state.network == fake.state.network
    assert (fake.dumps, fake.writes) == (1, writes)


async def test_a_link_that_goes_is_found_when_the_kernel_tells() -> None:
    fake = FakeDataplane()
    agent = await settled(fake)
    right = copy_state(fake.state)
    fake.state.link = False
    fake.state.addresses.clear()
    agent.reconciler.network_changed()
    await later(agent, 0.2)
    assert fake.state == right


async def test_a_fight_is_answered_three_times_at_once_and_then_twice_in_a_period() -> None:
    fake = FakeDataplane()
    agent = await settled(fake)
    await later(agent, PERIOD)
    before = fake.dumps
    for _ in range(3):
        fake.state.addresses.discard(WEB.address)
        await later(agent, GLANCE)
        assert WEB.address in fake.state.addresses
    for _ in range(24):
        fake.state.addresses.discard(WEB.address)
        await later(agent, GLANCE)
    assert fake.dumps - before in {7, 8}
    await later(agent, PERIOD)
    assert WEB.address in fake.state.addresses


@pytest.mark.parametrize("fails", [["glance", "look"], ["glance"], ["look"]], ids=" ".join)
async def test_what_cannot_be_looked_at_is_told_and_read_again_as_a_whole(
    fails: list[str],
) -> None:
    fake = Kernel()
    agent = await settled(fake)
    fake.fails = fails
    await later(agent, GLANCE)
    assert fake.dumps == 2
    said = agent.said()
    for _ in range(12):
        await later(agent, GLANCE)
        said += agent.said()
    assert "Node KernelUnreadable" in said
    assert fake.dumps <= 7
    fake.fails = ()
    await later(agent, PERIOD)
    await later(agent, PERIOD)
    assert agent.said() == []


@pytest.mark.parametrize("fails", ["glance", "look", "only real servers"])
async def test_what_cannot_be_looked_at_though_all_can_be_read_is_told_until_it_can(
    fails: str,
) -> None:
    fake = Kernel()
    agent = await settled(fake)
    fake.fails = [fails]
    told = []
    for _ in range(60):
        await later(agent, GLANCE)
        told.append("Node KernelUnreadable" in agent.said())
    assert told[-1]
    assert told == sorted(told), "it is not taken back and told again"
    fake.fails = ()
    for _ in range(2 * 12):
        await later(agent, GLANCE)
    assert agent.said() == []


async def test_what_cannot_be_looked_at_once_is_read_with_all_the_rest_and_not_told() -> None:
    fake = Kernel()
    agent = await settled(fake)
    fake.fails = ["look once"]
    for _ in range(24):
        await later(agent, GLANCE)
        assert agent.said() == []
    assert (fake.fails, fake.dumps) == ([], 2)


async def test_what_cannot_be_looked_at_and_goes_is_told_no_longer() -> None:
    fake = Kernel()
    agent = await settled(fake)
    fake.fails = ["only real servers"]
    for _ in range(24):
        await later(agent, GLANCE)
    assert agent.said() == ["Node KernelUnreadable"]
    agent.store.apply(Gone(ObjectReference("Service", "default", "web")))
    await later(agent, PERIOD + 1)
    assert WEB not in fake.state.virtual_servers
    assert agent.said() == []


async def test_connections_that_could_not_be_counted_once_are_no_lasting_trouble() -> None:
    """Nobody counts them again when who was draining has come back."""
    fake = Kernel()
    agent = await settled(fake)
    connections = [fake.connect(WEB, Address.parse("10.9.0.1")) for _ in range(2)]
    assert all(connections)
    agent.put(part("web", "10.244.1.5"))
    await agent.settle()
    fake.fails = ["read"]
    await later(agent, 31)
    fake.fails = ()
    agent.put(part("web", "10.244.1.5", "10.244.2.5"))
    await agent.settle()
    assert agent.said() == []


async def test_what_the_node_lacks_from_now_on_is_found_in_a_period() -> None:
    fake = FakeDataplane()
    agent = await settled(fake)
    fake.state.lacks["IPv6 chains"] = "ip6tables-save: command not found"
    for _ in range(13):
        await later(agent, GLANCE)
    assert agent.said() == ["Node MissingFeature"]


async def test_changes_without_a_pause_do_not_starve_the_audit() -> None:
    fake = FakeDataplane()
    agent = await settled(fake)
    del fake.state.virtual_servers[WEB], fake.state.real_servers[WEB]
    for number in range(40):
        agent.clock.now += 0.5
        agent.put(service("other", f"10.96.1.{number}"))
        await agent.reconciler.cycle()
    assert WEB in fake.state.virtual_servers
    fake.state.real_servers[WEB].clear()
    for number in range(260):
        agent.clock.now += 0.5
        agent.put(service("other", f"10.96.1.{number % 250}"))
        await agent.reconciler.cycle()
    assert len(fake.state.real_servers[WEB]) == 2, "the round goes on too"


@pytest.mark.parametrize("what", ["a change", "other settings"])
async def test_a_round_ends_for_whatever_comes_meanwhile(what: str) -> None:
    class Meanwhile(FakeDataplane):
        async def look(self, one: Part) -> State:
            if what == "a change":
                agent.put(service("other", "10.96.1.1"))
            else:
                agent.reconciler.configure(Settings(node_name="node-a"))
            return await super().look(one)

    fake = Meanwhile()
    agent = await settled(fake)
    agent.clock.now += GLANCE
    report = await agent.reconciler.cycle()
    assert not report.only_looked
    assert report.translated
    assert len(fake.parts) == 1


async def test_leftovers_are_looked_for_again_when_other_networks_are_out_of_bounds() -> None:
    fake = FakeDataplane()
    before = Agent(fake)
    before.list_all([service("gone", "10.96.5.1")])
    await before.settle()
    bounds = Settings(node_name="node-a", exclude_cidrs=(Network.parse("10.96.5.0/24"),))
    agent = Agent(fake, settings=bounds)
    agent.list_all([service()])
    await agent.settle()
    assert frontend("10.96.5.1") in fake.state.virtual_servers
    agent.reconciler.configure(Settings(node_name="node-a"))
    await agent.settle()
    assert frontend("10.96.5.1") not in fake.state.virtual_servers


async def test_a_shorter_period_counts_at_once() -> None:
    fake = FakeDataplane()
    agent = await settled(fake, 3600)
    agent.reconciler.configure(Settings(node_name="node-a", sync_period=12))
    await agent.settle()
    fake.state.sysctls["net/ipv4/vs/conntrack"] = "0"
    for _ in range(12):
        await later(agent, 1)
    assert fake.state.sysctls["net/ipv4/vs/conntrack"] == "1"


async def test_a_shorter_period_counts_for_the_next_glance_too() -> None:
    fake = FakeDataplane()
    agent = await settled(fake, 3600)
    agent.reconciler.configure(Settings(node_name="node-a", sync_period=12))
    await agent.settle()
    del fake.state.virtual_servers[WEB], fake.state.real_servers[WEB]
    await later(agent, 1)
    assert WEB in fake.state.virtual_servers


async def test_what_was_read_with_everything_is_not_read_once_more() -> None:
    fake = FakeDataplane()
    agent = await settled(fake)
    for _ in range(11):
        await later(agent, GLANCE)
    fake.state.sysctls["net/ipv4/vs/conntrack"] = "0"
    await later(agent, GLANCE)
    assert fake.dumps == 2
    assert [one for one in fake.parts if isinstance(one, KernelSettings | Rules)] == [
        KernelSettings()
    ]


async def test_a_round_begins_anew_when_everything_was_read() -> None:
    fake = FakeDataplane()
    agent = await settled(fake)
    await later(agent, GLANCE)
    assert fake.parts[0] == Addresses()
    agent.reconciler.audit_soon()
    await later(agent, 0)
    fake.parts.clear()
    await later(agent, GLANCE)
    assert fake.parts[0] == Addresses()


async def test_glances_are_a_second_apart_at_least() -> None:
    fake = FakeDataplane()
    agent = await settled(fake, 1)
    before = fake.glances
    for _ in range(40):
        await later(agent, 0.25)
    assert fake.glances - before == 10


async def test_settings_and_rules_are_read_once_in_a_period() -> None:
    fake = FakeDataplane()
    agent = await settled(fake)
    for _ in range(24):
        await later(agent, GLANCE)
    assert fake.parts.count(KernelSettings()) == 2


def state_of(*servers: str) -> State:
    keys = [frontend(address) for address in servers]
    return State(
        addresses={key.address for key in keys},
        virtual_servers=dict.fromkeys(keys),  # type: ignore[arg-type]
        real_servers={key: {member("10.244.1.5"): RealServer(1)} for key in keys},
    )


def test_a_round_reads_what_has_come_since_it_began() -> None:
    state = state_of("10.96.0.1", "10.96.0.2")
    rounds = Rounds(0)
    rounds.earn(state, 60, 60)
    state.real_servers[WEB] = {}
    keys: list[VirtualServerKey] = []
    for _ in range(9):
        rounds.earn(state, 60, 60)
        found = rounds.take(state)
        keys += found.keys if isinstance(found, RealServers) else ()
    rounds.earn(state, 120, 60)
    while (found := rounds.take(state)) is not None and not rounds.finished:
        keys += found.keys if isinstance(found, RealServers) else ()
    assert keys == [*state.virtual_servers, WEB]


def taken(rounds: Rounds, state: State) -> list[Part]:
    """Take what there is credit for."""
    return list(iter(lambda: rounds.take(state), None))


def test_a_round_begins_anew_and_without_credit_when_everything_was_read() -> None:
    state = state_of("10.96.0.1", "10.96.0.2")
    rounds = Rounds(0)
    rounds.earn(state, 0, 60)
    rounds.earn(state, 30, 60)
    assert taken(rounds, state)
    rounds.restart(60)
    rounds.earn(state, 60, 60)
    assert taken(rounds, state) == []
    rounds.earn(state, 61, 60)
    assert taken(rounds, state) == [Addresses()]


def test_no_more_than_what_a_period_has_is_made_up_for() -> None:
    state = state_of(*(f"10.96.0.{number}" for number in range(120)))
    servers = {member(f"10.244.1.{number}"): RealServer(1) for number in range(250)}
    state.real_servers = dict.fromkeys(state.real_servers, servers)
    rounds = Rounds(0)
    rounds.earn(state, 0, 60)
    rounds.earn(state, 3600, 60)
    found = [one for one in taken(rounds, state) if isinstance(one, RealServers)]
    assert 9_500 < 250 * sum(len(one.keys) for one in found) <= 10_250


def test_sets_of_others_are_not_watched() -> None:
    sets = dict.fromkeys(("KUBE-CLUSTER-IP", "IPVSPROXY-OWN", "f2b-sshd"))
    assert watched_sets(State(sets=sets)) == ["KUBE-CLUSTER-IP", "IPVSPROXY-OWN"]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("glance", "doubt"),
    [
        (Glance(False, {}, frozenset({"KUBE-A"}), 2, 3), None),
        (Glance(True, {}, frozenset({"KUBE-A"}), 2, 3), Doubt.TABLES),
        (Glance(False, {WEB: None}, frozenset({"KUBE-A"}), 2, 3), None),
        (Glance(False, {WEB: VirtualServer("rr")}, frozenset({"KUBE-A"}), 2, 3), Doubt.TABLES),
        (Glance(False, {}, frozenset(), 2, 3), Doubt.TABLES),
        (Glance(False, {}, frozenset({"KUBE-A"}), 3, 3), Doubt.TABLES),
        (Glance(False, {}, frozenset({"KUBE-A"}), None, 3), Doubt.TABLES),
        (Glance(False, {}, frozenset({"KUBE-A"}), 2, 2), Doubt.ADDRESSES),
    ],
)
def test_what_a_glance_gives_reason_to_doubt(glance: Glance, doubt: Doubt | None) -> None:
    state = state_of("10.96.0.1", "10.96.0.2")
    known = numbers(state)
    assert known == Numbers(2, 2)
    before = Numbers(0, 1)
    assert doubts(state, glance, sets=["KUBE-A"], before=before, now=unseen(glance, known)) is doubt
