"""What operations do to a state, and how they are written for people."""

from __future__ import annotations

import pytest

from ipvsproxy.core.operations import (
    AddMember,
    AddRealServer,
    AddVirtualServer,
    BindAddress,
    CreateLink,
    CreateSet,
    DestroySet,
    ForgetFlows,
    Operation,
    RemoveLink,
    RemoveMember,
    RemoveRealServer,
    RemoveVirtualServer,
    ReplaceChains,
    SetRealServer,
    SetSysctl,
    SetTimeouts,
    SetVirtualServer,
    UnbindAddress,
    advance,
    describe,
    member_text,
)
from ipvsproxy.kernel.fake import copy_state
from ipvsproxy.model import (
    Address,
    Chain,
    Family,
    Flags,
    IpMember,
    IpPortIpMember,
    IpPortMember,
    IpPortNetMember,
    Member,
    Network,
    PortMember,
    Protocol,
    RealServer,
    RealServerKey,
    Ruleset,
    SetSpec,
    SetType,
    State,
    Timeouts,
    VirtualServer,
    VirtualServerKey,
)

HOST = Address.parse("10.96.0.1")
KEY = VirtualServerKey(Protocol.TCP, HOST, 80)
KEY6 = VirtualServerKey(Protocol.UDP, Address.parse("fd00::1"), 53)
POD = RealServerKey(Address.parse("10.1.0.1"), 8080)
SERVER = VirtualServer("rr")
SPEC = SetSpec(SetType.HASH_IP, Family.IPV4)
RULES = Ruleset((Chain("nat", "KUBE-SERVICES", ()),))
MEMBER = IpMember(HOST)


def advanced(*operations: Operation, state: State | None = None) -> State:
    state = State() if state is None else state
    for operation in operations:
        advance(state, operation)
    return state


@pytest.mark.parametrize(
    ("make", "undo"),
    [
        pytest.param(AddVirtualServer(KEY, SERVER), RemoveVirtualServer(KEY), id="virtual server"),
        pytest.param(CreateLink(), RemoveLink(), id="link"),
        pytest.param(BindAddress(HOST), UnbindAddress(HOST), id="address"),
        pytest.param(CreateSet("KUBE-A", SPEC), DestroySet("KUBE-A"), id="set"),
    ],
)
def test_what_is_made_is_there_until_it_is_undone(make: Operation, undo: Operation) -> None:
    made = advanced(make)
    assert made != State()
    assert advanced(undo, undo, state=made) == State()


def test_chains_of_one_family_are_replaced_as_a_whole() -> None:
    state = advanced(ReplaceChains(Family.IPV4, RULES, Ruleset()))
    assert state.rulesets == {Family.IPV4: RULES}
    advance(state, ReplaceChains(Family.IPV4, Ruleset(), RULES))
    assert state.rulesets == {Family.IPV4: Ruleset()}


def test_real_servers_live_within_their_virtual_server() -> None:
    state = advanced(AddVirtualServer(KEY, SERVER), AddRealServer(KEY, POD, RealServer(1)))
    advance(state, SetRealServer(KEY, POD, RealServer(0)))
    assert state.real_servers == {KEY: {POD: RealServer(0)}}
    advance(state, SetVirtualServer(KEY, VirtualServer("sh")))
    assert state.virtual_servers == {KEY: VirtualServer("sh")}
    assert state.real_servers == {KEY: {POD: RealServer(0)}}
    advance(state, RemoveRealServer(KEY, POD))
    assert state.real_servers == {KEY: {}}
    advance(state, RemoveVirtualServer(KEY))
    assert state == State()


def test_addresses_go_with_the_link_and_members_with_the_set() -> None:
    state = advanced(
        CreateLink(), BindAddress(HOST), CreateSet("KUBE-A", SPEC), AddMember("KUBE-A", MEMBER)
    )
    assert (state.addresses, state.members) == ({HOST}, {"KUBE-A": {MEMBER}})
    assert advanced(RemoveLink(), DestroySet("KUBE-A"), state=state) == State()


def test_members_come_and_go_alone() -> None:
    state = advanced(CreateSet("KUBE-A", SPEC), AddMember("KUBE-A", MEMBER))
    advance(state, RemoveMember("KUBE-A", MEMBER))
    assert state.members == {"KUBE-A": set()}


def test_forgetting_flows_changes_nothing_that_is_compared() -> None:
    state = advanced(AddVirtualServer(KEY, SERVER), SetSysctl("net/ipv4/vs/conntrack", "1"))
    before = copy_state(state)
    advance(state, ForgetFlows(KEY, POD))
    assert state == before


@pytest.mark.parametrize(
    ("operation", "text"),
    [
        (
            AddVirtualServer(KEY, VirtualServer("sh", Flags.SCHED_1, 300)),
            "add virtual server 10.96.0.1:80/TCP scheduler sh flags 0x8 persistence 300s",
        ),
        (
            SetVirtualServer(KEY, VirtualServer("rr", Flags.NONE, 300, 24)),
            "set virtual server 10.96.0.1:80/TCP scheduler rr persistence 300s by /24",
        ),
        (
            SetVirtualServer(KEY6, SERVER._replace(persistence_prefix=128)),
            "set virtual server [fd00::1]:53/UDP scheduler rr",
        ),
        (RemoveVirtualServer(KEY), "remove virtual server 10.96.0.1:80/TCP"),
        (
            AddRealServer(KEY, POD, RealServer(3)),
            "add real server 10.1.0.1:8080 weight 3 to 10.96.0.1:80/TCP",
        ),
        (
            SetRealServer(KEY, POD, RealServer(0)),
            "set real server 10.1.0.1:8080 weight 0 of 10.96.0.1:80/TCP",
        ),
        (
            SetRealServer(KEY, POD, RealServer(2, upper_threshold=9, lower_threshold=3)),
            "set real server 10.1.0.1:8080 weight 2 thresholds 9,3 of 10.96.0.1:80/TCP",
        ),
        (RemoveRealServer(KEY, POD), "remove real server 10.1.0.1:8080 of 10.96.0.1:80/TCP"),
        (CreateLink(), "create the dummy interface"),
        (RemoveLink(), "remove the dummy interface"),
        (BindAddress(HOST), "bind address 10.96.0.1"),
        (UnbindAddress(HOST), "unbind address 10.96.0.1"),
        (CreateSet("KUBE-A", SPEC), "create set KUBE-A hash:ip"),
        (DestroySet("KUBE-A"), "destroy set KUBE-A"),
        (AddMember("KUBE-A", MEMBER), "add 10.96.0.1 to set KUBE-A"),
        (RemoveMember("KUBE-A", MEMBER), "remove 10.96.0.1 from set KUBE-A"),
        (ReplaceChains(Family.IPV6, RULES, Ruleset()), "replace the IPv6 chains"),
        (ReplaceChains(Family.IPV4, Ruleset(), RULES), "remove the IPv4 chains"),
        (
            SetTimeouts(Timeouts(7200, 60, 10)),
            "set IPVS timeouts to TCP 7200s, TCP after FIN 60s, UDP 10s",
        ),
        (SetSysctl("net/ipv4/ip_forward", "1"), "write 1 to sysctl net/ipv4/ip_forward"),
        (ForgetFlows(KEY, POD), "forget the flows of 10.96.0.1:80/TCP to 10.1.0.1:8080"),
    ],
)
def test_an_operation_is_described_in_one_line(operation: Operation, text: str) -> None:
    assert describe(operation) == text


@pytest.mark.parametrize(
    ("member", "text"),
    [
        (MEMBER, "10.96.0.1"),
        (PortMember(30000), "30000"),
        (IpPortMember(HOST, Protocol.SCTP, 80), "10.96.0.1,sctp:80"),
        (IpPortIpMember(POD.address, Protocol.UDP, 53, HOST), "10.1.0.1,udp:53,10.96.0.1"),
        (
            IpPortNetMember(KEY6.address, Protocol.TCP, 80, Network.parse("fd00::/16")),
            "fd00::1,tcp:80,fd00::/16",
        ),
    ],
)
def test_a_member_is_written_as_ipset_does(member: Member, text: str) -> None:
    assert member_text(member) == text
