"""The port between what is decided and the kernel: protocol `Dataplane`, and what it answers.

Knows operations and states; does not know how they reach a kernel, nor when they are asked for.
`ipvsproxy.kernel` has the implementations: the Linux one, a fake that obeys the kernel's rules, one
that fails at random, one that only records. One contract suite runs on all that can hold a state.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from enum import Enum
from typing import NamedTuple, Protocol, TypeAlias

from ipvsproxy.core.operations import Operation
from ipvsproxy.core.parts import Part
from ipvsproxy.model import (
    Connections,
    NodeNetwork,
    RealServer,
    RealServerKey,
    State,
    VirtualServer,
    VirtualServerKey,
)


class Refusal(Enum):
    """Why the kernel did not carry out an operation; decides what is done next."""

    CONTRADICTED = "contradicted"
    """What was to be added exists, or what was to be set does not: our picture is wrong."""
    UNSUPPORTED = "unsupported"
    """This kernel lacks what is asked for: a scheduler, a set type, a module, a sysctl."""
    FORBIDDEN = "forbidden"
    """The right is missing: CAP_NET_ADMIN, a read-only /proc/sys."""
    FULL = "full"
    """A set has reached its maxelem."""
    INVALID = "invalid"
    """The kernel calls the arguments wrong (EINVAL)."""
    BUSY = "busy"
    """Passing: no answer within the time limit, buffers, memory, a lock; try again."""
    FAILED = "failed"
    """Anything else."""


class Outcome(NamedTuple):
    """What became of one operation."""

    refusal: Refusal | None = None
    """None: the kernel has acknowledged it."""
    reason: str = ""
    """What the kernel or the program said, in one line; empty when it was done."""


DONE = Outcome()


class Reading(NamedTuple):
    """A virtual server as the kernel reports it."""

    server: VirtualServer
    real_servers: Mapping[RealServerKey, RealServer]
    connections: Mapping[RealServerKey, Connections]
    """Of each of the real servers."""


class Counters(NamedTuple):
    """What has gone through a virtual or a real server since it was made, or since `ipvsadm -Z`.

    `in` is what clients send, `out` what comes back to them; bytes are those of IP packets.
    """

    connections: int = 0
    packets_in: int = 0
    packets_out: int = 0
    bytes_in: int = 0
    bytes_out: int = 0


class TrafficReading(NamedTuple):
    """What the kernel has counted of a virtual server."""

    counters: Counters
    real_servers: Mapping[RealServerKey, Counters]
    """Empty where they were not asked for."""


class Glance(NamedTuple):
    """What can be seen at a glance: that things are there, and how many of the others.

    The numbers count more than we look at (virtual servers by firewall mark, addresses of all
    interfaces), so they mean something beside an earlier glance only. None: this kernel does not
    say.
    """

    link: bool
    virtual_servers: Mapping[VirtualServerKey, VirtualServer | None]
    """Those that were asked for; None for one that is not there."""
    sets: frozenset[str]
    """Which of the sets that were asked for are there."""
    ipv4_virtual_servers: int | None
    """How many there are; of IPv6 the kernel counts none."""
    ipv4_addresses: int | None
    """How many there are on all interfaces; of IPv6 the kernel counts none."""


class NodeNetworkChanged(NamedTuple):
    """An address, a link or a route of this node came or went."""


Change: TypeAlias = NodeNetworkChanged


class DataplaneError(Exception):
    """The kernel's tables cannot be read at all; the message says what is missing and the mend."""


class Dataplane(Protocol):
    """The kernel's tables.

    Calls are not made concurrently: there is one writer, and it waits for each answer. `counters`
    and `counters_of` may be called beside others, which wait for a part of them at the most.
    """

    async def dump(self) -> State:
        """Read everything that we look at. Raises DataplaneError when that is not possible."""
        ...

    async def glance(self, keys: Collection[VirtualServerKey], sets: Collection[str]) -> Glance:
        """Look whether a few virtual servers and our sets are there, and count.

        Launches nothing; costs a request for each key and each set, and the same however much the
        tables hold. Raises DataplaneError as `dump` does.
        """
        ...

    async def look(self, part: Part) -> State:
        """Read one part of what `dump` reads, as `core.parts.part_of` a dump would have it.

        `Rules` launch a program, no other part does. What could not be read, though `dump` reads
        it by other means, is left out. Raises DataplaneError as `dump` does.
        """
        ...

    async def read(
        self, keys: Collection[VirtualServerKey]
    ) -> Mapping[VirtualServerKey, Reading | None]:
        """Read a few virtual servers with their connection counts; None for one that is not there.

        Costs a request or two to the kernel for each key, and what its real servers take to list.
        Raises DataplaneError as `dump` does.
        """
        ...

    async def counters(
        self, real_servers_of: Collection[VirtualServerKey] = ()
    ) -> Mapping[VirtualServerKey, TrafficReading]:
        """Read what was counted of all virtual servers, and of the real servers of some.

        The kernel brings them up to date every 2 s (net/netfilter/ipvs/ip_vs_est.c). Costs one
        listing, and one more for each key of `real_servers_of`; one that is not there is
        left out. Raises DataplaneError as `dump` does, and on kernels before 4.1, which count
        packets in 32 bits only.
        """
        ...

    async def counters_of(
        self, keys: Collection[VirtualServerKey]
    ) -> Mapping[VirtualServerKey, Counters]:
        """Read what was counted of a few virtual servers; one that is not there is left out.

        As current as `counters`. Costs one request for each key. Raises DataplaneError as
        `counters` does.
        """
        ...

    async def network(self) -> NodeNetwork:
        """Read the node's own network, as `dump` does; cheap. Raises DataplaneError."""
        ...

    async def apply(self, operations: Sequence[Operation]) -> Sequence[Outcome]:
        """Carry out operations that do not depend on each other; one outcome each, in order.

        A refusal is an outcome and holds up no other operation; nothing is raised for it. A
        cancelled call is carried out to its end all the same.
        """
        ...

    def changes(self) -> AsyncIterator[Change]:
        """Report what changed on the node by itself, for as long as the iteration lasts."""
        ...

    async def close(self) -> None:
        """Release sockets and threads; the kernel's tables stay as they are."""
        ...
