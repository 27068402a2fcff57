"""The agent as a whole, without a kernel: whatever happens to it, it ends where it should.

Hypothesis edits Services and slices, meddles with the kernel, refuses operations, kills the agent
after some of them, opens and closes connections and turns the clock. Every operation is carried
out alone and looked at: nobody who is served and has ready endpoints may be without a serving real
server at any moment. When all is quiet again the kernel must be what the objects say, worked out
here in the simplest way, and a restart must write nothing.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import pytest
import structlog
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from ipvsproxy.config import Settings
from ipvsproxy.core.foundation import foundation
from ipvsproxy.core.members import SetMember
from ipvsproxy.core.portions import AT_ONCE
from ipvsproxy.core.sets import (
    CLUSTER_IP,
    IPVS_IPS,
    LEDGER,
    LOOP_BACK,
    frontend_member,
    loop_back_member,
    set_name,
)
from ipvsproxy.dataplane import Outcome
from ipvsproxy.kernel.balance import Connection
from ipvsproxy.kernel.fake import (
    DyingDataplane,
    FakeDataplane,
    FaultyDataplane,
    Killed,
    random_refusals,
)
from ipvsproxy.model import (
    KERNEL_TIMEOUTS,
    Address,
    Family,
    Flags,
    IpMember,
    Protocol,
    RealServer,
    RealServerKey,
    Scheduler,
    VirtualServer,
    VirtualServerKey,
)
from ipvsproxy.objects import (
    Endpoint,
    EndpointSlice,
    ObjectReference,
    Service,
    ServiceName,
    ServicePort,
    SlicePort,
)
from ipvsproxy.reconciler import Reconciler, planning
from ipvsproxy.store import KINDS, Gone, Listed, Put, Readable, Store, Unreadable
from ipvsproxy.telemetry import Conditions

if TYPE_CHECKING:
    from ipvsproxy.core.operations import Operation

NODE = "node-1"
SETTINGS = Settings(node_name=NODE, default_scheduler=Scheduler.RR)
NAMES = (ServiceName("default", "kubernetes"), ServiceName("shop", "web"), ServiceName("a", "old"))
CLUSTER_IPS = tuple(
    tuple(map(Address.parse, texts))
    for texts in (("10.96.0.1",), ("10.96.0.2",), ("10.96.0.2",), ("10.96.0.2", "fd00:96::2"))
)
"""Few, so that Services claim the same address now and then."""
PORTS = (
    (ServicePort("http", Protocol.TCP, 80),),
    (ServicePort("http", Protocol.TCP, 80), ServicePort("dns", Protocol.UDP, 53)),
    (ServicePort("http", Protocol.TCP, 81),),
)
PODS = {
    Family.IPV4: tuple(map(Address.parse, ("10.1.0.1", "10.1.0.2", "10.1.0.3"))),
    Family.IPV6: tuple(map(Address.parse, ("fd00:1::1", "fd00:1::2", "fd00:1::3"))),
}
SLICE_PORTS = (SlicePort("http", Protocol.TCP, 8080), SlicePort("dns", Protocol.UDP, 5353))
CLIENTS = tuple(map(Address.parse, ("10.9.0.1", "10.9.0.2", "fd00:9::1")))
SCHEDULER_ANNOTATION = "ipvsproxy.io/scheduler"
WEIGHING: tuple[tuple[tuple[str, str], ...], ...] = (
    (),
    (),
    (("ipvsproxy.io/weights", f"node={NODE}:30"),),
    (("ipvsproxy.io/weights", "nonsense"),),
    (("ipvsproxy.io/slow-start", "30s"),),
    (("ipvsproxy.io/slow-start", "30s"), ("ipvsproxy.io/weights", f"node={NODE}:0")),
)
FOREIGN_KEYS = (
    VirtualServerKey(Protocol.TCP, Address.parse("192.0.2.1"), 80),
    VirtualServerKey(Protocol.TCP, Address.parse("10.96.0.3"), 80),
)
FOREIGN = (VirtualServer("wlc"), {RealServerKey(PODS[Family.IPV4][0], 99): RealServer(7)})
MOST_CYCLES = 60

endpoints = st.builds(
    lambda index, ready, serving, terminating, here: (index, ready, serving, terminating, here),
    st.integers(0, 2),
    st.sampled_from((True, True, False)),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)


class Expected(NamedTuple):
    """What a Service wants of one virtual server, worked out apart from the core."""

    owner: ServiceName
    serving: frozenset[RealServerKey]


class Watched(FakeDataplane):
    """A kernel in memory that has every operation looked at alone."""

    def __init__(self, machine: AgentMachine) -> None:
        super().__init__(schedulers=frozenset(Scheduler) - {Scheduler.TWOS, Scheduler.FO})
        self._machine = machine

    async def apply(self, operations: Sequence[Operation]) -> Sequence[Outcome]:
        """Carry out one after the other, in an order of its own."""
        order = list(range(len(operations)))
        self._machine.source.shuffle(order)
        outcomes: dict[int, Outcome] = {}
        for index in order:
            served = self._served()
            (outcomes[index],) = await super().apply([operations[index]])
            lost = served - self._served()
            wanted = {
                key
                for key, one in self._machine.expected().items()
                if one.serving and one.owner not in self._machine.taken_out
            }
            assert not lost & wanted, operations[index]
        return [outcomes[index] for index in range(len(operations))]

    def _served(self) -> set[VirtualServerKey]:
        return {
            key
            for key, members in self.state.real_servers.items()
            if any(real.weight for real in members.values())
        }


class AgentMachine(RuleBasedStateMachine):
    """One node, its API objects, its kernel, and an agent that may die."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.now = 1000.0
        self.source = random.Random(0)
        self.services: dict[ServiceName, Service] = {}
        self.slices: dict[tuple[ServiceName, str], EndpointSlice] = {}
        self.taken_out: set[ServiceName] = set()
        """Services whose endpoints had weight 0 at some time: it may be the last good one."""
        self.kernel = Watched(self)
        self.faulty = FaultyDataplane(self.kernel)
        self.foreign: set[VirtualServerKey] = set()
        self.connections: list[Connection] = []
        self.unreadable = False
        self.failed = False
        self.patch = pytest.MonkeyPatch()
        self.store, self.agent = self._start()
        for key in FOREIGN_KEYS:
            self._add_foreign(key)

    def teardown(self) -> None:
        """End quietly, and look at what is left."""
        try:
            if not self.failed:
                self._quiet()
        finally:
            self.patch.undo()
            self.loop.close()

    # -- the objects

    @rule(
        name=st.sampled_from(NAMES),
        ips=st.sampled_from((*CLUSTER_IPS, (FOREIGN_KEYS[1].address,))),
        ports=st.sampled_from(PORTS),
        created=st.sampled_from((None, 1.0, 2.0)),
        affinity=st.sampled_from((0, 0, 60)),
        local=st.booleans(),
    )
    def put_service(  # noqa: PLR0917 - drawn by name
        self,
        name: ServiceName,
        ips: tuple[Address, ...],
        ports: tuple[ServicePort, ...],
        created: float | None,
        affinity: int,
        local: bool,
    ) -> None:
        """Create or change a Service."""
        before = self.services.get(name)
        if ips == (FOREIGN_KEYS[1].address,):
            ports = PORTS[0]
        self._put(
            Service(
                name,
                created=before.created if before else created,
                cluster_ips=ips,
                ports=ports,
                affinity_seconds=affinity,
                internal_traffic_local=local,
                annotations=before.annotations if before else (),
            )
        )

    @precondition(lambda self: self.services)
    @rule(
        data=st.data(),
        scheduler=st.sampled_from((None, "rr", "wrr", "sh", "mh", "dh", "dh", "twos", "bogus")),
        weighing=st.sampled_from(WEIGHING),
    )
    def annotate(
        self, data: st.DataObject, scheduler: str | None, weighing: tuple[tuple[str, str], ...]
    ) -> None:
        """Choose a scheduler; now and then one that is none, or that this kernel lacks."""
        service = self.services[data.draw(st.sampled_from(sorted(self.services)))]
        if any(text.endswith(":0") for _, text in weighing):
            self.taken_out.add(service.name)
        elif service.name in self.taken_out and ("ipvsproxy.io/weights", "nonsense") in weighing:
            weighing = ()  # after a restart nobody is sure whether 0 was asked for
        chosen = ((SCHEDULER_ANNOTATION, scheduler),) if scheduler else ()
        annotations = (*chosen, *weighing)
        self._put(
            Service(
                service.name,
                created=service.created,
                cluster_ips=service.cluster_ips,
                ports=service.ports,
                affinity_seconds=service.affinity_seconds,
                internal_traffic_local=service.internal_traffic_local,
                annotations=annotations,
            )
        )

    @precondition(lambda self: self.services and not self.unreadable)
    @rule(data=st.data())
    def delete_service(self, data: st.DataObject) -> None:
        """Delete a Service; its slices may stay for a while."""
        name = data.draw(st.sampled_from(sorted(self.services)))
        del self.services[name]
        self.store.apply(Gone(ObjectReference("Service", *name)))

    @rule(
        name=st.sampled_from(NAMES),
        part=st.sampled_from(("s1", "s1", "s2")),
        found=st.lists(endpoints, max_size=4),
        family=st.sampled_from((Family.IPV4, Family.IPV4, Family.IPV6)),
        number=st.sampled_from((8080, 8080, 9090)),
        weights=st.sampled_from((None, None, '{"10.1.0.1": 3}', '{"10.1.0.1": "x"}')),
    )
    def put_slice(  # noqa: PLR0917 - drawn by name
        self,
        name: ServiceName,
        part: str,
        found: list[tuple[int, bool, bool, bool, bool]],
        family: Family,
        number: int,
        weights: str | None,
    ) -> None:
        """Create or change a slice: endpoints come, go, become ready, terminate."""
        self._put(
            EndpointSlice(
                name.namespace,
                f"{name.name}-{part}-{family}",
                name,
                family,
                tuple(
                    Endpoint(PODS[family][index], ready, serving or ready, terminating, NODE)
                    if here
                    else Endpoint(PODS[family][index], ready, serving or ready, terminating, "n2")
                    for index, ready, serving, terminating, here in found
                ),
                (SLICE_PORTS[0].__class__("http", Protocol.TCP, number), SLICE_PORTS[1]),
                weights,
            )
        )

    @precondition(lambda self: self.slices and not self.unreadable)
    @rule(data=st.data())
    def delete_slice(self, data: st.DataObject) -> None:
        """Delete a slice."""
        owner, name = data.draw(st.sampled_from(sorted(self.slices)))
        del self.slices[owner, name]
        self.store.apply(Gone(ObjectReference("EndpointSlice", owner.namespace, name)))

    @rule()
    def source_trouble(self) -> None:
        """Have a file that does not parse, or have it mended."""
        self.unreadable = not self.unreadable
        self.store.apply(Unreadable("x.yaml", "?") if self.unreadable else Readable("x.yaml"))

    # -- the kernel

    @rule(what=st.integers(0, 7), audit=st.booleans(), data=st.data())
    def meddle(self, what: int, audit: bool, data: st.DataObject) -> None:  # noqa: C901 - one case for each edit
        """Have somebody else edit what is ours."""
        state = self.kernel.state
        ours = sorted(state.virtual_servers.keys() - self.foreign)
        if what < 4 and ours:
            key = data.draw(st.sampled_from(ours))
            members = state.real_servers[key]
            match what:
                case 0:
                    del state.virtual_servers[key], state.real_servers[key]
                case 1:
                    found = state.virtual_servers[key]
                    state.virtual_servers[key] = found._replace(scheduler="lc", flags=Flags(0))
                case 2 if members:
                    del members[data.draw(st.sampled_from(sorted(members)))]
                case _:
                    pod = data.draw(st.sampled_from(PODS[key.family]))
                    members[RealServerKey(pod, 8080)] = RealServer(data.draw(st.integers(0, 2)))
        elif what == 4 and state.addresses:
            state.addresses.discard(data.draw(st.sampled_from(sorted(state.addresses))))
        elif what == 5:
            state.link = False
            state.addresses.clear()
        elif what == 6:
            filled = sorted(
                name for name, members in state.members.items() if members and "OWN" not in name
            )
            if filled:
                state.members[data.draw(st.sampled_from(filled))].pop()
        elif what == 7:
            state.sysctls["net/ipv4/vs/conntrack"] = "0"
            state.timeouts = KERNEL_TIMEOUTS
        self.kernel.traffic.settle()
        if audit:
            self.agent.audit_soon()

    @rule(key=st.sampled_from(FOREIGN_KEYS))
    def foreign_goes(self, key: VirtualServerKey) -> None:
        """Have somebody remove a virtual server of theirs."""
        if key in self.foreign:
            self.foreign.discard(key)
            del self.kernel.state.virtual_servers[key], self.kernel.state.real_servers[key]

    @rule(seed=st.integers(0, 999), probability=st.sampled_from((0.0, 0.1, 0.3, 0.8)))
    def faults(self, seed: int, probability: float) -> None:
        """Begin, or cease, to refuse operations at random."""
        self.source = random.Random(seed)
        self.faulty.refuse = random_refusals(self.source, probability)

    @rule(index=st.integers(0, 9), client=st.sampled_from(CLIENTS))
    def connect(self, index: int, client: Address) -> None:
        """Open a connection to something that is there."""
        ours = self.kernel.state.virtual_servers.keys() - self.foreign
        keys = sorted(key for key in ours if key.family is client.family)
        if keys and (connection := self.kernel.connect(keys[index % len(keys)], client)):
            self.connections.append(connection)

    @precondition(lambda self: self.connections)
    @rule(index=st.integers(0, 9))
    def disconnect(self, index: int) -> None:
        """Close a connection."""
        self.kernel.disconnect(self.connections.pop(index % len(self.connections)))

    # -- the agent

    @rule()
    def work(self) -> None:
        """Let the agent do all that is due."""
        self._cycles()

    @rule(seconds=st.sampled_from((0.5, 5.0, 31.0, 61.0, 301.0, 901.0)))
    def wait(self, seconds: float) -> None:
        """Let time pass, and the agent do what is due then."""
        self.now += seconds
        self._cycles()

    @rule(operations=st.integers(0, 12))
    def crash(self, operations: int) -> None:
        """Kill the agent after some operations, and start another on the same kernel."""
        self.store, self.agent = self._start(dying=operations)
        try:
            self._cycles()
        except Killed:
            self.failed = False
        self.store, self.agent = self._start()

    def _start(self, dying: int | None = None) -> tuple[Store, Reconciler]:
        at_once = self.source.choice((0, AT_ONCE))
        self.patch.setattr(planning, "AT_ONCE", at_once)
        store = Store(NODE)
        for service in self.services.values():
            store.apply(Put(service, "test"))
        for part in self.slices.values():
            store.apply(Put(part, "test"))
        if self.unreadable:
            store.apply(Unreadable("x.yaml", "?"))
        for kind in sorted(KINDS):
            store.apply(Listed(kind))
        agent = Reconciler(
            store=store,
            dataplane=self.faulty
            if dying is None
            else DyingDataplane(self.faulty, operations=dying),
            settings=SETTINGS,
            conditions=Conditions(),
            clock=lambda: self.now,
            wall_clock=lambda: self.now,
        )
        return store, agent

    def _put(self, changed: Service | EndpointSlice) -> None:
        match changed:
            case Service(name=name):
                self.services[name] = changed
            case EndpointSlice(name=slice_name, service=owner):
                self.slices[owner, slice_name] = changed
        self.store.apply(Put(changed, "test"))

    def _cycles(self) -> None:
        for _ in range(MOST_CYCLES):
            if not self.agent.busy:
                break
            self.failed = True
            self.loop.run_until_complete(self.agent.cycle())
            self.failed = False
        else:
            self.failed = True
            pytest.fail("the agent finds no rest although time stands still")
        self._foreign_is_untouched()

    # -- what must hold

    def _foreign_is_untouched(self) -> None:
        state = self.kernel.state
        for key in self.foreign:
            assert (state.virtual_servers.get(key), state.real_servers.get(key)) == FOREIGN

    def _add_foreign(self, key: VirtualServerKey) -> None:
        self.foreign.add(key)
        self.kernel.state.virtual_servers[key] = FOREIGN[0]
        self.kernel.state.real_servers[key] = dict(FOREIGN[1])

    def _quiet(self) -> None:
        self.faulty.refuse = lambda _: None
        if self.unreadable:
            self.source_trouble()
        while self.connections:
            self.kernel.disconnect(self.connections.pop())
        for _ in range(14):
            self.now += 90.0
            self._cycles()
        self._kernel_is_what_the_objects_say()
        writes = len(self.kernel.applied)
        self.store, self.agent = self._start()
        self._cycles()
        self.now += 90.0
        self._cycles()
        assert self.kernel.applied[writes:] == [], "a restart with nothing changed has written"

    def _kernel_is_what_the_objects_say(self) -> None:
        state, expected = self.kernel.state, self.expected()
        assert state.virtual_servers.keys() - self.foreign == expected.keys()
        assert state.addresses == {key.address for key in expected}
        assert state.link
        wanted = foundation(SETTINGS, state)
        assert state.rulesets == wanted.rulesets
        assert state.sysctls.items() >= wanted.sysctls.items()
        assert state.timeouts == wanted.timeouts
        members = set(self._members(expected))
        found = {(name, one) for name, content in state.members.items() for one in content}
        assert found == members
        for key, one in expected.items():
            real = state.real_servers[key]
            assert real.keys() == one.serving
            server, service = state.virtual_servers[key], self.services[one.owner]
            assert server.persistence == service.affinity_seconds
            assert server.flags == (Flags.SCHED_1 if server.scheduler in {"sh", "mh"} else 0)
            asked = dict(service.annotations).get(SCHEDULER_ANNOTATION) or self._default(one)
            if asked == "dh" and len({bool(one.weight) for one in real.values()}) > 1:
                asked = "sh"  # stands in, for dh turns clients away at weight 0, and fo is lacking
            if asked not in {"twos", "bogus"}:
                assert server.scheduler == asked
            self._weights_are_right(one, real)

    def _weights_are_right(self, one: Expected, real: dict[RealServerKey, RealServer]) -> None:
        parts = [part for (owner, _), part in self.slices.items() if owner == one.owner]
        weighed = any(name.endswith("weights") for name, _ in self.services[one.owner].annotations)
        if all(part.weights is None for part in parts) and not weighed:
            assert all(server.weight == 1 for server in real.values())
        texts = [text for _, text in self.services[one.owner].annotations]
        if any(text.endswith(":0") for text in texts):
            return
        # After a restart what is wrong may have asked for a 0 that is found; not for one alone.
        wrong = "nonsense" in texts or any("x" in (part.weights or "") for part in parts)
        enough = any if wrong else all
        assert not real or enough(server.weight > 0 for server in real.values())

    def _default(self, one: Expected) -> str:
        weighted = any(
            part.weights is not None
            for (owner, _), part in self.slices.items()
            if owner == one.owner
        )
        written = dict(self.services[one.owner].annotations).keys() - {SCHEDULER_ANNOTATION}
        return "wrr" if weighted or written else "rr"

    def expected(self) -> dict[VirtualServerKey, Expected]:
        """Work out who has which virtual server, and who serves there."""
        claims: dict[VirtualServerKey, Expected] = {}
        by_age = sorted(
            self.services.values(),
            key=lambda one: (one.created is None, one.created or 0.0, one.name),
            reverse=True,
        )
        for service in by_age:
            for address in service.cluster_ips:
                for port in service.ports:
                    key = VirtualServerKey(port.protocol, address, port.port)
                    serving = self._serving(service, port, address.family)
                    claims[key] = Expected(service.name, serving)
        return {key: one for key, one in claims.items() if key not in self.foreign}

    def _found(
        self, service: Service, port: ServicePort, family: Family
    ) -> Iterator[tuple[RealServerKey, Endpoint]]:
        for (owner, _), part in sorted(self.slices.items()):
            for slice_port in part.ports:
                fits = slice_port.name == port.name and slice_port.protocol is port.protocol
                if owner == service.name and part.family is family and fits:
                    for endpoint in part.endpoints:
                        yield RealServerKey(endpoint.address, slice_port.port), endpoint

    def _serving(
        self, service: Service, port: ServicePort, family: Family
    ) -> frozenset[RealServerKey]:
        best: dict[RealServerKey, Endpoint] = {}
        for member, endpoint in self._found(service, port, family):
            present = best.setdefault(member, endpoint)
            if _rank(endpoint) > _rank(present):
                best[member] = endpoint
        local = {
            member: endpoint
            for member, endpoint in best.items()
            if not service.internal_traffic_local or endpoint.node_name == NODE
        }
        ready = frozenset(member for member, endpoint in local.items() if endpoint.ready)
        return ready or frozenset(
            member
            for member, endpoint in local.items()
            if endpoint.serving and endpoint.terminating
        )

    def _members(self, expected: dict[VirtualServerKey, Expected]) -> Iterator[SetMember]:
        for key in expected:
            yield set_name(LEDGER, key.family), frontend_member(key)
            yield set_name(CLUSTER_IP, key.family), frontend_member(key)
            yield set_name(IPVS_IPS, key.family), IpMember(key.address)
        for service in self.services.values():
            for address in service.cluster_ips:
                for port in service.ports:
                    yield from self._loop_backs(service, port, address.family)

    def _loop_backs(
        self, service: Service, port: ServicePort, family: Family
    ) -> Iterator[SetMember]:
        """Give the hairpins of a Service, whether or not it owns what it claims."""
        best: dict[RealServerKey, Endpoint] = {}
        for member, endpoint in self._found(service, port, family):
            if _rank(endpoint) > _rank(best.setdefault(member, endpoint)):
                best[member] = endpoint
        for member, endpoint in best.items():
            if endpoint.node_name == NODE:
                yield set_name(LOOP_BACK, family), loop_back_member(port.protocol, member)


def _rank(endpoint: Endpoint) -> tuple[bool, bool, bool]:
    """Say which of two endpoints of one address and port counts."""
    return endpoint.ready, endpoint.serving, endpoint.node_name == NODE


@pytest.fixture(autouse=True, scope="module")
def _no_log() -> Iterator[None]:
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    yield
    structlog.configure(**before)


FULL = bool(os.environ.get("IPVSPROXY_TEST_FULL"))
TestAgent = AgentMachine.TestCase
TestAgent.settings = settings(
    max_examples=1500 if FULL else 60, stateful_step_count=60 if FULL else 30
)
