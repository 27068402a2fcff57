"""Strategies for planning: what is wanted, and a kernel that is a few edits away from it.

A `Wish` is what all Services together want, in a universe small enough that edits meet each other:
three addresses (one IPv6), two of them with several ports. `situations` draws a wish, the kernel
that fulfils it, a few edits of the kernel by others, and another wish a few edits away. Neighbours
are drawn and not strangers, because a weak planner survives strangers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from hypothesis import strategies as st

from ipvsproxy.config import Settings
from ipvsproxy.core.drain import Wanted, refuses_at_weight_zero
from ipvsproxy.core.foundation import foundation
from ipvsproxy.core.members import SetMember
from ipvsproxy.core.operations import describe
from ipvsproxy.core.plan import Target, plan
from ipvsproxy.core.sets import (
    CLUSTER_IP,
    IPVS_IPS,
    LEDGER,
    LOOP_BACK,
    frontend_member,
    loop_back_member,
    set_name,
)
from ipvsproxy.kernel.fake import copy_state, fresh_state
from ipvsproxy.kernel.listing import ipvsadm_text
from ipvsproxy.model import (
    KERNEL_TIMEOUTS,
    Address,
    Family,
    Flags,
    IpMember,
    Protocol,
    RealServer,
    RealServerKey,
    Ruleset,
    State,
    VirtualServer,
    VirtualServerKey,
)

SETTINGS = Settings(node_name="node-1")
ADDRESSES = tuple(map(Address.parse, ("10.96.0.1", "10.96.0.2", "fd00:96::1")))
KEYS = (
    VirtualServerKey(Protocol.TCP, ADDRESSES[0], 80),
    VirtualServerKey(Protocol.TCP, ADDRESSES[0], 443),
    VirtualServerKey(Protocol.UDP, ADDRESSES[1], 53),
    VirtualServerKey(Protocol.TCP, ADDRESSES[2], 80),
)
PODS = {
    Family.IPV4: tuple(
        RealServerKey(Address.parse(text), 8080) for text in ("10.1.0.1", "10.1.0.2", "10.1.0.3")
    ),
    Family.IPV6: tuple(
        RealServerKey(Address.parse(text), 8080) for text in ("fd00:1::1", "fd00:1::2", "fd00:1::3")
    ),
}
FOREIGN = VirtualServerKey(Protocol.TCP, Address.parse("192.0.2.1"), 80)
LOOP_BACKS: tuple[SetMember, ...] = tuple(
    (set_name(LOOP_BACK, key.family), loop_back_member(key.protocol, pod))
    for key in KEYS
    for pod in PODS[key.family][:2]
)


class Aim(NamedTuple):
    """A virtual server as a wish has it; `server` before what draining makes of dh."""

    server: VirtualServer
    real_servers: Mapping[RealServerKey, RealServer]
    patient: frozenset[RealServerKey] = frozenset()

    def wanted(self) -> Wanted:
        """Give what `settle` would: dh is fo while a real server is at 0 beside one above 0."""
        weights = [real.weight for real in self.real_servers.values()]
        server = self.server
        if server.scheduler == "dh" and any(weights) and not all(weights):
            server = server._replace(scheduler="fo")
        return Wanted(server, self.real_servers, self.patient)


class Wish(NamedTuple):
    """What all Services want."""

    aims: Mapping[VirtualServerKey, Aim]
    loop_backs: frozenset[SetMember] = frozenset()

    def members(self) -> frozenset[SetMember]:
        """Give every set member that is wanted."""
        return frozenset(member for key in self.aims for member in members_of(key)).union(
            self.loop_backs
        )

    def addresses(self) -> frozenset[Address]:
        """Give every address that is wanted."""
        return frozenset(key.address for key in self.aims)


def members_of(key: VirtualServerKey) -> frozenset[SetMember]:
    """Give the members that stand for a frontend."""
    return frozenset(
        {
            (set_name(LEDGER, key.family), frontend_member(key)),
            (set_name(CLUSTER_IP, key.family), frontend_member(key)),
            (set_name(IPVS_IPS, key.family), IpMember(key.address)),
        }
    )


UNIVERSE = Wish(dict.fromkeys(KEYS, Aim(VirtualServer("rr"), {})), frozenset(LOOP_BACKS))
"""Whatever a wish may name."""


@dataclass(frozen=True)
class Situation:
    """A kernel, and what is wanted of it."""

    state: State
    wish: Wish

    def __repr__(self) -> str:
        """Say what an engineer needs to see of a failing example."""
        lines = [ipvsadm_text(self.state), f"addresses {sorted(map(str, self.state.addresses))}"]
        lines += [f"wanted {key} {aim}" for key, aim in self.wish.aims.items()]
        lines += [describe(step.operation) for step in plan(self.target, self.state).steps]
        return "\n".join(lines)

    @property
    def target(self) -> Target:
        """Give the target that names the whole universe."""
        return target_of(self.wish, self.state)


def target_of(
    wish: Wish, state: State, only: frozenset[VirtualServerKey] = frozenset(KEYS)
) -> Target:
    """Give the target for some virtual servers, as settlement does: with all that hangs on them."""
    keys = set(only)
    for address in {key.address for key in only} - state.addresses:
        keys |= {key for key in wish.aims if key.address == address}
    named = {member for key in keys for member in members_of(key)}
    if only == frozenset(KEYS):
        named |= UNIVERSE.members()
    wanted = wish.members()
    return Target(
        foundation(SETTINGS, state),
        {key: wish.aims[key].wanted() if key in wish.aims else None for key in keys},
        {key.address: key.address in wish.addresses() for key in keys},
        {member: member in wanted for member in named},
    )


def fulfilled(wish: Wish) -> State:
    """Give the kernel that is as a wish wants it, beside a foreign virtual server."""
    state = fresh_state()
    wanted = foundation(SETTINGS, state)
    state.link = True
    state.addresses = set(wish.addresses())
    state.sets = dict(wanted.sets)
    state.members = {name: set() for name in wanted.sets}
    state.rulesets = dict(wanted.rulesets)
    state.sysctls.update(wanted.sysctls)
    state.timeouts = wanted.timeouts
    for name, member in wish.members():
        state.members[name].add(member)
    for key, aim in wish.aims.items():
        state.virtual_servers[key] = aim.wanted().server
        state.real_servers[key] = dict(aim.real_servers)
    add_foreign(state)
    return state


def add_foreign(state: State) -> None:
    """Let somebody else have a virtual server."""
    state.virtual_servers[FOREIGN] = VirtualServer("wlc")
    state.real_servers[FOREIGN] = {PODS[Family.IPV4][0]: RealServer(5)}


weights = st.sampled_from((0, 1, 1, 1, 3))
_SERVERS = (
    VirtualServer("rr"),
    VirtualServer("wlc"),
    VirtualServer("sh", Flags.SCHED_1),
    VirtualServer("mh", Flags.SCHED_1),
    VirtualServer("dh"),
    VirtualServer("dh"),
    VirtualServer("rr", persistence=60),
)
_FOUND_SERVERS = (*_SERVERS, VirtualServer("sh"), VirtualServer("fo"), VirtualServer("lc"))


@st.composite
def aims(draw: st.DrawFn, key: VirtualServerKey) -> Aim:
    """Draw what is wanted of a virtual server."""
    pods = draw(st.lists(st.sampled_from(PODS[key.family]), unique=True, max_size=3))
    server = _fitting(key, draw(st.sampled_from(_SERVERS)))
    return Aim(server, {pod: RealServer(draw(weights)) for pod in pods})


@st.composite
def wishes(draw: st.DrawFn) -> Wish:
    """Draw a wish."""
    keys = draw(st.lists(st.sampled_from(KEYS), unique=True))
    loop_backs = draw(st.frozensets(st.sampled_from(LOOP_BACKS), max_size=2))
    return Wish({key: draw(aims(key)) for key in keys}, loop_backs)


@st.composite
def edited(draw: st.DrawFn, wish: Wish) -> Wish:
    """Draw a wish that is a few edits away."""
    changed, loop_backs = dict(wish.aims), wish.loop_backs
    for _ in range(draw(st.integers(1, 5))):
        key = draw(st.sampled_from(KEYS))
        aim = changed.get(key)
        if aim is None:
            changed[key] = draw(aims(key))
            continue
        match draw(st.integers(0, 7)):
            case 0:
                del changed[key]
            case 1:
                changed[key] = aim._replace(
                    server=_fitting(key, draw(st.sampled_from(_SERVERS))),
                )
            case 2:
                loop_backs ^= {draw(st.sampled_from(LOOP_BACKS))}
            case _:
                changed[key] = draw(_replaced(key, aim))
    return Wish(changed, loop_backs)


@st.composite
def _replaced(draw: st.DrawFn, key: VirtualServerKey, aim: Aim) -> Aim:
    """Draw a change of some real servers: one comes, goes, is drained, or gets another weight."""
    real_servers, patient = dict(aim.real_servers), set(aim.patient)
    for pod in draw(st.lists(st.sampled_from(PODS[key.family]), unique=True, min_size=2)):
        if pod in real_servers and draw(st.booleans()):
            del real_servers[pod]
        else:
            real_servers[pod] = RealServer(draw(weights))
        off = pod not in real_servers or not real_servers[pod].weight
        if off and draw(st.sampled_from((True, True, False))):
            patient.add(pod)
    return aim._replace(real_servers=real_servers, patient=frozenset(patient))


@st.composite
def meddled(draw: st.DrawFn, state: State) -> State:
    """Draw what others have made of a kernel: things taken away, changed and added."""
    state = copy_state(state)
    for _ in range(draw(st.integers(0, 3))):
        match draw(st.integers(0, 4)):
            case 0 | 1:
                _meddle_servers(draw, state)
            case 2:
                _meddle_members(draw, state)
            case 3:
                _meddle_addresses(draw, state)
            case _:
                _meddle_foundation(draw, state)
    return state


@st.composite
def situations(draw: st.DrawFn) -> Situation:
    """Draw a kernel and a wish that is near to it; now and then a kernel that nobody touched."""
    if draw(st.integers(0, 9)) == 0:
        state = fresh_state()
        add_foreign(state)
        return Situation(state, draw(wishes()))
    before = draw(wishes())
    return Situation(draw(meddled(fulfilled(before))), draw(edited(before)))


def _meddle_servers(draw: st.DrawFn, state: State) -> None:
    key = draw(st.sampled_from(KEYS))
    if key not in state.virtual_servers:
        state.virtual_servers[key] = _fitting(key, draw(st.sampled_from(_FOUND_SERVERS)))
        state.real_servers[key] = {}
    members = state.real_servers[key]
    pod = draw(st.sampled_from(PODS[key.family]))
    match draw(st.integers(0, 4)):
        case 0:
            del state.virtual_servers[key], state.real_servers[key]
        case 1:
            state.virtual_servers[key] = _fitting(key, draw(st.sampled_from(_FOUND_SERVERS)))
        case 2:
            members.pop(pod, None)
        case _:
            members[pod] = RealServer(draw(weights))


def _meddle_members(draw: st.DrawFn, state: State) -> None:
    name, member = draw(st.sampled_from(sorted(UNIVERSE.members())))
    if name in state.members:
        state.members[name] ^= {member}


def _meddle_addresses(draw: st.DrawFn, state: State) -> None:
    if state.link:
        state.addresses ^= {draw(st.sampled_from(ADDRESSES))}


def _meddle_foundation(draw: st.DrawFn, state: State) -> None:
    match draw(st.integers(0, 3)):
        case 0:
            state.link = False
            state.addresses.clear()
        case 1:
            state.rulesets[draw(st.sampled_from(sorted(Family)))] = Ruleset()
        case 2:
            state.rulesets = dict.fromkeys(state.rulesets, Ruleset())
            name = draw(st.sampled_from(sorted(foundation(SETTINGS, state).sets)))
            state.sets.pop(name, None)
            state.members.pop(name, None)
        case _:
            state.sysctls["net/ipv4/vs/conntrack"] = "0"
            state.timeouts = KERNEL_TIMEOUTS


def _fitting(key: VirtualServerKey, server: VirtualServer) -> VirtualServer:
    return server._replace(persistence_prefix=key.family.host_prefix)


def serves(state: State, key: VirtualServerKey) -> bool:
    """Whether somebody takes a new connection."""
    return any(real.weight for real in state.real_servers.get(key, {}).values())


def turns_away(state: State, key: VirtualServerKey) -> bool:
    """Whether a client is hashed to a real server of weight 0 though another would serve."""
    server = state.virtual_servers.get(key)
    real = [one.weight for one in state.real_servers.get(key, {}).values()]
    return server is not None and refuses_at_weight_zero(server) and any(real) and not all(real)
