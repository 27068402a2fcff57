"""The ipsets: which there are, how they are called, what their members do."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipvsproxy.core.operations import member_text
from ipvsproxy.core.sets import (
    CLUSTER_IP,
    FRONTEND_SETS,
    LEDGER,
    NODE_PORT,
    NODE_PORT_LOCAL,
    OWN_SET_PREFIXES,
    Role,
    frontend_member,
    loop_back_member,
    role_of,
    set_name,
    set_specs,
)
from ipvsproxy.model import (
    Address,
    Family,
    Protocol,
    RealServerKey,
    SetSpec,
    SetType,
    VirtualServerKey,
)

KUBE_PROXYS = {
    "KUBE-LOOP-BACK": "hash:ip,port,ip",
    "KUBE-CLUSTER-IP": "hash:ip,port",
    "KUBE-EXTERNAL-IP": "hash:ip,port",
    "KUBE-EXTERNAL-IP-LOCAL": "hash:ip,port",
    "KUBE-LOAD-BALANCER": "hash:ip,port",
    "KUBE-LOAD-BALANCER-FW": "hash:ip,port",
    "KUBE-LOAD-BALANCER-LOCAL": "hash:ip,port",
    "KUBE-LOAD-BALANCER-SOURCE-IP": "hash:ip,port,ip",
    "KUBE-LOAD-BALANCER-SOURCE-CIDR": "hash:ip,port,net",
    "KUBE-NODE-PORT-TCP": "bitmap:port",
    "KUBE-NODE-PORT-LOCAL-TCP": "bitmap:port",
    "KUBE-NODE-PORT-UDP": "bitmap:port",
    "KUBE-NODE-PORT-LOCAL-UDP": "bitmap:port",
    "KUBE-NODE-PORT-SCTP-HASH": "hash:ip,port",
    "KUBE-NODE-PORT-LOCAL-SCTP-HASH": "hash:ip,port",
    "KUBE-HEALTH-CHECK-NODE-PORT": "bitmap:port",
    "KUBE-IPVS-IPS": "hash:ip",
}
"""pkg/proxy/ipvs/ipset.go of Kubernetes 1.30."""
OURS = {
    "KUBE-NODE-IP": "hash:ip",
    "KUBE-SPLIT": "hash:ip,port",
    "KUBE-NO-LOCAL": "hash:ip,port",
    "IPVSPROXY-OWN": "hash:ip,port",
}


def test_every_set_of_kube_proxy_is_there_and_four_of_ours() -> None:
    specs = set_specs([Family.IPV4], 1000)
    assert {name: str(spec.type) for name, spec in specs.items()} == KUBE_PROXYS | OURS


def test_each_family_has_its_own_sets() -> None:
    both = set_specs(Family, 1000, 64)
    assert both == set_specs([Family.IPV4], 1000) | set_specs([Family.IPV6], 1000)
    assert len(both) == 2 * len(KUBE_PROXYS | OURS)
    assert both["KUBE-6-LOOP-BACK"] == SetSpec(SetType.HASH_IP_PORT_IP, Family.IPV6, 1000)
    assert both["KUBE-6-LOOP-BACK"].hashsize == 64
    assert all(len(name) <= 31 and name.startswith(OWN_SET_PREFIXES) for name in both)
    assert len({set_name(base, family) for base in KUBE_PROXYS for family in Family}) == 34


@pytest.mark.parametrize(
    ("base", "name"),
    [
        ("KUBE-CLUSTER-IP", "KUBE-6-CLUSTER-IP"),
        ("KUBE-LOAD-BALANCER-SOURCE-CIDR", "KUBE-6-LOAD-BALANCER-SOURCE-CID"),
        ("KUBE-NODE-PORT-LOCAL-SCTP-HASH", "KUBE-6-NODE-PORT-LOCAL-SCTP-HAS"),
        ("IPVSPROXY-OWN", "IPVSPROXY-OWN-6"),
    ],
)
def test_ipv6_names_are_kube_proxys(base: str, name: str) -> None:
    assert (set_name(base, Family.IPV6), set_name(base, Family.IPV4)) == (name, base)


@pytest.mark.parametrize(
    ("role", "bases"),
    [
        (Role.CLOSES, {"KUBE-LOAD-BALANCER-FW"}),
        (Role.MASKS, {"KUBE-EXTERNAL-IP", "KUBE-LOAD-BALANCER"}),
        (Role.BARES, {"KUBE-LOAD-BALANCER-LOCAL", *NODE_PORT_LOCAL.values()}),
        (Role.REDIRECTS, {"KUBE-SPLIT"}),
        (Role.SHUTS_OUT, {"KUBE-NO-LOCAL"}),
    ],
)
def test_what_members_do_is_the_same_in_both_families(role: Role, bases: set[str]) -> None:
    found = {base for base in KUBE_PROXYS | OURS if role_of(base) is role}
    assert found == bases
    assert {set_name(base, Family.IPV6) for base in bases} == {
        name for name in set_specs([Family.IPV6], 1) if role_of(name) is role
    }


@pytest.mark.parametrize("base", [CLUSTER_IP, LEDGER, *NODE_PORT.values()])
def test_the_others_let_traffic_work(base: str) -> None:
    assert role_of(base) is Role.ADMITS


@given(
    family=st.sampled_from(Family),
    number=st.integers(0, 2**32 - 1),
    protocol=st.sampled_from(Protocol),
    port=st.integers(1, 65535),
)
def test_a_member_says_which_frontend_it_stands_for(
    family: Family, number: int, protocol: Protocol, port: int
) -> None:
    address = Address(number.to_bytes(4 if family is Family.IPV4 else 16))
    key = VirtualServerKey(protocol, address, port)
    member = frontend_member(key)
    assert VirtualServerKey(member.protocol, member.address, member.port) == key
    assert all(set_specs([family], 1)[set_name(base, family)].family is family for base in [LEDGER])


def test_sets_of_frontends_have_an_address_and_a_port_in_each_member() -> None:
    specs = set_specs([Family.IPV4], 1)
    assert {specs[base].type for base in FRONTEND_SETS} == {SetType.HASH_IP_PORT}


def test_members_are_written_as_kube_proxy_writes_them() -> None:
    key = VirtualServerKey(Protocol.SCTP, Address.parse("10.96.0.10"), 80)
    assert member_text(frontend_member(key)) == "10.96.0.10,sctp:80"
    real = RealServerKey(Address.parse("10.244.1.5"), 8080)
    member = loop_back_member(Protocol.TCP, real)
    assert member_text(member) == "10.244.1.5,tcp:8080,10.244.1.5"
