"""Hypothesis strategies for the model: values, operations, states, and neighbours of a state.

The universe is small on purpose: a few addresses, ports and sets, so that operations meet each
other. A state is reached by operations from a fresh one, so every state that is drawn is one that
a kernel can be in. Properties of planning should draw `neighbours`: two states that differ by a few
edits find faults that two strangers hide.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

from hypothesis import strategies as st

from ipvsproxy.core.operations import (
    AddMember,
    AddRealServer,
    AddVirtualServer,
    BindAddress,
    CreateLink,
    CreateSet,
    DestroySet,
    ForgetFlows,
    GrowSet,
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
)
from ipvsproxy.kernel.fake import copy_state, fresh_state
from ipvsproxy.kernel.rules import carry_out
from ipvsproxy.model import (
    Address,
    Chain,
    Family,
    Flags,
    ForwardingMethod,
    IpMember,
    IpPortIpMember,
    IpPortMember,
    IpPortNetMember,
    Jump,
    Member,
    Network,
    PortMember,
    Protocol,
    RealServer,
    RealServerKey,
    Ruleset,
    Scheduler,
    SetSpec,
    SetType,
    State,
    Timeouts,
    VirtualServer,
    VirtualServerKey,
)

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

SERVICE_ADDRESSES = tuple(map(Address.parse, ("10.96.0.1", "10.96.0.10", "fd00:96::1")))
POD_ADDRESSES = tuple(map(Address.parse, ("10.1.0.1", "10.1.0.2", "10.1.0.3")))
POD_ADDRESSES_6 = tuple(map(Address.parse, ("fd00:1::1", "fd00:1::2", "fd00:1::3")))
KEYS = tuple(
    VirtualServerKey(protocol, address, port)
    for address in SERVICE_ADDRESSES
    for protocol, port in ((Protocol.TCP, 80), (Protocol.UDP, 53), (Protocol.SCTP, 80))
)
SCHEDULERS = tuple(str(one) for one in Scheduler if one is not Scheduler.TWOS)
"""Those of a 6.1 kernel as Debian builds it; twos has never been in a release."""
SYSCTLS = ("net/ipv4/vs/conntrack", "net/ipv4/vs/expire_nodest_conn", "net/ipv4/vs/no_such")
SETS = {
    "KUBE-CLUSTER-IP": SetSpec(SetType.HASH_IP_PORT, Family.IPV4, 3),
    "KUBE-6-CLUSTER-IP": SetSpec(SetType.HASH_IP_PORT, Family.IPV6),
    "KUBE-LOOP-BACK": SetSpec(SetType.HASH_IP_PORT_IP, Family.IPV4),
    "KUBE-IPVS-IPS": SetSpec(SetType.HASH_IP, Family.IPV4, 2),
    "KUBE-NODE-PORT-TCP": SetSpec(SetType.BITMAP_PORT, Family.IPV4),
    "KUBE-LOAD-BALANCER-SOURCE-CIDR": SetSpec(SetType.HASH_IP_PORT_NET, Family.IPV4),
}
_NETWORKS = tuple(map(Network.parse, ("10.0.0.0/8", "10.1.0.0/16", "0.0.0.0/0", "fd00::/16")))
RULESETS = (
    Ruleset(),
    Ruleset((Chain("nat", "KUBE-MARK-MASQ", (("-j", "MARK", "--set-xmark", "0x4000/0x4000"),)),)),
    Ruleset(
        (Chain("nat", "KUBE-SERVICES", (("-j", "RETURN"),)),),
        (Jump("nat", "PREROUTING", ("-j", "KUBE-SERVICES")),),
    ),
    Ruleset(
        (
            Chain("nat", "KUBE-MARK-MASQ", ()),
            Chain(
                "nat",
                "KUBE-SERVICES",
                (
                    (
                        *("-m", "set", "--match-set", "KUBE-CLUSTER-IP", "dst,dst"),
                        *("-j", "KUBE-MARK-MASQ"),
                    ),
                ),
            ),
        ),
        (
            Jump("nat", "OUTPUT", ("-j", "KUBE-SERVICES")),
            Jump("nat", "PREROUTING", ("-j", "KUBE-SERVICES")),
        ),
    ),
)
"""In the words of iptables-save."""

keys: SearchStrategy[VirtualServerKey] = st.sampled_from(KEYS)
weights: SearchStrategy[int] = st.sampled_from((0, 0, 1, 1, 2, 100, 65535))
sets: SearchStrategy[str] = st.sampled_from(sorted(SETS))
capacities: SearchStrategy[int] = st.sampled_from((1, 2, 4, 65536))
Operations: TypeAlias = Sequence[Operation]


@st.composite
def virtual_servers(
    draw: st.DrawFn, family: Family = Family.IPV4, schedulers: Sequence[str] = SCHEDULERS
) -> VirtualServer:
    """Draw what is configured of a virtual server."""
    persistence = draw(st.sampled_from((0, 0, 60, 10800)))
    prefix = draw(st.sampled_from((family.host_prefix, 24))) if persistence else family.host_prefix
    flags = draw(st.sampled_from((Flags.NONE, Flags.SCHED_1, Flags.SCHED_1 | Flags.SCHED_2)))
    return VirtualServer(draw(st.sampled_from(schedulers)), flags, persistence, prefix)


def members_of(key: VirtualServerKey) -> SearchStrategy[RealServerKey]:
    """Draw what may stand behind a virtual server."""
    addresses = POD_ADDRESSES if key.family is Family.IPV4 else POD_ADDRESSES_6
    return st.builds(RealServerKey, st.sampled_from(addresses), st.sampled_from((8080, 9090)))


real_servers: SearchStrategy[RealServer] = st.builds(
    RealServer,
    weights,
    st.just(ForwardingMethod.MASQUERADE),
    st.sampled_from((0, 0, 10)),
    st.sampled_from((0, 0, 5)),
)

MEMBERS: dict[SetType, SearchStrategy[Member]] = {
    SetType.HASH_IP: st.builds(IpMember, st.sampled_from(SERVICE_ADDRESSES)),
    SetType.BITMAP_PORT: st.builds(PortMember, st.sampled_from((80, 30000))),
    SetType.HASH_IP_PORT: st.builds(
        IpPortMember,
        st.sampled_from(SERVICE_ADDRESSES),
        st.sampled_from(Protocol),
        st.sampled_from((53, 80)),
    ),
    SetType.HASH_IP_PORT_IP: st.builds(
        IpPortIpMember,
        st.sampled_from(POD_ADDRESSES),
        st.sampled_from(Protocol),
        st.just(8080),
        st.sampled_from(POD_ADDRESSES),
    ),
    SetType.HASH_IP_PORT_NET: st.builds(
        IpPortNetMember,
        st.sampled_from(SERVICE_ADDRESSES),
        st.just(Protocol.TCP),
        st.just(80),
        st.sampled_from(_NETWORKS),
    ),
}


@st.composite
def ipvs_operations(draw: st.DrawFn) -> Operation:
    """Draw an operation on the IPVS table; now and then one that no kernel can carry out."""
    key = draw(keys)
    server = virtual_servers(key.family, (*SCHEDULERS, "nosuch"))
    member = draw(st.one_of(members_of(key), members_of(key), members_of(draw(keys))))
    choice = draw(st.integers(0, 9))
    match choice:
        case 0 | 1 | 2:
            return AddVirtualServer(key, draw(server))
        case 3:
            return SetVirtualServer(key, draw(server))
        case 4:
            return RemoveVirtualServer(key)
        case 5 | 6 | 7:
            return AddRealServer(key, member, draw(real_servers))
        case 8:
            return SetRealServer(key, member, draw(real_servers))
        case _:
            return RemoveRealServer(key, member)


@st.composite
def set_operations(draw: st.DrawFn) -> Operation:
    """Draw an operation on an ipset, now and then with a member of the other family.

    Never one of another kind: ipset reads some of those as what they were not meant to be.
    """
    name = draw(sets)
    member = draw(MEMBERS[SETS[name].type])
    match draw(st.integers(0, 7)):
        case 0 | 1 | 2:
            return CreateSet(name, SETS[name])
        case 7:
            return GrowSet(name, dataclasses.replace(SETS[name], maxelem=draw(capacities)))
        case 3:
            return DestroySet(name)
        case 4 | 5:
            return AddMember(name, member)
        case _:
            return RemoveMember(name, member)


link_operations: SearchStrategy[Operation] = st.one_of(
    st.just(CreateLink()),
    st.builds(BindAddress, st.sampled_from(SERVICE_ADDRESSES)),
    st.builds(UnbindAddress, st.sampled_from(SERVICE_ADDRESSES)),
    st.just(RemoveLink()),
)
sysctl_operations: SearchStrategy[Operation] = st.builds(
    SetSysctl, st.sampled_from(SYSCTLS), st.sampled_from(("0", "1"))
)
timeout_operations: SearchStrategy[Operation] = st.builds(
    SetTimeouts, st.builds(Timeouts, *[st.sampled_from((0, 1, 900, 1 << 31))] * 3)
)
chain_operations: SearchStrategy[Operation] = st.builds(
    ReplaceChains, st.just(Family.IPV4), st.sampled_from(RULESETS), st.sampled_from(RULESETS)
)
forget_operations: SearchStrategy[Operation] = keys.flatmap(
    lambda key: st.builds(ForgetFlows, st.just(key), st.none() | members_of(key))
)
operations: SearchStrategy[Operation] = st.one_of(
    ipvs_operations(),
    ipvs_operations(),
    link_operations,
    set_operations(),
    sysctl_operations,
    timeout_operations,
    chain_operations,
    forget_operations,
)


def after(state: State, edits: Operations) -> State:
    """Return what the state is after these operations; what the kernel refuses does nothing."""
    edited = copy_state(state)
    for edit in edits:
        carry_out(edited, edit, frozenset(SCHEDULERS))
    return edited


@st.composite
def states(draw: st.DrawFn, size: int = 30) -> State:
    """Draw a state that a kernel can be in, with its link and up to `size` other edits."""
    edits = draw(st.lists(operations, max_size=size))
    return after(fresh_state(), [CreateLink(), *edits])


@st.composite
def neighbours(draw: st.DrawFn, size: int = 4) -> tuple[State, State]:
    """Draw two states of which the second is a few edits away from the first."""
    state = draw(states())
    return state, after(state, draw(st.lists(operations, max_size=size)))
