"""Whether what came of a cell of the matrix is what had to come of it.

What has to come is matrix.expected's; this knows how it shows itself to a client: what the pods
say that they saw, and in which words a failure is told.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

from testbed.client import DENIAL, REFUSAL, SILENCE, Failure, Protocol, answers, failures
from testbed.survey import Question
from tests.e2e.matrix import Answered, Dropped, Refused, Role, Source, Unserved, expected

if TYPE_CHECKING:
    from collections.abc import Sequence

    from testbed.client import Reply
    from testbed.layout import Pod
    from tests.e2e.matrix import Cell


def question(cell: Cell) -> Question:
    """Return what is to be asked for a cell."""
    outcome = expected(cell)
    if not isinstance(outcome, Answered):
        return Question(cell.host, cell.target, silent=True)
    sticky = cell.service.affinity_seconds > 0
    return Question(cell.host, cell.target, frozenset() if sticky else outcome.pods)


def judge(cell: Cell, replies: Sequence[Reply]) -> None:
    """Assert that the replies to a cell's question are what had to come."""
    outcome = expected(cell)
    match outcome:
        case Answered():
            _judge_answers(cell, outcome, replies)
        case Refused():
            [refusal] = failures(replies)
            assert refusal.reason == REFUSAL or _excused(cell, refusal)
        case Dropped():
            [silence] = failures(replies)
            assert silence.reason.startswith(SILENCE) or _excused(cell, silence)
        case Unserved():
            [failure] = replies
            assert isinstance(failure, Failure)
        case _:
            assert_never(outcome)


def _judge_answers(cell: Cell, outcome: Answered, replies: Sequence[Reply]) -> None:
    assert not failures(replies)
    seen = {answer.pod for answer in answers(replies)}
    if cell.service.affinity_seconds:
        assert len(seen) == 1
        assert seen <= outcome.pods
    else:
        assert seen == outcome.pods
    wrong = [
        answer
        for answer in answers(replies)
        if answer.source not in _sources(cell, outcome, cell.layout.pod(answer.pod))
    ]
    assert not wrong


def _sources(cell: Cell, outcome: Answered, pod: Pod) -> set[str]:
    """Return the addresses of which a pod that answered must have seen one."""
    own, via = cell.host.address(cell.family), cell.via
    if own == pod.address(cell.family) or outcome.source is Source.NODE:
        stays = pod.in_host_network and pod.node == via.name and cell.role is not Role.NODE
        return {own} if stays else {*via.addresses, *via.bridge_addresses}
    return {own}


def _excused(cell: Cell, failure: Failure) -> bool:
    """Say whether a client cannot be told more than it was.

    SCTP takes no notice of an ICMP error; a datagram that a node does not let out ends with the
    system call.
    """
    if cell.protocol is Protocol.SCTP:
        return failure.reason.startswith(SILENCE)
    if cell.protocol is Protocol.UDP and cell.role is Role.NODE:
        return failure.reason == DENIAL
    return False
