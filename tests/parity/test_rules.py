"""The rules of intended differences hold where they should, and nowhere else."""

from __future__ import annotations

from functools import cache

import pytest

from ipvsproxy.core.packet import Packet, Sender, SenderKind
from ipvsproxy.model import (
    Address,
    IpPortMember,
    Protocol,
    RealServerKey,
    VirtualServer,
    VirtualServerKey,
)
from tests.parity import rules
from tests.parity.comparison import (
    AddressDiffers,
    Difference,
    MemberDiffers,
    Outcome,
    OutcomeDiffers,
    RealServersDiffer,
    SourceDiffers,
    VirtualServerDiffers,
)
from tests.parity.differences import meant
from tests.parity.facts import Facts, facts_of
from tests.parity.recording import Document

OUTSIDE = Sender(SenderKind.OUTSIDE, Address.parse("198.51.100.77"), "eth0")
POD = Sender(SenderKind.POD, Address.parse("10.244.1.250"), "cni0")
AFAR = Sender(SenderKind.POD, Address.parse("10.244.200.250"), "eth0")
NODE = Sender(SenderKind.NODE)
LOCAL, REMOTE = (RealServerKey(Address.parse(one), 8080) for one in ("10.244.1.5", "10.244.2.5"))
CLUSTER_IP = Address.parse("10.96.0.10")
EXTERNAL = Address.parse("203.0.113.10")


def service(name: str = "web", cluster_ip: str = "10.96.0.10", **spec: object) -> Document:
    ingress = spec.pop("ingress", ())
    assert isinstance(ingress, tuple)
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "type": "LoadBalancer",
            "clusterIP": cluster_ip,
            "clusterIPs": [cluster_ip],
            "ports": [{"port": 80, "protocol": "TCP"}],
            **spec,
        },
        "status": {"loadBalancer": {"ingress": [{"ip": one} for one in ingress]}},
    }


def part(owner: str = "web", **nodes: str) -> Document:
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": f"{owner}-1",
            "namespace": "default",
            "labels": {"kubernetes.io/service-name": owner},
        },
        "addressType": "IPv4",
        "ports": [{"port": 8080, "protocol": "TCP"}],
        "endpoints": [
            {"addresses": [address], "nodeName": node.replace("_", "-")}
            for node, address in nodes.items()
        ],
    }


def key(address: Address, port: int = 80) -> VirtualServerKey:
    return VirtualServerKey(Protocol.TCP, address, port)


def packet(sender: Sender, address: Address = EXTERNAL) -> Packet:
    return Packet(sender, Protocol.TCP, address, 80)


def balanced(*members: RealServerKey) -> Outcome:
    return Outcome("balanced to", frozenset(members))


@cache
def local_policy(*, local: bool) -> Facts:
    """Give a load balancer of policy Local, with a local endpoint or without."""
    endpoints = {"node_b": "10.244.2.5"} | ({"node_a": "10.244.1.5"} if local else {})
    web = service(ingress=("203.0.113.10",), externalTrafficPolicy="Local")
    return facts_of((web, part(**endpoints)))


def covered(difference: Difference, facts: Facts) -> bool:
    return bool(list(meant(difference, facts)))


class TestPolicyLocal:
    @pytest.mark.parametrize(
        ("sender", "ours", "expected"),
        [
            (POD, balanced(LOCAL, REMOTE), True),
            (NODE, balanced(LOCAL, REMOTE), True),
            (POD, balanced(REMOTE), False),
            (POD, Outcome("dropped"), False),
            (OUTSIDE, balanced(LOCAL, REMOTE), False),
        ],
    )
    def test_inside_clients_reach_all(self, sender: Sender, ours: Outcome, expected: bool) -> None:
        difference = OutcomeDiffers(packet(sender), balanced(LOCAL), ours)
        assert covered(difference, local_policy(local=True)) == expected

    @pytest.mark.parametrize(
        ("sender", "ours", "expected"),
        [
            (NODE, rules.MASQUERADED, True),
            (AFAR, rules.MASQUERADED, True),
            (POD, rules.MASQUERADED, False),
            (OUTSIDE, rules.MASQUERADED, False),
        ],
    )
    def test_whose_source_is_replaced(self, sender: Sender, ours: str, expected: bool) -> None:
        difference = SourceDiffers(packet(sender), LOCAL, "203.0.113.10", ours)
        assert covered(difference, local_policy(local=True)) == expected

    @pytest.mark.parametrize(
        ("ours", "expected"),
        [(Outcome("dropped"), True), (Outcome("refused"), False), (balanced(LOCAL), False)],
    )
    def test_nobody_local_is_silence(self, ours: Outcome, expected: bool) -> None:
        difference = OutcomeDiffers(packet(OUTSIDE), balanced(REMOTE), ours)
        assert covered(difference, local_policy(local=False)) == expected
        assert not covered(difference, local_policy(local=True))

    def test_nobody_local_is_an_empty_list(self) -> None:
        facts = local_policy(local=False)
        theirs = frozenset({(REMOTE, 1)})
        assert covered(RealServersDiffer(key(EXTERNAL), theirs, frozenset()), facts)
        assert not covered(RealServersDiffer(key(CLUSTER_IP), theirs, frozenset()), facts)


def test_internal_policy_local_stays_on_the_node() -> None:
    web = service(ingress=("203.0.113.10",), internalTrafficPolicy="Local")
    facts = facts_of((web, part(node_b="10.244.2.5")))
    refused = OutcomeDiffers(packet(POD, CLUSTER_IP), balanced(REMOTE), Outcome("refused"))
    assert covered(refused, facts)
    assert not covered(refused._replace(packet=packet(POD)), facts)
    assert covered(RealServersDiffer(key(CLUSTER_IP), frozenset({(REMOTE, 1)}), frozenset()), facts)


def test_pods_keep_their_address_at_addresses_that_are_bound() -> None:
    web = service(ingress=("203.0.113.10", "192.168.50.11"))
    facts = facts_of((web, part(node_a="10.244.1.5")))
    kept = SourceDiffers(packet(POD), LOCAL, rules.MASQUERADED, "10.244.1.250")
    assert covered(kept, facts)
    assert not covered(kept._replace(packet=packet(OUTSIDE), ours="198.51.100.77"), facts)
    own = packet(POD, Address.parse("192.168.50.11"))
    assert not covered(kept._replace(packet=own), facts)


def test_addresses_that_belong_elsewhere_are_left_alone() -> None:
    server = Address.parse("192.168.50.10")
    kubernetes = (service("kubernetes", "10.96.0.1"), part("kubernetes", node_b=str(server)))
    facts = facts_of((*kubernetes, service(externalIPs=[str(server)]), part(node_a="10.244.1.5")))
    there = VirtualServer("rr")
    assert covered(VirtualServerDiffers(key(server), there, None), facts)
    assert covered(AddressDiffers(server, ours=False), facts)
    assert not covered(AddressDiffers(server, ours=True), facts)
    assert not covered(AddressDiffers(EXTERNAL, ours=False), facts)
    member = IpPortMember(server, Protocol.TCP, 80)
    assert covered(MemberDiffers("KUBE-EXTERNAL-IP", member, ours=False), facts)
    reached = balanced(RealServerKey(server, 8080))
    asked = packet(NODE, Address.parse("10.96.0.1"))
    assert covered(OutcomeDiffers(asked, Outcome("refused"), reached), facts)
    assert not covered(OutcomeDiffers(asked, reached, Outcome("refused")), facts)


@pytest.mark.parametrize(("port", "expected"), [(22, True), (80, False)])
def test_ports_that_the_node_needs_are_left_alone(port: int, expected: bool) -> None:
    own = Address.parse("192.168.50.11")
    web = service(externalIPs=[str(own)], ports=[{"port": port, "protocol": "TCP"}])
    difference = VirtualServerDiffers(key(own, port), VirtualServer("rr"), None)
    assert covered(difference, facts_of((web, part(node_a="10.244.1.5")))) == expected


def test_source_ranges_are_held_to() -> None:
    web = service(ingress=("203.0.113.10",), loadBalancerSourceRanges=["192.0.2.0/24"])
    facts = facts_of((web, part()))
    first = OutcomeDiffers(packet(NODE), Outcome("refused"), Outcome("dropped"))
    assert covered(first, facts)
    assert not covered(first._replace(packet=packet(OUTSIDE)), facts)
    everybody = service(ingress=("203.0.113.10",), loadBalancerSourceRanges=["0.0.0.0/0"])
    facts = facts_of((everybody, part(node_a="10.244.1.5")))
    opened = OutcomeDiffers(packet(OUTSIDE), Outcome("dropped"), balanced(LOCAL))
    assert covered(opened, facts)
    assert not covered(opened._replace(ours=balanced(REMOTE)), facts)


def test_nothing_else_is_meant() -> None:
    facts = local_policy(local=True)
    for difference in (
        VirtualServerDiffers(key(CLUSTER_IP), VirtualServer("rr"), None),
        VirtualServerDiffers(key(CLUSTER_IP), VirtualServer("rr"), VirtualServer("wrr")),
        RealServersDiffer(key(CLUSTER_IP), frozenset({(LOCAL, 1)}), frozenset({(LOCAL, 0)})),
        AddressDiffers(CLUSTER_IP, ours=False),
        MemberDiffers("KUBE-CLUSTER-IP", IpPortMember(CLUSTER_IP, Protocol.TCP, 80), ours=False),
        OutcomeDiffers(packet(POD, CLUSTER_IP), balanced(LOCAL), Outcome("refused")),
        SourceDiffers(packet(OUTSIDE, CLUSTER_IP), LOCAL, rules.MASQUERADED, "198.51.100.77"),
    ):
        assert not covered(difference, facts), difference
