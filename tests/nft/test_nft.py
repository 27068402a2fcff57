"""One node whose iptables is nftables, as on most of today's: the real agent, real packets.

The other end-to-end tests run where only the legacy backend exists. This is the small part of them
that a kernel with nftables is asked for; it may be an emulated one, in which every program takes
seconds to start, so the agent is run with `--once`, and as seldom as possible. The other node has a
pod and no agent: what is asked here is balanced by the first.
"""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from ipvsproxy.config import Settings
from ipvsproxy.core.detect_local import local_pods
from ipvsproxy.core.firewall import ruleset
from ipvsproxy.core.redirect import Redirect
from ipvsproxy.kernel import rtnetlink
from ipvsproxy.kernel.iptables import Backend, Iptables
from ipvsproxy.kernel.netlink import NetlinkSocket
from ipvsproxy.kernel.process import Processes
from ipvsproxy.kernel.surroundings import read_network
from ipvsproxy.model import Address, Family, Network, NodeNetwork, VirtualServerKey
from ipvsproxy.model import Protocol as Transport
from ipvsproxy.objects import Node
from testbed import namespaces, witness
from testbed.agent import PROGRAM
from testbed.applied import missing
from testbed.cluster import Cluster
from testbed.layout import CLUSTER_CIDR, lay_out
from testbed.manifests import SERVICE_PORT, Exposure, Service, endpoints_of
from testbed.survey import Survey
from tests.e2e.judge import judge, question
from tests.e2e.matrix import Cell, Frontend, cells_of
from tests.kernel.netfilter import unusable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from testbed.client import Reply

pytestmark = [pytest.mark.kernel, pytest.mark.e2e]
each_family = pytest.mark.parametrize("family", [4, 6], ids=lambda family: f"IPv{family}")

LAYOUT = lay_out({"node1": ("a1", "c1"), "node2": ("a2",)}, prefix="nft-")
NODE = LAYOUT.nodes[0]
SPLIT = Exposure("LoadBalancer", policy="Local")
SERVICES = (
    Service("inside", 10, endpoints_of([LAYOUT.pod("a1")])),
    Service(
        "split",
        11,
        endpoints_of(LAYOUT.pod(name) for name in ("a1", "a2")),
        protocols=("TCP", "UDP"),
        exposure=SPLIT,
    ),
    Service("shut", 12, endpoints_of([LAYOUT.pod("a2")]), protocols=("TCP", "UDP"), exposure=SPLIT),
)
CLIENTS = {"outside", "c1", "a1", "node1"}
FRONTENDS = {
    "inside": {Frontend.CLUSTER_IP},
    "split": {Frontend.LOAD_BALANCER, Frontend.NODE_PORT_OF_NODE1},
    "shut": {Frontend.LOAD_BALANCER, Frontend.NODE_PORT_OF_NODE1},
}
CELLS = [
    cell
    for service in SERVICES
    for cell in cells_of(LAYOUT, service)
    if cell.client in CLIENTS and cell.frontend in FRONTENDS[service.name]
]
AT_ONCE = 4

WRITES = "summary"
"""What the log of a synchronisation has where it wrote something."""
PROGRAMS = ("iptables", "ip6tables")
FOREIGN = """*mangle
:KUBE-IPTABLES-HINT - [0:0]
:KUBE-KUBELET-CANARY - [0:0]
COMMIT
*nat
:CNI-HOSTPORT-DNAT - [0:0]
-A CNI-HOSTPORT-DNAT -p tcp -m tcp --dport 8081 -j ACCEPT
-A PREROUTING -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT
COMMIT
*filter
:KUBE-FIREWALL - [0:0]
-A KUBE-FIREWALL -m mark --mark 0x8000/0x8000 -j DROP
-A INPUT -j KUBE-FIREWALL
COMMIT
"""
"""What kubelet and a network plugin have on a node: by its hint kubelet says which backend."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """The cluster, on whose first node kubelet has left its hint."""
    reason = unusable(Processes(), Backend.NFT)
    if reason:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"no nftables here: {reason}")
    with Cluster(LAYOUT, tmp_path_factory.mktemp("nft")) as cluster:
        for program in PROGRAMS:
            restore = f"{program}-nft-restore", "--noflush"
            namespaces.run_inside(NODE.namespace, *restore, text=FOREIGN)
        yield cluster


@pytest.fixture(scope="module")
def of_others(cluster: Cluster) -> dict[str, list[str]]:
    """The rules that stood before the agent came, by program."""
    assert cluster.layout == LAYOUT
    return {program: rules(program) for program in PROGRAMS}


@pytest.fixture(scope="module")
def published(cluster: Cluster, of_others: dict[str, list[str]]) -> Cluster:
    """The cluster with its Services; the agent runs only for tests that want them applied."""
    assert all(of_others.values())
    cluster.publish(*SERVICES)
    return cluster


@pytest.fixture
def applied(published: Cluster) -> Cluster:
    """The cluster whose Services the agent has applied, now or for another test."""
    if not witness.table(NODE.namespace):
        assert WRITES in agent(*published.agents[NODE.name].words, "--once")
        assert missing(NODE, SERVICES) is None
    return published


@pytest.fixture(scope="module")
def asked() -> dict[str, list[Reply]]:
    """What was answered to every cell, by its name; nothing before a test wanted it."""
    return {}


@pytest.fixture
def replies(applied: Cluster, asked: dict[str, list[Reply]]) -> dict[str, list[Reply]]:
    """The replies to every cell, asked all at once, now or for another test."""
    if not asked:
        got = applied.traffic.call(Survey(at_once=AT_ONCE).ask(list(map(question, CELLS))))
        asked.update(zip(map(str, CELLS), got, strict=True))
    return asked


def rules(program: str) -> list[str]:
    """Return the rules and further chains of the node; which empty tables exist is no matter."""
    text = witness.rules(NODE.namespace, program=program)
    return [line for line in text.splitlines() if line[0] != "*"]


def agent(*words: str) -> str:
    """Run a command of the agent on the node; return all that it said."""
    inside = ("ip", "netns", "exec", NODE.namespace, *PROGRAM, *words)
    done = subprocess.run(inside, capture_output=True, text=True, timeout=150, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def network() -> NodeNetwork:
    """Return the network of the namespace that this thread is in."""
    route = NetlinkSocket(rtnetlink.PROTOCOL)
    try:
        return read_network(route)
    finally:
        route.close()


def redirects(family: int) -> Iterator[Redirect]:
    """Yield what is redirected on the node in a family: a NodePort on whatever address it comes."""
    for service in SERVICES:
        if not service.exposure.local:
            continue
        for name in service.protocols:
            protocol = Transport[name]
            cluster_ip = Address.parse(service.address(family))
            target = VirtualServerKey(protocol, cluster_ip, SERVICE_PORT)
            ingress = Address.parse(service.ingress_address(family))
            yield Redirect(protocol, ingress, SERVICE_PORT, target)
            yield Redirect(protocol, None, service.node_port, target)


@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_cell(replies: dict[str, list[Reply]], cell: Cell) -> None:
    judge(cell, replies[str(cell)])


@each_family
@pytest.mark.usefixtures("applied")
def test_the_chains_stand_in_nftables_and_read_back_as_they_were_wanted(family: int) -> None:
    number = Family.IPV4 if family == 4 else Family.IPV6
    node = Node(NODE.name, addresses=tuple(map(Address.parse, NODE.addresses)))
    networks = tuple(map(Network.parse, CLUSTER_CIDR.split(",")))
    settings = Settings(node_name=NODE.name, cluster_cidrs=networks)
    with namespaces.inside(NODE.namespace):
        iptables = Iptables(Processes())
        assert iptables.backend is Backend.NFT
        pods = local_pods(number, settings, node, network())
        wanted = ruleset(number, pods=pods, redirects=list(redirects(family)))
        assert iptables.dump(number) == wanted
        legacy = Iptables(Processes(), "legacy").dump(number)
    assert legacy is None or not legacy.chains


def test_a_second_synchronisation_writes_nothing(applied: Cluster) -> None:
    before = witness.everything(NODE.namespace)
    assert WRITES not in agent(*applied.agents[NODE.name].words, "--once")
    assert witness.everything(NODE.namespace) == before


@pytest.mark.usefixtures("applied")
def test_cleanup_leaves_the_rules_of_others(of_others: dict[str, list[str]]) -> None:
    agent("cleanup", "--hostname-override", NODE.name)
    assert {program: rules(program) for program in PROGRAMS} == of_others
    assert witness.ipvs(NODE.namespace) == ""
    assert witness.sets(NODE.namespace) == ""
    assert witness.addresses(NODE.namespace) == ""
