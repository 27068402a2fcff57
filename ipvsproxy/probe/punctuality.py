"""Says so where probes are not made when their interval says: nobody is found dead late in silence.

Knows how late the prober is, why that may be, and where conditions stand; nothing of what probes
have come to. It looks once a second, at a few numbers, and speaks when three looks in a row have
found the same, so that a long cycle of the agent's own, or a rollout, is not told.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from enum import StrEnum

import structlog

from ipvsproxy.probe.prober import Prober
from ipvsproxy.telemetry import Conditions, ConditionType, Teller, tell_nobody

log = structlog.get_logger(__name__)

LOOK_SECONDS = 1.0
"""Between two looks."""
LOOKS = 3
"""So many in a row must agree before anything is said, or taken back."""
LATE_SECONDS = 1.0
"""A probe may be late by so much: the shortest interval."""
_SUBJECT = "Node"


class Cause(StrEnum):
    """Why probes are late, or are not made at all."""

    BOUND = "bound"
    """As many are under way as may be."""
    NOT_TRIED = "not_tried"
    """This node has no file, port or memory for them."""
    PACE = "pace"
    """This node's processor does not get round to them."""


class Punctuality:
    """Keeps the condition HealthChecksLate equal to how the prober does."""

    def __init__(
        self,
        prober: Prober,
        conditions: Conditions,
        *,
        wall_clock: Callable[[], float],
        tell: Teller = tell_nobody,
    ) -> None:
        """Wire it up; `wall_clock` gives seconds since the epoch, `tell` hears what is raised."""
        self._prober = prober
        self._conditions = conditions
        self._wall_clock = wall_clock
        self._tell = tell
        self._not_tried = 0
        self._found: Cause | None = None
        self._looks = LOOKS
        """How often in a row that was found."""

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            self.look()
            await asyncio.sleep(LOOK_SECONDS)

    def look(self) -> None:
        """Look once, and say or take back what has been found often enough."""
        found = self._cause()
        self._looks = self._looks + 1 if found is self._found else 1
        self._found = found
        if self._looks != LOOKS:
            return
        if found is None:
            self._conditions.clear(_SUBJECT, ConditionType.HEALTH_CHECKS_LATE)
            return
        type_ = ConditionType.HEALTH_CHECKS_LATE
        now = self._wall_clock()
        self._conditions.set(_SUBJECT, type_, message=self._message(found), now=now)
        if raised := self._conditions.take_raised_of(_SUBJECT, type_):
            self._tell(raised, "")
            problem = raised.message
            log.warning("condition", subject=_SUBJECT, type=str(type_), problem=problem)

    def _cause(self) -> Cause | None:
        prober = self._prober
        untried, self._not_tried = prober.not_tried - self._not_tried, prober.not_tried
        if untried:
            return Cause.NOT_TRIED
        if prober.late <= LATE_SECONDS:
            return None
        return Cause.BOUND if prober.full else Cause.PACE

    def _message(self, cause: Cause) -> str:
        prober = self._prober
        late = "probes of health checks are late, so faults are found late"
        match cause:
            case Cause.NOT_TRIED:
                return (
                    "probes of health checks cannot be made, and count for nothing: this node has "
                    "no open file, port or memory left; raise the agent's limits"
                )
            case Cause.BOUND if prober.most < prober.room:
                return (
                    f"{late}: {prober.most} are under way, and no more may be; raise "
                    "healthCheckConcurrency, or the Services' intervals"
                )
            case Cause.BOUND:
                return (
                    f"{late}: {prober.most} are under way, and there are no open files for more; "
                    "raise the agent's limit of open files (LimitNOFILE), or the Services' "
                    "intervals"
                )
            case Cause.PACE:
                return (
                    f"{late}: this node's processor does not keep up with {prober.targets} "
                    "endpoints; raise the Services' intervals, or the agent's CPU limit"
                )
