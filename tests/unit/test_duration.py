"""One grammar of durations for settings and annotations."""

from __future__ import annotations

import pytest

from ipvsproxy import duration
from ipvsproxy.config import values
from ipvsproxy.core.annotations import read_slow_start
from ipvsproxy.core.annotations.drain_deadline import read_drain_deadline
from ipvsproxy.core.annotations.health_check import read_options

RIGHT = {
    "30s": 30,
    "1m30s": 90,
    "90": 90,
    "2.5": 2.5,
    "1.5m": 90,
    "0.5m10s": 40,
    "2500ms": 2.5,
    "3s500ms": 3.5,
    "5s1m": 65,
    "3000000us": 3,
    "3000000µs": 3,
    "300000000ns3s": 3.3,
    ".5m": 30,
    "5.s": 5,
}
WRONG = [
    "",
    " ",
    "1m30",
    "30sec",
    "-30s",
    "+30s",
    "1d",
    "1e2",
    "0x10",
    "inf",
    "nan",
    "\u0663\u0660s",
]


def readers() -> dict[str, object]:
    """Give what reads durations, by name."""
    return {
        "setting": values.seconds,
        "drain": read_drain_deadline,
        "slow": read_slow_start,
        "interval": lambda text: read_options(f"interval={text}")["interval"],
    }


@pytest.mark.parametrize("text", [*RIGHT, *WRONG, "9" * 5000 + "s", "1s" * 2000 + "x"])
def test_what_is_a_duration_is_one_everywhere(text: str) -> None:
    wanted = RIGHT.get(text)
    for name, read in readers().items():
        if wanted is None:
            with pytest.raises(ValueError, match="is needed; write for example 30s, 1m30s"):
                read(text)  # type: ignore[operator]
        else:
            exact = int(wanted) if name == "slow" else wanted
            assert read(text) == exact, name  # type: ignore[operator]


def test_bounds_are_written_in_one_unit() -> None:
    assert list(map(duration.written, (0, 0.05, 2, 60, 90, 3600, 5400))) == [
        *("0s", "0.05s", "2s", "1m", "90s", "1h", "90m"),
    ]
