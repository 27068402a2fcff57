"""Steps: operations with what each has to wait for, and the draft in which a batch is written.

A step waits in three ways, because a refusal must not hold up what does not depend on it:

    needs      all of these were acknowledged (a member needs its set)
    needs_any  one of these was acknowledged (a server is lowered when any other serves)
    follows    all of these were answered, well or badly (an address is bound after the virtual
               servers behind it, though one of its ports may have been refused)
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

from ipvsproxy.core.operations import Operation
from ipvsproxy.core.plan.target import Target
from ipvsproxy.model import Address, Family, Protocol, RealServerKey, State, VirtualServerKey


class Step(NamedTuple):
    """An operation, and the positions of the steps that it waits for (see the module's text)."""

    operation: Operation
    needs: tuple[int, ...] = ()
    needs_any: tuple[int, ...] = ()
    follows: tuple[int, ...] = ()


class Batch(NamedTuple):
    """Steps in an order in which none waits for a later one."""

    steps: tuple[Step, ...] = ()


class Draft:
    """One run of `plan`: the steps so far, and where the steps are that others wait for."""

    def __init__(self, target: Target, state: State) -> None:
        self.target = target
        self.state = state
        self.steps: list[Step] = []
        self.link: tuple[int, ...] = ()
        self.sets: dict[str, int] = {}
        """Sets that are made."""
        self.grown: dict[str, int] = {}
        """Sets that are made larger."""
        self.chains: dict[Family, int] = {}
        """Chains that are replaced."""
        self.admitted: defaultdict[VirtualServerKey, list[int]] = defaultdict(list)
        """Members without which a virtual server does not work, or is open to too many."""
        self.admitted_ports: defaultdict[tuple[Protocol, int], list[int]] = defaultdict(list)
        """The same for the NodePorts of a number, at whatever address."""
        self.admitted_addresses: defaultdict[Address, list[int]] = defaultdict(list)
        """The same for all that stands at an address."""
        self.loop_backs: dict[tuple[Protocol, RealServerKey], int] = {}
        self.masked: defaultdict[VirtualServerKey, list[int]] = defaultdict(list)
        """Members that ended the masquerading of a virtual server and are taken away."""
        self.masked_ports: defaultdict[tuple[Protocol, int], list[int]] = defaultdict(list)
        self.created: dict[VirtualServerKey, int] = {}
        """Virtual servers that are made."""
        self.raised: dict[VirtualServerKey, tuple[int, ...]] = {}
        """Real servers that come, or whose weight does not fall to 0."""
        self.switched: defaultdict[VirtualServerKey, list[int]] = defaultdict(list)
        """What leads clients elsewhere, or shuts them out."""
        self.shrunk: dict[VirtualServerKey, tuple[int, ...]] = {}
        """Real servers that take no new connection any more."""
        self.unbound: dict[Address, int] = {}
        self.removed: dict[VirtualServerKey, int] = {}
        """Virtual servers that go."""
        self.left: defaultdict[RealServerKey, list[int]] = defaultdict(list)
        """Real servers that go."""
        self.unlisted: defaultdict[Family, list[int]] = defaultdict(list)
        """Redirected frontends that are so no longer."""

    def add(
        self,
        operation: Operation,
        *,
        needs: Iterable[int] = (),
        needs_any: Iterable[int] = (),
        follows: Iterable[int] = (),
    ) -> int:
        """Add a step behind all others; give its position."""
        self.steps.append(Step(operation, tuple(needs), tuple(needs_any), tuple(follows)))
        return len(self.steps) - 1

    def chain_of(self, family: Family) -> tuple[int, ...]:
        """Give the step that replaces a family's chains, where there is one."""
        return (self.chains[family],) if family in self.chains else ()

    def is_own(self, address: Address) -> bool:
        """Whether an address is one of the node's interfaces, as those of NodePorts are."""
        return address in self.state.network.addresses
