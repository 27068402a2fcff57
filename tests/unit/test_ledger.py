"""Whose a virtual server is, and what a start without a ledger makes of what it finds."""

from __future__ import annotations

import pytest

from ipvsproxy.core.ledger import Ownership, adopt
from ipvsproxy.core.sets import frontend_member
from ipvsproxy.kernel.fake import fresh_state
from ipvsproxy.model import (
    Address,
    Chain,
    Family,
    NodeNetwork,
    PortMember,
    Protocol,
    Ruleset,
    State,
    VirtualServer,
    VirtualServerKey,
)

KEY = VirtualServerKey(Protocol.TCP, Address.parse("10.96.0.1"), 80)
UDP = KEY._replace(protocol=Protocol.UDP)
KEY6 = VirtualServerKey(Protocol.TCP, Address.parse("fd00:96::1"), 80)


def kernel(
    *keys: VirtualServerKey, bound: tuple[VirtualServerKey, ...] = (), **sets: VirtualServerKey
) -> State:
    state = fresh_state()
    state.virtual_servers = dict.fromkeys(keys, VirtualServer("rr"))
    state.addresses = {key.address for key in bound}
    state.members = {name.replace("_", "-"): {frontend_member(key)} for name, key in sets.items()}
    return state


@pytest.mark.parametrize(
    ("state", "key", "ours"),
    [
        pytest.param(kernel(KEY), KEY, False, id="nothing says so"),
        pytest.param(kernel(KEY, bound=(KEY,)), KEY, True, id="address on the dummy interface"),
        pytest.param(kernel(KEY, IPVSPROXY_OWN=KEY), KEY, True, id="in the ledger"),
        pytest.param(kernel(KEY, IPVSPROXY_OWN=UDP), KEY, False, id="another protocol"),
        pytest.param(kernel(KEY6, IPVSPROXY_OWN_6=KEY6), KEY6, True, id="in the IPv6 ledger"),
        pytest.param(kernel(KEY, KUBE_CLUSTER_IP=KEY), KEY, False, id="a rule's set is no ledger"),
        pytest.param(
            kernel(KEY, UDP, bound=(KEY,), IPVSPROXY_OWN=UDP),
            KEY,
            False,
            id="another port of an address that we have bound",
        ),
        pytest.param(
            kernel(KEY, KEY6, bound=(KEY,), IPVSPROXY_OWN_6=KEY6),
            KEY,
            True,
            id="an address that somebody before us has bound, beside a ledger",
        ),
    ],
)
def test_whose_it_is(state: State, key: VirtualServerKey, ours: bool) -> None:
    assert (key in Ownership(state)) == ours


@pytest.mark.parametrize(
    ("state", "adopted"),
    [
        pytest.param(kernel(KEY), set(), id="nobody names it"),
        pytest.param(kernel(KEY, KUBE_CLUSTER_IP=KEY), {KEY}, id="a predecessor's set names it"),
        pytest.param(
            kernel(KEY6, KUBE_6_CLUSTER_IP=KEY6), {KEY6}, id="a predecessor's IPv6 set names it"
        ),
        pytest.param(kernel(KEY, bound=(KEY,)), {KEY}, id="address on the dummy interface"),
        pytest.param(kernel(KUBE_CLUSTER_IP=KEY), set(), id="named, but not there"),
        pytest.param(
            kernel(KEY, UDP, bound=(KEY,), IPVSPROXY_OWN=UDP), set(), id="there is a ledger"
        ),
    ],
)
def test_what_is_adopted(state: State, adopted: set[VirtualServerKey]) -> None:
    names = {Family.IPV4: "IPVSPROXY-OWN", Family.IPV6: "IPVSPROXY-OWN-6"}
    assert adopt(state) == {(names[key.family], frontend_member(key)) for key in adopted}


def test_nothing_is_adopted_of_a_family_that_the_kernel_lacks() -> None:
    state = kernel(KEY6, bound=(KEY6,))
    state.families = frozenset({Family.IPV4})
    assert adopt(state) == frozenset()


OWN = Address.parse("192.0.2.10")
NODE_PORT = VirtualServerKey(Protocol.TCP, OWN, 30080)
SCTP = NODE_PORT._replace(protocol=Protocol.SCTP)


def with_port(state: State, name: str, port: int, *, own: Address = OWN) -> State:
    state.network = NodeNetwork({"eth0": frozenset({own})})
    state.members.setdefault(name, set()).add(PortMember(port))
    return state


@pytest.mark.parametrize(
    ("state", "adopted"),
    [
        pytest.param(kernel(KEY, KUBE_EXTERNAL_IP=KEY), {KEY}, id="an externalIP"),
        pytest.param(kernel(KEY, KUBE_EXTERNAL_IP_LOCAL=KEY), {KEY}, id="an externalIP, Local"),
        pytest.param(kernel(KEY, KUBE_LOAD_BALANCER=KEY), {KEY}, id="a load balancer's address"),
        pytest.param(
            kernel(KEY, KUBE_LOAD_BALANCER_FW=KEY), set(), id="only in a set that closes frontends"
        ),
        pytest.param(
            with_port(kernel(NODE_PORT), "KUBE-NODE-PORT-TCP", 30080), {NODE_PORT}, id="a NodePort"
        ),
        pytest.param(
            with_port(kernel(NODE_PORT), "KUBE-NODE-PORT-TCP", 30081), set(), id="another number"
        ),
        pytest.param(
            with_port(kernel(NODE_PORT), "KUBE-NODE-PORT-UDP", 30080), set(), id="another protocol"
        ),
        pytest.param(
            with_port(kernel(NODE_PORT), "KUBE-6-NODE-PORT-TCP", 30080), set(), id="another family"
        ),
        pytest.param(
            with_port(kernel(NODE_PORT), "KUBE-NODE-PORT-TCP", 30080, own=KEY.address),
            set(),
            id="its number, at an address that is not the node's",
        ),
        pytest.param(kernel(SCTP, KUBE_NODE_PORT_SCTP_HASH=SCTP), {SCTP}, id="a NodePort of SCTP"),
        pytest.param(
            kernel(NODE_PORT, KUBE_NODE_PORT_SCTP_HASH=SCTP), set(), id="of SCTP, not of TCP"
        ),
    ],
)
def test_every_kind_of_a_predecessors_frontends_is_adopted(
    state: State, adopted: set[VirtualServerKey]
) -> None:
    assert adopt(state) == {("IPVSPROXY-OWN", frontend_member(key)) for key in adopted}


THEIR_CHAIN = Chain("nat", "KUBE-SERVICES", (("-j", "KUBE-MARK-MASQ"),))
OUR_SPLIT = Chain("nat", "KUBE-SPLIT", (("-j", "RETURN"),))
OUR_CHAIN = Chain("nat", "KUBE-SERVICES", (("-j", "KUBE-SPLIT"),))


@pytest.mark.parametrize(
    ("chains", "adopted"),
    [
        pytest.param((OUR_CHAIN, OUR_SPLIT), False, id="ours stand: what is not listed is foreign"),
        pytest.param((THEIR_CHAIN, OUR_SPLIT), True, id="kube-proxy has come back since"),
        pytest.param((), False, id="nobody's stand"),
    ],
)
def test_what_a_kube_proxy_has_made_in_between_is_adopted(
    chains: tuple[Chain, ...], adopted: bool
) -> None:
    node = Address.parse("192.168.50.11")
    node_port = VirtualServerKey(Protocol.TCP, node, 30090)
    stranger = VirtualServerKey(Protocol.TCP, node, 30091)
    state = kernel(KEY, UDP, node_port, stranger, bound=(KEY,), IPVSPROXY_OWN=KEY)
    state.network = NodeNetwork({"eth0": frozenset({node})})
    state.members["KUBE-NODE-PORT-TCP"] = {PortMember(30090)}
    state.rulesets[Family.IPV4] = Ruleset(chains)
    assert adopt(state) == (
        {("IPVSPROXY-OWN", frontend_member(node_port))} if adopted else frozenset()
    )
