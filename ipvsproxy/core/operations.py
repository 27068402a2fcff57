"""The operations on the kernel's tables, as values, and what each does to a `State`.

A closed union: whoever takes an operation apart does so with `match` and `assert_never`, so that a
new one is a type error in every place that must know it. An operation says what is to be done, not
how; `ipvsproxy.kernel` knows how, and core.plan knows when.

Verbs have preconditions: add, bind and create must not find their object; set must find it;
remove, unbind and destroy must find it. An adapter turns "already gone" into success; "already
there" and "not there to be set" mean that our picture was wrong (`dataplane.Refusal.CONTRADICTED`).

Structs and not named tuples: two operations of equal contents but different kinds are not equal.
Nothing in one leads back to it, so the garbage collector need not look at the 50,000 of a start.
"""

from __future__ import annotations

from typing import TypeAlias, assert_never

import msgspec

from ipvsproxy.model import (
    Address,
    Family,
    IpMember,
    IpPortIpMember,
    IpPortMember,
    IpPortNetMember,
    Member,
    PortMember,
    RealServer,
    RealServerKey,
    Ruleset,
    SetSpec,
    State,
    Timeouts,
    VirtualServer,
    VirtualServerKey,
)


class AddVirtualServer(msgspec.Struct, frozen=True, gc=False):
    """Create a virtual server, without real servers."""

    key: VirtualServerKey
    server: VirtualServer


class SetVirtualServer(msgspec.Struct, frozen=True, gc=False):
    """Change scheduler, flags and persistence in place; no connection is lost."""

    key: VirtualServerKey
    server: VirtualServer


class RemoveVirtualServer(msgspec.Struct, frozen=True, gc=False):
    """Remove a virtual server; the kernel drops its real servers with it."""

    key: VirtualServerKey


class AddRealServer(msgspec.Struct, frozen=True, gc=False):
    """Create a real server within an existing virtual server."""

    key: VirtualServerKey
    member: RealServerKey
    server: RealServer


class SetRealServer(msgspec.Struct, frozen=True, gc=False):
    """Change weight and thresholds in place; weight 0 keeps open connections."""

    key: VirtualServerKey
    member: RealServerKey
    server: RealServer


class RemoveRealServer(msgspec.Struct, frozen=True, gc=False):
    """Remove a real server; its open connections end with the next packet."""

    key: VirtualServerKey
    member: RealServerKey


class CreateLink(msgspec.Struct, frozen=True, gc=False):
    """Create the dummy interface; it stays down, which is enough for its addresses to be local."""


class RemoveLink(msgspec.Struct, frozen=True, gc=False):
    """Remove the dummy interface, and with it all its addresses."""


class BindAddress(msgspec.Struct, frozen=True, gc=False):
    """Put a service address on the dummy interface, as a host address."""

    address: Address


class UnbindAddress(msgspec.Struct, frozen=True, gc=False):
    """Take a service address off the dummy interface."""

    address: Address


class CreateSet(msgspec.Struct, frozen=True, gc=False):
    """Create an ipset, empty."""

    name: str
    spec: SetSpec


class DestroySet(msgspec.Struct, frozen=True, gc=False):
    """Destroy an ipset and its members; the kernel refuses while a rule uses it."""

    name: str


class GrowSet(msgspec.Struct, frozen=True, gc=False):
    """Let an ipset hold more members: one of `spec` takes its place and its members, by a swap.

    Rules that use the set go on doing so, and miss no member at any moment.
    """

    name: str
    spec: SetSpec


class AddMember(msgspec.Struct, frozen=True, gc=False):
    """Add a member to an ipset."""

    name: str
    member: Member


class RemoveMember(msgspec.Struct, frozen=True, gc=False):
    """Remove a member from an ipset."""

    name: str
    member: Member


class ReplaceChains(msgspec.Struct, frozen=True, gc=False):
    """Make our chains and jumps of one family `wanted`, atomically for each table.

    `found` is what is there now, so that jumps are inserted and deleted one by one and chains that
    are no longer wanted are removed. An empty `wanted` takes everything of ours away.
    """

    family: Family
    wanted: Ruleset
    found: Ruleset


class SetSysctl(msgspec.Struct, frozen=True, gc=False):
    """Write a kernel setting, by its path below /proc/sys."""

    name: str
    value: str


class SetTimeouts(msgspec.Struct, frozen=True, gc=False):
    """Change how long IPVS remembers silent connections; counts from a connection's next packet.

    One of 0 stays as it is (ip_vs_set_timeout in net/netfilter/ipvs/ip_vs_ctl.c).
    """

    timeouts: Timeouts


class ForgetFlows(msgspec.Struct, frozen=True, gc=False):
    """Delete the conntrack entries of a UDP frontend: those that lead to a real server, or all.

    Changes no table that is compared: a flow that was missed ends with its own timeout.
    """

    key: VirtualServerKey
    """What the clients had asked for, before any translation."""
    member: RealServerKey | None
    """The real server that has left; None: whoever answers."""


Operation: TypeAlias = (
    AddVirtualServer
    | SetVirtualServer
    | RemoveVirtualServer
    | AddRealServer
    | SetRealServer
    | RemoveRealServer
    | CreateLink
    | RemoveLink
    | BindAddress
    | UnbindAddress
    | CreateSet
    | DestroySet
    | GrowSet
    | AddMember
    | RemoveMember
    | ReplaceChains
    | SetSysctl
    | SetTimeouts
    | ForgetFlows
)


def advance(state: State, operation: Operation) -> None:  # noqa: C901, PLR0912, PLR0915 - one case for each operation
    """Make `state` what the kernel is after it has acknowledged `operation`.

    Cases are tried in turn, so those of which a start has most come first, and take nothing apart.
    """
    match operation:
        case AddRealServer() | SetRealServer():
            state.real_servers.setdefault(operation.key, {})[operation.member] = operation.server
        case AddMember():
            state.members[operation.name].add(operation.member)
        case AddVirtualServer(key, server):
            state.virtual_servers[key] = server
            state.real_servers[key] = {}
        case SetVirtualServer(key, server):
            state.virtual_servers[key] = server
        case RemoveVirtualServer(key):
            state.virtual_servers.pop(key, None)
            state.real_servers.pop(key, None)
        case RemoveRealServer(key, member):
            state.real_servers.get(key, {}).pop(member, None)
        case CreateLink():
            state.link = True
        case RemoveLink():
            state.link = False
            state.addresses.clear()
        case BindAddress(address):
            state.addresses.add(address)
        case UnbindAddress(address):
            state.addresses.discard(address)
        case CreateSet(name, spec):
            state.sets[name] = spec
            state.members[name] = set()
        case GrowSet(name, spec):
            state.sets[name] = spec
        case DestroySet(name):
            state.sets.pop(name, None)
            state.members.pop(name, None)
        case RemoveMember(name, member):
            state.members.get(name, set()).discard(member)
        case ReplaceChains(family, wanted, _):
            state.rulesets[family] = wanted
        case SetSysctl(name, value):
            state.sysctls[name] = value
        case SetTimeouts(timeouts):
            kept = zip(timeouts, state.timeouts, strict=True)
            state.timeouts = Timeouts(*(asked or present for asked, present in kept))
        case ForgetFlows():
            pass
        case _:
            assert_never(operation)


def describe(operation: Operation) -> str:  # noqa: C901, PLR0911, PLR0912 - one case for each operation
    """Say in one line what an operation does, for `plan`, logs and conditions."""
    match operation:
        case AddVirtualServer(key, server):
            return f"add virtual server {key} {_virtual(key, server)}"
        case SetVirtualServer(key, server):
            return f"set virtual server {key} {_virtual(key, server)}"
        case RemoveVirtualServer(key):
            return f"remove virtual server {key}"
        case AddRealServer(key, member, real):
            return f"add real server {member} {_real(real)} to {key}"
        case SetRealServer(key, member, real):
            return f"set real server {member} {_real(real)} of {key}"
        case RemoveRealServer(key, member):
            return f"remove real server {member} of {key}"
        case CreateLink():
            return "create the dummy interface"
        case RemoveLink():
            return "remove the dummy interface"
        case BindAddress(address):
            return f"bind address {address}"
        case UnbindAddress(address):
            return f"unbind address {address}"
        case CreateSet(name, spec):
            return f"create set {name} {spec.type}"
        case DestroySet(name):
            return f"destroy set {name}"
        case GrowSet(name, spec):
            return f"grow set {name} to {spec.maxelem} members"
        case AddMember(name, member):
            return f"add {member_text(member)} to set {name}"
        case RemoveMember(name, member):
            return f"remove {member_text(member)} from set {name}"
        case ReplaceChains(family, wanted, _):
            verb = "replace" if wanted.chains else "remove"
            return f"{verb} the IPv{family} chains"
        case SetSysctl(name, value):
            return f"write {value} to sysctl {name}"
        case SetTimeouts(timeouts):
            tcp, tcp_fin, udp = timeouts
            return f"set IPVS timeouts to TCP {tcp}s, TCP after FIN {tcp_fin}s, UDP {udp}s"
        case ForgetFlows(key, None):
            return f"forget the flows of {key}"
        case ForgetFlows(key, member):
            return f"forget the flows of {key} to {member}"
        case _:
            assert_never(operation)


def member_text(member: Member) -> str:
    """Write a set member as `ipset save` does."""
    match member:
        case IpMember(address):
            return str(address)
        case PortMember(port):
            return str(port)
        case IpPortMember(address, protocol, port):
            return f"{address},{protocol.name.lower()}:{port}"
        case IpPortIpMember(address, protocol, port, other):
            return f"{address},{protocol.name.lower()}:{port},{other}"
        case IpPortNetMember(address, protocol, port, network):
            return f"{address},{protocol.name.lower()}:{port},{network}"
        case _:
            assert_never(member)


def _virtual(key: VirtualServerKey, server: VirtualServer) -> str:
    text = f"scheduler {server.scheduler}"
    if server.flags:
        text += f" flags {server.flags:#x}"
    if server.persistence:
        text += f" persistence {server.persistence}s"
        if server.persistence_prefix != key.family.host_prefix:
            text += f" by /{server.persistence_prefix}"
    return text


def _real(server: RealServer) -> str:
    text = f"weight {server.weight}"
    if server.upper_threshold:
        text += f" thresholds {server.upper_threshold},{server.lower_threshold}"
    return text
