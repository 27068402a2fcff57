"""Planning set members, each at the time that its role allows (core.sets.Role).

admit    what lets traffic work, then what closes to others; masquerading begins again
switch   clients inside the cluster are redirected, then the others are shut out; or back
bare     masquerading ends, now that no server elsewhere takes new connections
remove   what let traffic work and is not needed any more
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable
from itertools import groupby
from operator import itemgetter

from ipvsproxy.core.members import SetMember
from ipvsproxy.core.operations import AddMember, ForgetFlows, RemoveMember
from ipvsproxy.core.pieces import FEW, MANY, Pieces, cut
from ipvsproxy.core.plan.steps import Draft, NodePort, node_port
from ipvsproxy.core.redirect_rules import led_to, redirect_targets
from ipvsproxy.core.sets import LOOP_BACKS, PORT_SETS, Role, role_of
from ipvsproxy.model import (
    Address,
    Family,
    IpMember,
    IpPortIpMember,
    IpPortMember,
    IpPortNetMember,
    Member,
    PortMember,
    Protocol,
    RealServerKey,
    Rule,
    VirtualServerKey,
)

_OF_FRONTENDS = (IpPortMember, IpPortIpMember, IpPortNetMember)
"""Members that begin with address, protocol and port."""
_name: Callable[[SetMember], str] = itemgetter(0)


class Members:
    """Plans the set members of one batch."""

    def __init__(self, draft: Draft) -> None:
        self._draft = draft
        self._coming: defaultdict[Role, list[SetMember]] = defaultdict(list)
        self._going: defaultdict[Role, list[SetMember]] = defaultdict(list)
        self._undirected: dict[VirtualServerKey, int] = {}
        """Redirections that end."""
        self.coming = Counter[str]()
        """How many members each set gets, by its name."""

    def compare(self) -> Pieces[None]:
        """Find what comes and what goes; first of all."""
        state = self._draft.state
        for some in cut(self._draft.target.members.items(), MANY):
            for name, of_set in groupby(some, _set_of):  # in order, set by set
                present, role = state.members.get(name, ()), role_of(name)
                different = [both for both in of_set if both[1] != (both[0][1] in present)]
                coming = [one for one, wanted in different if wanted]
                self._coming[role] += coming
                self._going[role] += (one for one, wanted in different if not wanted)
                self.coming[name] += len(coming)
            yield len(some) // 4

    def admit(self) -> Pieces[None]:
        """Plan what comes before virtual servers and their real servers."""
        for some in cut(self._coming[Role.ADMITS], FEW):
            for name, of_set in groupby(some, _name):
                operations = [AddMember(name, member) for _, member in of_set]
                steps = self._draft.add_each(operations, *self._set_is_there(name))
                for operation, step in zip(operations, steps, strict=True):
                    self._record(name, operation.member, step)
            yield len(some)
        for name, member in self._coming[Role.MASKS]:
            step = self._add(name, member)
            self._record(name, member, step)
            self._draft.masked[_frontend(member)].append(step)
            yield 1
        for name, member in self._coming[Role.CLOSES]:
            key = _frontend(member)
            step = self._add(name, member, *self._draft.admitted[key])
            self._draft.admitted[key].append(step)
            self._draft.closed[key].append(step)
            yield 1
        standing = self._coming.pop(Role.BARES, [])
        for name, member in standing:
            if self._stands(name, member):
                self._coming[Role.BARES].append((name, member))
            else:
                self._record(name, member, self._add(name, member))
            yield 1
        for name, member in self._going[Role.BARES]:
            step = self._draft.add(RemoveMember(name, member))
            match member:
                case PortMember(port):
                    self._draft.masked_ports[NodePort(*PORT_SETS[name], port)].append(step)
                case _:
                    self._draft.masked[_frontend(member)].append(step)
            yield 1

    def switch(self) -> Pieces[None]:
        """Plan where clients are sent: after what they are sent to, and before it goes."""
        for name, member in self._coming[Role.REDIRECTS]:
            self._redirect(name, _frontend(member), member)
            yield 2
        for name, member in self._coming[Role.SHUTS_OUT]:
            switched = self._draft.switched[_frontend(member)]
            switched.append(self._add(name, member, *switched))
            yield 1
        let_in: dict[VirtualServerKey, int] = {}
        for name, member in self._going[Role.SHUTS_OUT]:
            key = _frontend(member)
            raised = self._draft.raised.get(key, ())
            let_in[key] = self._draft.add(RemoveMember(name, member), follows=raised)
            yield 1
        led = self._led() if self._going[Role.REDIRECTS] else {}
        for name, member in self._going[Role.REDIRECTS]:
            key = _frontend(member)
            step = self._draft.add(
                RemoveMember(name, member),
                needs=(let_in[key],) if key in let_in else (),
                follows=self._draft.raised.get(key, ()),
            )
            self._draft.unlisted[key.family].append(step)
            self._undirected[key] = step
            for target in led_to(led.get(key.family, {}), key):
                self._draft.led_no_more[target].append(step)
            self._forget(key, step)
            yield 2

    def _led(self) -> dict[Family, dict[Rule, VirtualServerKey]]:
        """Give where clients are sent now, by family and what is redirected."""
        rulesets = self._draft.state.rulesets
        return {family: redirect_targets(found) for family, found in rulesets.items()}

    def bare(self) -> None:
        """Plan the end of masquerading where it had to wait."""
        for name, member in self._coming[Role.BARES]:
            shrunk = [
                step
                for key in self._frontends(name, member)
                for step in self._draft.shrunk.get(key, ())
            ]
            self._add(name, member, follows=shrunk)

    def remove(self) -> Pieces[None]:
        """Plan the end of what let traffic work."""
        opened: dict[VirtualServerKey, int] = {}
        for name, member in self._going[Role.CLOSES]:
            key = _frontend(member)
            # First goes what it was closed for: servers that may be another Service's, and clients
            # who are sent past the firewall.
            undirected = (self._undirected[key],) if key in self._undirected else ()
            opened[key] = self._draft.add(
                RemoveMember(name, member),
                needs=(*self._removed(key), *undirected),
                follows=self._draft.shrunk.get(key, ()),
            )
        at_address: defaultdict[Address, list[int]] = defaultdict(list)
        at_port: defaultdict[NodePort, list[int]] = defaultdict(list)
        for key, step in self._draft.removed.items():
            at_address[key.address].append(step)
            at_port[node_port(key)].append(step)
            yield 1
        for name, member in (*self._going[Role.ADMITS], *self._going[Role.MASKS]):
            needs: tuple[int, ...] = ()
            follows: tuple[int, ...] = ()
            match member:
                case IpMember(address):
                    unbound = self._draft.unbound.get(address)
                    needs = tuple(at_address[address]) if unbound is None else (unbound,)
                case PortMember(port):
                    if name in PORT_SETS:
                        needs = tuple(at_port[NodePort(*PORT_SETS[name], port)])
                case IpPortIpMember(address, protocol, port) if name in LOOP_BACKS:
                    needs = tuple(self._draft.left[protocol, RealServerKey(address, port)])
                case IpPortMember() | IpPortIpMember() | IpPortNetMember():
                    key = _frontend(member)
                    admitted = self._draft.admitted.get(key, ())
                    needs = (*self._removed(key), *((opened[key],) if key in opened else ()))
                    if isinstance(member, IpPortMember):
                        needs += tuple(admitted)  # the filter lets through what has one of them
                    follows = (*admitted, *self._draft.shrunk.get(key, ()))
            self._draft.add(RemoveMember(name, member), needs=needs, follows=follows)
            yield 1

    def _add(self, name: str, member: Member, *needs: int, follows: list[int] | None = None) -> int:
        made, grown = self._set_is_there(name)
        return self._draft.add(
            AddMember(name, member), needs=(*made, *needs), follows=(*grown, *(follows or ()))
        )

    def _set_is_there(self, name: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Give the steps by which a set is made, and made larger: what a member needs, follows."""
        draft = self._draft
        made = (draft.sets[name],) if name in draft.sets else ()
        return made, (draft.grown[name],) if name in draft.grown else ()

    def _record(self, name: str, member: Member, step: int) -> None:
        """Say for what a member was added."""
        match member:
            case IpMember(address):
                self._draft.admitted_addresses[address].append(step)
            case PortMember(port):
                if name in PORT_SETS:
                    self._draft.admitted_ports[NodePort(*PORT_SETS[name], port)].append(step)
            case IpPortIpMember(address, protocol, port) if name in LOOP_BACKS:
                self._draft.loop_backs[protocol, RealServerKey(address, port)] = step
            case IpPortMember(address, protocol, port):
                self._draft.admitted[VirtualServerKey(protocol, address, port)].append(step)
            case IpPortIpMember() | IpPortNetMember():
                self._draft.admitted[_frontend(member)].append(step)

    def _redirect(self, name: str, key: VirtualServerKey, member: Member) -> None:
        draft = self._draft
        target = draft.target.redirections.target_of(key)
        # Where the frontend is closed to some, they must be before they are sent past its firewall.
        needs = [*draft.chain_of(key.family), *draft.admitted.get(key, ())]
        follows: list[int] = []
        if target is not None:
            needs += [draft.created[target]] if target in draft.created else []
            needs += [draft.bound[target.address]] if target.address in draft.bound else []
            follows += draft.raised.get(target, ())
        step = self._add(name, member, *needs, follows=follows)
        draft.switched[key].append(step)
        self._forget(key, step)

    def _forget(self, key: VirtualServerKey, step: int) -> None:
        """Forget the flows that were led as they are no longer; TCP's end by themselves."""
        if key.protocol is Protocol.UDP:
            self._draft.add(ForgetFlows(key, None), needs=(step,))

    def _stands(self, name: str, member: Member) -> bool:
        """Whether a virtual server that is masqueraded until now is there already."""
        return any(
            key in self._draft.state.virtual_servers for key in self._frontends(name, member)
        )

    def _frontends(self, name: str, member: Member) -> list[VirtualServerKey]:
        """Give the virtual servers that a member is about."""
        match member:
            case PortMember(port):
                family, protocol = PORT_SETS[name]
                own = (one for one in self._draft.state.network.addresses if one.family is family)
                return [VirtualServerKey(protocol, address, port) for address in sorted(own)]
            case _:
                return [_frontend(member)]

    def _removed(self, key: VirtualServerKey) -> tuple[int, ...]:
        return (self._draft.removed[key],) if key in self._draft.removed else ()


def _set_of(wanted: tuple[SetMember, bool]) -> str:
    return wanted[0][0]


def _frontend(member: Member) -> VirtualServerKey:
    """Give the virtual server whose address, protocol and port a member begins with."""
    assert isinstance(member, _OF_FRONTENDS)
    return VirtualServerKey(member.protocol, member.address, member.port)
