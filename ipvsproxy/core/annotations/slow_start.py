"""The annotation of a Service that says how long a new endpoint takes to its full share.

Knows how a time is written; a climb is core.weights.slow_start's.
"""

from __future__ import annotations

from ipvsproxy import duration

SLOW_START = "ipvsproxy.io/slow-start"
UNREMEMBERED = "60s"
"""What stands for a text that is wrong after a restart, if a climb may have been under way."""

_READ = duration.seconds_from(2, 3600)


def read_slow_start(text: str) -> int:
    """Read a duration, in whole seconds; a fraction is cut off. Raises ValueError with one line."""
    try:
        return int(_READ(text))
    except ValueError as error:
        raise ValueError(f"{text!r}: {error}") from None
