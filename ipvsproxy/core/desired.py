"""All Services' wishes as one: who owns a contested address and port, and what must be there.

Holds the fragments and merges them. Each virtual server is *held* by one frontend: that of the
oldest Service that claims it, or, when nobody claims it any more, its last frontend while its
connections drain (`departing`). Clients are redirected to a virtual server only while the Service
that redirects them holds it. Addresses and set members are the union of what the held frontends
want, counted, so that what changes with one Service is known without looking at the others.

Every method that changes anything returns what it touched, and `target` says what is wanted of
that. Nothing here knows the kernel; core.plan compares.

    claims      key -> the Services that want it, oldest first
    departing   key -> since when nobody wants it
    held        key -> the frontend that counts
    counted     member -> how many held frontends and Services want it
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from ipvsproxy.core.health_check import HealthCheck
from ipvsproxy.core.members import SetMember
from ipvsproxy.core.probing import Probing
from ipvsproxy.core.redirect import Redirections
from ipvsproxy.core.sets import Role, role_of
from ipvsproxy.core.translate import Fragment, Frontend
from ipvsproxy.model import Address, VirtualServerKey
from ipvsproxy.objects import ServiceName


@dataclass(slots=True)
class Touched:
    """What may have to change in the kernel; everything else is as it was."""

    keys: set[VirtualServerKey] = field(default_factory=set)
    """Virtual servers, and with them their addresses."""
    addresses: set[Address] = field(default_factory=set)
    """Addresses that may stand alone."""
    members: set[SetMember] = field(default_factory=set)

    def add(self, other: Touched) -> None:
        """Take in what another change has touched."""
        self.keys |= other.keys
        self.addresses |= other.addresses
        self.members |= other.members


_FEW = 8
"""So many are looked through quicker, and kept in less room, than in a dict."""
_OF_NEW_CLIENTS = frozenset({Role.REDIRECTS, Role.SHUTS_OUT})
"""What goes with a redirection; a departing virtual server takes no new client anyway."""


def seniority(name: ServiceName, created: float | None) -> tuple[bool, float, ServiceName]:
    """Order of Services: older first, without a creation time (s) last, then by name."""
    return created is None, created or 0.0, name


def by_seniority(ages: Iterable[tuple[ServiceName, float | None]]) -> list[ServiceName]:
    """Order Services, each with its creation time (s), as `seniority` does; quick with many."""
    ranked = [(created is None, created or 0.0, name) for name, created in ages]
    ranked.sort()
    return [name for _, _, name in ranked]


class Contest(NamedTuple):
    """A virtual server that several Services claim."""

    key: VirtualServerKey
    owner: ServiceName


class Desired:
    """The merged wishes of all Services."""

    def __init__(self) -> None:
        self._fragments: dict[ServiceName, Fragment] = {}
        self._many: dict[ServiceName, Mapping[VirtualServerKey, Frontend]] = {}
        """The frontends of Services that have many, for one may have thousands."""
        self._led: dict[ServiceName, Mapping[VirtualServerKey, list[VirtualServerKey]]] = {}
        """Which frontends of a Service send clients to which of its others; of who sends any."""
        self._claims: dict[VirtualServerKey, tuple[ServiceName, ...]] = {}
        self._held: dict[VirtualServerKey, Frontend] = {}
        self._departing: dict[VirtualServerKey, float] = {}
        self._foreign: set[VirtualServerKey] = set()
        self._counted: Counter[SetMember] = Counter()
        self._bound: dict[Address, tuple[VirtualServerKey, ...] | dict[VirtualServerKey, None]] = {}
        """For which virtual servers: a tuple, which takes little room, or a dict where many are."""
        self._health_checks: dict[ServiceName, HealthCheck] = {}
        self._listed_checks: tuple[HealthCheck, ...] | None = ()
        self._probings: dict[ServiceName, Probing] = {}
        self._listed_probings: Mapping[ServiceName, Probing] | None = {}
        self.redirections = Redirections()
        """Where clients inside the cluster are sent, of the frontends in force."""

    @property
    def fragments(self) -> Mapping[ServiceName, Fragment]:
        """The last fragment of every Service that has one."""
        return self._fragments

    @property
    def held(self) -> Mapping[VirtualServerKey, Frontend]:
        """The frontend in force of every virtual server that must exist."""
        return self._held

    @property
    def departing(self) -> Mapping[VirtualServerKey, float]:
        """Virtual servers that nobody claims any more, with the time (s) since when."""
        return self._departing

    @property
    def foreign(self) -> frozenset[VirtualServerKey]:
        """Claimed virtual servers that exist and are not ours; they are left alone."""
        return frozenset(self._foreign)

    @property
    def health_checks(self) -> tuple[HealthCheck, ...]:
        """What is to be answered on health check node ports; the same object until it changes."""
        if self._listed_checks is None:
            self._listed_checks = tuple(self._health_checks.values())
        return self._listed_checks

    @property
    def probings(self) -> Mapping[ServiceName, Probing]:
        """What is to be probed, by Service; the same object until it changes."""
        if self._listed_probings is None:
            self._listed_probings = dict(self._probings)
        return self._listed_probings

    def owner(self, key: VirtualServerKey) -> ServiceName | None:
        """Give the Service whose frontend counts; None for one that is departing or unknown."""
        claimants = self._claims.get(key)
        return claimants[0] if claimants else None

    def claimants(self, key: VirtualServerKey) -> tuple[ServiceName, ...]:
        """Give the Services that want a virtual server, its owner first."""
        return self._claims.get(key, ())

    def is_elders(self, key: VirtualServerKey, name: ServiceName, created: float | None) -> bool:
        """Whether a virtual server is that of another Service, an older one than this."""
        owner = self.owner(key)
        return owner not in (None, name) and self._seniority(owner) < seniority(name, created)

    def binds(self, address: Address) -> bool:
        """Whether an address must be on the dummy interface."""
        return address in self._bound

    def behind(self, address: Address) -> tuple[VirtualServerKey, ...]:
        """Give the virtual servers for which an address must be on the dummy interface."""
        return tuple(self._bound.get(address, ()))

    def needs(self, member: SetMember) -> bool:
        """Whether a set member must be there."""
        return member in self._counted

    def is_shared(self, member: SetMember) -> bool:
        """Whether more than one frontend or Service needs a set member."""
        return self._counted[member] > 1

    def members(self) -> Collection[SetMember]:
        """All set members that must be there."""
        return self._counted.keys()

    def contests(self, name: ServiceName) -> Iterator[Contest]:
        """Contested virtual servers that a Service claims without owning them."""
        fragment = self._fragments.get(name)
        for frontend in fragment.frontends if fragment else ():
            owner = self._claims[frontend.key][0]
            if name != owner:
                yield Contest(frontend.key, owner)

    def put(self, fragment: Fragment, now: float) -> Touched:
        """Replace what a Service wants; equal to what it wanted, it touches nothing."""
        before = self._fragments.get(fragment.name)
        if before == fragment:
            return Touched()
        self._fragments[fragment.name] = fragment
        self._note_frontends(fragment.name, fragment.frontends)
        self._note_health_check(fragment.name, fragment.health_check)
        self._note_probing(fragment.name, fragment.probing)
        wanted = {frontend.key for frontend in fragment.frontends}
        gone = {frontend.key for frontend in before.frontends} - wanted if before else set()
        touched = self._reclaim(fragment.name, wanted, gone, now)
        old = before.members if before else frozenset[SetMember]()
        touched.members |= self._recount(old, fragment.members)
        return touched

    def drop(self, name: ServiceName, now: float) -> Touched:
        """Forget a Service; its virtual servers depart, unless another claims them."""
        before = self._fragments.pop(name, None)
        if before is None:
            return Touched()
        self._note_frontends(name, ())
        self._note_health_check(name, None)
        self._note_probing(name, None)
        gone = {frontend.key for frontend in before.frontends}
        touched = self._reclaim(name, set(), gone, now)
        touched.members |= self._recount(before.members, frozenset())
        return touched

    def depart(self, frontends: Iterable[Frontend], now: float) -> Touched:
        """Let virtual servers depart that the kernel has and nobody claims: leftovers of a past."""
        touched = Touched()
        for frontend in frontends:
            if frontend.key not in self._held:
                self._departing[frontend.key] = now
                touched.add(self._hold(frontend.key, frontend))
        return touched

    def finish(self, key: VirtualServerKey) -> Touched:
        """End the departure of a virtual server: from now on it is not wanted at all."""
        if self._departing.pop(key, None) is None:
            return Touched()
        return self._hold(key, None)

    def mark_foreign(self, key: VirtualServerKey) -> Touched:
        """Leave a virtual server alone, for somebody else has made it."""
        if key in self._foreign:
            return Touched()
        self._foreign.add(key)
        touched = self._hold(key, None)
        touched.add(self._lead_anew(key, self.owner(key)))
        return touched

    def clear_foreign(self, key: VirtualServerKey) -> Touched:
        """Claim a virtual server again whose foreign namesake is gone."""
        if key not in self._foreign:
            return Touched()
        self._foreign.discard(key)
        touched = self._settle_claim(key, 0.0)
        touched.add(self._lead_anew(key, self.owner(key)))
        return touched

    def _reclaim(
        self,
        name: ServiceName,
        wanted: set[VirtualServerKey],
        gone: set[VirtualServerKey],
        now: float,
    ) -> Touched:
        touched = Touched()
        owners = {key: self.owner(key) for key in wanted | gone}
        for key in wanted:
            others = [other for other in self._claims.get(key, ()) if other != name]
            claimants = sorted((*others, name), key=self._seniority) if others else (name,)
            self._claims[key] = tuple(claimants)
        for key in gone:
            remaining = tuple(other for other in self._claims[key] if other != name)
            if remaining:
                self._claims[key] = remaining
            else:
                del self._claims[key]
        for key, before in owners.items():
            touched.add(self._settle_claim(key, now))
            after = self.owner(key)
            if before is not None and after not in (None, before):
                touched.keys.add(key)  # though both may want the same of it, it is another's now
            if before != after:
                for other in {before, after} - {name}:
                    touched.add(self._lead_anew(key, other))
        return touched

    def _lead_anew(self, target: VirtualServerKey, name: ServiceName | None) -> Touched:
        """Hold what a Service redirects to a virtual server as it is, now that it may be another's.

        That is how a redirection begins and ends for what has happened to its target.
        """
        touched = Touched()
        if name is None or name not in self._led:
            return touched
        for key in self._led[name].get(target, ()):
            if self.owner(key) == name and key not in self._foreign:
                touched.add(self._hold(key, self._in_force(name, self._frontend(name, key))))
        return touched

    def _in_force(self, name: ServiceName, frontend: Frontend) -> Frontend:
        """Give a frontend without its redirection where the target is not the Service's."""
        target = frontend.redirect.target if frontend.redirect is not None else None
        if target is None or (self.owner(target) == name and target not in self._foreign):
            return frontend
        return _unredirected(frontend)

    def _note_frontends(self, name: ServiceName, frontends: Sequence[Frontend]) -> None:
        """Keep by key what is looked up by key, of those few Services where it is worth the room.

        A dict for each of thousands of Services would be a quarter of all that is kept of them.
        """
        for kept in (self._many, self._led):
            kept.pop(name, None)
        if len(frontends) > _FEW:
            self._many[name] = {one.key: one for one in frontends}
        if led := _led(frontends):
            self._led[name] = led

    def _frontend(self, name: ServiceName, key: VirtualServerKey) -> Frontend:
        """Give the frontend that a Service wants at a virtual server; it must want one."""
        if name in self._many:
            return self._many[name][key]
        return next(one for one in self._fragments[name].frontends if one.key == key)

    def _seniority(self, name: ServiceName) -> tuple[bool, float, ServiceName]:
        return seniority(name, self._fragments[name].created)

    def _settle_claim(self, key: VirtualServerKey, now: float) -> Touched:
        """Let the right frontend hold a virtual server after its claims have changed."""
        owner = self.owner(key)
        if key in self._foreign:
            if owner is None:
                self._foreign.discard(key)
            return self._hold(key, None)
        if owner is None:
            if key in self._held and key not in self._departing:
                self._departing[key] = now
                touched = self._hold(key, _departing(self._held[key]))
                touched.keys.add(key)  # held as before where it had no endpoints, but departing
                return touched
            return Touched()
        self._departing.pop(key, None)
        return self._hold(key, self._in_force(owner, self._frontend(owner, key)))

    def _hold(self, key: VirtualServerKey, frontend: Frontend | None) -> Touched:
        before = self._held.pop(key, None)
        if frontend is not None:
            self._held[key] = frontend
        if before == frontend:
            return Touched()
        old = before.members if before is not None else ()
        new = frontend.members if frontend is not None else ()
        self._bind(key, frontend is not None and frontend.bind)
        self.redirections.put(key, frontend.redirect if frontend is not None else None)
        return Touched(keys={key}, members=self._recount(old, new))

    def _recount(
        self, wanted_until_now: Collection[SetMember], wanted: Collection[SetMember]
    ) -> set[SetMember]:
        """Count members that somebody wants now and no longer; give what was counted anew."""
        old, new = frozenset(wanted_until_now), frozenset(wanted)
        counted = self._counted
        for member in old - new:
            counted[member] -= 1
            if not counted[member]:
                del counted[member]
        for member in new - old:
            counted[member] += 1
        return set(old ^ new)

    def _note_health_check(self, name: ServiceName, check: HealthCheck | None) -> None:
        if self._health_checks.pop(name, None) != check:
            self._listed_checks = None
        if check is not None:
            self._health_checks[name] = check

    def _note_probing(self, name: ServiceName, probing: Probing | None) -> None:
        if self._probings.pop(name, None) != probing:
            self._listed_probings = None
        if probing is not None:
            self._probings[name] = probing

    def _bind(self, key: VirtualServerKey, wanted: bool) -> None:
        behind = self._bound.get(key.address, ())
        if not wanted and isinstance(behind, dict):
            behind.pop(key, None)
        elif not wanted:
            behind = tuple(one for one in behind if one != key)
        elif key not in behind and len(behind) < _FEW:
            behind = (*behind, key)
        elif key not in behind:
            behind = behind if isinstance(behind, dict) else dict.fromkeys(behind)
            behind[key] = None
        if behind:
            self._bound[key.address] = behind
        else:
            self._bound.pop(key.address, None)


def _led(frontends: Iterable[Frontend]) -> Mapping[VirtualServerKey, list[VirtualServerKey]]:
    found: dict[VirtualServerKey, list[VirtualServerKey]] = {}
    for frontend in frontends:
        if frontend.redirect is not None:
            found.setdefault(frontend.redirect.target, []).append(frontend.key)
    return found


def _departing(frontend: Frontend) -> Frontend:
    """Give what a frontend becomes when nobody wants it: it only finishes its connections."""
    return _unredirected(frontend)._replace(
        real_servers={}, displaced=frozenset(), retiring=frozenset(), cut=frozenset(), whole=True
    )


def _unredirected(frontend: Frontend) -> Frontend:
    """Give a frontend that sends nobody elsewhere, nor shuts out who is not sent."""
    return frontend._replace(
        redirect=None,
        members=tuple(
            (name, member)
            for name, member in frontend.members
            if role_of(name) not in _OF_NEW_CLIENTS
        ),
    )
