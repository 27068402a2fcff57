"""The one writer of the kernel's tables, and its shadow of them.

The shadow is the picture of the kernel that starts from a dump, advances with every acknowledged
operation, and is read anew for what the kernel contradicts and at every audit. What was refused is
remembered only as long as it is still wanted: with its reason, for the operator, and with a pause,
so that it is not tried in every cycle. Knows operations and the port; decides nothing about
Services.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple, TypeVar

from ipvsproxy.core.desired import Touched
from ipvsproxy.core.execution import Execution
from ipvsproxy.core.operations import (
    AddRealServer,
    AddVirtualServer,
    ForgetFlows,
    Operation,
    RemoveRealServer,
    RemoveVirtualServer,
    SetRealServer,
    SetVirtualServer,
    advance,
)
from ipvsproxy.core.parts import Addresses, Part, part_of
from ipvsproxy.core.pieces import MANY, Cost, Pieces, cut
from ipvsproxy.core.plan import Batch, Step
from ipvsproxy.core.retry import Retries, scope
from ipvsproxy.dataplane import Dataplane, DataplaneError, Glance, Outcome, Reading, Refusal
from ipvsproxy.model import NodeNetwork, RealServerKey, State, VirtualServerKey
from ipvsproxy.reconciler.troubles import Beside, Troubles, parts_of
from ipvsproxy.reconciler.turns import Turns, a_few_at_a_time, in_turns

_DOUBTS = frozenset({Refusal.CONTRADICTED, Refusal.BUSY})
"""After these the virtual server is not known to be as the shadow says."""

_ANSWERS = 1000
"""So many are noted in a turn of the loop."""
_MOST_OWED = 1000
"""Flows that are still to be forgotten, the latest; only where that is always refused, as without
the program, there come to be more, and the older ones have mostly ended by their own timeout."""

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


class RefusedOperation(NamedTuple):
    """An operation that the kernel refused, and what it said."""

    operation: Operation
    outcome: Outcome


@dataclass(slots=True)
class Written:
    """What became of the batches of a cycle."""

    done: Counter[str] = field(default_factory=Counter)
    """Acknowledged operations, by the name of their type."""
    refused: list[RefusedOperation] = field(default_factory=list)
    """Refused ones; those that were withheld or given up are not among them."""
    undone: list[Operation] = field(default_factory=list)
    """All that was not acknowledged: refused, withheld, or given up for another's sake."""
    contradicted: bool = False
    """The kernel is not what we thought, beyond what could be read anew at once."""
    unsupported: set[str] = field(default_factory=set)
    """Schedulers that this kernel turned out not to have."""
    foreign: set[VirtualServerKey] = field(default_factory=set)
    """Virtual servers that were to be made and that somebody else has made meanwhile."""


class Writer:
    """Carries out batches on a dataplane and keeps the shadow."""

    def __init__(self, dataplane: Dataplane, clock: Callable[[], float]) -> None:
        self._dataplane = dataplane
        self._clock = clock
        self._retries = Retries()
        self._tried = clock()
        self._refusals: dict[Operation, Outcome] = {}
        self._state: State | None = None
        self._unanswered: set[VirtualServerKey] = set()
        """To be made, and perhaps made: the kernel's answer was lost, and nothing read since."""
        self._owed: dict[ForgetFlows, None] = {}
        """Refused ones, the latest last: nothing in the tables would ask for them again."""
        self._troubles = Troubles()
        self.unread = False
        """Whether the latest reading of virtual servers failed, and nothing was read since."""
        self.revision = 0
        """Another one when the shadow has changed."""
        self.unfinished = Touched()
        """What must be planned again, for something of it was not carried out."""

    @property
    def state(self) -> State:
        """The shadow. The first `dump` must have been made."""
        assert self._state is not None, "nothing is planned before the first dump"
        return self._state

    @property
    def known(self) -> bool:
        """Whether there has been a dump."""
        return self._state is not None

    @property
    def refusals(self) -> list[RefusedOperation]:
        """What is refused now, tried in this cycle or waiting for its next try."""
        return [
            RefusedOperation(operation, outcome) for operation, outcome in self._refusals.items()
        ]

    @property
    def trouble(self) -> str:
        """Why something of the kernel cannot be read (`troubles`); empty: all of it could."""
        return self._troubles.reason(self._state)

    def next_due(self) -> float | None:
        """When the first refused operation may be tried again; None: nothing is refused."""
        return self._retries.next_due(self._tried)

    async def dump(self) -> Counter[str]:
        """Read the whole kernel into the shadow; count what others had changed, by kind.

        Raises DataplaneError when it cannot be read; the shadow is then as before. So are the
        chains of a family that could not be read this time: they stand, and sets lead into them.
        """
        try:
            found = await self._dataplane.dump()
        except DataplaneError as error:
            self._troubles.failed([Beside.ALL], str(error))
            raise
        self._troubles.all_read(found)
        self.unread = False
        drifted = Counter[str]()
        if self._state is not None:
            for family in found.families - found.rulesets.keys():
                if family in self._state.rulesets:
                    found.rulesets[family] = self._state.rulesets[family]
            drifted = await in_turns(drift(self._state, found))
            await in_turns(_keep(self._state, found))
        self._state = found
        self.revision += 1
        return drifted

    async def glance(
        self, keys: Collection[VirtualServerKey], sets: Collection[str]
    ) -> Glance | None:
        """Look whether these are there, and count; None where that failed, and `trouble` says why.

        The shadow stays as it is.
        """
        try:
            glance = await self._dataplane.glance(keys, sets)
        except DataplaneError as error:
            self._troubles.failed([Beside.GLANCE], str(error))
            return None
        self._troubles.succeeded([Beside.GLANCE])
        return glance

    async def look(self, part: Part) -> bool:
        """Read one part of the kernel; say whether it is as the shadow says, which stays as it is.

        But for the node's own network, which is not ours: that is taken over. Where the part cannot
        be read, it is not as the shadow says, and `trouble` says why.
        """
        try:
            found = await self._dataplane.look(part)
        except DataplaneError as error:
            self._troubles.failed(parts_of(part), str(error))
            return False
        self._troubles.succeeded(parts_of(part))
        if isinstance(part, Addresses):
            self.state.network = found.network
        return found == part_of(self.state, part)

    async def look_around(self) -> NodeNetwork:
        """Read the node's own network into the shadow; give it as it was before.

        Where it cannot be read it stays as it was (kubernetes #129146); `trouble` says why.
        """
        before = self.state.network
        try:
            self.state.network = await self._dataplane.network()
        except DataplaneError as error:
            self._troubles.failed([Beside.NETWORK], str(error))
        else:
            self._troubles.succeeded([Beside.NETWORK])
        return before

    async def read(
        self, keys: Collection[VirtualServerKey]
    ) -> dict[VirtualServerKey, dict[RealServerKey, int]]:
        """Read a few virtual servers into the shadow; give the connections of who is at weight 0.

        Connections are the active and the inactive ones, as kube-proxy counts them for draining.
        A kernel that cannot be read just now tells nothing: the answer is empty, and `trouble`
        says why.
        """
        readings = await self._note_readings(keys) if keys else {}
        found: dict[VirtualServerKey, dict[RealServerKey, int]] = {}
        async for some in a_few_at_a_time(readings.items()):
            for key, reading in some:
                if reading is not None:
                    found[key] = {
                        member: counted.active + counted.inactive
                        for member, real in reading.real_servers.items()
                        if not real.weight
                        for counted in (reading.connections[member],)
                    }
        return found

    async def _note_readings(
        self, keys: Collection[VirtualServerKey]
    ) -> Mapping[VirtualServerKey, Reading | None]:
        try:
            readings = await self._dataplane.read(keys)
        except DataplaneError as error:
            self._troubles.failed(keys, str(error))
            self.unread = True
            return {}
        self._troubles.succeeded(keys)
        self.unread = False
        self.revision += 1
        async for some in a_few_at_a_time(readings.items()):
            for key, reading in some:
                _note(self.state, key, reading)
        return readings

    async def carry_out(self, batches: Iterable[Batch | Cost]) -> Written:
        """Carry out batches, group by group; the shadow advances with each acknowledgement.

        Each batch is asked for when the one before it has been carried out; in between comes what
        planning has cost. What is left undone becomes `unfinished`, so that the next cycle plans it
        again.
        """
        written = Written()
        planned: set[Operation] = set()
        turns = Turns()
        for batch in batches:
            if not isinstance(batch, Batch):
                await turns.use(batch)
                continue
            await self._carry_out(batch, written)
            if self._owed:
                planned.update(step.operation for step in batch.steps)
        await self._carry_out(Batch(tuple(self._owed_steps(planned))), written)
        self._remember(written.undone)
        return written

    async def _carry_out(self, batch: Batch, written: Written) -> None:
        now = self._tried = (
            self._clock()
        )  # once: in a guest it is a system call, and a batch has thousands
        retries = self._retries
        withhold = None if retries.none else partial(retries.withheld, now=now)
        execution = Execution(batch, withhold)
        while positions := await in_turns(execution.ready_in_pieces()):
            before = len(written.refused)
            operations = [execution.operation(position) for position in positions]
            outcomes = await self._dataplane.apply(operations)
            answers = zip(positions, operations, outcomes, strict=True)
            async for some in a_few_at_a_time(answers, _ANSWERS):
                self._note_answers(execution, some, written)
            if len(written.refused) > before:
                await self._read_again(operations, outcomes, written)
        written.undone += execution.unfinished()

    def _note_answers(
        self,
        execution: Execution,
        answers: Iterable[tuple[int, Operation, Outcome]],
        written: Written,
    ) -> None:
        """Note what became of operations; they do not depend on each other."""
        positions: list[int] = []
        acknowledged: list[Operation] = []
        for position, operation, outcome in answers:
            if outcome.refusal is None:
                positions.append(position)
                acknowledged.append(operation)
            else:
                execution.answer(position, acknowledged=False)
                self._note_refusal(operation, outcome, written)
        execution.acknowledged(positions)
        for operation in acknowledged:
            advance(self.state, operation)
        self.revision += len(acknowledged)
        self._retries.acknowledged(acknowledged)
        for kind, count in Counter(map(type, acknowledged)).items():
            written.done[kind.__name__] += count

    def _note_refusal(self, operation: Operation, outcome: Outcome, written: Written) -> None:
        self._retries.refused(operation, self._clock())
        self._refusals[operation] = outcome
        written.refused.append(RefusedOperation(operation, outcome))
        match operation:
            case AddVirtualServer(_, server) | SetVirtualServer(_, server):
                if outcome.refusal is Refusal.UNSUPPORTED:
                    written.unsupported.add(server.scheduler)
            case _:
                pass
        if outcome.refusal is Refusal.CONTRADICTED and virtual_server_of(operation) is None:
            written.contradicted = True

    async def _read_again(
        self, operations: Collection[Operation], outcomes: Collection[Outcome], written: Written
    ) -> None:
        """Read anew what the kernel contradicted or did not answer, so that the next plan is true.

        A virtual server that was to be made and is there has been made by somebody else - unless
        an answer of the kernel to us was lost.
        """
        doubtful: set[VirtualServerKey] = set()
        met: set[VirtualServerKey] = set()
        for operation, outcome in zip(operations, outcomes, strict=True):
            key = virtual_server_of(operation)
            if key is None or outcome.refusal not in _DOUBTS:
                continue
            doubtful.add(key)
            if isinstance(operation, AddVirtualServer):
                if outcome.refusal is Refusal.BUSY:
                    self._unanswered.add(key)
                elif key not in self._unanswered:
                    met.add(key)
        if doubtful and await self._note_readings(doubtful):
            self._unanswered -= doubtful
            written.foreign |= met & self.state.virtual_servers.keys()

    def _owed_steps(self, planned: AbstractSet[Operation]) -> Iterator[Step]:
        """Give the flows still to be forgotten, but those whose real server has come back."""
        for owed in self._owed:
            back = owed.member in self.state.real_servers.get(owed.key, {})
            if owed not in planned and not back:
                yield Step(owed)

    def _remember(self, undone: Collection[Operation]) -> None:
        """Keep reasons and pauses of what is still wanted, forget those of what is not."""
        wanted = frozenset(undone)
        self._retries.forget_unless(wanted)
        self._refusals = {key: outcome for key, outcome in self._refusals.items() if key in wanted}
        owed = [one for one in self._owed if one in wanted]
        owed += [one for one in undone if isinstance(one, ForgetFlows) and one in self._refusals]
        self._owed = dict.fromkeys(list(dict.fromkeys(owed))[-_MOST_OWED:])
        self.unfinished = Touched()
        for operation in undone:
            self.unfinished.add(scope(operation))


def virtual_server_of(operation: Operation) -> VirtualServerKey | None:
    """Give the virtual server that an operation is about; None where it is about none."""
    match operation:
        case AddVirtualServer(key, _) | SetVirtualServer(key, _) | RemoveVirtualServer(key):
            return key
        case AddRealServer(key, _, _) | SetRealServer(key, _, _) | RemoveRealServer(key, _):
            return key
        case _:
            return None


def drift(before: State, after: State) -> Pieces[Counter[str]]:
    """Count in how many places two pictures of the kernel differ, by kind."""
    counted = Counter(
        link=int(before.link != after.link),
        addresses=len(before.addresses ^ after.addresses),
        virtual_servers=(yield from _differing(before.virtual_servers, after.virtual_servers)),
        real_servers=(yield from _differing(before.real_servers, after.real_servers)),
        sets=(yield from _differing(before.members, after.members)),
        chains=(yield from _differing(before.rulesets, after.rulesets)),
        sysctls=(yield from _differing(before.sysctls, after.sysctls)),
        timeouts=int(before.timeouts != after.timeouts),
    )
    return +counted


def _differing(before: Mapping[_Key, _Value], after: Mapping[_Key, _Value]) -> Pieces[int]:
    differing = 0
    for key, value in before.items():
        differing += value != after.get(key)
        yield 1 + (len(value) // 10 if isinstance(value, set) else 0)
    return differing + len(after.keys() - before.keys())


def _keep(before: State, found: State) -> Pieces[None]:
    """Keep the real servers that are as before: others hold the same objects, and memory is one."""
    for some in cut(before.real_servers.items(), MANY):
        for key, real_servers in some:
            if found.real_servers.get(key) == real_servers:
                found.real_servers[key] = real_servers
        yield len(some) // 4


def _note(state: State, key: VirtualServerKey, reading: Reading | None) -> None:
    if reading is None:
        state.virtual_servers.pop(key, None)
        state.real_servers.pop(key, None)
        return
    state.virtual_servers[key] = reading.server
    if state.real_servers.get(key) != reading.real_servers:  # else names stay the same objects
        state.real_servers[key] = dict(reading.real_servers)
