"""Carrying out a batch, as a pure state machine: which steps may be sent now, given the answers.

Knows the three ways in which a step waits (core.plan) and nothing of kernels. The reconciler asks
for what is ready, sends it as one group of operations that do not depend on each other, and tells
the answers; a step whose conditions can no longer hold is given up and gives up its dependants.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from enum import Enum

from ipvsproxy.core.operations import Operation
from ipvsproxy.core.plan import Batch, Step


class _Fate(Enum):
    WAITING = 0
    SENT = 1
    DONE = 2
    FAILED = 3


_UNANSWERED = (_Fate.WAITING, _Fate.SENT)
"""A tuple: hashing an enumeration's member for a set costs more than two comparisons."""


class Execution:
    """The progress of one batch."""

    def __init__(self, batch: Batch, withhold: Callable[[Operation], bool]) -> None:
        """Begin a batch; an operation for which `withhold` is true counts as refused, unsent."""
        self._steps = batch.steps
        self._withhold = withhold
        self._fates = [_Fate.WAITING] * len(batch.steps)
        self._waiting = list(range(len(batch.steps)))

    def ready(self) -> list[int]:
        """Give the positions of the steps to be sent now; they do not depend on each other.

        Empty when the batch has come to its end, provided that all that was sent is answered.
        """
        ready, waiting = [], []
        for position in self._waiting:
            match self._verdict(self._steps[position]):
                case None:
                    waiting.append(position)
                case False:
                    self._fates[position] = _Fate.FAILED
                case True if self._withhold(self._steps[position].operation):
                    self._fates[position] = _Fate.FAILED
                case True:
                    ready.append(position)
        for position in ready:
            self._fates[position] = _Fate.SENT
        self._waiting = waiting
        return ready

    def operation(self, position: int) -> Operation:
        """Give the operation of a step."""
        return self._steps[position].operation

    def answer(self, position: int, *, acknowledged: bool) -> None:
        """Tell what became of a step that was sent."""
        self._fates[position] = _Fate.DONE if acknowledged else _Fate.FAILED

    def unfinished(self) -> Iterator[Operation]:
        """Give the operations that were refused, withheld, or given up for another's sake."""
        return (
            step.operation
            for step, fate in zip(self._steps, self._fates, strict=True)
            if fate is not _Fate.DONE
        )

    def _verdict(self, step: Step) -> bool | None:
        """Whether a step may be sent; None: not known yet."""
        fates = self._fates
        if any(fates[other] is _Fate.FAILED for other in step.needs):
            return False
        some = [fates[other] for other in step.needs_any]
        if some and all(fate is _Fate.FAILED for fate in some):
            return False
        if some and _Fate.DONE not in some:
            return None
        if any(fates[other] is not _Fate.DONE for other in step.needs):
            return None
        if any(fates[other] in _UNANSWERED for other in step.follows):
            return None
        return True
