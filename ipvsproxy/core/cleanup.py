"""What it takes to leave no trace: the batch that removes all that is ours, and nothing else.

In the order in which nothing serves half: rules first (a set that a rule uses cannot go), then the
addresses with their interface, then the virtual servers, then the sets. What says whose a virtual
server is goes after it (the ledger, a set of a predecessor, or an address where the ledger is
silent), so that a clean-up that was interrupted still knows what is ours.

Where kube-proxy's iptables mode serves by now, the chains stay that it has under the same names.

What an operator has excluded goes on serving: its virtual servers and addresses stay, its members
of our sets, and the interface, the sets and the chains, without which it would not be served.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from collections.abc import Set as AbstractSet

from ipvsproxy.core.ledger import claimed
from ipvsproxy.core.operations import (
    DestroySet,
    Operation,
    RemoveLink,
    RemoveMember,
    RemoveVirtualServer,
    ReplaceChains,
    UnbindAddress,
)
from ipvsproxy.core.plan import Batch, Step
from ipvsproxy.core.predecessors import without_iptables_mode
from ipvsproxy.core.sets import (
    FRONTEND_SETS,
    LEDGER,
    NODE_PORT,
    Role,
    frontend_member,
    loop_back_member,
    role_of,
    set_name,
    set_specs,
)
from ipvsproxy.model import (
    Address,
    Family,
    IpMember,
    IpPortIpMember,
    IpPortMember,
    IpPortNetMember,
    Member,
    Network,
    PortMember,
    Ruleset,
    State,
    VirtualServerKey,
)


def cleanup(state: State, exclude: Collection[Network] = ()) -> Batch:
    """Give the batch that removes our chains, interface, virtual servers and sets.

    Where we serve an address in `exclude`, that goes on (excludeCIDRs), and only what is not
    needed for it is removed.
    """

    def excluded(address: Address) -> bool:
        return any(address in network for network in exclude)

    ours = frozenset(claimed(state))
    kept = frozenset(key for key in ours if excluded(key.address))
    bound = frozenset(address for address in state.addresses if excluded(address))
    removal = _Removal(state, ours - kept)
    if not kept and not bound:
        removal.chains()
    removal.virtual_servers(listed=False)
    if bound:
        removal.addresses(state.addresses - bound)
    elif state.link:
        removal.link()
    removal.virtual_servers(listed=True)
    if kept or bound:
        removal.members(_kept_members(state, kept, bound))
    else:
        removal.sets()
    return Batch(tuple(removal.steps))


class _Removal:
    """The steps so far, by what they take away, for those that have to come after them."""

    def __init__(self, state: State, going: AbstractSet[VirtualServerKey]) -> None:
        self._state = state
        self._going = sorted(going)
        self.steps: list[Step] = []
        self._rules: list[int] = []
        self._gone: dict[VirtualServerKey, int] = {}
        self._unbound: dict[Address, int] = {}

    def chains(self) -> None:
        """Remove our chains and the jumps into them, but what serves others now."""
        for family, found in self._state.rulesets.items():
            going = without_iptables_mode(found)
            if going != Ruleset():
                self._rules.append(self._add(ReplaceChains(family, Ruleset(), going)))

    def virtual_servers(self, *, listed: bool) -> None:
        """Remove the virtual servers that the ledger names, or the others."""
        for key in self._going:
            ledger = self._state.members.get(set_name(LEDGER, key.family), ())
            if (frontend_member(key) in ledger) is listed:
                self._gone[key] = self._add(RemoveVirtualServer(key))

    def link(self) -> None:
        """Remove the interface; its addresses are all that says whose the unlisted ones are."""
        position = self._add(RemoveLink(), *self._gone.values())
        self._unbound = dict.fromkeys(self._state.addresses, position)

    def addresses(self, addresses: Collection[Address]) -> None:
        """Unbind addresses one by one, for others stay on the interface."""
        for address in sorted(addresses):
            needs = (step for key, step in self._gone.items() if key.address == address)
            self._unbound[address] = self._add(UnbindAddress(address), *needs)

    def sets(self) -> None:
        """Destroy our sets.

        Those that say whose a virtual server is wait for the addresses too: where the ledger is
        silent, an address speaks for all that stands at it.
        """
        bases = {LEDGER, *FRONTEND_SETS, *NODE_PORT.values()}
        telling = {set_name(base, family) for base in bases for family in Family}
        after = (*self._gone.values(), *dict.fromkeys(self._unbound.values()))
        for name in set_specs(Family, 0):
            if name in self._state.sets:
                needs = (*self._rules, *after) if name in telling else self._rules
                self._add(DestroySet(name), *needs)

    def members(self, kept: AbstractSet[tuple[str, Member]]) -> None:
        """Remove all members of our sets but those that are kept."""
        for name in set_specs(Family, 0):
            for member in sorted(self._state.members.get(name, ())):
                if (name, member) not in kept:
                    self._add(RemoveMember(name, member), *self._before(member))

    def _before(self, member: Member) -> Iterator[int]:
        """Give the steps without which a member is still needed."""
        match member:
            case IpMember(address):
                going = {self._unbound.get(address)}
            case IpPortMember(address, protocol, port):
                key = VirtualServerKey(protocol, address, port)
                going = {self._gone.get(key), self._unbound.get(address)}
            case IpPortNetMember(address, protocol, port):
                going = {self._gone.get(VirtualServerKey(protocol, address, port))}
            case _:
                going = set(self._gone.values())
        return (step for step in sorted(one for one in going if one is not None))

    def _add(self, operation: Operation, *needs: int) -> int:
        self.steps.append(Step(operation, needs=tuple(needs)))
        return len(self.steps) - 1


def _kept_members(
    state: State, kept: AbstractSet[VirtualServerKey], bound: AbstractSet[Address]
) -> AbstractSet[tuple[str, Member]]:
    """Give the members of our sets by which these virtual servers and addresses serve.

    Redirections are none of them: the ClusterIP that they lead to goes.
    """
    addresses = bound | {key.address for key in kept}
    node_ports = {key.port for key in kept if key.address in state.network.addresses}
    hairpins = {
        loop_back_member(key.protocol, real) for key in kept for real in state.real_servers[key]
    }

    def serves(member: Member) -> bool:
        match member:
            case IpMember(address):
                return address in addresses
            case PortMember(port):
                return port in node_ports
            case IpPortMember(address, protocol, port) | IpPortNetMember(address, protocol, port):
                return VirtualServerKey(protocol, address, port) in kept
            case IpPortIpMember(address, protocol, port):
                return member in hairpins or VirtualServerKey(protocol, address, port) in kept

    return {
        (name, member)
        for name in set_specs(Family, 0)
        if role_of(name) not in (Role.REDIRECTS, Role.SHUTS_OUT)
        for member in state.members.get(name, ())
        if serves(member)
    }
