"""How long a failure is waited out."""

from __future__ import annotations

import pytest

from ipvsproxy.sources.kubernetes.pace import Backoff


@pytest.mark.parametrize(
    ("chance", "pauses"),
    [
        (0.0, [0.0] * 8),
        (1.0, [0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30.0, 30.0]),
    ],
)
def test_pauses_are_drawn_between_nothing_and_a_limit_that_doubles(
    chance: float, pauses: list[float]
) -> None:
    backoff = Backoff(lambda: chance)
    assert [backoff.next() for _ in pauses] == pytest.approx(pauses)


def test_a_very_long_outage_still_has_a_pause() -> None:
    backoff = Backoff(lambda: 1.0)
    assert max(backoff.next() for _ in range(5000)) == 30.0


def test_what_the_server_asks_for_comes_on_top_and_has_a_limit() -> None:
    assert Backoff(lambda: 0.5).next(20) == 20.4
    assert Backoff(lambda: 0.5).next(1e9) == 300.4
