"""The annotation that says how long endpoints that have left may finish their connections.

In place of the setting `drainDeadline`, for one Service; 0: not at all. UDP endpoints go at once
in any case.
"""

from __future__ import annotations

from collections.abc import Collection

from ipvsproxy import duration
from ipvsproxy.core.annotations.reading import Reader
from ipvsproxy.model import Protocol

DRAIN_DEADLINE = "ipvsproxy.io/drain-deadline"


def choose_drain_deadline(reader: Reader, protocols: Collection[Protocol]) -> float | None:
    """Give the deadline (s, 0 or more); None: that of the setting."""
    deadline = reader.read(DRAIN_DEADLINE, read_drain_deadline)
    if deadline is not None and set(protocols) == {Protocol.UDP}:
        reader.no_effect(
            DRAIN_DEADLINE,
            "the Service has UDP ports only, whose endpoints go at once; take it away",
        )
    return deadline


def read_drain_deadline(text: str) -> float:
    """Read the annotation: a duration as in the configuration. Raises ValueError."""
    try:
        return duration.seconds(text)
    except ValueError as error:
        raise ValueError(f"{text!r}: {error}, or 0") from None
