"""When the reconciler does something, and what it makes of failures."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import pairwise

import msgspec
import pytest

from ipvsproxy.config import Settings
from ipvsproxy.core.gathering import Parts
from ipvsproxy.core.operations import (
    AddRealServer,
    AddVirtualServer,
    BindAddress,
    ForgetFlows,
    Operation,
    SetRealServer,
    describe,
)
from ipvsproxy.core.pieces import Pieces
from ipvsproxy.core.plan import Batch, Target, plan_in_pieces
from ipvsproxy.core.sets import frontend_member
from ipvsproxy.core.surroundings import Surroundings
from ipvsproxy.core.translate import Fragment, Inputs, MayBeIts, translate
from ipvsproxy.dataplane import DataplaneError, Glance, Outcome, Reading, Refusal
from ipvsproxy.kernel.fake import (
    ALL_SCHEDULERS,
    FakeDataplane,
    FaultyDataplane,
    copy_state,
    fresh_state,
)
from ipvsproxy.model import (
    Address,
    Family,
    Protocol,
    RealServer,
    Scheduler,
    State,
    VirtualServer,
    VirtualServerKey,
)
from ipvsproxy.objects import ServiceName, ServicePort, SlicePort
from ipvsproxy.reconciler import CycleReport, Reconciler
from ipvsproxy.reconciler import planning as planning_module
from ipvsproxy.reconciler import translation as translating
from ipvsproxy.reconciler import writer as writing
from ipvsproxy.store import KINDS, Gone, Listed, Put, Refused, Store, Unreadable
from ipvsproxy.telemetry import Conditions, ConditionType
from tests.unit.builders import (
    Agent,
    Clock,
    frontend,
    member,
    named,
    part,
    service,
    service_reference,
)

WEB = frontend()
BAD_ADDRESS = "10.96.0.66"
BAD = frontend(BAD_ADDRESS)
CLIENT = Address.parse("10.244.9.9")


async def settled(fake: FakeDataplane, *addresses: str) -> Agent:
    """Give an agent whose Service `web` has these endpoints."""
    agent = Agent(fake)
    agent.list_all([service(), part("web", *addresses)])
    await agent.settle()
    return agent


# ------------------------------------------------------------------------------ when


class TestBeginning:
    async def test_nothing_is_read_or_written_before_all_lists_are_complete(self) -> None:
        fake = FakeDataplane()
        agent = Agent(fake)
        agent.put(service(), part("web", "10.244.1.5"))
        report = await agent.reconciler.cycle()
        assert (fake.dumps, fake.writes, report.result) == (0, 0, "unchanged")
        assert agent.reconciler.state is None
        assert not agent.reconciler.busy

    async def test_what_keeps_the_lists_from_being_complete_is_said(self) -> None:
        agent = RunningAgent()
        async with agent:
            agent.store.apply(Unreadable("/m", "no such file or directory"))
            agent.reconciler.wake()
            for _ in range(10):
                await asyncio.sleep(0)
        assert [str(one.type) for one in agent.conditions] == ["UnreadableSource"]
        assert agent.fake.dumps == 0

    async def test_what_everything_else_waits_for_comes_first(self) -> None:
        fake = FakeDataplane()
        agent = Agent(fake)
        kubernetes = service("kubernetes", "10.96.0.1")
        agent.list_all([service("a", "10.96.0.11"), service("b", "10.96.0.12"), kubernetes])
        await agent.reconciler.cycle()
        assert fake.state.addresses == {Address.parse("10.96.0.1")}
        assert agent.reconciler.busy
        await agent.reconciler.cycle()
        assert len(fake.state.addresses) == 3

    async def test_what_the_others_want_is_no_leftover_meanwhile(self) -> None:
        fake = FakeDataplane()
        services = [service("kubernetes", "10.96.0.1"), service()]
        before = Agent(fake)
        before.list_all(services)
        await before.settle()
        fake.state.virtual_servers.clear()
        fake.state.real_servers.clear()
        fake.applied.clear()
        agent = Agent(fake)
        agent.list_all(services)
        await agent.settle()
        assert {type(one) for one in fake.applied} == {AddVirtualServer}

    async def test_a_service_that_may_have_any_address_holds_all_that_is_left_over(self) -> None:
        fake = FakeDataplane()
        before = Agent(fake)
        before.list_all([service("gone", "10.96.0.66"), service()])
        await before.settle()
        agent = Agent(fake)
        agent.store.apply(Refused(service_reference("nonsense"), "a.yaml", "no address", None))
        agent.list_all([service()])
        await agent.settle()
        assert fake.state.virtual_servers.keys() == {WEB, BAD}
        agent.store.apply(Gone(service_reference("nonsense")))
        await agent.settle()
        assert fake.state.virtual_servers.keys() == {WEB}

    async def test_a_kernel_that_cannot_be_read_at_the_start_ends_the_agent(self) -> None:
        agent = Agent(Unread())
        agent.list_all()
        with pytest.raises(DataplaneError, match="no netlink"):
            await agent.reconciler.cycle()

    async def test_a_kernel_that_cannot_be_read_later_leaves_the_last_picture(self) -> None:
        fake = Unread()
        fake.unreadable = False
        agent = await settled(fake, "10.244.1.5")
        fake.unreadable = True
        agent.clock.now += 61
        agent.put(part("web", "10.244.1.6"))
        await agent.settle()
        assert fake.state.real_servers[WEB].keys() == {member("10.244.1.6")}
        assert agent.said() == ["Node KernelUnreadable"]
        fake.unreadable = False
        agent.clock.now += 61
        await agent.settle()
        assert agent.said() == []

    async def test_what_the_node_cannot_have_is_said_until_it_can(self) -> None:
        fake = FakeDataplane()
        fake.state.lacks["IPv6 chains"] = "ip6tables-save: command not found"
        conntrack = fake.state.sysctls.pop("net/ipv4/vs/conntrack")
        agent = Agent(fake)
        agent.list_all()
        await agent.settle()
        (condition,) = agent.conditions
        assert (condition.subject, condition.type) == ("Node", ConditionType.MISSING_FEATURE)
        assert "IPv6 chains cannot be read: ip6tables-save" in condition.message
        assert "net/ipv4/vs/conntrack" in condition.message
        fake.state.lacks.clear()
        fake.state.sysctls["net/ipv4/vs/conntrack"] = conntrack
        agent.clock.now += 61
        await agent.settle()
        assert agent.said() == []

    async def test_a_family_that_comes_is_served_from_the_next_audit_on(self) -> None:
        fake = FakeDataplane(fresh_state({Family.IPV4}))
        agent = Agent(fake)
        addresses = (WEB.address, Address.parse("fd00:96::10"))
        agent.list_all([msgspec.structs.replace(service(), cluster_ips=addresses)])
        await agent.settle()
        assert fake.state.virtual_servers.keys() == {WEB}
        (condition,) = agent.conditions
        assert condition.message == (
            "this node has no IPv6: the IPv6 addresses of 1 Services are not served (default/web)"
        )
        both = fresh_state()
        fake.state.families = both.families
        fake.state.rulesets[Family.IPV6] = both.rulesets[Family.IPV6]
        agent.clock.now += 61
        await agent.settle()
        assert len(fake.state.virtual_servers) == 2
        assert agent.said() == []


class Unread(FakeDataplane):
    unreadable = True

    async def glance(self, keys: Collection[VirtualServerKey], sets: Collection[str]) -> Glance:
        if self.unreadable:
            raise DataplaneError("no netlink")
        return await super().glance(keys, sets)

    async def dump(self) -> State:
        if self.unreadable:
            raise DataplaneError("no netlink")
        return await super().dump()


class TestPace:
    async def test_cycles_keep_their_distance_and_changes_are_not_lost(self) -> None:
        agent = RunningAgent(min_sync_period=0.05)
        async with agent:
            agent.list_all()
            await agent.says(Put(part("web", "10.244.1.5"), "a.yaml"))
            await agent.says(Put(part("web", "10.244.1.6"), "a.yaml"))
        assert len(agent.starts) >= 3
        assert all(later - earlier >= 0.049 for earlier, later in pairwise(agent.starts))
        servers = agent.fake.state.real_servers[WEB]
        assert {one for one, real in servers.items() if real.weight} == {member("10.244.1.6")}

    async def test_a_change_is_waited_for_until_it_is_in_the_kernel(self) -> None:
        agent = RunningAgent()
        async with agent:
            agent.list_all()
            await agent.says(Put(part("web", "10.244.1.5"), "a.yaml"))
            assert agent.fake.state.real_servers[WEB].keys() == {member("10.244.1.5")}
            revision = agent.reconciler.applied_revision
            await agent.reconciler.wait_until_applied(revision)
            assert revision == agent.store.revision

    async def test_an_agent_at_rest_runs_no_cycles(self) -> None:
        agent = RunningAgent()
        async with agent:
            agent.list_all()
            await agent.says(Put(part("web", "10.244.1.5"), "a.yaml"))
            before = len(agent.starts)
            for _ in range(50):
                await asyncio.sleep(0)
            assert len(agent.starts) == before


class RunningAgent:
    """A reconciler that runs by itself, by the event loop's time."""

    def __init__(self, *, min_sync_period: float = 0) -> None:
        self.fake = FakeDataplane()
        self.store = Store("node-a")
        self.conditions = Conditions()
        self.starts: list[float] = []
        clock = asyncio.get_running_loop().time
        self.reconciler = Reconciler(
            store=self.store,
            dataplane=self.fake,
            settings=Settings(node_name="node-a", min_sync_period=min_sync_period),
            conditions=self.conditions,
            clock=clock,
            wall_clock=clock,
            observer=self,
        )
        self._task: asyncio.Task[None] | None = None

    def cycle_started(self) -> None:
        self.starts.append(asyncio.get_running_loop().time())

    def cycle_finished(self, report: CycleReport) -> None:
        assert not report.refused

    def list_all(self) -> None:
        self.store.apply(Put(service(), "a.yaml"))
        for kind in KINDS:
            self.store.apply(Listed(kind))

    async def says(self, event: Put) -> None:
        """Take in an event, and wait until it has been carried out."""
        self.store.apply(event)
        self.reconciler.wake()
        async with asyncio.timeout(10):
            await self.reconciler.wait_until_applied(self.store.revision)

    async def __aenter__(self) -> None:
        self._task = asyncio.create_task(self.reconciler.run())

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        self._task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await self._task


async def test_a_pause_that_is_too_long_can_be_corrected_while_it_lasts() -> None:
    agent = RunningAgent()
    agent.list_all()
    async with agent:
        await agent.says(Put(part("web", "10.244.1.5"), "a.yaml"))
        agent.reconciler.configure(Settings(node_name="node-a", min_sync_period=3600))
        await agent.says(Put(part("web", "10.244.1.6"), "a.yaml"))
        agent.reconciler.configure(Settings(node_name="node-a", min_sync_period=0))
        await agent.says(Put(part("web", "10.244.1.7"), "a.yaml"))


class Gate(FakeDataplane):
    """Holds up the operations of one type until it is opened."""

    def __init__(self) -> None:
        super().__init__()
        self.reached = asyncio.Event()
        self.opened = asyncio.Event()

    async def apply(self, operations: Sequence[Operation]) -> Sequence[Outcome]:
        if any(isinstance(one, BindAddress) for one in operations):
            self.reached.set()
            await self.opened.wait()
        return await super().apply(operations)


async def test_a_cancelled_cycle_begins_nothing_more() -> None:
    gate = Gate()
    agent = Agent(gate)
    agent.list_all([service("kubernetes", "10.96.0.10")])
    task = asyncio.create_task(agent.reconciler.cycle())
    await gate.reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    gate.opened.set()
    for _ in range(10):
        await asyncio.sleep(0)
    assert gate.state.virtual_servers
    assert not gate.state.addresses


# -------------------------------------------------------------------------- failures


class TestRefusals:
    async def test_it_is_tried_again_after_pauses_that_double_and_others_go_on(self) -> None:
        fake = FakeDataplane()
        faulty = FaultyDataplane(fake, refuse_real_servers_of("10.96.0.10"))
        agent = Agent(faulty)
        agent.list_all(
            [
                service(),
                part("web", "10.244.1.5"),
                service("other", "10.96.0.11"),
                part("other", "10.244.2.5"),
            ]
        )
        await agent.settle()
        assert fake.state.real_servers[frontend("10.96.0.11")]
        assert agent.said() == ["Service default/web OperationRefused"]
        assert agent.reconciler.pending == 1

        tries = [0.0]
        while agent.clock.now < 1100:
            agent.clock.now += 0.5
            before = len(faulty.refused)
            if agent.reconciler.busy:
                await agent.settle()
            if len(faulty.refused) > before:
                tries.append(agent.clock.now - 1000)
        assert tries == [0, 1, 3, 7, 15, 31, 63]

        faulty.refuse = lambda _: None
        agent.clock.now += 60
        await agent.settle()
        assert fake.state.real_servers[WEB]
        assert agent.said() == []
        assert agent.reconciler.pending == 0

    async def test_a_refused_virtual_server_is_not_bound_and_its_neighbour_port_is(self) -> None:
        fake = FakeDataplane()
        faulty = FaultyDataplane(fake, refuse_virtual_server(port=443))
        agent = Agent(faulty)
        agent.list_all([service("web", "10.96.0.10", 80, 443), service("alone", "10.96.0.11", 443)])
        await agent.settle()
        assert fake.state.addresses == {Address.parse("10.96.0.10")}
        assert agent.said() == [
            "Service default/alone OperationRefused",
            "Service default/web OperationRefused",
        ]

    async def test_a_contradiction_is_read_anew_and_mended_in_the_next_cycle(self) -> None:
        fake = FakeDataplane()
        agent = await settled(fake, "10.244.1.5", "10.244.2.5")
        fake.state.real_servers[WEB].clear()
        dumps = fake.dumps
        agent.put(part("web", "10.244.1.5"))
        await agent.reconciler.cycle()
        agent.clock.now += 1
        await agent.settle()
        assert fake.dumps == dumps, "what is read anew needs no audit"
        assert fake.state.real_servers[WEB] == {member("10.244.1.5"): RealServer(1)}
        assert agent.said() == []

    async def test_a_virtual_server_that_a_stranger_made_meanwhile_stays_the_strangers(
        self,
    ) -> None:
        fake = FakeDataplane()
        agent = await settled(fake, "10.244.1.5")
        theirs = VirtualServer("wlc")
        fake.state.virtual_servers[BAD] = theirs
        fake.state.real_servers[BAD] = {member("192.0.2.1"): RealServer(1)}
        before = copy_state(fake.state)
        agent.put(service("bad", "10.96.0.66"), part("bad", "10.244.6.6"))
        await agent.settle()
        agent.clock.now += 100
        await agent.settle()
        assert fake.state == before
        assert agent.said() == ["Service default/bad ForeignVirtualServer"]
        del fake.state.virtual_servers[BAD], fake.state.real_servers[BAD]
        agent.clock.now += 100
        await agent.settle()
        assert fake.state.real_servers[BAD].keys() == {member("10.244.6.6")}
        assert agent.said() == []

    async def test_a_scheduler_that_is_tried_again_in_vain_is_no_news(self) -> None:
        fake = FakeDataplane(schedulers=ALL_SCHEDULERS - {"lc"})
        agent = Agent(fake)
        lc = (("ipvsproxy.io/scheduler", "lc"),)
        agent.list_all([msgspec.structs.replace(service(), annotations=lc)])
        await agent.settle()
        assert agent.said() == ["Service default/web SchedulerUnavailable"]
        before = list(agent.conditions)
        tries = fake.writes
        agent.clock.now += 400
        await agent.settle()
        assert fake.writes > tries
        assert list(agent.conditions) == before, "since when included"

    async def test_where_the_default_is_lacking_too_what_fell_back_to_it_is_given_rr(self) -> None:
        fake = FakeDataplane(schedulers=ALL_SCHEDULERS - {"lc", "wlc"})
        agent = Agent(fake, settings=Settings(node_name="node-a", default_scheduler=Scheduler.WLC))
        lc = (("ipvsproxy.io/scheduler", "lc"),)
        agent.list_all([msgspec.structs.replace(service(), annotations=lc)])
        await agent.settle()
        assert fake.state.virtual_servers[WEB].scheduler == "rr"
        assert agent.said() == ["Service default/web SchedulerUnavailable"]

    async def test_one_that_we_made_without_hearing_of_it_is_ours(self) -> None:
        fake = FakeDataplane()
        deaf = DeafOnce(fake)
        agent = Agent(deaf)
        agent.list_all([service(), part("web", "10.244.1.5")])
        await agent.settle()
        agent.clock.now += 100
        await agent.settle()
        assert deaf.lost
        assert fake.state.real_servers[WEB].keys() == {member("10.244.1.5")}
        assert agent.said() == []

    async def test_a_contradicted_address_has_everything_read_anew(self) -> None:
        fake = FakeDataplane()
        agent = await settled(fake)
        fake.state.addresses.add(Address.parse("10.96.0.11"))
        dumps = fake.dumps
        agent.put(service("other", "10.96.0.11"))
        await agent.settle()
        assert fake.dumps == dumps + 1
        assert agent.said() == []


class DeafOnce(FaultyDataplane):
    """Loses the answer to the first virtual server, and then cannot be read for once."""

    def __init__(self, inner: FakeDataplane) -> None:
        super().__init__(inner, lambda _: None)
        self.lost = 0

    async def apply(self, operations: Sequence[Operation]) -> Sequence[Outcome]:
        outcomes = list(await super().apply(operations))
        for place, operation in enumerate(operations):
            if isinstance(operation, AddVirtualServer) and not self.lost:
                outcomes[place] = Outcome(Refusal.BUSY, "no answer")
                self.lost = 1
        return outcomes

    async def read(
        self, keys: Collection[VirtualServerKey]
    ) -> Mapping[VirtualServerKey, Reading | None]:
        if self.lost == 1:
            self.lost = 2
            raise DataplaneError("no answer")
        return await super().read(keys)


def refuse_real_servers_of(address: str) -> Callable[[Operation], Refusal | None]:
    return lambda one: (
        Refusal.BUSY if isinstance(one, AddRealServer) and str(one.key.address) == address else None
    )


def refuse_virtual_server(*, port: int) -> Callable[[Operation], Refusal | None]:
    return lambda one: (
        Refusal.FAILED if isinstance(one, AddVirtualServer) and one.key.port == port else None
    )


class TestAudit:
    async def test_it_mends_what_others_changed_and_counts_it(self) -> None:
        fake = FakeDataplane()
        agent = await settled(fake, "10.244.1.5")
        before = copy_state(fake.state)
        fake.state.real_servers[WEB] = {member("10.244.1.9"): RealServer(1)}
        fake.state.virtual_servers[WEB] = VirtualServer("wlc")
        fake.state.addresses.clear()
        fake.state.members["KUBE-CLUSTER-IP"].clear()
        fake.state.sysctls["net/ipv4/vs/conntrack"] = "0"

        agent.clock.now += 4.9
        assert not agent.reconciler.busy
        agent.clock.now += 0.1
        report = await agent.reconciler.cycle()
        assert report.audited
        assert report.drift == {
            "virtual_servers": 1,
            "real_servers": 1,
            "addresses": 1,
            "sets": 1,
            "sysctls": 1,
        }
        await agent.settle()
        assert fake.state == before
        assert "found 1 addresses" in report.sentence()

    async def test_with_nothing_changed_it_writes_nothing_and_says_nothing(self) -> None:
        fake = FakeDataplane()
        agent = await settled(fake, "10.244.1.5")
        writes = fake.writes
        agent.reconciler.audit_soon()
        report = await agent.reconciler.cycle()
        assert report.audited
        assert (fake.writes, report.result, report.sentence()) == (writes, "unchanged", "")


class TestDraining:
    async def test_a_service_without_endpoints_goes_in_the_cycle_in_which_it_is_deleted(
        self,
    ) -> None:
        fake = FakeDataplane()
        agent = await settled(fake)
        assert WEB in fake.state.virtual_servers
        agent.store.apply(Gone(service_reference()))
        await agent.settle()
        assert WEB not in fake.state.virtual_servers
        assert not fake.state.addresses

    async def test_refused_forgetting_of_flows_is_tried_until_it_works(self) -> None:
        refused = True
        fake = FakeDataplane()
        faulty = FaultyDataplane(
            fake,
            lambda one: Refusal.BUSY if refused and isinstance(one, ForgetFlows) else None,
        )
        agent = Agent(faulty)
        udp = msgspec.structs.replace(service(), ports=(ServicePort("", Protocol.UDP, 53),))
        ports = (SlicePort("", Protocol.UDP, 5353),)
        agent.list_all([udp, msgspec.structs.replace(part("web", "10.244.1.5"), ports=ports)])
        await agent.settle()
        agent.put(msgspec.structs.replace(part("web", "10.244.1.6"), ports=ports))
        await agent.settle()
        refused = False
        agent.clock.now += 5
        await agent.settle()
        forgotten = [one for one in fake.applied if isinstance(one, ForgetFlows)]
        assert [str(one.member) for one in forgotten] == ["10.244.1.5:5353"]
        assert agent.said() == []

    async def test_flows_that_can_never_be_forgotten_do_not_grow_without_bound(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(writing, "_MOST_OWED", 200)
        latest: list[Operation] = []

        def refuse(one: Operation) -> Refusal | None:
            if isinstance(one, ForgetFlows):
                latest.append(one)
                return Refusal.UNSUPPORTED
            return None

        agent = Agent(FaultyDataplane(FakeDataplane(), refuse))
        udp = msgspec.structs.replace(service(), ports=(ServicePort("", Protocol.UDP, 53),))
        ports = (SlicePort("", Protocol.UDP, 5353),)
        agent.list_all([udp])
        for number in range(300):
            pod = f"10.244.{number // 200}.{1 + number % 200}"
            agent.put(msgspec.structs.replace(part("web", pod), ports=ports))
            await agent.reconciler.cycle()
        (told,) = agent.conditions
        await agent.settle()
        latest.clear()
        agent.clock.now += 100.0
        await agent.reconciler.cycle()
        assert told.type is ConditionType.OPERATION_REFUSED
        assert len(latest) == 200
        assert any("10.244.1.99:5353" in describe(one) for one in latest), "the latest are kept"

    async def test_a_service_that_never_rests_is_looked_at_all_the_same(self) -> None:
        fake = FakeDataplane()
        agent = await settled(fake, "10.244.1.1", "10.244.1.2")
        old = fake.connect(WEB, CLIENT)
        assert old is not None
        leaving, staying = old.member, ({member("10.244.1.1"), member("10.244.1.2")} - {old.member})
        agent.put(part("web", *(str(one.address) for one in staying)))
        for second in range(20):
            agent.clock.now += 1
            agent.put(part("web", *(str(one.address) for one in staying), f"10.244.3.{second}"))
            await agent.settle()
        assert leaving in fake.state.real_servers[WEB]
        fake.disconnect(old)
        for second in range(6):
            agent.clock.now += 1
            agent.put(part("web", *(str(one.address) for one in staying), f"10.244.4.{second}"))
            await agent.settle()
        assert leaving not in fake.state.real_servers[WEB]

    async def test_an_idle_server_is_looked_at_once_after_it_was_lowered(self) -> None:
        fake = FakeDataplane()
        agent = await settled(fake, "10.244.1.1", "10.244.1.2")
        fake.applied.clear()
        agent.put(part("web", "10.244.1.2"))
        await agent.settle()
        assert fake.applied[0] == SetRealServer(WEB, member("10.244.1.1"), RealServer(0))
        assert fake.state.real_servers[WEB].keys() == {member("10.244.1.2")}
        assert agent.reconciler.draining == {}


class TestOurOwnMistakes:
    """A Service whose translation raises, which nothing in the world should make it do."""

    BAD = ServiceName("default", "bad")

    @pytest.fixture
    def mistake(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        """Make the translation of `BAD` raise for as long as the list is not empty."""
        wrong = ["it divides by zero"]

        def translation(
            inputs: Inputs,
            around: Surroundings,
            previous: Fragment | None,
            its: MayBeIts,
            *,
            parts: Parts | None,
        ) -> Fragment:
            if wrong and inputs.service.name == self.BAD:
                raise ZeroDivisionError(wrong[0])
            return translate(inputs, around, previous, its, parts=parts)

        monkeypatch.setattr(translating, "translate", translation)
        return wrong

    async def test_it_stays_with_that_service_and_is_said(
        self, mistake: list[str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        fake = FakeDataplane()
        agent = Agent(fake)
        agent.list_all([service("bad", "10.96.0.66"), service(), part("web", "10.244.1.5")])
        await agent.settle()
        assert fake.state.virtual_servers.keys() == {WEB}
        (condition,) = agent.conditions
        assert condition.subject == "Service default/bad"
        assert condition.type is ConditionType.INTERNAL_ERROR
        assert condition.message.startswith(
            f"ZeroDivisionError while it was translated: {mistake[0]}; "
        )
        agent.put(part("bad", "10.244.6.6"))
        await agent.settle()
        assert capsys.readouterr().out.count("Traceback") == 1

    async def test_what_the_service_had_stays(self, mistake: list[str]) -> None:
        fake, agent = await self._served(mistake)
        before = copy_state(fake.state)
        mistake.append("it does it again")
        agent.put(service("bad", "10.96.0.67"), part("bad", "10.244.6.7"))
        await agent.settle()
        agent.clock.now += 100
        await agent.settle()
        assert fake.state == before

    async def test_what_the_service_had_stays_after_a_restart_too(self, mistake: list[str]) -> None:
        fake, _ = await self._served(mistake)
        before = copy_state(fake.state)
        mistake.append("it does it again")
        agent = Agent(fake, Clock())
        agent.list_all([service("bad", "10.96.0.66"), part("bad", "10.244.6.6")])
        await agent.settle()
        agent.clock.now += 100
        await agent.settle()
        assert fake.state == before

    async def test_the_condition_ends_when_it_is_translated_and_when_it_is_gone(
        self, mistake: list[str]
    ) -> None:
        agent = Agent(FakeDataplane())
        agent.list_all([service("bad", "10.96.0.66")])
        await agent.settle()
        agent.store.apply(Gone(service_reference("bad")))
        await agent.settle()
        assert agent.said() == []

        agent.put(service("bad", "10.96.0.66"))
        await agent.settle()
        assert agent.said() == ["Service default/bad InternalError"]
        mistake.clear()
        agent.store.mark_dirty([named("bad")])
        await agent.settle()
        assert agent.said() == []

    async def test_what_it_left_behind_goes_when_the_service_is_gone(
        self, mistake: list[str]
    ) -> None:
        fake, _ = await self._served(mistake)
        mistake.append("it does it again")
        agent = Agent(fake, Clock())
        agent.list_all([service("bad", "10.96.0.66"), part("bad", "10.244.6.6")])
        await agent.settle()
        agent.store.apply(Gone(service_reference("bad")))
        await agent.settle()
        agent.clock.now += 31
        await agent.settle()
        assert fake.state.virtual_servers == {}
        assert fake.state.addresses == set()
        assert not any(fake.state.members.values())

    async def _served(self, mistake: list[str]) -> tuple[FakeDataplane, Agent]:
        mistake.clear()
        fake = FakeDataplane()
        agent = Agent(fake)
        agent.list_all([service("bad", "10.96.0.66"), part("bad", "10.244.6.6")])
        await agent.settle()
        return fake, agent


class TestMistakesInPlanning:
    """The same, for what comes after the translation."""

    @pytest.fixture
    def mistake(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        """Make planning raise where a virtual server of `BAD` is in it, while not empty."""
        wrong = ["it divides by zero"]

        def planning(target: Target, state: State, seed: bytes) -> Pieces[Batch]:
            if wrong and any(key == BAD for key in target.virtual_servers):
                raise ZeroDivisionError(wrong[0])
            return (yield from plan_in_pieces(target, state, seed))

        monkeypatch.setattr(planning_module, "plan_in_pieces", planning)
        return wrong

    async def test_one_stays_with_its_service_until_it_is_mended(self, mistake: list[str]) -> None:
        fake = FakeDataplane()
        agent = Agent(fake)
        agent.list_all([service("bad", "10.96.0.66"), service(), part("web", "10.244.1.5")])
        await agent.settle()
        assert fake.state.virtual_servers.keys() == {WEB}
        assert agent.said() == ["Service default/bad InternalError"]
        assert "while it was planned: it divides by zero" in next(iter(agent.conditions)).message
        assert agent.reconciler.pending == 1
        mistake.clear()
        agent.clock.now += 1
        await agent.settle()
        assert fake.state.virtual_servers.keys() == {WEB, BAD}
        assert agent.said() == []
        assert agent.reconciler.pending == 0

    async def test_who_drains_there_is_looked_at_ever_more_seldom_all_the_same(
        self, mistake: list[str]
    ) -> None:
        wrong = mistake.pop()
        fake = FakeDataplane()
        agent = Agent(fake)
        agent.list_all([service("bad", "10.96.0.66"), part("bad", "10.244.6.6")])
        await agent.settle()
        assert fake.connect(BAD, Address.parse("10.244.9.9")) is not None
        agent.put(part("bad", "10.244.6.7"))
        await agent.settle()
        assert BAD in agent.reconciler.draining
        mistake.append(wrong)
        before = fake.reads
        for _ in range(60):
            agent.clock.now += 0.5
            await agent.settle()
        assert fake.reads - before <= 12

    async def test_it_is_tried_again_ever_more_seldom(self, mistake: list[str]) -> None:
        fake = FakeDataplane()
        agent = Agent(fake)
        agent.list_all([service("bad", "10.96.0.66")])
        await agent.settle()
        agent.clock.now += 1
        await agent.settle()
        mistake.clear()
        agent.clock.now += 1
        await agent.settle()
        assert BAD not in fake.state.virtual_servers
        agent.clock.now += 1
        await agent.settle()
        assert BAD in fake.state.virtual_servers

    async def test_it_is_said_while_another_frontend_of_the_service_is_planned(
        self, mistake: list[str]
    ) -> None:
        external = frontend("192.0.2.9")
        fake = FakeDataplane()
        agent = Agent(fake)
        bad = msgspec.structs.replace(
            service("bad", "10.96.0.66"), external_ips=(external.address,)
        )
        agent.store.apply(Listed("Nodes"))
        agent.list_all([bad, part("bad", "10.244.1.5")])
        await agent.settle()
        assert fake.state.virtual_servers.keys() == {external}
        assert agent.said() == ["Service default/bad InternalError"]
        agent.put(part("bad", "10.244.1.6"))
        await agent.settle()
        assert fake.state.real_servers[external].keys() == {member("10.244.1.6")}
        assert agent.said() == ["Service default/bad InternalError"]
        mistake.clear()
        agent.clock.now += 31
        await agent.settle()
        assert fake.state.real_servers[BAD].keys() == {member("10.244.1.6")}
        assert agent.said() == []

    async def test_it_does_not_come_back_by_its_address(self, mistake: list[str]) -> None:
        said = mistake.pop()
        fake = FakeDataplane()
        faulty = FaultyDataplane(
            fake, lambda one: Refusal.BUSY if isinstance(one, BindAddress) else None
        )
        agent = Agent(faulty)
        agent.list_all([service("bad", "10.96.0.66"), part("bad", "10.244.1.5")])
        await agent.settle()
        before = copy_state(fake.state)
        mistake.append(said)
        faulty.refuse = lambda _: None
        agent.clock.now += 2
        agent.put(part("bad", "10.244.1.7"))
        await agent.settle()
        assert "Service default/bad InternalError" in agent.said()
        assert fake.state == before

    async def test_another_port_of_its_address_is_planned_and_bound(
        self, mistake: list[str]
    ) -> None:
        fake = FakeDataplane()
        agent = Agent(fake)
        agent.list_all([service("bad", BAD_ADDRESS, 80, 443)])
        await agent.settle()
        assert mistake
        assert fake.state.virtual_servers.keys() == {frontend(BAD_ADDRESS, 443)}
        assert fake.state.addresses == {BAD.address}
        assert frontend_member(BAD) not in fake.state.members["IPVSPROXY-OWN"]

    async def test_what_of_it_is_to_go_goes_when_it_is_mended(self, mistake: list[str]) -> None:
        said = mistake.pop()
        fake = FakeDataplane()
        agent = Agent(fake)
        agent.list_all([service("bad", BAD_ADDRESS), part("bad", "10.244.1.5")])
        await agent.settle()
        before = copy_state(fake.state)
        mistake.append(said)
        agent.store.apply(Gone(service_reference("bad")))
        await agent.settle()
        assert fake.state.virtual_servers == before.virtual_servers
        assert fake.state.members["IPVSPROXY-OWN"] == before.members["IPVSPROXY-OWN"]
        mistake.clear()
        agent.clock.now += 2
        await agent.settle()
        assert fake.state.virtual_servers == {}
        assert not any(fake.state.members.values())
