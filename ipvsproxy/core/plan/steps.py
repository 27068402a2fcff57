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
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

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


class NodePort(NamedTuple):
    """A port at whatever address of the node, as the sets of NodePorts have it: of one family."""

    family: Family
    protocol: Protocol
    port: int


def node_port(key: VirtualServerKey) -> NodePort:
    """Give what a virtual server at an address of the node is in the sets of NodePorts."""
    return NodePort(key.family, key.protocol, key.port)


_Key = TypeVar("_Key")


def _lists() -> defaultdict[_Key, list[int]]:
    return defaultdict(list)


@dataclass(slots=True)
class Draft:
    """One run of `plan`: the steps so far, and where the steps are that others wait for."""

    target: Target
    state: State
    steps: list[Step] = field(default_factory=list)
    link: tuple[int, ...] = ()
    sets: dict[str, int] = field(default_factory=dict)
    """Sets that are made."""
    grown: dict[str, int] = field(default_factory=dict)
    """Sets that are made larger."""
    chains: dict[Family, int] = field(default_factory=dict)
    """Chains that are replaced."""
    admitted: defaultdict[VirtualServerKey, list[int]] = field(default_factory=_lists)
    """Members without which a virtual server does not work, or is open to too many."""
    closed: defaultdict[VirtualServerKey, list[int]] = field(default_factory=_lists)
    """Those of them that close it to some."""
    admitted_ports: defaultdict[NodePort, list[int]] = field(default_factory=_lists)
    """The same for the NodePorts of a number, at whatever address."""
    admitted_addresses: defaultdict[Address, list[int]] = field(default_factory=_lists)
    """The same for all that stands at an address."""
    loop_backs: dict[tuple[Protocol, RealServerKey], int] = field(default_factory=dict)
    masked: defaultdict[VirtualServerKey, list[int]] = field(default_factory=_lists)
    """What begins the masquerading of a virtual server's clients again."""
    masked_ports: defaultdict[NodePort, list[int]] = field(default_factory=_lists)
    """The same for the NodePorts of a number."""
    created: dict[VirtualServerKey, int] = field(default_factory=dict)
    """Virtual servers that are made."""
    raised: dict[VirtualServerKey, tuple[int, ...]] = field(default_factory=dict)
    """Real servers that come, or whose weight does not fall to 0."""
    switched: defaultdict[VirtualServerKey, list[int]] = field(default_factory=_lists)
    """What leads clients elsewhere, or shuts them out."""
    bound: dict[Address, int] = field(default_factory=dict)
    rerouted: defaultdict[VirtualServerKey, list[int]] = field(default_factory=_lists)
    """Chains that lead clients to another virtual server than this one from now on."""
    led_no_more: defaultdict[VirtualServerKey, list[int]] = field(default_factory=_lists)
    """Redirections to this virtual server that end."""
    shrunk: dict[VirtualServerKey, tuple[int, ...]] = field(default_factory=dict)
    """Real servers that take no new connection any more."""
    unbound: dict[Address, int] = field(default_factory=dict)
    removed: dict[VirtualServerKey, int] = field(default_factory=dict)
    """Virtual servers that go."""
    left: defaultdict[tuple[Protocol, RealServerKey], list[int]] = field(default_factory=_lists)
    """Real servers that go."""
    forgotten: defaultdict[tuple[VirtualServerKey, RealServerKey], list[int]] = field(
        default_factory=_lists
    )
    """Real servers that have gone, by what their UDP clients had asked for."""
    unlisted: defaultdict[Family, list[int]] = field(default_factory=_lists)
    """Redirected frontends that are so no longer."""

    def add(
        self,
        operation: Operation,
        *,
        needs: Iterable[int] = (),
        needs_any: Iterable[int] = (),
        follows: Iterable[int] = (),
    ) -> int:
        """Add a step behind all others; give its position.

        Steps that wait for the same are given the same tuple: so they are known to (`Execution`).
        """
        self.steps.append(Step(operation, tuple(needs), tuple(needs_any), tuple(follows)))
        return len(self.steps) - 1

    def add_each(
        self, operations: Iterable[Operation], needs: tuple[int, ...], follows: tuple[int, ...]
    ) -> range:
        """Add steps behind all others that wait for the same; give their positions."""
        first = len(self.steps)
        self.steps += [Step(operation, needs, (), follows) for operation in operations]
        return range(first, len(self.steps))

    def chain_of(self, family: Family) -> tuple[int, ...]:
        """Give the step that replaces a family's chains, where there is one."""
        return (self.chains[family],) if family in self.chains else ()

    def is_own(self, address: Address) -> bool:
        """Whether an address is one of the node's interfaces, as those of NodePorts are."""
        return address in self.state.network.addresses
