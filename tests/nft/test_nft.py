"""One node whose iptables is nftables, as on most of today's: the real agent, real packets.

The other end-to-end tests run where only the legacy backend exists. This is the small part of them
that a kernel with nftables is asked for; it may be an emulated one, in which every program takes
seconds to start, so the agent is run with `--once`, and as seldom as possible.
"""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from ipvsproxy.config import Settings
from ipvsproxy.core.detect_local import local_pods
from ipvsproxy.core.firewall import ruleset
from ipvsproxy.kernel import rtnetlink
from ipvsproxy.kernel.iptables import Backend, Iptables
from ipvsproxy.kernel.netlink import NetlinkSocket
from ipvsproxy.kernel.process import Processes
from ipvsproxy.kernel.surroundings import read_network
from ipvsproxy.model import Address, Family, Network, NodeNetwork
from ipvsproxy.objects import Node
from testbed import namespaces, witness
from testbed.agent import PROGRAM
from testbed.client import Protocol, answers, distribution, failures
from testbed.cluster import Cluster, target
from testbed.layout import CLUSTER_CIDR, lay_out
from testbed.manifests import Service, endpoints_of
from tests.kernel.netfilter import unusable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from testbed.layout import Host

pytestmark = [pytest.mark.kernel, pytest.mark.e2e]
each_family = pytest.mark.parametrize("family", [4, 6], ids=lambda family: f"IPv{family}")
each_protocol = pytest.mark.parametrize("protocol", Protocol, ids=lambda one: one.name)

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
    """One node with a server and a client, on which kubelet has left its hint."""
    reason = unusable(Processes(), Backend.NFT)
    if reason:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"no nftables here: {reason}")
    layout = lay_out({"node1": ("server", "client")}, prefix="nft-")
    with Cluster(layout, tmp_path_factory.mktemp("nft")) as cluster:
        for program in PROGRAMS:
            restore = f"{program}-nft-restore", "--noflush"
            namespaces.run_inside(layout.nodes[0].namespace, *restore, text=FOREIGN)
        yield cluster


@pytest.fixture(scope="module")
def of_others(cluster: Cluster) -> dict[str, list[str]]:
    """The rules that stood before the agent came, by program."""
    return {program: rules(cluster, program) for program in PROGRAMS}


@pytest.fixture(scope="module")
def service(cluster: Cluster, of_others: dict[str, list[str]]) -> Service:
    """The Service whose one endpoint is the server; the agent runs only for tests that use it."""
    assert all(of_others.values())
    service = Service("web", 10, endpoints_of([cluster.layout.pod("server")]))
    cluster.publish(service)
    return service


@pytest.fixture
def applied(cluster: Cluster, service: Service) -> Service:
    """The Service, which the agent has applied, now or for another test."""
    if not witness.table(cluster.layout.nodes[0].namespace):
        assert WRITES in agent(cluster, *cluster.agents["node1"].words, "--once")
        cluster.wait_applied(service)
    return service


def rules(cluster: Cluster, program: str) -> list[str]:
    """Return the rules and further chains of the node; which empty tables exist is no matter."""
    text = witness.rules(cluster.layout.nodes[0].namespace, program=program)
    return [line for line in text.splitlines() if line[0] != "*"]


def agent(cluster: Cluster, *words: str) -> str:
    """Run a command of the agent on the node; return all that it said."""
    inside = ("ip", "netns", "exec", cluster.layout.nodes[0].namespace, *PROGRAM, *words)
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


def sources(cluster: Cluster, client: Host, service: Service, where: Sequence[object]) -> set[str]:
    """Ask a Service a few times; return the sources that the server saw."""
    family, protocol = where
    assert isinstance(family, int)
    assert isinstance(protocol, Protocol)
    asked = target(service, protocol=protocol, family=family)
    replies = cluster.traffic.ask(client, asked, 3)
    assert not failures(replies)
    assert distribution(replies) == {"server": 3}
    return {answer.source for answer in answers(replies)}


@each_family
@each_protocol
def test_another_pod_keeps_its_address(
    cluster: Cluster, applied: Service, family: int, protocol: Protocol
) -> None:
    client = cluster.layout.pod("client")
    assert sources(cluster, client, applied, (family, protocol)) == {client.address(family)}


@each_family
@each_protocol
@pytest.mark.parametrize("name", ["server", "node1", "outside"])
def test_the_pod_itself_the_node_and_the_outside_are_masqueraded(
    cluster: Cluster, applied: Service, family: int, protocol: Protocol, name: str
) -> None:
    layout = cluster.layout
    node = layout.nodes[0]
    client = {"server": layout.pod("server"), "node1": node, "outside": layout.outside}[name]
    seen = sources(cluster, client, applied, (family, protocol))
    assert seen <= {*node.addresses, *node.bridge_addresses}


@each_family
@pytest.mark.usefixtures("applied")
def test_the_chains_stand_in_nftables_and_read_back_as_they_were_wanted(
    cluster: Cluster, family: int
) -> None:
    number = Family.IPV4 if family == 4 else Family.IPV6
    name, own = cluster.layout.nodes[0].name, cluster.layout.nodes[0].addresses
    node = Node(name, addresses=tuple(map(Address.parse, own)))
    networks = tuple(map(Network.parse, CLUSTER_CIDR.split(",")))
    settings = Settings(node_name=name, cluster_cidrs=networks)
    with namespaces.inside(cluster.layout.nodes[0].namespace):
        iptables = Iptables(Processes())
        assert iptables.backend is Backend.NFT
        wanted = ruleset(number, pods=local_pods(number, settings, node, network()))
        assert iptables.dump(number) == wanted
        legacy = Iptables(Processes(), "legacy").dump(number)
    assert legacy is None or not legacy.chains


@pytest.mark.usefixtures("applied")
def test_a_second_synchronisation_writes_nothing(cluster: Cluster) -> None:
    before = witness.everything(cluster.layout.nodes[0].namespace)
    assert WRITES not in agent(cluster, *cluster.agents["node1"].words, "--once")
    assert witness.everything(cluster.layout.nodes[0].namespace) == before


@pytest.mark.usefixtures("applied")
def test_cleanup_leaves_the_rules_of_others(
    cluster: Cluster, of_others: dict[str, list[str]]
) -> None:
    node = cluster.layout.nodes[0]
    agent(cluster, "cleanup", "--hostname-override", node.name)
    assert {program: rules(cluster, program) for program in PROGRAMS} == of_others
    assert witness.ipvs(node.namespace) == ""
    assert witness.sets(node.namespace) == ""
    assert witness.addresses(node.namespace) == ""
