"""Carrying out a batch, as a pure state machine: which steps may be sent now, given the answers.

Knows the three ways in which a step waits (core.plan) and nothing of kernels. The reconciler asks
for what is ready, sends it as one group of operations that do not depend on each other, and tells
the answers; a step whose conditions can no longer hold is given up and gives up its dependants.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from ipvsproxy.core.operations import Operation
from ipvsproxy.core.pieces import MANY, Pieces, whole
from ipvsproxy.core.plan import Batch, Step

_OPEN, _DONE, _FAILED = 1, 2, 4
"""The fates of a step, as bits: those of many steps together are one number. Open is what waits,
and what was sent and is not answered yet: to who waits for it they are the same."""
_FEW = 8
"""So many steps are looked at quicker than remembered."""


class Execution:
    """The progress of one batch."""

    def __init__(self, batch: Batch, withhold: Callable[[Operation], bool] | None) -> None:
        """Begin a batch; an operation for which `withhold` is true counts as refused, unsent."""
        self._steps = batch.steps
        self._withhold = withhold
        self._fates = bytearray([_OPEN]) * len(batch.steps)
        self._waiting: Iterable[Sequence[int]] = _runs(batch.steps)
        """The steps that wait, in runs of those that wait for the same: one verdict is for all."""
        self._pass: dict[int, int] = {}

    def ready(self) -> list[int]:
        """Give the positions of the steps to be sent now; they do not depend on each other.

        Empty when the batch has come to its end, provided that all that was sent is answered.
        """
        return whole(self.ready_in_pieces())

    def ready_in_pieces(self) -> Pieces[list[int]]:
        """Do what `ready` does; nothing may be answered meanwhile."""
        self._pass.clear()
        ready: list[int] = []
        waiting: list[Sequence[int]] = []
        looked_at = 0
        for run in self._waiting:
            looked_at += len(run)
            if looked_at >= MANY:
                yield looked_at // 4
                looked_at = 0
            match self._verdict(self._steps[run[0]]):
                case None:
                    waiting.append(run)
                case False:
                    self._give_up(run)
                case True if self._withhold is None:
                    ready += run
                case True:
                    withheld = [one for one in run if self._withhold(self._steps[one].operation)]
                    self._give_up(withheld)
                    ready += (one for one in run if self._fates[one] == _OPEN)
        self._waiting = waiting
        return ready

    def _give_up(self, positions: Iterable[int]) -> None:
        for position in positions:
            self._fates[position] = _FAILED

    def operation(self, position: int) -> Operation:
        """Give the operation of a step."""
        return self._steps[position].operation

    def answer(self, position: int, *, acknowledged: bool) -> None:
        """Tell what became of a step that was sent."""
        self._fates[position] = _DONE if acknowledged else _FAILED

    def acknowledged(self, positions: Iterable[int]) -> None:
        """Tell that steps that were sent have been carried out."""
        fates = self._fates
        for position in positions:
            fates[position] = _DONE

    def unfinished(self) -> Iterator[Operation]:
        """Give the operations that were refused, withheld, or given up for another's sake."""
        if self._fates.count(_DONE) == len(self._fates):
            return iter(())
        return (
            step.operation
            for step, fate in zip(self._steps, self._fates, strict=True)
            if fate != _DONE
        )

    def _verdict(self, step: Step) -> bool | None:
        """Whether a step may be sent; None: not known yet."""
        needs = self._fates_of(step.needs) if step.needs else 0
        some = self._fates_of(step.needs_any) if step.needs_any else 0
        if needs & _FAILED or some == _FAILED:
            return False
        if some and not some & _DONE:
            return None
        if needs & ~_DONE:
            return None
        if step.follows and self._fates_of(step.follows) & _OPEN:
            return None
        return True

    def _fates_of(self, positions: tuple[int, ...]) -> int:
        """Give the fates that occur among some steps.

        Remembered for a pass where there are many: the steps of one virtual server share what they
        wait for, and that stands before them, so it is settled when the first of them asks.
        """
        if len(positions) > _FEW and (known := self._pass.get(id(positions))) is not None:
            return known
        fates = 0
        for position in positions:
            fates |= self._fates[position]
        if len(positions) > _FEW:
            self._pass[id(positions)] = fates
        return fates


def _runs(steps: Sequence[Step]) -> Iterator[Sequence[int]]:
    """Cut steps into runs of those that wait for the same, which the plan says by the same tuples.

    Of no more than `MANY`, so that no run is a piece that takes long.
    """
    start = 0
    for position, step in enumerate(steps):
        first = steps[start]
        if (
            step.needs is first.needs
            and step.needs_any is first.needs_any
            and step.follows is first.follows
            and position - start < MANY
        ):
            continue
        yield range(start, position)
        start = position
    if steps:
        yield range(start, len(steps))
