"""From wishes to a target: what is wanted now of the things that were touched.

`Desired` says what the Services want; the kernel says what is there, and which connections are
still open. Between the two stand draining, departures and leftovers, and this module keeps the
little that they have to remember: since when a real server is gone, and which are draining.

Nothing is removed on half a picture: what may belong to something that could not be read is
`Holds`, and is neither a leftover nor in the way.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from collections.abc import Set as AbstractSet
from typing import NamedTuple, assert_never

from ipvsproxy.config import Settings
from ipvsproxy.core.desired import Desired, Touched
from ipvsproxy.core.drain import Settled, Wanted, settle
from ipvsproxy.core.foundation import Foundation, foundation, needed_sets
from ipvsproxy.core.frontends import Kind
from ipvsproxy.core.ledger import Ownership
from ipvsproxy.core.members import SetMember
from ipvsproxy.core.pieces import FEW, MANY, Pieces, cut
from ipvsproxy.core.plan import Target
from ipvsproxy.core.predecessors import are_others
from ipvsproxy.core.sets import (
    IPVS_IPS,
    LOOP_BACKS,
    NODE_IP,
    NODE_PORT,
    NODE_PORT_LOCAL,
    PORT_SETS,
    Role,
    role_of,
    set_name,
)
from ipvsproxy.core.surroundings import Surroundings
from ipvsproxy.core.translate import Frontend
from ipvsproxy.core.weights.climbing import NOBODY_CLIMBS, Climb, Climbing
from ipvsproxy.model import (
    Address,
    IpMember,
    IpPortIpMember,
    IpPortMember,
    IpPortNetMember,
    Member,
    PortMember,
    Protocol,
    RealServerKey,
    Ruleset,
    State,
    VirtualServerKey,
)


class Holds(NamedTuple):
    """What must not count as a leftover, for the picture is not whole."""

    everything: bool = False
    """Some part of the source cannot be read: nothing that nobody claims is removed."""
    addresses: frozenset[Address] = frozenset()
    """What stands at these may belong to an object that is nonsense."""

    def hold(self, address: Address) -> bool:
        """Whether what stands at an address stays, though nobody claims it."""
        return self.everything or address in self.addresses

    @property
    def any(self) -> bool:
        """Whether anything is held at all."""
        return self.everything or bool(self.addresses)


class Settlement:
    """Targets for the kernel, and the memory that draining needs."""

    def __init__(self, desired: Desired, settings: Settings) -> None:
        self._desired = desired
        self.settings = settings
        """Of the cycle that is under way."""
        self._departed: dict[VirtualServerKey, Mapping[RealServerKey, float]] = {}
        self._draining: dict[VirtualServerKey, frozenset[RealServerKey]] = {}
        self.climbing = Climbing()
        """Real servers at a slow start."""
        self._over: set[VirtualServerKey] = set()
        """Departures that have ended, whether or not the kernel has removed what departed."""
        self._swept = False
        """Whether all that is wanted was known at the last sweep."""

    @property
    def draining(self) -> Mapping[VirtualServerKey, frozenset[RealServerKey]]:
        """Real servers that are kept only for their open connections."""
        return self._draining

    def target(
        self,
        touched: Touched,
        around: Surroundings,
        *,
        connections: Mapping[VirtualServerKey, Mapping[RealServerKey, int]],
        now: float,
        without: AbstractSet[VirtualServerKey] = frozenset(),
        whole: bool = True,
    ) -> Pieces[Target]:
        """Say what is wanted of all that was touched, and of what hangs on it.

        `connections` and `now` as in `core.drain.settle`. What ends with a departure is added to
        `touched`. Nothing is said of what stands in `without`, nor of an address that is bound for
        nothing else; nor of chains where this is not the whole of what is to be done (`whole`).
        """
        state = around.kernel
        ours = Ownership(state)
        for key in touched.keys & self._desired.foreign:
            self._forget(key)
        wanted: dict[VirtualServerKey, Wanted | None] = {}
        self._over = {key for key in self._over if key in state.virtual_servers}
        keys = self.with_neighbours(touched, state) - without
        for some in cut(keys, FEW):
            yield 4 * len(some)
            for key in some:
                open_there = connections.get(key, {})
                settled = self._settle(key, state, open_there, now, around.unavailable)
                if settled is not None:
                    wanted[key] = settled.wanted
                    continue
                touched.members |= self._desired.finish(key).members
                if key in ours:  # what nobody wants is removed only where it is ours
                    wanted[key] = None
                    self._over.add(key)
        addresses = touched.addresses | {key.address for key in keys}
        if without:
            left_out = {key.address for key in without}
            addresses -= {one for one in left_out if without >= set(self._desired.behind(one))}
        yield len(addresses) // 4
        needed = self._foundation(around, whole=whole)
        yield len(self._desired.redirections.all())
        return Target(
            foundation=needed,
            virtual_servers=wanted,
            addresses={address: self._desired.binds(address) for address in addresses},
            members=(yield from self._needed(touched.members)),
            redirections=self._desired.redirections,
        )

    def _needed(self, members: AbstractSet[SetMember]) -> Pieces[dict[SetMember, bool]]:
        """Say of set members whether they must be there; in order, set by set."""
        by_set: defaultdict[str, list[SetMember]] = defaultdict(list)
        for some in cut(members, MANY):
            for one in some:
                by_set[one[0]].append(one)
            yield len(some) // 4
        found: dict[SetMember, bool] = {}
        for _, own in sorted(by_set.items()):
            for ordered in cut(sorted(own), MANY):
                found.update((one, self._desired.needs(one)) for one in ordered)
                yield len(ordered) // 2
        return found

    def sweep(self, touched: Touched, state: State, holds: Holds, now: float) -> Pieces[None]:
        """Touch everything: all that is wanted, and - where the picture allows - all leftovers.

        Nobody else may change what is wanted, or the state, before the last piece is done.
        """
        self._swept = not holds.everything
        removable = yield from self._leftover_keys(state, holds)
        members = (yield from _members_of(state, self._sets(state))) if removable else {}
        for key in removable:
            if key in self._over:
                touched.keys.add(key)
            else:
                leftover = _leftover(key, state, frozenset(members.get(key, ())))
                touched.add(self._desired.depart([leftover], now))
            yield 4
        for held in cut(self._desired.held, MANY):
            touched.keys.update(held)
            yield len(held) // 4
        for needed in cut(self._desired.members(), MANY):
            touched.members.update(needed)
            yield len(needed) // 4
        yield from self._touch_stale_members(touched, state, holds)
        for addresses in cut(state.addresses, MANY):
            touched.addresses.update(
                one
                for one in addresses
                if self._desired.binds(one) or not (holds.hold(one) or self._excluded(one))
            )
            yield len(addresses) // 4

    def _leftover_keys(self, state: State, holds: Holds) -> Pieces[list[VirtualServerKey]]:
        """Find the virtual servers of ours that nobody wants, and that may go."""
        ours = Ownership(state)
        foreign = self._desired.foreign
        found: list[VirtualServerKey] = []
        for keys in cut(state.virtual_servers, MANY):
            found += (
                key
                for key in keys
                if key not in foreign and self._removable(key, state, holds) and key in ours
            )
            yield len(keys) // 2
        return found

    def _foundation(self, around: Surroundings, *, whole: bool) -> Foundation:
        """Give the foundation; while not all is known, without chains in the place of others'.

        Theirs serve everything, and ours only those whose members are there. Chains lead to what
        stands elsewhere, so that a part of what is to be done has none.
        """
        state = around.kernel
        needed = foundation(self.settings, state, around.node, self._desired.redirections.all())
        if not whole:
            return needed._replace(rulesets={})
        if self._swept:
            return needed
        return needed._replace(
            rulesets={
                family: wanted
                for family, wanted in needed.rulesets.items()
                if not are_others(state.rulesets.get(family, Ruleset()))
            }
        )

    def with_neighbours(self, touched: Touched, state: State) -> set[VirtualServerKey]:
        """Give what is planned together: what was touched, and all behind an address to bind."""
        keys = touched.keys - self._desired.foreign
        for address in {key.address for key in touched.keys} | touched.addresses:
            if address not in state.addresses:
                keys.update(self._desired.behind(address))
        return keys

    def _settle(
        self,
        key: VirtualServerKey,
        state: State,
        connections: Mapping[RealServerKey, int],
        now: float,
        unavailable: Collection[str],
    ) -> Settled | None:
        """Settle one virtual server; None: it must not exist, or not any longer."""
        frontend = self._desired.held.get(key)
        since = self._desired.departing.get(key)
        self._draining.pop(key, None)
        departed = self._departed.pop(key, {})
        if frontend is None or since is not None:
            self.climbing.forget(key)
        if frontend is None:
            return None
        self._over.discard(key)
        if since is not None:
            departed = dict.fromkeys(state.real_servers.get(key, {}), since)
        deadline = self.settings.removed_service_drain
        if since is None:
            own = frontend.drain_deadline
            deadline = self.settings.drain_deadline if own is None else own
        settled = settle(
            frontend,
            state,
            connections=connections,
            departed=departed,
            now=now,
            deadline=deadline,
            unavailable=unavailable,
            climb=self._climb(frontend, state, now) if since is None else NOBODY_CLIMBS,
        )
        if since is not None and not settled.wanted.real_servers:
            return None
        if settled.departed:
            self._departed[key] = settled.departed
        if settled.draining:
            self._draining[key] = settled.draining
        return settled

    def _forget(self, key: VirtualServerKey) -> None:
        """Forget what draining and climbs have to remember, for it is somebody else's by now."""
        self._draining.pop(key, None)
        self._departed.pop(key, None)
        self.climbing.forget(key)

    def _climb(self, frontend: Frontend, state: State, now: float) -> Climb:
        return self.climbing.steps(
            frontend.key,
            {member: real.weight for member, real in frontend.real_servers.items()}
            if frontend.shaping.slow_start or frontend.shaping.deduced
            else {},
            state.real_servers.get(frontend.key, {}),
            shaping=frontend.shaping,
            scheduler=frontend.server.scheduler,
            now=now,
            urgent=frontend.urgent,
        )

    def _removable(self, key: VirtualServerKey, state: State, holds: Holds) -> bool:
        return (
            key not in self._desired.held
            and key.family in state.families
            and not self._may_be_wanted(key.address, holds)
            and not self._excluded(key.address)
        )

    def _excluded(self, address: Address) -> bool:
        """Whether an operator has put what stands at an address out of bounds."""
        return any(address in cidr for cidr in self.settings.exclude_cidrs)

    def _may_be_wanted(self, address: Address, holds: Holds) -> bool:
        """Whether what stands at an address may belong to what could not be read.

        A Service that could be read says what is wanted at its ClusterIP; an external address may
        be another's too.
        """
        return holds.hold(address) and not any(
            self._desired.held[key].kind is Kind.CLUSTER_IP for key in self._desired.behind(address)
        )

    def _sets(self, state: State) -> Collection[str]:
        return needed_sets(self.settings, state.families).keys()

    def _touch_stale_members(self, touched: Touched, state: State, holds: Holds) -> Pieces[None]:
        for name in self._sets(state):
            for members in cut(state.members.get(name, ()), MANY):
                touched.members.update(
                    (name, member)
                    for member in members
                    if not self._desired.needs((name, member)) and not self._stays(member, holds)
                )
                yield len(members) // 4

    def _stays(self, member: Member, holds: Holds) -> bool:
        """Whether a member that nobody needs is not to be removed."""
        match member:
            case IpMember(address) | IpPortMember(address) | IpPortNetMember(address):
                return holds.hold(address) or self._excluded(address)
            case IpPortIpMember(address) if self._excluded(address):
                return True
            case _:
                # A member for an endpoint does not say whose it is.
                return holds.any


def is_about(name: str, member: Member, keys: AbstractSet[VirtualServerKey]) -> bool:
    """Whether a set member is that of some virtual servers alone, or of a NodePort of theirs."""
    match member:
        case PortMember(port):
            kind = PORT_SETS.get(name)
            return any(key.port == port and (key.family, key.protocol) == kind for key in keys)
        case IpMember():
            return False
        case IpPortMember(address, protocol, port) | IpPortNetMember(address, protocol, port):
            return VirtualServerKey(protocol, address, port) in keys
        case IpPortIpMember(address, protocol, port):
            return VirtualServerKey(protocol, address, port) in keys and name not in LOOP_BACKS
        case _:
            assert_never(member)


def _members_of(
    state: State, names: Collection[str]
) -> Pieces[Mapping[VirtualServerKey, list[SetMember]]]:
    """Give the set members of every frontend that is in the kernel, but for redirections."""
    found: defaultdict[VirtualServerKey, list[SetMember]] = defaultdict(list)
    for name in names:
        if role_of(name) in (Role.REDIRECTS, Role.SHUTS_OUT) or name in LOOP_BACKS:
            continue
        for members in cut(state.members.get(name, ()), MANY):
            for member in members:
                if (key := _frontend_of(member)) is not None:
                    found[key].append((name, member))
            yield len(members) // 4
    for keys in cut(state.virtual_servers, MANY):
        for key in keys:
            found[key] += [
                (name, member)
                for name, member in _shared_members(key, state)
                if name in names and member in state.members.get(name, ())
            ]
        yield len(keys)
    return found


def _frontend_of(member: Member) -> VirtualServerKey | None:
    """Give the virtual server that a member begins with; None where it names none."""
    match member:
        case IpPortMember(address, protocol, port) | IpPortNetMember(address, protocol, port):
            return VirtualServerKey(protocol, address, port)
        case IpPortIpMember(address, protocol, port):
            return VirtualServerKey(protocol, address, port)
        case _:
            return None


def _shared_members(key: VirtualServerKey, state: State) -> Iterator[SetMember]:
    """Give the members that a frontend may share with others: of its address, of its NodePort."""
    family = key.family
    for base in (IPVS_IPS, NODE_IP):
        yield set_name(base, family), IpMember(key.address)
    if key.protocol is not Protocol.SCTP and key.address in state.network.addresses:
        for bases in (NODE_PORT, NODE_PORT_LOCAL):
            yield set_name(bases[key.protocol], family), PortMember(key.port)


def _leftover(key: VirtualServerKey, state: State, members: frozenset[SetMember]) -> Frontend:
    """Describe a virtual server of ours that nobody claims, as if a Service had had it."""
    return Frontend(
        key=key,
        kind=Kind.CLUSTER_IP,
        server=state.virtual_servers[key],
        real_servers={},
        displaced=frozenset(),
        retiring=frozenset(),
        bind=key.address in state.addresses,
        members=members,
        whole=True,
    )
