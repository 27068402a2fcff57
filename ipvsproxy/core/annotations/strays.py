"""Annotations of our domain on an EndpointSlice that mean nothing there.

They are misspelt, or belong on a Service: told, and passed over. Knows their names only, which
`objects` has kept; those of Services are judged in the package.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ipvsproxy.core.annotations.schedulers import SCHEDULER
from ipvsproxy.core.annotations.slice_weights import SLICE_WEIGHTS
from ipvsproxy.core.problem import Problem, ProblemKind
from ipvsproxy.objects import EndpointSlice


def strays(slices: Iterable[EndpointSlice]) -> Iterator[Problem]:
    """Say of each slice which annotations of our domain mean nothing on it."""
    for part in slices:
        if part.strays:
            yield Problem(
                ProblemKind.INVALID_ANNOTATION,
                f"annotation {', '.join(part.strays)} of EndpointSlice {part.name}: not known on "
                f"an EndpointSlice, and passed over; known is {SLICE_WEIGHTS} "
                f"({SCHEDULER} is read on a Service)",
            )
