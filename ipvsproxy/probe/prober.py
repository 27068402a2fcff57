"""Which endpoint is probed when, and what its probes have come to.

Knows targets, how often each is to be probed, and how many probes may be under way; how one is done
is `asking`'s, what a verdict leads to the core's. One heap holds all targets by when they are due,
and one task begins those that are: ten thousand targets are ten thousand entries, not tasks.

- A new target is probed first at a random time within its interval, so that those of one Service,
  and those of all nodes, are spread; each pause is made longer or shorter by the jitter.
- A target that was unhealthy when the agent started is probed at once, and each second until a
  probe fails: it is out of rotation, perhaps for a reason that has gone. Then it is spread as a new
  one is, for there may be thousands.
- When as many probes are under way as may be, the others wait, the longest due first. The bound is
  there for this node's files, not for its pace: the set number, and no more than it has `room` for.
  Who is late by it is told (`punctuality`).
- A probe that could not be tried says nothing, and is tried again with the next.
- Where only what has traffic is probed, a healthy target without rests: it is not due, and probes
  that have spoken against it are forgotten. It begins again as a new one does.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import math
from collections import Counter
from collections.abc import Callable, Mapping

from ipvsproxy.core.annotations.health_check import Check
from ipvsproxy.core.probing import Probing, Standing, Target, Verdict
from ipvsproxy.model import VirtualServerKey
from ipvsproxy.objects import ServiceName
from ipvsproxy.probe.asking import Ask, Cancel, Outcome
from ipvsproxy.store import Judged

_TICK = 0.02
"""Seconds between two looks at what is due: many are begun together, for each look costs."""
_AT_ONCE = 100
"""So many are begun before others in the event loop have their turn."""
_EAGER_PAUSE = 1.0
"""Seconds between two probes of a target that may have recovered while no agent ran."""


def _tell_nobody(_judged: Judged) -> None:
    """Whoever wires a prober up says whom it tells."""


class _Watched:
    """One target, and what is known of it."""

    __slots__ = ("cancel", "check", "due", "eager", "idle", "standing", "target", "told")

    def __init__(self, target: Target, check: Check, *, suspect: bool, idle: bool) -> None:
        self.target = target
        self.check = check
        self.standing = Standing(healthy=not suspect)
        self.eager = suspect
        self.idle = idle
        """Whether it is probed only while it is unhealthy."""
        self.told = False
        """Whether a verdict on it stands in the store."""
        self.due = 0.0
        self.cancel: Cancel | None = None
        """Ends the probe that is under way."""

    @property
    def resting(self) -> bool:
        """Whether it is not probed now."""
        return self.idle and self.standing.healthy


class Prober:
    """Probes what it was told to, for as long as `run` runs."""

    def __init__(
        self,
        *,
        ask: Ask,
        observe: Callable[[float], None],
        clock: Callable[[], float],
        chance: Callable[[], float],
        room: int,
    ) -> None:
        """Wire it up.

        `observe` is told how many seconds a successful probe took; `clock` only runs forward;
        `chance` gives numbers from 0 up to 1; `room` is for how many probes at a time this node has
        open files, 1 or more.
        """
        self.tell: Callable[[Judged], None] = _tell_nobody
        """Is told of verdicts that have changed."""
        self._ask = ask
        self._observe = observe
        self._clock = clock
        self._chance = chance
        self.room = room
        self._probings: Mapping[ServiceName, Probing] = {}
        self._busy: frozenset[VirtualServerKey] = frozenset()
        self._stretch = 1.0
        self.most = 1
        """So many probes may be under way."""
        self._watched: dict[Target, _Watched] = {}
        self._heap: list[tuple[float, int, _Watched]] = []
        self._numbers = itertools.count()
        self._woken = asyncio.Event()
        self._waiting = False
        """Whether something is due, and as many probes are under way as may be."""
        self._rests_until: float | None = None
        """When `run` looks again by itself; None: not before it is woken."""
        self.under_way = 0
        self.outcomes: Counter[Outcome] = Counter()
        """Of probes that have ended, until somebody takes them."""
        self.not_tried = 0
        """Probes for which this node had no file, port or memory, since the start."""

    @property
    def targets(self) -> int:
        """How many endpoints are probed now."""
        return len(self._watched) - self.resting

    @property
    def resting(self) -> int:
        """How many endpoints are not probed now, for they have no traffic."""
        return sum(map(self.resting_of, self._probings))

    def resting_of(self, service: ServiceName) -> int:
        """Say how many endpoints of a Service are not probed now, for they have no traffic."""
        probing = self._probings.get(service)
        if probing is None or not probing.only_with_traffic:
            return 0
        return sum(self._watched[target].resting for target in probing.targets)

    @property
    def late(self) -> float:
        """By how many seconds the probe is late that is longest due; 0: none is."""
        due = next((due for due, _, one in self._heap[:1] if one.due == due), None)
        return max(0.0, self._clock() - due) if due is not None else 0.0

    @property
    def full(self) -> bool:
        """Whether as many probes are under way as may be."""
        return self.under_way >= self.most

    @property
    def worst(self) -> int:
        """How many probes would be under way at a time if none were answered."""
        needed = 0.0
        for name, probing in self._probings.items():
            if (check := probing.check) is not None:
                asked = len(probing.targets) - self.resting_of(name)
                needed += asked * min(1.0, check.timeout / (check.interval * self._stretch))
        return math.ceil(needed)

    def update(self, probings: Mapping[ServiceName, Probing], *, stretch: float, most: int) -> None:
        """Probe these, with intervals `stretch` times as long, at most so many at a time."""
        self._stretch, self.most = stretch, min(most, self.room)
        if probings is self._probings:
            return
        before, self._probings = self._probings, probings
        for name in before.keys() - probings.keys():
            for target in before[name].targets:
                self._drop(target)
        for name, probing in probings.items():
            if before.get(name) is not probing:
                self._follow(before.get(name), probing)
        self._woken.set()

    def traffic(self, busy: frozenset[VirtualServerKey]) -> None:
        """Take note of which virtual servers have traffic, of those that are asked for."""
        changed, self._busy = busy ^ self._busy, busy
        for probing in self._probings.values() if changed else ():
            if not changed.isdisjoint(probing.fronts):
                self._mind_traffic(probing)
        if changed:
            self._woken.set()

    async def run(self) -> None:
        """Probe until cancelled."""
        try:
            while True:
                self._woken.clear()
                pause = self._begin_due()
                self._rests_until = None if pause is None else self._clock() + pause
                try:
                    async with asyncio.timeout(pause):
                        await self._woken.wait()
                except TimeoutError:
                    pass
                await asyncio.sleep(0 if pause == 0 else _TICK)
        finally:
            for one in self._watched.values():
                self._stop(one)

    def _follow(self, before: Probing | None, now: Probing) -> None:
        old = before.targets if before is not None else frozenset[Target]()
        for target in old - now.targets:
            self._drop(target)
        if now.check is None:
            return
        if before is not None and before.check != now.check:
            for target in old & now.targets:
                one = self._watched[target]
                self._stop(one)
                one.check, one.standing = now.check, Standing(one.standing.healthy)
                self._schedule(one, 0.0 if one.eager else self._first_pause(now.check))
        busy = now.with_traffic(self._busy)
        for target in sorted(now.targets - old):
            suspect = target in now.suspects
            one = _Watched(target, now.check, suspect=suspect, idle=target not in busy)
            self._watched[target] = one
            self._schedule(one, 0.0 if one.eager else self._first_pause(now.check))
        self._mind_traffic(now)

    def _mind_traffic(self, probing: Probing) -> None:
        """Let those rest that have no traffic, and no others."""
        busy = probing.with_traffic(self._busy)
        for target in probing.targets:
            one = self._watched[target]
            before, one.idle = one.resting, target not in busy
            if one.resting and not before:
                one.due, one.standing = -1.0, Standing()
                self._stop(one)
            elif before and not one.resting:
                self._schedule(one, self._first_pause(one.check))

    def _first_pause(self, check: Check) -> float:
        return check.interval * self._stretch * self._chance()

    def _pause(self, one: _Watched) -> float:
        check = one.check
        pause = check.interval * self._stretch * (1 + check.jitter * (2 * self._chance() - 1))
        return min(pause, _EAGER_PAUSE) if one.eager else pause

    def _schedule(self, one: _Watched, pause: float) -> None:
        """Have it probed after a pause; what was said before of it counts no longer.

        Nothing is due of one that rests.
        """
        if one.resting:
            one.due = -1.0
            return
        one.due = self._clock() + pause
        if self._rests_until is None or one.due < self._rests_until:
            self._woken.set()
        heapq.heappush(self._heap, (one.due, next(self._numbers), one))

    def _drop(self, target: Target) -> None:
        one = self._watched.pop(target)
        one.due = -1.0
        self._stop(one)
        if one.told:
            self.tell(Judged(target, None))

    def _stop(self, one: _Watched) -> None:
        if one.cancel is not None:
            one.cancel()
            one.cancel = None
            self.under_way -= 1

    def _begin_due(self) -> float | None:
        """Begin what is due; give the seconds until the next is, None: until somebody wakes us."""
        begun = 0
        self._waiting = False
        while self._heap:
            due, _, one = self._heap[0]
            if one.due != due:
                heapq.heappop(self._heap)
                continue
            pause = due - self._clock()
            if pause > 0:
                return pause
            if begun == _AT_ONCE:
                return 0
            if self.full:
                self._waiting = True
                return None
            heapq.heappop(self._heap)
            self._begin(one)
            begun += 1
        return None

    def _begin(self, one: _Watched) -> None:
        began = self._clock()
        behind, one.due = began - one.due, -1.0

        def answered(outcome: Outcome) -> None:
            one.cancel = None
            self.under_way -= 1
            self._answered(one, outcome, began, behind)

        self.under_way += 1
        one.cancel = self._ask(one.target.server, one.check.probe, one.check.timeout, answered)

    def _answered(self, one: _Watched, outcome: Outcome, began: float, behind: float) -> None:
        """Take note of an outcome, and have the next probe made when it would be but for delays.

        A probe that began late makes the pause shorter, by half at most: three in a row that are
        late shall not be so by the sum.
        """
        took = self._clock() - began
        self.outcomes[outcome] += 1
        if outcome is Outcome.SUCCESS:
            self._observe(took)
        was_eager = one.eager
        if outcome is Outcome.NOT_TRIED:
            self.not_tried += 1
        else:
            self._note(one, success=outcome is Outcome.SUCCESS)
        calmed = was_eager and not one.eager and not one.standing.healthy
        if calmed:
            pause = self._first_pause(one.check)
        else:
            pause = max(0.0, self._pause(one) - took)
            pause = max(pause / 2, pause - behind)
        self._schedule(one, pause)
        if self._waiting:
            self._woken.set()

    def _note(self, one: _Watched, *, success: bool) -> None:
        before = one.standing.healthy
        one.standing = one.standing.after(success=success, check=one.check)
        one.eager = one.eager and success and not one.standing.healthy
        if one.standing.healthy != before:
            one.told = True
            healthy = one.standing.healthy
            self.tell(Judged(one.target, Verdict.HEALTHY if healthy else Verdict.UNHEALTHY))
