"""Where iptables mode or kube-router served: the switch comes last, nothing is made twice."""

from __future__ import annotations

from ipvsproxy.config import Settings
from ipvsproxy.core.ledger import adopt
from ipvsproxy.core.operations import (
    AddMember,
    AddRealServer,
    AddVirtualServer,
    BindAddress,
    Operation,
    RemoveVirtualServer,
    ReplaceChains,
)
from ipvsproxy.core.predecessors import are_others, serves_without_ipvs
from ipvsproxy.core.sets import frontend_member
from ipvsproxy.kernel.fake import FakeDataplane
from ipvsproxy.kernel.ipset_text import parse_save as parse_sets
from ipvsproxy.kernel.iptables_text import parse_save
from ipvsproxy.model import Address, Family, Network, NodeNetwork, Protocol, VirtualServerKey
from tests.scenarios.kernel_lines import do_to
from tests.scenarios.stage import Stage
from tests.unit.test_foreign import IPTABLES_MODE

SETTINGS = Settings(node_name="node-a", cluster_cidrs=(Network.parse("10.244.0.0/16"),))


def manifest(name: str, namespace: str, address: str, extra: str = "") -> str:
    """Write a Service with one endpoint."""
    return f"""\
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: {namespace}}}
spec: {{clusterIP: {address}, ports: [{{port: 80{extra}}}]{", type: NodePort" if extra else ""}}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: {name}-1, namespace: {namespace}, labels: {{kubernetes.io/service-name: {name}}}}}
addressType: IPv4
ports: [{{port: 8080}}]
endpoints: [{{addresses: [10.244.1.5]}}]
"""


def node_of_iptables_mode() -> Stage:
    """A node on which the rules of iptables mode stand, and an agent that is to start there."""
    fake = FakeDataplane()
    fake.state.network = NodeNetwork({"eth0": frozenset({Address.parse("192.168.50.11")})})
    fake.state.rulesets[Family.IPV4] = parse_save(IPTABLES_MODE)
    stage = Stage(SETTINGS, fake)
    stage.files["first.yaml"] = manifest("kubernetes", "default", "10.96.0.1")
    stage.files["web.yaml"] = manifest("web", "default", "10.96.0.10", ", nodePort: 30080")
    return stage


def positions(stage: Stage, *kinds: type[Operation]) -> list[int]:
    return [at for at, one in enumerate(stage.fake.applied) if isinstance(one, kinds)]


async def test_where_iptables_mode_serves_the_chains_come_after_all_that_they_lead_to() -> None:
    stage = node_of_iptables_mode()
    await stage.start()
    (switch,) = (
        at
        for at, one in enumerate(stage.fake.applied)
        if isinstance(one, ReplaceChains) and one.family is Family.IPV4
    )
    made = positions(stage, AddMember, AddVirtualServer, AddRealServer, BindAddress)
    assert len(made) == len([at for at in made if at < switch])
    assert {str(address) for address in stage.fake.state.addresses} == {"10.96.0.1", "10.96.0.10"}
    assert not are_others(stage.fake.state.rulesets[Family.IPV4])


async def test_iptables_mode_goes_on_serving_while_not_all_objects_can_be_read() -> None:
    stage = node_of_iptables_mode()
    stage.files["broken.yaml"] = "{"
    await stage.start()
    assert serves_without_ipvs(stage.fake.state.rulesets[Family.IPV4])
    assert len(stage.fake.state.virtual_servers) == 3
    del stage.files["broken.yaml"]
    await stage.synchronise()
    assert not are_others(stage.fake.state.rulesets[Family.IPV4])


SVIP_PRT = """\
create kube-router-svip-prt hash:ip,port family inet hashsize 1024 maxelem 65536 timeout 0
add kube-router-svip-prt 10.96.0.10,tcp:80 timeout 0
add kube-router-svip-prt 192.168.50.11,tcp:30080 timeout 0
create inet6:kube-router-svip-prt hash:ip,port family inet6 hashsize 1024 maxelem 65536 timeout 0
add inet6:kube-router-svip-prt fd00:96::10,tcp:80 timeout 0
create kube-router-svip hash:ip family inet hashsize 1024 maxelem 65536 timeout 0
"""


async def test_virtual_servers_of_kube_router_are_adopted_and_their_addresses_bound() -> None:
    stage = node_of_iptables_mode()
    state = stage.fake.state
    state.rulesets[Family.IPV4] = parse_save("")
    specs, members, ignored = parse_sets(SVIP_PRT)
    assert not ignored
    state.sets |= specs
    state.members |= members
    do_to(
        state,
        (
            "-A -t 10.96.0.10:80 -s rr",
            "-a -t 10.96.0.10:80 -r 10.244.1.5:8080 -m -w 1",
            "-A -t 192.168.50.11:30080 -s rr",
            "-a -t 192.168.50.11:30080 -r 10.244.1.5:8080 -m -w 1",
            "-A -t [fd00:96::10]:80 -s rr",
            "-A -t 203.0.113.5:25 -s wlc",
        ),
    )
    keys = [
        VirtualServerKey(Protocol.TCP, Address.parse(host), port)
        for host, port in (("10.96.0.10", 80), ("192.168.50.11", 30080), ("fd00:96::10", 80))
    ]
    assert {member for _, member in adopt(state)} == set(map(frontend_member, keys))
    await stage.start()
    made = {one.key for one in stage.fake.applied if isinstance(one, AddVirtualServer)}
    assert {str(key) for key in made} == {"10.96.0.1:80/TCP"}
    removed = [one.key for one in stage.fake.applied if isinstance(one, RemoveVirtualServer)]
    assert removed == [keys[2]]
    assert {str(address) for address in state.addresses} == {"10.96.0.1", "10.96.0.10"}
    assert any(str(key) == "203.0.113.5:25/TCP" for key in state.virtual_servers)
