"""The annotation of a Service that says how much of its traffic stays in the zone.

Knows how it is written; what it comes to is core.weights.zones' to say.
"""

from __future__ import annotations

ZONE_PREFERENCE = "ipvsproxy.io/zone-preference"
LEAST, MOST = 1, 99
"""Per cent; all or nothing is what Kubernetes' own trafficDistribution is for."""


def read_zone_preference(text: str) -> int:
    """Read per cent from 1 to 99, with or without the sign. Raises ValueError with one line."""
    number = text.removesuffix("%").strip()
    # Of thousands of digits Python makes no number.
    written = number.isascii() and number.isdigit() and len(number) <= len(str(MOST))
    if not (written and LEAST <= int(number) <= MOST):
        raise ValueError(
            f"{text!r} is not a whole number from {LEAST} to {MOST}; write for example 90, "
            "for nine in ten connections to the own zone"
        )
    return int(number)
