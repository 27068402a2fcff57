"""A start on half a picture: what may belong to what could not be read goes on serving.

The kernel has a Service of externalTrafficPolicy Local whose endpoints are on another node: clients
inside the cluster are redirected, those outside are shut out, at a load balancer's address and at a
NodePort.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

import msgspec
import pytest

from ipvsproxy.config import NodePortAddresses, Settings
from ipvsproxy.core.operations import AddMember
from ipvsproxy.core.redirect_rules import redirect_rules
from ipvsproxy.core.surroundings import Surroundings
from ipvsproxy.core.translate import Fragment, Inputs
from ipvsproxy.kernel.fake import FakeDataplane, copy_state
from ipvsproxy.model import Address, Family, NodeNetwork, Protocol, State
from ipvsproxy.objects import Endpoint, KubernetesObject, Node, Service, ServicePort
from ipvsproxy.reconciler import translation as translating
from ipvsproxy.store import Event, Gone, Refused, Unreadable
from tests.unit.builders import Agent, frontend, named, part, service, service_reference

OWN = Address.parse("192.168.50.11")
INGRESS = Address.parse("203.0.113.5")
NODE_PORT = frontend(str(OWN), 30080)
NONSENSE = Refused(
    service_reference(),
    "a.yaml",
    "nonsense",
    frozenset({Address.parse("10.96.0.10"), INGRESS}),
    named(),
)


def balanced() -> Service:
    return msgspec.structs.replace(
        service(),
        type="LoadBalancer",
        ports=(ServicePort("", Protocol.TCP, 80, 30080),),
        ingress_ips=(INGRESS,),
        external_traffic_local=True,
    )


def elsewhere() -> KubernetesObject:
    server = Endpoint(Address.parse("10.244.2.5"), node_name="node-b")
    return msgspec.structs.replace(part("web"), endpoints=(server,))


async def started(
    fake: FakeDataplane,
    objects: Iterable[KubernetesObject],
    events: Collection[Event] = (),
    *,
    settings: Settings | None = None,
) -> Agent:
    """Start an agent that is told `events`, then lists of `objects`, and let it come to rest."""
    agent = Agent(fake, settings=settings)
    for event in events:
        agent.store.apply(event)
    agent.list_all(objects)
    await agent.settle()
    return agent


async def a_kernel(*, settings: Settings | None = None, node: Node | None = None) -> FakeDataplane:
    """Give the kernel that an agent has left, with nothing written since."""
    fake = FakeDataplane()
    fake.state.network = NodeNetwork({"eth0": frozenset({OWN})})
    objects: list[KubernetesObject] = [balanced(), elsewhere()]
    await started(fake, [*objects, *([node] if node else [])], settings=settings)
    assert len(redirects(fake.state)) == 2
    assert fake.state.virtual_servers.keys() >= {NODE_PORT, frontend(str(INGRESS))}
    fake.applied.clear()
    return fake


def redirects(state: State) -> frozenset[tuple[str, ...]]:
    return redirect_rules(state.rulesets[Family.IPV4])


async def test_a_broken_file_takes_no_redirection_away() -> None:
    fake = await a_kernel()
    before = copy_state(fake.state)
    await started(fake, [], [Unreadable("a.yaml", "not YAML")])
    assert (copy_state(fake.state), fake.applied) == (before, [])


async def test_a_nonsense_service_keeps_its_node_port_and_redirections() -> None:
    fake = await a_kernel()
    before = copy_state(fake.state)
    agent = await started(fake, [elsewhere()], [NONSENSE])
    assert (copy_state(fake.state), fake.applied) == (before, [])
    agent.store.apply(Gone(service_reference()))
    agent.reconciler.audit_soon()
    await agent.settle()
    assert not fake.state.virtual_servers
    assert not redirects(fake.state)


async def test_others_are_redirected_beside_what_is_held() -> None:
    fake = await a_kernel()
    other = msgspec.structs.replace(
        balanced(),
        name=named("other"),
        cluster_ips=(Address.parse("10.96.0.11"),),
        ports=(ServicePort("", Protocol.TCP, 80, 80),),
        ingress_ips=(Address.parse("203.0.113.6"),),
    )
    held = redirects(fake.state)
    agent = await started(fake, [elsewhere(), other], [NONSENSE])
    assert redirects(fake.state) > held
    (chain,) = (one for one in fake.state.rulesets[Family.IPV4].chains if one.name == "KUBE-SPLIT")
    by_number = [rule[0] == "-p" for rule in chain.rules]
    assert by_number == sorted(by_number), "an address is asked before a NodePort's number"
    agent.store.apply(Gone(service_reference("other")))
    await agent.settle()
    assert redirects(fake.state) == held


def sharing(name: str = "other") -> Service:
    """Give a Service that has another port of the same load balancer's address."""
    return msgspec.structs.replace(
        balanced(),
        name=named(name),
        cluster_ips=(Address.parse("10.96.0.11"),),
        ports=(ServicePort("", Protocol.TCP, 79, 30079),),
    )


@pytest.mark.parametrize("event", [NONSENSE, Unreadable("a.yaml", "not YAML")])
async def test_who_shares_an_external_address_takes_nothing_from_it(event: Event) -> None:
    fake = await a_kernel()
    await started(fake, [balanced(), elsewhere(), sharing()])
    before = copy_state(fake.state)
    fake.applied.clear()
    await started(fake, [elsewhere(), sharing()], [event])
    assert (copy_state(fake.state), fake.applied) == (before, [])


async def test_a_service_that_cannot_be_translated_keeps_its_node_port(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fake = await a_kernel()
    before = copy_state(fake.state)

    def fail(inputs: Inputs, around: Surroundings, previous: Fragment | None) -> Fragment:
        raise ArithmeticError(f"{inputs.service.name} {around.here} {previous}")

    monkeypatch.setattr(translating, "translate", fail)
    agent = await started(fake, [balanced(), elsewhere()])
    assert agent.said() == ["Service default/web InternalError"]
    assert (copy_state(fake.state), fake.applied) == (before, [])


async def test_node_ports_stay_while_the_own_node_is_not_known() -> None:
    primary = Settings(node_name="node-a", node_port_addresses=NodePortAddresses(primary=True))
    fake = await a_kernel(settings=primary, node=Node("node-a", addresses=(OWN,)))
    before = copy_state(fake.state)
    agent = await started(fake, [balanced(), elsewhere()], settings=primary)
    assert agent.said() == ["Node NodesUnknown"]
    assert (copy_state(fake.state), fake.applied) == (before, [])


async def test_a_ledger_that_was_lost_is_written_and_nothing_else() -> None:
    fake = await a_kernel()
    before = copy_state(fake.state)
    ledger = fake.state.members["IPVSPROXY-OWN"]
    lost = len(ledger)
    ledger.clear()
    await started(fake, [balanced(), elsewhere()])
    assert copy_state(fake.state) == before
    assert [type(one) for one in fake.applied] == [AddMember] * lost


async def test_what_a_nonsense_service_left_goes_with_it_at_once() -> None:
    fake = FakeDataplane()
    await started(fake, [service(), part("web", "10.244.1.5")])
    agent = await started(fake, (), [NONSENSE])
    assert fake.state.virtual_servers.keys() == {frontend()}
    agent.store.apply(Gone(service_reference()))
    await agent.settle()
    assert not fake.state.virtual_servers
    assert not any(fake.state.members.values())
