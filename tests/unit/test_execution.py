"""Which steps may be sent when, by the answers so far."""

from __future__ import annotations

import pytest

from ipvsproxy.core.execution import Execution
from ipvsproxy.core.operations import Operation, SetSysctl
from ipvsproxy.core.plan import Batch, Step


def numbered(index: int) -> Operation:
    return SetSysctl(str(index), "1")


def batch(*waits: dict[str, tuple[int, ...]]) -> Batch:
    return Batch(tuple(Step(numbered(index), **one) for index, one in enumerate(waits)))


def carried_out(steps: Batch, refused: set[int], withheld: set[int]) -> list[list[int]]:
    execution = Execution(steps, lambda operation: operation in map(numbered, withheld))
    groups = []
    while ready := execution.ready():
        groups.append(ready)
        for position in ready:
            assert execution.operation(position) == numbered(position)
            execution.answer(position, acknowledged=position not in refused)
    done = {position for group in groups for position in group} - refused
    expected = [step.operation for at, step in enumerate(steps.steps) if at not in done]
    assert list(execution.unfinished()) == expected
    return groups


@pytest.mark.parametrize(
    ("waits", "refused", "withheld", "groups"),
    [
        pytest.param([], set(), set(), [], id="nothing"),
        pytest.param([{}, {}], set(), set(), [[0, 1]], id="together"),
        pytest.param([{}, {"needs": (0,)}], set(), set(), [[0], [1]], id="one after the other"),
        pytest.param([{}, {"needs": (0,)}, {}], {0}, set(), [[0, 2]], id="refused: given up"),
        pytest.param([{}, {"needs": (0,)}], set(), {0}, [], id="withheld: given up"),
        pytest.param(
            [{}, {"needs": (0,)}, {"needs": (1,)}], {0}, set(), [[0]], id="and all that hangs on it"
        ),
        pytest.param(
            [{}, {}, {"needs": (0, 1)}], {1}, set(), [[0, 1]], id="all of these, one refused"
        ),
        pytest.param(
            [{}, {}, {"needs_any": (0, 1)}], {0}, set(), [[0, 1], [2]], id="any of these, one left"
        ),
        pytest.param(
            [{}, {}, {"needs_any": (0, 1)}], {0, 1}, set(), [[0, 1]], id="any of these, none left"
        ),
        pytest.param(
            [{}, {"needs": (0,)}, {"needs_any": (0, 1)}],
            set(),
            set(),
            [[0], [1, 2]],
            id="any: does not wait for the others",
        ),
        pytest.param(
            [{}, {"follows": (0,)}], {0}, set(), [[0], [1]], id="follows, whatever the answer"
        ),
        pytest.param([{}, {"follows": (0,)}], set(), {0}, [[1]], id="follows what is withheld"),
        pytest.param(
            [{}, {"needs": (0,)}, {"follows": (1,)}],
            {0},
            set(),
            [[0], [2]],
            id="follows a lost one",
        ),
    ],
)
def test_groups(
    waits: list[dict[str, tuple[int, ...]]],
    refused: set[int],
    withheld: set[int],
    groups: list[list[int]],
) -> None:
    assert carried_out(batch(*waits), refused, withheld) == groups


def test_nothing_more_is_ready_while_answers_are_awaited() -> None:
    execution = Execution(batch({}, {"needs": (0,)}), lambda _: False)
    assert execution.ready() == [0]
    assert execution.ready() == []
    execution.answer(0, acknowledged=True)
    assert execution.ready() == [1]
