"""How what others change in the kernel is found: what is looked at when, and what is doubted then.

    glance   sync period / 12   a virtual server of each family, the link, the sets, two counts
    rules    sync period        sysctls and timeouts, the chains of each family: the two programs
    round    with each glance   some parts of all the rest (`rounds`)

Knows the writer, which reads and compares; knows neither the kernel nor what comes of a difference.
Whatever is not as the shadow says makes an audit of everything due: the loop has it made at once,
counts what had changed, and mends it. Somebody who undoes that over and over is answered at once a
few times, and then twice in a sync period. One step is some milliseconds, and between two the loop
may do something else, as nothing here is in a hurry.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable

from ipvsproxy.config import Settings
from ipvsproxy.core.parts import Addresses, KernelSettings, Part, Rules
from ipvsproxy.reconciler.doubts import Doubt, Numbers, doubts, numbers, unseen, watched_sets
from ipvsproxy.reconciler.network import NetworkFollower
from ipvsproxy.reconciler.rounds import Rounds
from ipvsproxy.reconciler.writer import Writer

__all__ = ["Audits"]

GLANCES = 12
"""Glances in a sync period."""
_LEAST_PAUSE = 1.0
"""Seconds between two glances, at the least."""
_AT_ONCE = 3
"""Audits of everything, for what others change, that may follow each other."""
_DOUBTED_AUDITS = 2
"""Such audits in a sync period, when those are used up."""


class Audits:
    """Looks at the kernel a little at a time, and says when all of it must be read."""

    def __init__(
        self,
        writer: Writer,
        network: NetworkFollower,
        settings: Settings,
        clock: Callable[[], float],
    ) -> None:
        """Have everything read first of all."""
        self._writer = writer
        self._network = network
        self.settings = settings
        """Of the cycle that is under way."""
        self._clock = clock
        now = clock()
        self.full_due: float | None = now
        """When the whole kernel is to be read; None: there is no reason to."""
        self._glance_due = self._rules_due = now
        self._queue: deque[Part] = deque()
        """What of the rules is still to be read."""
        self._rounds = Rounds(now)
        self._rolling = False
        """Whether the round goes on now, as far as there is credit."""
        self._behind = False
        """Whether the glance was so late that what goes with it may not wait any longer either."""
        self._unseen: Numbers | None = None
        self._known: tuple[int, Numbers] | None = None
        """What the shadow has, and of which revision of it."""
        self._allowance = float(_AT_ONCE)
        """Audits of everything that may be made at once, at the moment behind it."""
        self._allowed_at = now
        self.counts: Counter[str] = Counter()
        """Glances, and rounds that came to their end, since somebody has cleared it."""

    @property
    def due(self) -> float:
        """When something is to be looked at, or the whole kernel to be read."""
        if self._queue or self._rolling:
            return self._clock()
        dues = (self.full_due, self._glance_due, self._rules_due)
        return min(due for due in dues if due is not None)

    @property
    def overdue(self) -> bool:
        """Whether a glance, or what goes with it, has waited for as long as the pause is."""
        return self._behind or self._clock() >= self._glance_due + self._pause

    @property
    def is_full_due(self) -> bool:
        """Whether the whole kernel is to be read now."""
        return self.full_due is not None and self._clock() >= self.full_due

    def soon(self) -> None:
        """Have the whole kernel read in the next cycle."""
        self.full_due = self._clock()

    def glance_soon(self, pause: float) -> None:
        """Have a glance made after a pause (s), or earlier."""
        self._glance_due = min(self._glance_due, self._clock() + pause)

    def configure(self, settings: Settings) -> None:
        """Go by another sync period."""
        self.settings = settings
        now = self._clock()
        self._glance_due = min(self._glance_due, now + self._pause)
        self._rules_due = min(self._rules_due, now + settings.sync_period)

    def begin_full(self) -> None:
        """Take note that the whole kernel is about to be read; if that fails, it is due again."""
        now = self._clock()
        self.full_due = now + self.settings.sync_period
        self._glance_due = now + self._pause
        self._rules_due = now + self.settings.sync_period
        self._rolling = self._behind = False
        self._queue.clear()

    async def finish_full(self) -> None:
        """Begin anew: the shadow is true. What the kernel counts beside it is learned."""
        self.full_due = None
        self._rounds.restart(self._clock())
        glance = await self._writer.glance((), ())
        self._unseen = None if glance is None else unseen(glance, self._numbers())

    async def step(self) -> bool:
        """Look at one thing that is due; say whether there was one."""
        now = self._clock()
        if now >= self._glance_due:
            self._behind = now >= self._glance_due + self._pause
            self._glance_due = now + self._pause
            self._rounds.earn(self._writer.state, now, self.settings.sync_period)
            self._rolling = True
            await self._glance()
            return True
        if now >= self._rules_due:
            self._rules_due = now + self.settings.sync_period
            families = sorted(self._writer.state.families)
            self._queue.extend((KernelSettings(), *map(Rules, families)))
        if self._queue:
            await self._look(self._queue.popleft())
            return True
        if self._rolling:
            await self._roll()
            return True
        return False

    @property
    def _pause(self) -> float:
        return max(self.settings.sync_period / GLANCES, _LEAST_PAUSE)

    async def _roll(self) -> None:
        finished = self._rounds.finished
        part = self._rounds.take(self._writer.state)
        self.counts["rounds"] += self._rounds.finished - finished
        if part is None:
            self._rolling = self._behind = False
        else:
            await self._look(part)

    async def _glance(self) -> None:
        state = self._writer.state
        sets = watched_sets(state)
        glance = await self._writer.glance(self._rounds.samples(), sets)
        if glance is None:
            self.doubt()
            return
        self.counts["glances"] += 1
        now = unseen(glance, self._numbers())
        if self._unseen is None:
            self._unseen = now
        match doubts(state, glance, sets=sets, before=self._unseen, now=now):
            case Doubt.TABLES:
                self.doubt()
            case Doubt.ADDRESSES if await self._look(Addresses()):
                self._unseen = self._unseen._replace(addresses=now.addresses)
            case _:
                pass

    async def _look(self, part: Part) -> bool:
        """Read a part; say whether it is as the shadow says."""
        if isinstance(part, Addresses):
            before = self._writer.state.network
            same = await self._writer.look(part)
            self._network.follow(before)
        else:
            same = await self._writer.look(part)
        if not same:
            self.doubt()
        return same

    def doubt(self) -> None:
        """Have everything read, at once unless that was done for this reason too often of late."""
        now = self._clock()
        pause = self.settings.sync_period / _DOUBTED_AUDITS
        allowance = min(self._allowance + (now - self._allowed_at) / pause, _AT_ONCE)
        due = now + max(0.0, 1 - allowance) * pause
        if self.full_due is None or due < self.full_due:
            self.full_due = due
            self._allowance, self._allowed_at = allowance - 1, now

    def _numbers(self) -> Numbers:
        """Count the shadow, unless it is as it was; that takes longer the larger it is."""
        if self._known is None or self._known[0] != self._writer.revision:
            self._known = self._writer.revision, numbers(self._writer.state)
        return self._known[1]
