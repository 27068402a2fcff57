"""Many questions at once, each asked until it is known who answers it.

Knows clients and their answers; what the answer should be is the asker's business, but for the
pods that it hopes to see: a question is asked a few times and, as long as one of these is missing,
some times more. Neither the order of the questions nor what a scheduler gives to whom decides
whether a pod is seen.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from testbed.client import ANSWER_SECONDS, Answer, Connection, Failure

if TYPE_CHECKING:
    from collections.abc import Sequence

    from testbed.client import Reply, Target
    from testbed.layout import Host

AT_A_TIME = 2
"""Requests of one question that follow directly on each other, so that rr gives them two pods."""
MOST_ROUNDS = 10
SILENCE_SECONDS = 1.5
"""How long a client waits where nobody is to answer: these requests are the dear ones."""
SILENT_AT_ONCE = 8
"""Requests that only wait, for each one that is answered: they cost nothing but time."""


@dataclass(frozen=True, slots=True)
class Question:
    """What one client asks of one target, and the pods that it hopes to see."""

    host: Host
    target: Target
    pods: frozenset[str] = frozenset()
    """Empty: it is of no matter who answers."""
    silent: bool = False
    """Nobody is to answer: it is asked once, and for a shorter time."""


class Survey:
    """Asks questions, with a bound on how many are asked at once."""

    def __init__(self, *, at_once: int) -> None:
        self._turn = asyncio.Semaphore(at_once)
        self._silent_turn = asyncio.Semaphore(at_once * SILENT_AT_ONCE)

    async def ask(self, questions: Sequence[Question]) -> list[list[Reply]]:
        """Ask all; return the replies to each, in the order of the questions."""
        return await asyncio.gather(*map(self._ask, questions))

    async def _ask(self, question: Question) -> list[Reply]:
        if question.silent:
            async with self._silent_turn:
                return [await self._once(question, SILENCE_SECONDS)]
        replies: list[Reply] = []
        for _ in range(MOST_ROUNDS):
            async with self._turn:
                replies += await self._round(question)
            seen = {reply.pod for reply in replies if isinstance(reply, Answer)}
            failed = any(isinstance(reply, Failure) for reply in replies)
            if failed or (len(replies) > AT_A_TIME and question.pods <= seen):
                break
        return replies

    async def _round(self, question: Question) -> list[Reply]:
        requests = (self._once(question, ANSWER_SECONDS) for _ in range(AT_A_TIME))
        return await asyncio.gather(*requests)

    async def _once(self, question: Question, seconds: float) -> Reply:
        connection = Connection(question.host, question.target)
        try:
            return await connection.open_and_reply(seconds)
        finally:
            connection.close()
