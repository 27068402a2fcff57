"""From what was touched to batches; a mistake of ours stays with its Service.

A batch is planned when it is asked for: by then the one before it has been carried out.

Knows the settlement and the plan, and remembers the virtual servers that could not be planned,
which nobody else would ask for again; knows neither the kernel nor the store. Such a one is left
as it is in the kernel, with the set members that are its own, is told, and is tried again after a
pause that doubles.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from collections.abc import Set as AbstractSet
from typing import TypeAlias

from ipvsproxy.config import Settings
from ipvsproxy.core.desired import Desired, Touched
from ipvsproxy.core.foundation import foundation
from ipvsproxy.core.ledger import adopt
from ipvsproxy.core.pieces import MANY, Cost, Pieces, cut
from ipvsproxy.core.plan import GROUND, Batch, Target, plan, plan_in_pieces
from ipvsproxy.core.portions import AT_ONCE, Portion, Sort, portions
from ipvsproxy.core.retry import FIRST_PAUSE, LONGEST_PAUSE
from ipvsproxy.core.settlement import Settlement, is_about
from ipvsproxy.core.surroundings import Surroundings
from ipvsproxy.model import RealServerKey, State, VirtualServerKey
from ipvsproxy.reconciler.conditions import ConditionWriter, Stage

AllConnections: TypeAlias = Mapping[VirtualServerKey, Mapping[RealServerKey, int]]


class Planning:
    """Plans what was touched, and again what could not be planned."""

    def __init__(
        self,
        *,
        desired: Desired,
        settlement: Settlement,
        settings: Settings,
        conditions: ConditionWriter,
        clock: Callable[[], float],
        at_once: int | None = None,
    ) -> None:
        """Plan what Services want; `at_once` is that of `portions`, AT_ONCE by default."""
        self._desired = desired
        self._settlement = settlement
        self.settings = settings
        """Of the cycle that is under way."""
        self._conditions = conditions
        self._clock = clock
        self._at_once = AT_ONCE if at_once is None else at_once
        self._unplanned = Touched()
        self._pause = 0.0
        self._due = 0.0
        self.settled: set[VirtualServerKey] = set()
        """The virtual servers of the present cycle's batches so far."""

    @property
    def unplanned(self) -> Collection[VirtualServerKey]:
        """Virtual servers that could not be planned and are not as they should be."""
        return self._unplanned.keys

    @property
    def due(self) -> float | None:
        """When those are tried again; None: there are none."""
        return self._due if self._unplanned != Touched() else None

    def batches(
        self, touched: Touched, around: Surroundings, connections: AllConnections
    ) -> Iterator[Batch | Cost]:
        """Say how to get to what is wanted of what was touched, one portion after the other.

        What planning has cost is told in between (`core.pieces`). `touched` is used up. A mistake
        of ours in the case of one virtual server stays with it: it is found by trying each alone,
        and what else was touched is planned without it.
        """
        self.settled = set()
        if self.due is not None and self._due <= self._clock():
            touched.add(self._unplanned)
            self._unplanned = Touched()
        put_back = Touched()
        for portion in portions(touched, self._desired, around.kernel, at_once=self._at_once):
            if not isinstance(portion, Portion):
                yield portion
                continue
            some, sort = portion
            if sort is Sort.REST:
                some.add(put_back)
            target, batch = yield from self._decide(
                some, around, connections, whole=sort is Sort.REST
            )
            if sort is Sort.STANDING:
                if not all(isinstance(step.operation, GROUND) for step in batch.steps):
                    put_back.add(some)
                batch = Batch()
            self.settled.update(target.virtual_servers)
            yield batch

    def _decide(
        self, touched: Touched, around: Surroundings, connections: AllConnections, *, whole: bool
    ) -> Pieces[tuple[Target, Batch]]:
        """Plan a part of what was touched, or the whole of it, without what cannot be planned."""
        try:
            target, batch = yield from self._plan(touched, around, connections, whole=whole)
        except Exception:  # noqa: BLE001 - the culprit is looked for, and the others go on
            culprits = yield from self._culprits(touched, around, connections)
            self._put_off(touched, culprits)
            target, batch = yield from self._plan(
                touched, around, connections, without=culprits, whole=whole
            )
        self._unplanned.keys.difference_update(target.virtual_servers)
        if self.due is None:
            self._pause = 0.0
        failed = {self._desired.owner(key) for key in self._unplanned.keys}
        for keys in cut(target.virtual_servers, MANY):
            for name in {self._desired.owner(key) for key in keys} - failed:
                if name is not None:
                    self._conditions.worked(name, Stage.PLANNED)
            yield len(keys) // 4
        return target, batch

    def _put_off(self, touched: Touched, culprits: set[VirtualServerKey]) -> None:
        """Take culprits out of what was touched, until the next try."""
        members = {one for one in touched.members if is_about(*one, culprits)}
        touched.keys -= culprits
        touched.members -= members
        self._unplanned.add(Touched(keys=culprits, members=members))
        self._pause = min(self._pause * 2, LONGEST_PAUSE) or FIRST_PAUSE
        self._due = self._clock() + self._pause

    def _culprits(
        self, touched: Touched, around: Surroundings, connections: AllConnections
    ) -> Pieces[set[VirtualServerKey]]:
        """Find the virtual servers that cannot be planned, and tell whose they are."""
        culprits = set()
        for key in self._settlement.with_neighbours(touched, around.kernel):
            alone = Touched(keys={key})
            neighbours = frozenset(self._desired.behind(key.address)) - {key}
            try:
                yield from self._plan(alone, around, connections, without=neighbours)
            except Exception as error:  # noqa: BLE001 - as above
                culprits.add(key)
                if (owner := self._desired.owner(key)) is not None:
                    self._conditions.internal_error(owner, Stage.PLANNED, error)
            touched.members |= alone.members
        return culprits

    def _plan(
        self,
        touched: Touched,
        around: Surroundings,
        connections: AllConnections,
        *,
        without: AbstractSet[VirtualServerKey] = frozenset(),
        whole: bool = True,
    ) -> Pieces[tuple[Target, Batch]]:
        now = self._clock()
        target = yield from self._settlement.target(
            touched, around, connections=connections, now=now, without=without, whole=whole
        )
        seed = self.settings.node_name.encode()
        return target, (yield from plan_in_pieces(target, around.kernel, seed))


def adoption(settings: Settings, state: State) -> Batch:
    """Give the way to fill the ledger from what a predecessor left; empty where there is nothing.

    The predecessor's chains stay until ours are known: they depend on the Services too.
    """
    members = dict.fromkeys(sorted(adopt(state)), True)
    if not members:
        return Batch()
    needed = foundation(settings, state)
    ledger = {name: needed.sets[name] for name, _ in members}
    only_that = needed._replace(sets=ledger, rulesets={}, sysctls={})
    return plan(Target(only_that, members=members), state)
