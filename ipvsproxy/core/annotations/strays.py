"""Annotations of our domain on an EndpointSlice or a Node that mean nothing there.

They are misspelt, or belong on a Service: told, and passed over. Knows their names only, which
`objects` has kept; those of Services are judged in the package.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ipvsproxy.core.annotations.schedulers import SCHEDULER
from ipvsproxy.core.annotations.slice_weights import SLICE_WEIGHTS
from ipvsproxy.core.annotations.weight_source import NODE_WEIGHT
from ipvsproxy.core.problem import Problem, ProblemKind, in_short
from ipvsproxy.objects import EndpointSlice, Node


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


def strays_of_node(node: Node | None) -> str:
    """Say which annotations of our domain mean nothing on a Node; empty: none is there."""
    if node is None or not node.strays:
        return ""
    return (
        f"annotation {in_short(', '.join(node.strays))} of Node {node.name}: not known on a Node, "
        f"and passed over; known is {NODE_WEIGHT} ({SCHEDULER} is read on a Service, "
        f"{SLICE_WEIGHTS} on a Service or an EndpointSlice)"
    )
