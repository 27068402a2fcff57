"""What the kernel refuses: the rules by which the tables accept an operation or do not.

Knows the existence rules, ranges and dependencies of net/netfilter/ipvs/ip_vs_ctl.c, ipset,
iptables-restore, rtnetlink and /proc/sys, and that an adapter turns "already gone" into success.
Pure: a state and an operation in, an outcome out; nothing is read, and nothing but the given state
changes. `fake` keeps a state by these rules, and tests/contract holds them against a real kernel:
where the two differ the kernel is right.

Each kind of object has a generator of its own that yields every objection in the kernel's order;
the first one counts, so that an operation which is wrong twice is refused for the same reason.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Final, assert_never

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
    advance,
    member_text,
)
from ipvsproxy.dataplane import DONE, Outcome, Refusal
from ipvsproxy.model import (
    DUMMY_INTERFACE,
    Address,
    Family,
    IpMember,
    IpPortIpMember,
    IpPortMember,
    IpPortNetMember,
    Member,
    Network,
    PortMember,
    Rule,
    Ruleset,
    SetSpec,
    SetType,
    State,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

__all__ = ["carry_out", "judge", "reported", "sets_of"]

_WEIGHT_END = 1 << 31  # the kernel keeps a signed int; ipvsadm's 65535 is ipvsadm's
_NUMBER_END = 1 << 32
_PORT_END = 1 << 16
_LONGEST_TIMEOUT = ((1 << 31) - 1) // 1000  # INT_MAX / HZ, of the kernel with the fastest clock
_SET_NAME_LENGTH = 31  # IPSET_MAXNAMELEN - 1
_MEMBER_TYPES: Final = {
    SetType.HASH_IP: IpMember,
    SetType.HASH_IP_PORT: IpPortMember,
    SetType.HASH_IP_PORT_IP: IpPortIpMember,
    SetType.HASH_IP_PORT_NET: IpPortNetMember,
    SetType.BITMAP_PORT: PortMember,
}
_NOT_UNICAST = tuple(
    Network.parse(text)
    for text in ("0.0.0.0/32", "224.0.0.0/4", "255.255.255.255", "::", "ff00::/8", "fe80::/10")
)
_OWN_CHAIN_PREFIX = "KUBE-"
_READ_ONLY = frozenset({"kernel/osrelease"})


def carry_out(state: State, operation: Operation, schedulers: Collection[str]) -> Outcome:
    """Do to `state` what the kernel would do, and answer as the Linux dataplane would."""
    outcome = judge(state, operation, schedulers)
    if outcome.refusal is None:
        _advance(state, operation)
    return outcome


def judge(state: State, operation: Operation, schedulers: Collection[str]) -> Outcome:
    """Say what a kernel in `state` that has `schedulers` answers; nothing is changed."""
    return next(_objections(state, operation, schedulers), DONE)


def reported(ruleset: Ruleset) -> Ruleset:
    """Give what is read back of a ruleset: a chain without rules counts as absent."""
    return ruleset._replace(chains=tuple(chain for chain in ruleset.chains if chain.rules))


def _objections(  # noqa: C901, PLR0912 - one case for each operation
    state: State, operation: Operation, schedulers: Collection[str]
) -> Iterator[Outcome]:
    match operation:
        case AddVirtualServer() | SetVirtualServer():
            yield from _virtual_server(state, operation, schedulers)
        case AddRealServer() | SetRealServer():
            yield from _real_server(state, operation)
        case CreateLink() if state.link:
            yield _contradicted("it exists already")
        case BindAddress(address):
            yield from _binding(state, address)
        case CreateSet(name):
            yield from _creation(state, name)
        case DestroySet(name):
            yield from _destruction(state, name)
        case GrowSet(name, spec):
            yield from _growth(state, name, spec)
        case AddMember():
            yield from _addition(state, operation)
        case RemoveMember(name, member) if name in state.sets:
            yield from _unfit(name, state.sets[name], member)
        case ReplaceChains():
            yield from _chains(state, operation)
        case SetTimeouts(timeouts):
            if not all(0 <= seconds <= _LONGEST_TIMEOUT for seconds in timeouts):
                yield _invalid(f"the timeouts {tuple(timeouts)} are not all in the kernel's range")
        case SetSysctl(name):
            yield from _setting(state, name)
        case CreateLink() | RemoveLink() | UnbindAddress() | RemoveMember() | ForgetFlows():
            pass
        case RemoveVirtualServer() | RemoveRealServer():
            pass
        case _:
            assert_never(operation)


def _advance(state: State, operation: Operation) -> None:
    match operation:
        case RemoveRealServer(key) if key not in state.real_servers:
            pass
        case RemoveMember(name) if name not in state.members:
            pass
        case ReplaceChains(family):
            state.rulesets[family] = _replaced(state.rulesets[family], operation)
        case _:
            advance(state, operation)


def _virtual_server(
    state: State, operation: AddVirtualServer | SetVirtualServer, schedulers: Collection[str]
) -> Iterator[Outcome]:
    key, server = operation.key, operation.server
    exists = key in state.virtual_servers
    longest = key.family.host_prefix
    if not 0 <= key.port < _PORT_END or not 0 <= server.persistence < _NUMBER_END:
        yield _invalid(f"virtual server {key} is out of range")
    if key.family is Family.IPV4 and not 0 <= server.persistence_prefix <= longest:
        yield _invalid(f"no netmask of {server.persistence_prefix} bits")
    if isinstance(operation, AddVirtualServer) and exists:
        yield _contradicted("it exists already")
    if isinstance(operation, SetVirtualServer) and not exists:
        yield _contradicted("it does not exist")
    if server.scheduler not in schedulers:
        name = server.scheduler
        reason = f"this kernel has no scheduler {name}: load the module ip_vs_{name}"
        yield Outcome(Refusal.UNSUPPORTED, reason)
    if key.family is Family.IPV6 and not 1 <= server.persistence_prefix <= longest:
        yield _invalid(f"no netmask of {server.persistence_prefix} bits")


def _real_server(state: State, operation: AddRealServer | SetRealServer) -> Iterator[Outcome]:
    key, member, server = operation.key, operation.member, operation.server
    numbers = (server.weight, server.upper_threshold, server.lower_threshold)
    exists = member in state.real_servers.get(key, {})
    if not 0 <= member.port < _PORT_END or any(not 0 <= one < _NUMBER_END for one in numbers):
        yield _invalid(f"real server {member} is out of range")
    if key not in state.virtual_servers:
        yield _contradicted("its virtual server does not exist")
    if member.address.family is not key.family:
        yield _invalid(f"real server {member} is not of the family of {key}")
    if server.weight >= _WEIGHT_END:
        yield _invalid(f"the weight of real server {member} is out of range")
    if server.lower_threshold > server.upper_threshold:
        yield _invalid("the lower threshold is above the upper one")
    if isinstance(operation, SetRealServer) and not exists:
        yield _contradicted("it does not exist")
    if isinstance(operation, AddRealServer) and exists:
        yield _contradicted("it exists already")
    if not exists and any(member.address in network for network in _NOT_UNICAST):
        yield _invalid(f"{member.address} is not a unicast address")


def _binding(state: State, address: Address) -> Iterator[Outcome]:
    if not state.link:
        yield _contradicted(f"there is no interface {DUMMY_INTERFACE}")
    if address.family not in state.families:
        yield Outcome(Refusal.UNSUPPORTED, f"IPv{address.family} is switched off")
    if address in state.addresses:
        yield _contradicted("it is bound already")


def _creation(state: State, name: str) -> Iterator[Outcome]:
    if not 0 < len(name) <= _SET_NAME_LENGTH:
        yield _invalid(f"{name!r} is no name of a set: 1-{_SET_NAME_LENGTH} characters")
    if name in state.sets:
        yield _contradicted(f"set {name} exists already")


def _destruction(state: State, name: str) -> Iterator[Outcome]:
    if name in state.sets and any(name in sets_of(one) for one in state.rulesets.values()):
        yield Outcome(Refusal.BUSY, f"set {name} is in use by a rule")


def _growth(state: State, name: str, spec: SetSpec) -> Iterator[Outcome]:
    present = state.sets.get(name)
    if present is None:
        yield _contradicted(f"set {name} does not exist")
        return
    if (present.type, present.family) != (spec.type, spec.family):
        yield _contradicted(f"set {name} is {present.type}, IPv{present.family}")
    if spec.type is SetType.BITMAP_PORT:
        yield _invalid(f"set {name} is a bitmap, which has its size")
    if len(state.members[name]) > spec.maxelem:
        yield Outcome(Refusal.FULL, f"set {name} has more than {spec.maxelem} members")


def _addition(state: State, operation: AddMember) -> Iterator[Outcome]:
    name, member = operation.name, operation.member
    if isinstance(member, IpPortNetMember) and member.network.prefix_length == 0:
        yield _invalid(f"set {name} cannot hold {member.network}: halve the network")
    spec = state.sets.get(name)
    if spec is None:
        yield _contradicted(f"set {name} does not exist")
        return
    yield from _unfit(name, spec, member)
    # A member that is there already is added again: `ipset restore -exist`.
    full = len(state.members[name]) >= spec.maxelem and member not in state.members[name]
    if full and spec.type is not SetType.BITMAP_PORT:
        yield Outcome(Refusal.FULL, f"set {name} is full: it holds {spec.maxelem} members")


def _unfit(name: str, spec: SetSpec, member: Member) -> Iterator[Outcome]:
    """Object to a member that a set of this kind cannot have, to be added or removed."""
    text = member_text(member)
    if not isinstance(member, _MEMBER_TYPES[spec.type]):
        yield _invalid(f"{text} is no member of a {spec.type}")
    if any(address.family is not spec.family for address in _addresses_of(member)):
        yield _invalid(f"{text} is not of the family of set {name}")
    if not _storable(member):
        yield _invalid(f"{text} cannot be stored in a set")


def _chains(state: State, operation: ReplaceChains) -> Iterator[Outcome]:
    family, wanted, found = operation.family, operation.wanted, operation.found
    present = state.rulesets.get(family)
    if present is None:
        yield Outcome(Refusal.UNSUPPORTED, f"iptables does not work for IPv{family} here")
        return
    for name in sorted(set(sets_of(wanted)) - state.sets.keys()):
        yield _contradicted(f"Set {name} doesn't exist.")
    own = {(chain.table, chain.name) for chain in wanted.chains}
    for table, target in _targets_of(wanted):
        if target.startswith(_OWN_CHAIN_PREFIX) and (table, target) not in own:
            reason = f"Couldn't load target {target}: no such chain in table {table}"
            yield Outcome(Refusal.UNSUPPORTED, reason)
    if any(jump not in present.jumps for jump in found.jumps if jump not in wanted.jumps):
        yield _contradicted("Bad rule (does a matching rule exist in that chain?)")


def _replaced(present: Ruleset, operation: ReplaceChains) -> Ruleset:
    """Give what stands afterwards: what was not known to stand there stays as it is.

    A jump that was believed to stand is neither looked for nor inserted, one that was not known is
    inserted a second time. Those that are wanted stand in their order, before all others.
    """
    wanted, found = operation.wanted, operation.found
    named = {chain[:2] for chain in (*wanted.chains, *found.chains)}
    chains = [*wanted.chains, *(chain for chain in present.chains if chain[:2] not in named)]
    leading = [jump for jump in wanted.jumps if jump not in found.jumps or jump in present.jumps]
    unknown = [jump for jump in present.jumps if jump not in found.jumps]
    return Ruleset(
        tuple(sorted(chains)), tuple(sorted([*leading, *unknown], key=lambda jump: jump[:2]))
    )


def _setting(state: State, name: str) -> Iterator[Outcome]:
    if name not in state.sysctls:
        yield Outcome(Refusal.UNSUPPORTED, f"this kernel has no sysctl {name}")
    if name in _READ_ONLY:
        yield Outcome(Refusal.FORBIDDEN, f"sysctl {name} cannot be written")


def sets_of(ruleset: Ruleset) -> Iterator[str]:
    """Name the sets that the rules of a ruleset ask."""
    rules = [rule for chain in ruleset.chains for rule in chain.rules]
    rules += [jump.rule for jump in ruleset.jumps]
    for rule in rules:
        yield from _words_after(rule, "--match-set")


def _targets_of(ruleset: Ruleset) -> Iterator[tuple[str, str]]:
    for chain in ruleset.chains:
        for rule in chain.rules:
            yield from ((chain.table, target) for target in _words_after(rule, "-j"))
    for jump in ruleset.jumps:
        yield from ((jump.table, target) for target in _words_after(jump.rule, "-j"))


def _words_after(rule: Rule, option: str) -> Iterator[str]:
    return (value for word, value in pairwise(rule) if word == option)


def _addresses_of(member: Member) -> tuple[Address, ...]:
    match member:
        case PortMember():
            return ()
        case IpMember(address) | IpPortMember(address):
            return (address,)
        case IpPortIpMember(address, _, _, other):
            return (address, other)
        case IpPortNetMember(address, _, _, network):
            return (address, network.address)
        case _:
            assert_never(member)


def _storable(member: Member) -> bool:
    match member:
        case IpMember(address):
            return any(address)  # ipset: "Null-valued element"
        case IpPortNetMember(_, _, port, network):
            return network.prefix_length > 0 and 0 <= port < _PORT_END
        case IpPortMember(_, _, port) | IpPortIpMember(_, _, port) | PortMember(port):
            return 0 <= port < _PORT_END
        case _:
            assert_never(member)


def _contradicted(reason: str) -> Outcome:
    return Outcome(Refusal.CONTRADICTED, reason)


def _invalid(reason: str) -> Outcome:
    return Outcome(Refusal.INVALID, reason)
