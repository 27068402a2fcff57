"""The annotation of a Service that says how long a new endpoint takes to its full share.

Knows how a time is written; a climb is core.weights.slow_start's.
"""

from __future__ import annotations

import re

SLOW_START = "ipvsproxy.io/slow-start"
SHORTEST, LONGEST = 2, 3600
"""Seconds."""
UNREMEMBERED = "60s"
"""What stands for a text that is wrong after a restart, if a climb may have been under way."""

_DURATION = re.compile(
    r"(?:(?P<hours>\d{1,9})h)?(?:(?P<minutes>\d{1,9})m)?(?:(?P<seconds>\d{1,9})s)?"
)


def read_slow_start(text: str) -> int:
    """Read a time such as 60s, 2m or 1m30s, in seconds. Raises ValueError with one line."""
    found = _DURATION.fullmatch(text)
    if not text or found is None:
        raise ValueError(f"{text!r} is no time; write for example 60s or 2m")
    hours, minutes, seconds = (int(found[name] or 0) for name in ("hours", "minutes", "seconds"))
    total = (hours * 60 + minutes) * 60 + seconds
    if not SHORTEST <= total <= LONGEST:
        raise ValueError(f"{text!r} is not between {SHORTEST}s and 1h; write for example 60s or 2m")
    return total
