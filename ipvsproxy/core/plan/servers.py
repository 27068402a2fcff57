"""Planning virtual servers, their real servers, and the addresses that lead to them.

Knows in which order they come and go, and what of sets and chains a virtual server needs; which
real servers are wanted, draining ones too, was settled before (core.drain).
"""

from __future__ import annotations

import zlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import groupby

from ipvsproxy.core.drain import Wanted, refuses_at_weight_zero
from ipvsproxy.core.operations import (
    AddRealServer,
    AddVirtualServer,
    BindAddress,
    ForgetFlows,
    Operation,
    RemoveRealServer,
    RemoveVirtualServer,
    SetRealServer,
    SetVirtualServer,
    UnbindAddress,
)
from ipvsproxy.core.pieces import FEW, MANY, Pieces, cut
from ipvsproxy.core.plan.steps import Draft, node_port
from ipvsproxy.model import (
    Address,
    Protocol,
    RealServer,
    RealServerKey,
    Scheduler,
    VirtualServerKey,
)

_ORDERED_BY_ADDRESS = frozenset({Scheduler.SH, Scheduler.DH, Scheduler.MH})


class Servers:
    """Plans the virtual servers of one batch: first all that comes, then all that goes."""

    def __init__(self, draft: Draft, seed: bytes) -> None:
        self._draft = draft
        self._start = zlib.crc32(seed)
        self._switched: dict[VirtualServerKey, tuple[int, ...]] = {}
        """The change away from a scheduler that turns clients away at weight 0."""
        self._rescheduled: dict[VirtualServerKey, tuple[int, ...]] = {}
        """The change to another scheduler, in whose numbers weights are: the kernel may lack it."""
        self._leaving: dict[VirtualServerKey, set[RealServerKey]] = {}
        """The real servers that go, or whose weight falls to 0."""
        self._behind: dict[Address, list[int]] = {}
        self._standing: set[Address] = set()
        self._created_at: dict[Address, list[int]] = {}

    def make(self, key: VirtualServerKey, wanted: Wanted) -> None:
        """Plan that a virtual server stands, with all real servers that take connections."""
        draft = self._draft
        found = draft.state.virtual_servers.get(key)
        behind = self._behind.setdefault(key.address, [])
        if found is None:
            step = draft.add(AddVirtualServer(key, wanted.server), needs=self._admitted(key))
            draft.created[key] = step
            self._created_at.setdefault(key.address, []).append(step)
            behind.append(step)
        else:
            self._standing.add(key.address)
            if found != wanted.server and not refuses_at_weight_zero(wanted.server):
                step = draft.add(SetVirtualServer(key, wanted.server))
                if found.scheduler != wanted.server.scheduler:
                    self._rescheduled[key] = (step,)
                if refuses_at_weight_zero(found):
                    self._switched[key] = (step,)
                    behind.append(step)
        draft.raised[key] = tuple(self._add_and_raise(key, wanted))
        behind += draft.raised[key]
        behind += self._loop_backs_of(key, wanted)

    def bind_targets(self) -> Pieces[None]:
        """Plan the addresses to which clients are redirected: before anybody is."""
        target = self._draft.target
        sources = target.redirections.sources_of
        yield from self._bind(
            sorted({key.address for key in target.virtual_servers if sources(key)})
        )

    def bind(self) -> Pieces[None]:
        """Plan all others that come to the dummy interface."""
        draft = self._draft
        yield from self._bind(sorted(draft.target.addresses.keys() - draft.bound.keys()))

    def _bind(self, addresses: Iterable[Address]) -> Pieces[None]:
        draft = self._draft
        switched: dict[Address, list[int]] = {}
        for key, steps in draft.switched.items():
            switched.setdefault(key.address, []).extend(steps)
        for some in cut(addresses, FEW):
            yield len(some)
            for address in some:
                if draft.target.addresses[address] and address not in draft.state.addresses:
                    self._bind_one(address, switched.get(address, ()))

    def _bind_one(self, address: Address, switched: Iterable[int]) -> None:
        draft = self._draft
        standing = address in self._standing
        draft.bound[address] = draft.add(
            BindAddress(address),
            needs=(
                *draft.link,
                *draft.chain_of(address.family),
                *draft.admitted_addresses.get(address, ()),
            ),
            needs_any=() if standing else self._created_at.get(address, ()),
            follows=(*self._behind.get(address, ()), *switched),
        )

    def unbind(self) -> Pieces[None]:
        """Plan the addresses that leave the dummy interface."""
        draft = self._draft
        rerouted: dict[Address, list[int]] = {}
        for key, steps in (*draft.rerouted.items(), *draft.led_no_more.items()):
            rerouted.setdefault(key.address, []).extend(steps)
        for some in cut(sorted(draft.target.addresses.items()), MANY):
            yield len(some) // 2
            for address, wanted in some:
                if not wanted and address in draft.state.addresses:
                    needs = rerouted.get(address, ())
                    draft.unbound[address] = draft.add(UnbindAddress(address), needs=needs)

    def shrink(self, key: VirtualServerKey, wanted: Wanted) -> None:
        """Plan the real servers that take no new connection any more, and those that go."""
        draft = self._draft
        found = draft.state.virtual_servers.get(key)
        draft.shrunk[key] = tuple(self._lower_and_remove(key, wanted))
        if found is not None and found != wanted.server and refuses_at_weight_zero(wanted.server):
            # A scheduler that turns clients away at weight 0 comes when none would be.
            mixing = self._mixing(key, (*draft.raised[key], *draft.shrunk[key]), wanted)
            draft.add(SetVirtualServer(key, wanted.server), needs=mixing)

    def remove(self, key: VirtualServerKey) -> None:
        """Plan the end of a virtual server, after its address."""
        draft = self._draft
        unbound = (draft.unbound[key.address],) if key.address in draft.unbound else ()
        # Clients that are still led here, because the end of a redirection was refused, keep it.
        needs = (*unbound, *draft.rerouted.get(key, ()), *draft.led_no_more.get(key, ()))
        removed = draft.removed[key] = draft.add(RemoveVirtualServer(key), needs=needs)
        for member in draft.state.real_servers.get(key, {}):
            self._forget(key, member, removed)

    def _admitted(self, key: VirtualServerKey) -> tuple[int, ...]:
        """Give the set members and chains without which a new virtual server must not be."""
        draft = self._draft
        own: tuple[int, ...] = ()
        if draft.is_own(key.address):  # perhaps a NodePort, and local before it is bound
            ports = draft.admitted_ports.get(node_port(key), ())
            own = (*ports, *draft.admitted_addresses.get(key.address, ()))
        return (*draft.admitted.get(key, ()), *own, *draft.chain_of(key.family))

    def _actual(self, key: VirtualServerKey) -> Mapping[RealServerKey, RealServer]:
        return self._draft.state.real_servers.get(key, {})

    def _add_and_raise(self, key: VirtualServerKey, wanted: Wanted) -> list[int]:
        """Plan the real servers that come, and those whose weight does not fall to 0.

        They come after the switch away from a scheduler that turns clients away at weight 0, but
        only one that comes with weight 0 would do harm without it; after masquerading has begun
        again, for they may be on another node; and after a load balancer is closed to those whom
        its source ranges do not let in.
        """
        draft, actual, real_servers = self._draft, self._actual(key), wanted.real_servers
        created = (draft.created[key],) if key in draft.created else ()
        switched = self._switched.get(key, ())
        masked: Sequence[int] = draft.masked.get(key, ())
        if draft.is_own(key.address):
            masked = (*masked, *draft.masked_ports.get(node_port(key), ()))
        closed = draft.closed.get(key, ())
        follows = (*switched, *masked, *closed)
        # Where nobody is served until now, nobody who is to be shut out may be.
        unserved = closed if not any(real.weight for real in actual.values()) else ()
        missing, changed = self._compare(key, wanted)
        needs = ((*created, *switched), (*created, *unserved))  # with weight 0, and above
        steps: list[int] = []
        for serves, members in groupby(
            self._insertion_order(key, missing, wanted.server.scheduler),
            lambda member: real_servers[member].weight > 0,
        ):
            operations = [AddRealServer(key, member, real_servers[member]) for member in members]
            steps += draft.add_each(operations, needs[serves], follows)
        for member in sorted(changed):
            real = real_servers[member]
            numbers = self._numbers_of(key, actual[member], real)
            operation = SetRealServer(key, member, real)
            steps.append(draft.add(operation, needs=(*unserved, *numbers), follows=follows))
        return steps

    def _numbers_of(
        self, key: VirtualServerKey, found: RealServer, real: RealServer
    ) -> tuple[int, ...]:
        """Give the step before which a weight is only another number for what is there."""
        is_only_number = found.weight and real.weight and found._replace(weight=real.weight) == real
        return self._rescheduled.get(key, ()) if is_only_number else ()

    def _compare(
        self, key: VirtualServerKey, wanted: Wanted
    ) -> tuple[Collection[RealServerKey], Collection[RealServerKey]]:
        """Give the real servers that are missing, and those that are there and change.

        Those that leave or are lowered are kept for later. Whole tables are compared, in which of
        thousands one may differ.
        """
        actual, real_servers = self._actual(key), wanted.real_servers
        if not actual:
            return real_servers, ()
        different = {member for member, _ in real_servers.items() ^ actual.items()}
        missing = {member for member in different if member not in actual}
        changed = {
            member
            for member in different
            if member in real_servers
            and member not in missing
            and not _lowers(actual[member], real_servers[member])
        }
        if leaving := different - missing - changed:
            self._leaving[key] = leaving
        return missing, changed

    def _lower_and_remove(self, key: VirtualServerKey, wanted: Wanted) -> Iterable[int]:
        leaving = self._leaving.get(key)
        if not leaving:
            return
        draft, actual = self._draft, self._actual(key)
        switched = (*self._switched.get(key, ()), *draft.rerouted.get(key, ()))
        raised = draft.raised[key]
        stays = any(
            real.weight and member in actual and actual[member].weight
            for member, real in wanted.real_servers.items()
        )
        # One tuple for all steps that wait for it: thousands of endpoints may be replaced at once.
        serving = tuple(
            step for step in raised if not stays and _weight_of(draft.steps[step].operation)
        )
        patiently = (*switched, *raised, *draft.switched.get(key, ()))
        # Whoever is led elsewhere from now on, or here until now, is so before these are gone.
        led = (*draft.led_no_more.get(key, ()), *draft.switched.get(key, ()))
        # In the order in which they came, which matters only where there are several.
        for member in leaving if len(leaving) <= 1 else filter(leaving.__contains__, actual):
            found, real = actual[member], wanted.real_servers.get(member)
            if real is None:
                operation: Operation = RemoveRealServer(key, member)
            else:
                operation = SetRealServer(key, member, real)
            needs = patiently if member in wanted.patient and found.weight else switched
            step = draft.add(
                operation,
                needs=needs,
                needs_any=serving if found.weight else (),
                follows=led,
            )
            yield step
            if real is None:
                draft.left[key.protocol, member].append(step)
                self._forget(key, member, step)

    def _forget(self, key: VirtualServerKey, member: RealServerKey, step: int) -> None:
        """Forget the flows to a server that has gone, those that were redirected here too."""
        if key.protocol is Protocol.UDP:
            redirected = self._draft.target.redirections.sources_of(key)
            for asked in (key, *sorted(redirected)):
                self._draft.forgotten[asked, member].append(step)

    def forget_flows(self) -> None:
        """Plan that UDP clients of servers that have gone are scheduled anew."""
        for (key, member), steps in self._draft.forgotten.items():
            self._draft.add(ForgetFlows(key, member), needs=steps)

    def _mixing(self, key: VirtualServerKey, steps: Iterable[int], wanted: Wanted) -> list[int]:
        """Give the steps before which some real servers are at weight 0 and others are not."""
        actual = self._actual(key)
        serving = any(real.weight for real in wanted.real_servers.values())
        mixing = []
        for step in steps:
            match self._draft.steps[step].operation:
                case SetRealServer(_, member) | RemoveRealServer(_, member):
                    if (actual[member].weight > 0) != serving:
                        mixing.append(step)
                case _:
                    pass
        return mixing

    def _insertion_order(
        self, key: VirtualServerKey, members: Collection[RealServerKey], scheduler: str
    ) -> list[RealServerKey]:
        """Order real servers for insertion: equal on all nodes for hashes, else spread by node."""
        if scheduler in _ORDERED_BY_ADDRESS:
            return sorted(members)
        start = zlib.crc32(key.address + key.port.to_bytes(2), self._start)
        ranked = [(zlib.crc32(one.address + one.port.to_bytes(2), start), one) for one in members]
        ranked.sort()
        return [member for _, member in ranked]

    def _loop_backs_of(self, key: VirtualServerKey, wanted: Wanted) -> list[int]:
        """Give the steps that let the local pods behind a virtual server reach themselves.

        Its own only: with those of all others, a cold start would be quadratic.
        """
        loop_backs, real_servers = self._draft.loop_backs, wanted.real_servers
        if len(loop_backs) < len(real_servers):
            return [
                step
                for (protocol, member), step in loop_backs.items()
                if protocol is key.protocol and member in real_servers
            ]
        pairs = [(key.protocol, member) for member in real_servers]
        return [loop_backs[pair] for pair in pairs if pair in loop_backs]


def _lowers(found: RealServer, wanted: RealServer) -> bool:
    return found.weight > 0 and wanted.weight == 0


def _weight_of(operation: Operation) -> int:
    match operation:
        case AddRealServer(_, _, real) | SetRealServer(_, _, real):
            return real.weight
        case _:
            return 0
