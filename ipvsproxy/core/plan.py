"""The difference between what is wanted and what the kernel has, as an ordered batch.

`plan` compares a `Target` with a `State` and gives steps: each an operation, with the steps that
it has to wait for. Whoever carries the batch out sends only steps whose conditions hold, so that
stopping after any single operation leaves a state that serves (make, switch, break):

    make    sets -> members, chains -> virtual servers -> real servers added and raised
    switch  addresses bound, when what stands behind them has been answered
    break   real servers lowered, when another serves -> removed
            addresses unbound -> virtual servers removed -> their members removed

A step waits in three ways, because a refusal must not hold up what does not depend on it:

    needs      all of these were acknowledged (a member needs its set)
    needs_any  one of these was acknowledged (a server is lowered when any other serves)
    follows    all of these were answered, well or badly (an address is bound after the virtual
               servers behind it, though one of its ports may have been refused)

The batch is minimal: nothing equal is written, nothing is touched twice, no real server is removed
whose virtual server goes. Nothing here is remembered: what fails is still different next time.
"""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from ipvsproxy.core.drain import Wanted, refuses_at_weight_zero
from ipvsproxy.core.foundation import Foundation
from ipvsproxy.core.operations import (
    AddMember,
    AddRealServer,
    AddVirtualServer,
    BindAddress,
    CreateLink,
    CreateSet,
    ForgetFlows,
    Operation,
    RemoveMember,
    RemoveRealServer,
    RemoveVirtualServer,
    ReplaceChains,
    SetRealServer,
    SetSysctl,
    SetVirtualServer,
    UnbindAddress,
)
from ipvsproxy.core.translate import SetMember
from ipvsproxy.model import (
    Address,
    Family,
    IpMember,
    IpPortIpMember,
    IpPortMember,
    Protocol,
    RealServer,
    RealServerKey,
    Scheduler,
    State,
    VirtualServerKey,
)

_ORDERED_BY_ADDRESS = frozenset({Scheduler.SH, Scheduler.DH, Scheduler.MH})


@dataclass(frozen=True, slots=True)
class Target:
    """What is wanted of the things that are named; nothing is said of the others."""

    foundation: Foundation
    virtual_servers: Mapping[VirtualServerKey, Wanted | None] = field(default_factory=dict)
    """None: must not exist."""
    addresses: Mapping[Address, bool] = field(default_factory=dict)
    """Whether the address is bound; one to be bound comes with all that stands behind it."""
    members: Mapping[SetMember, bool] = field(default_factory=dict)
    """Whether the member is in its set."""


class Step(NamedTuple):
    """An operation, and the positions of the steps that it waits for (see the module's text)."""

    operation: Operation
    needs: tuple[int, ...] = ()
    needs_any: tuple[int, ...] = ()
    follows: tuple[int, ...] = ()


class Batch(NamedTuple):
    """Steps in an order in which none waits for a later one."""

    steps: tuple[Step, ...] = ()


def plan(target: Target, state: State, seed: bytes = b"") -> Batch:
    """Give the batch that makes the kernel, now `state`, what `target` wants.

    `seed` (the node's name) spreads the order in which real servers are added, so that not every
    node's round starts with the same endpoint.
    """
    planner = _Planner(target, state, seed)
    planner.lay_foundation()
    planner.add_members()
    for key in sorted(target.virtual_servers):
        wanted = target.virtual_servers[key]
        if wanted is not None:
            planner.make(key, wanted)
    planner.bind_and_unbind()
    for key in sorted(target.virtual_servers):
        if target.virtual_servers[key] is None and key in state.virtual_servers:
            planner.remove(key)
    planner.remove_members()
    return Batch(tuple(planner.steps))


class _Planner:
    """One run of `plan`: the steps so far, and where the steps are that others wait for."""

    def __init__(self, target: Target, state: State, seed: bytes) -> None:
        self.steps: list[Step] = []
        self._target = target
        self._state = state
        self._seed = seed
        self._link: tuple[int, ...] = ()
        self._sets: dict[str, int] = {}
        self._chains: dict[Family, int] = {}
        self._members_of: dict[VirtualServerKey, list[int]] = defaultdict(list)
        self._filters: dict[Address, list[int]] = defaultdict(list)
        self._loop_backs: dict[tuple[Protocol, RealServerKey], int] = {}
        self._behind: dict[Address, list[int]] = defaultdict(list)
        self._created: dict[Address, list[int]] = defaultdict(list)
        self._standing: set[Address] = set()
        self._unbound: dict[Address, int] = {}
        self._removed: dict[VirtualServerKey, int] = {}
        self._left: dict[RealServerKey, list[int]] = defaultdict(list)

    def lay_foundation(self) -> None:
        """Plan sysctls, the dummy interface, sets and chains."""
        foundation, state = self._target.foundation, self._state
        for name, value in foundation.sysctls.items():
            if name in state.sysctls and state.sysctls[name] != value:
                self._add(SetSysctl(name, value))
        if not state.link:
            self._link = (self._add(CreateLink()),)
        for name, spec in foundation.sets.items():
            if name not in state.sets:
                self._sets[name] = self._add(CreateSet(name, spec))
        for family, wanted in foundation.rulesets.items():
            found = state.rulesets.get(family)
            if found is not None and found != wanted:
                needs = [
                    self._sets[name]
                    for name in self._sets
                    if foundation.sets[name].family is family
                ]
                self._chains[family] = self._add(ReplaceChains(family, wanted, found), needs=needs)

    def add_members(self) -> None:
        """Plan the set members that are missing; they come before what they let through."""
        for (name, member), wanted in self._target.members.items():
            if not wanted or member in self._state.members.get(name, ()):
                continue
            needs = [self._sets[name]] if name in self._sets else []
            step = self._add(AddMember(name, member), needs=needs)
            match member:
                case IpPortMember(address, protocol, port):
                    self._members_of[VirtualServerKey(protocol, address, port)].append(step)
                case IpMember(address):
                    self._filters[address].append(step)
                case IpPortIpMember(address, protocol, port, _):
                    self._loop_backs[protocol, RealServerKey(address, port)] = step
                case _:
                    pass

    def make(self, key: VirtualServerKey, wanted: Wanted) -> None:
        """Plan one virtual server that must exist, and its real servers."""
        found = self._state.virtual_servers.get(key)
        actual = self._state.real_servers.get(key, {})
        if found is not None:
            self._standing.add(key.address)
        created: list[int] = []
        switched: list[int] = []
        if found is None:
            needs = self._members_of[key] + self._chain_of(key.family)
            created = [self._add(AddVirtualServer(key, wanted.server), needs=needs)]
            self._created[key.address] += created
        elif found != wanted.server and not refuses_at_weight_zero(wanted.server):
            step = self._add(SetVirtualServer(key, wanted.server))
            switched = [step] if refuses_at_weight_zero(found) else []
        raised = self._add_and_raise(key, wanted, actual, created, switched)
        shrunk = self._lower_and_remove(key, wanted, actual, raised, switched)
        if found is not None and found != wanted.server and refuses_at_weight_zero(wanted.server):
            # A scheduler that turns clients away at weight 0 comes when none would be.
            mixing = self._mixing([*raised, *shrunk], wanted, actual)
            self._add(SetVirtualServer(key, wanted.server), needs=mixing)
        loop_backs = self._loop_backs_of(key, wanted)
        self._behind[key.address] += [*created, *switched, *raised, *loop_backs]

    def bind_and_unbind(self) -> None:
        """Plan the addresses of the dummy interface."""
        for address, wanted in sorted(self._target.addresses.items()):
            bound = address in self._state.addresses
            if wanted and not bound:
                standing = address in self._standing
                self._add(
                    BindAddress(address),
                    needs=[*self._link, *self._chain_of(address.family), *self._filters[address]],
                    needs_any=() if standing else self._created[address],
                    follows=self._behind[address],
                )
            elif bound and not wanted:
                self._unbound[address] = self._add(UnbindAddress(address))

    def remove(self, key: VirtualServerKey) -> None:
        """Plan the end of a virtual server, after its address."""
        needs = [self._unbound[key.address]] if key.address in self._unbound else []
        removed = self._removed[key] = self._add(RemoveVirtualServer(key), needs=needs)
        if key.protocol is Protocol.UDP:
            for member in self._state.real_servers.get(key, {}):
                self._add(ForgetFlows(key, member), needs=[removed])

    def remove_members(self) -> None:
        """Plan the set members that are in the way; they go after what they let through."""
        for (name, member), wanted in self._target.members.items():
            if wanted or member not in self._state.members.get(name, ()):
                continue
            needs: list[int] = []
            match member:
                case IpPortMember(address, protocol, port):
                    key = VirtualServerKey(protocol, address, port)
                    needs = [self._removed[key]] if key in self._removed else []
                case IpMember(address):
                    needs = [self._unbound[address]] if address in self._unbound else []
                case IpPortIpMember(address, _, port, _):
                    needs = self._left[RealServerKey(address, port)]
                case _:
                    pass
            self._add(RemoveMember(name, member), needs=needs)

    def _add_and_raise(
        self,
        key: VirtualServerKey,
        wanted: Wanted,
        actual: Mapping[RealServerKey, RealServer],
        created: Sequence[int],
        switched: Sequence[int],
    ) -> list[int]:
        """Plan the real servers that come, and those whose weight does not fall to 0.

        They come after the switch away from a scheduler that turns clients away at weight 0, but
        only one that comes with weight 0 would do harm without it.
        """
        raised = []
        missing = [member for member in wanted.real_servers if member not in actual]
        for member in self._insertion_order(key, missing, wanted.server.scheduler):
            real = wanted.real_servers[member]
            needs = created if real.weight else [*created, *switched]
            operation = AddRealServer(key, member, real)
            raised.append(self._add(operation, needs=needs, follows=switched))
        for member, real in wanted.real_servers.items():
            if member in actual and actual[member] != real and not _lowers(actual[member], real):
                raised.append(self._add(SetRealServer(key, member, real), follows=switched))
        return raised

    def _lower_and_remove(
        self,
        key: VirtualServerKey,
        wanted: Wanted,
        actual: Mapping[RealServerKey, RealServer],
        raised: Sequence[int],
        switched: Sequence[int],
    ) -> list[int]:
        """Plan the real servers that take no new connection any more, and those that go."""
        stays = any(
            real.weight and member in actual and actual[member].weight
            for member, real in wanted.real_servers.items()
        )
        # One tuple for all steps that wait for it: thousands of endpoints may be replaced at once.
        serving = tuple(
            step for step in raised if not stays and _weight_of(self.steps[step].operation)
        )
        at_once, patiently = tuple(switched), (*switched, *raised)
        shrunk = []
        for member, found in actual.items():
            real = wanted.real_servers.get(member)
            if real is None:
                operation: Operation = RemoveRealServer(key, member)
            elif _lowers(found, real):
                operation = SetRealServer(key, member, real)
            else:
                continue
            needs = patiently if member in wanted.patient and found.weight else at_once
            step = self._add(operation, needs=needs, needs_any=serving if found.weight else ())
            shrunk.append(step)
            if real is None:
                self._left[member].append(step)
                if key.protocol is Protocol.UDP:
                    self._add(ForgetFlows(key, member), needs=[step])
        return shrunk

    def _mixing(
        self,
        steps: Iterable[int],
        wanted: Wanted,
        actual: Mapping[RealServerKey, RealServer],
    ) -> list[int]:
        """Give the steps before which some real servers are at weight 0 and others are not."""
        serving = any(real.weight for real in wanted.real_servers.values())
        mixing = []
        for step in steps:
            match self.steps[step].operation:
                case SetRealServer(_, member) | RemoveRealServer(_, member):
                    if (actual[member].weight > 0) != serving:
                        mixing.append(step)
                case _:
                    pass
        return mixing

    def _insertion_order(
        self, key: VirtualServerKey, members: Iterable[RealServerKey], scheduler: str
    ) -> list[RealServerKey]:
        """Order real servers for insertion: equal on all nodes for hashes, else spread by node."""
        if scheduler in _ORDERED_BY_ADDRESS:
            return sorted(members)
        start = zlib.crc32(key.address + key.port.to_bytes(2), zlib.crc32(self._seed))
        return sorted(
            members,
            key=lambda member: (
                zlib.crc32(member.address + member.port.to_bytes(2), start),
                member,
            ),
        )

    def _loop_backs_of(self, key: VirtualServerKey, wanted: Wanted) -> list[int]:
        """Give the steps that let the local pods behind a virtual server reach themselves.

        Its own only: with those of all others, a cold start would be quadratic.
        """
        if not self._loop_backs:
            return []
        steps = (self._loop_backs.get((key.protocol, member)) for member in wanted.real_servers)
        return [step for step in steps if step is not None]

    def _chain_of(self, family: Family) -> list[int]:
        return [self._chains[family]] if family in self._chains else []

    def _add(
        self,
        operation: Operation,
        *,
        needs: Sequence[int] = (),
        needs_any: Sequence[int] = (),
        follows: Sequence[int] = (),
    ) -> int:
        self.steps.append(Step(operation, tuple(needs), tuple(needs_any), tuple(follows)))
        return len(self.steps) - 1


def _lowers(found: RealServer, wanted: RealServer) -> bool:
    return found.weight > 0 and wanted.weight == 0


def _weight_of(operation: Operation) -> int:
    match operation:
        case AddRealServer(_, _, real) | SetRealServer(_, _, real):
            return real.weight
        case _:
            return 0
