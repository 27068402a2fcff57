"""How a duration is written, wherever an operator writes one: in settings and in annotations.

Knows one grammar, that of Go's time.ParseDuration without signs, for a negative duration means
nothing here, and a bare number, which is of seconds. Numbers have at most nine digits before the
point and nine behind it.
"""

from __future__ import annotations

import re
from collections.abc import Callable

_NUMBER = r"(?:[0-9]{1,9}(?:\.[0-9]{0,9})?|\.[0-9]{1,9})"
_PART = re.compile(rf"({_NUMBER})(h|ms|us|µs|ns|m|s)")
_WRITTEN = re.compile(rf"(?:{_NUMBER}(?:h|ms|us|µs|ns|m|s))+")
_BARE = re.compile(_NUMBER)
_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
_HOW = "write for example 30s, 1m30s or 0.5s"


def seconds(text: str) -> float:
    """Read a duration of 0 or more, in seconds. Raises ValueError: how to write it."""
    if _BARE.fullmatch(text):
        return float(text)
    if not _WRITTEN.fullmatch(text):
        raise ValueError(f"a duration is needed; {_HOW}")
    return sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text))


def seconds_from(lowest: float, highest: float) -> Callable[[str], float]:
    """Read a duration between two bounds (s), both allowed. Raises ValueError: how to write it."""

    def read(text: str) -> float:
        try:
            found = seconds(text)
        except ValueError:
            found = -1.0
        if not lowest <= found <= highest:
            raise ValueError(
                f"a duration from {written(lowest)} to {written(highest)} is needed; {_HOW}"
            )
        return found

    return read


def written(seconds: float) -> str:
    """Write a duration for a message, in one unit."""
    for unit, size in (("h", 3600), ("m", 60)):
        if seconds and seconds % size == 0:
            return f"{seconds / size:g}{unit}"
    return f"{seconds:g}s"
