"""Dataplanes without a kernel: one in memory that obeys its rules, and wrappers around any other.

    FakeDataplane    keeps a `State` by the rules of `rules`, and simulated connections (`balance`)
    FaultyDataplane  refuses what it is told to refuse, whatever it wraps would have said
    DyingDataplane   is killed after some operations, as the agent may be

`FakeDataplane` stands in for the kernel in tests, and under a dry run (`dry_run`).
It is kept honest by tests/contract, which runs on it and on a real kernel. It knows no clock, and
no randomness of its own.
"""

from __future__ import annotations

import asyncio
from itertools import chain
from typing import TYPE_CHECKING

from ipvsproxy.core.parts import Rules, part_of
from ipvsproxy.dataplane import (
    DONE,
    Change,
    Dataplane,
    Glance,
    Outcome,
    Reading,
    Refusal,
    TrafficReading,
)
from ipvsproxy.kernel.balance import Connection, Traffic
from ipvsproxy.kernel.listing import ipvsadm_text
from ipvsproxy.kernel.rules import carry_out, reported
from ipvsproxy.model import (
    Address,
    Family,
    NodeNetwork,
    Ruleset,
    Scheduler,
    State,
    VirtualServerKey,
)

if TYPE_CHECKING:
    import random
    from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence

    from ipvsproxy.core.operations import Operation
    from ipvsproxy.core.parts import Part
    from ipvsproxy.dataplane import Counters

__all__ = [
    "ALL_SCHEDULERS",
    "DyingDataplane",
    "FakeDataplane",
    "FaultyDataplane",
    "Killed",
    "Wrapper",
    "copy_state",
    "fresh_state",
    "random_refusals",
]

ALL_SCHEDULERS = frozenset(str(scheduler) for scheduler in Scheduler)

_SYSCTLS = {
    "kernel/osrelease": "6.1.0",
    "net/ipv4/ip_forward": "0",
    "net/ipv4/vs/conn_reuse_mode": "1",
    "net/ipv4/vs/conntrack": "0",
    "net/ipv4/vs/expire_nodest_conn": "0",
    "net/ipv4/vs/expire_quiescent_template": "0",
}


def fresh_state(families: Collection[Family] = frozenset(Family)) -> State:
    """Return what a network namespace holds that nobody has touched, on a 6.1 kernel."""
    return State(
        families=frozenset(families),
        rulesets={family: Ruleset() for family in sorted(families)},
        sysctls=dict(_SYSCTLS),
    )


def copy_state(state: State) -> State:
    """Copy a state so far that changing one leaves the other alone; its values are frozen."""
    return State(
        families=state.families,
        link=state.link,
        addresses=set(state.addresses),
        virtual_servers=dict(state.virtual_servers),
        real_servers={key: dict(members) for key, members in state.real_servers.items()},
        sets=dict(state.sets),
        members={name: set(members) for name, members in state.members.items()},
        rulesets=dict(state.rulesets),
        sysctls=dict(state.sysctls),
        timeouts=state.timeouts,
        processors=state.processors,
        lacks=dict(state.lacks),
        network=state.network,
    )


class FakeDataplane:
    """The kernel's tables in memory.

    `state` may be edited directly, which is what a foreign program does to a kernel. It is the
    given state itself, or a fresh one.
    """

    def __init__(
        self, state: State | None = None, *, schedulers: frozenset[str] = ALL_SCHEDULERS
    ) -> None:
        self.state = fresh_state() if state is None else state
        self.schedulers = schedulers
        self.traffic = Traffic(self.state)
        self.applied: list[Operation] = []
        """What was acknowledged, in its order."""
        self.writes = 0
        """Operations that were tried, acknowledged or not."""
        self.dumps = 0
        self.glances = 0
        self.parts: list[Part] = []
        """The parts that were read, in their order."""
        self.reads = 0
        """Virtual servers that were read."""
        self.closed = False
        self._changes: asyncio.Queue[Change] = asyncio.Queue()

    async def dump(self) -> State:
        """Return a copy of the state, as far as it is reported."""
        self.dumps += 1
        state = copy_state(self.state)
        state.rulesets = {family: reported(ruleset) for family, ruleset in state.rulesets.items()}
        return state

    async def glance(self, keys: Collection[VirtualServerKey], sets: Collection[str]) -> Glance:
        """Look at the state; all virtual servers and addresses of IPv4 are counted."""
        self.glances += 1
        state = self.state
        bound = [*state.addresses, *chain.from_iterable(state.network.interfaces.values())]
        return Glance(
            link=state.link,
            virtual_servers={key: state.virtual_servers.get(key) for key in keys},
            sets=frozenset(sets).intersection(state.sets),
            ipv4_virtual_servers=sum(key.family is Family.IPV4 for key in state.virtual_servers),
            ipv4_addresses=sum(one.family is Family.IPV4 for one in bound),
        )

    async def look(self, part: Part) -> State:
        """Return a copy of a part of the state, as far as it is reported."""
        self.parts.append(part)
        found = copy_state(part_of(self.state, part))
        if isinstance(part, Rules):
            found.rulesets = {family: reported(one) for family, one in found.rulesets.items()}
        return found

    async def read(
        self, keys: Collection[VirtualServerKey]
    ) -> Mapping[VirtualServerKey, Reading | None]:
        """Read a few virtual servers, with the simulated connections."""
        self.reads += len(keys)
        self.traffic.settle()
        return {key: self._reading(key) for key in keys}

    async def counters(
        self, real_servers_of: Collection[VirtualServerKey] = ()
    ) -> Mapping[VirtualServerKey, TrafficReading]:
        """Count the simulated connections, which have no packets."""
        self.traffic.settle()
        asked = frozenset(real_servers_of)
        return {
            key: TrafficReading(
                self.traffic.counters(key),
                {member: self.traffic.counters(key, member) for member in members}
                if key in asked
                else {},
            )
            for key, members in self.state.real_servers.items()
        }

    async def counters_of(
        self, keys: Collection[VirtualServerKey]
    ) -> Mapping[VirtualServerKey, Counters]:
        """Count the simulated connections of a few virtual servers."""
        self.traffic.settle()
        found = [key for key in keys if key in self.state.virtual_servers]
        return {key: self.traffic.counters(key) for key in found}

    async def network(self) -> NodeNetwork:
        """Return the network of the state."""
        return self.state.network

    async def apply(self, operations: Sequence[Operation]) -> Sequence[Outcome]:
        """Carry out operations by the kernel's rules."""
        return [self._carry_out(operation) for operation in operations]

    async def changes(self) -> AsyncIterator[Change]:
        """Report what `announce` was told, for ever."""
        while True:
            yield await self._changes.get()

    async def close(self) -> None:
        """Remember that it was closed."""
        self.closed = True

    def announce(self, change: Change) -> None:
        """Let `changes` report something."""
        self._changes.put_nowait(change)

    def connect(self, key: VirtualServerKey, client: Address) -> Connection | None:
        """Open a simulated connection; None when it is refused."""
        return self.traffic.connect(key, client)

    def disconnect(self, connection: Connection) -> None:
        """Close a simulated connection."""
        self.traffic.close(connection)

    def text(self) -> str:
        """Write the IPVS table as `ipvsadm -Sn` does, sorted."""
        return ipvsadm_text(self.state)

    def _carry_out(self, operation: Operation) -> Outcome:
        self.writes += 1
        outcome = carry_out(self.state, operation, self.schedulers)
        if outcome.refusal is None:
            self.applied.append(operation)
            self.traffic.settle()
        return outcome

    def _reading(self, key: VirtualServerKey) -> Reading | None:
        server = self.state.virtual_servers.get(key)
        if server is None:
            return None
        members = self.state.real_servers[key]
        return Reading(server, dict(members), self.traffic.counts(key, members))


class Wrapper:
    """Passes everything on."""

    def __init__(self, inner: Dataplane) -> None:
        self._inner = inner

    async def dump(self) -> State:
        """Pass on."""
        return await self._inner.dump()

    async def glance(self, keys: Collection[VirtualServerKey], sets: Collection[str]) -> Glance:
        """Pass on."""
        return await self._inner.glance(keys, sets)

    async def look(self, part: Part) -> State:
        """Pass on."""
        return await self._inner.look(part)

    async def read(
        self, keys: Collection[VirtualServerKey]
    ) -> Mapping[VirtualServerKey, Reading | None]:
        """Pass on."""
        return await self._inner.read(keys)

    async def counters(
        self, real_servers_of: Collection[VirtualServerKey] = ()
    ) -> Mapping[VirtualServerKey, TrafficReading]:
        """Pass on."""
        return await self._inner.counters(real_servers_of)

    async def counters_of(
        self, keys: Collection[VirtualServerKey]
    ) -> Mapping[VirtualServerKey, Counters]:
        """Pass on."""
        return await self._inner.counters_of(keys)

    async def network(self) -> NodeNetwork:
        """Pass on."""
        return await self._inner.network()

    async def apply(self, operations: Sequence[Operation]) -> Sequence[Outcome]:
        """Pass on."""
        return await self._inner.apply(operations)

    def changes(self) -> AsyncIterator[Change]:
        """Pass on."""
        return self._inner.changes()

    async def close(self) -> None:
        """Pass on."""
        await self._inner.close()


class FaultyDataplane(Wrapper):
    """Refuses the operations for which `refuse` names a refusal, and passes the others on.

    What is refused does not reach what is wrapped. `refuse` may be replaced at any time.
    """

    def __init__(
        self, inner: Dataplane, refuse: Callable[[Operation], Refusal | None] = lambda _: None
    ) -> None:
        super().__init__(inner)
        self.refuse = refuse
        self.refused: list[Operation] = []
        """What was refused here, in its order."""

    async def apply(self, operations: Sequence[Operation]) -> Sequence[Outcome]:
        """Refuse some, pass the others on as one batch, and answer in order."""
        outcomes: list[Outcome] = [DONE] * len(operations)
        passed: list[int] = []
        for index, operation in enumerate(operations):
            refusal = self.refuse(operation)
            if refusal is None:
                passed.append(index)
            else:
                outcomes[index] = Outcome(refusal, "refused by the fault injection")
                self.refused.append(operation)
        answers = await self._inner.apply([operations[index] for index in passed])
        for index, answer in zip(passed, answers, strict=True):
            outcomes[index] = answer
        return outcomes


def random_refusals(
    source: random.Random, probability: float, *, kinds: Sequence[Refusal] = tuple(Refusal)
) -> Callable[[Operation], Refusal | None]:
    """Return a `refuse` for `FaultyDataplane` that refuses with a probability (0-1).

    `source` is seeded by the caller, so that a run can be repeated. CONTRADICTED is among the
    kinds: an agent has to survive a kernel that contradicts it without reason.
    """

    def refuse(_: Operation) -> Refusal | None:
        return source.choice(kinds) if source.random() < probability else None

    return refuse


class Killed(BaseException):
    """The agent died here; no `except Exception` may stand in the way, as with kill -9."""


class DyingDataplane(Wrapper):
    """Carries out `operations` operations, and raises `Killed` in place of the next one."""

    def __init__(self, inner: Dataplane, *, operations: int) -> None:
        super().__init__(inner)
        self.left = operations

    async def apply(self, operations: Sequence[Operation]) -> Sequence[Outcome]:
        """Carry out as many as are left. Raises Killed when there were more."""
        now = operations[: self.left]
        self.left -= len(now)
        outcomes = await self._inner.apply(now)
        if len(now) < len(operations):
            raise Killed
        return outcomes
