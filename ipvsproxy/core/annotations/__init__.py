"""What an operator chooses by annotation.

    reading        how a Service's annotations are read; what becomes of a wrong value
    schedulers     ipvsproxy.io/scheduler
    slice_weights  ipvsproxy.io/weights of an EndpointSlice
    strays         what is in our domain, and means nothing on an EndpointSlice

Every value is judged where it is read, and a wrong one is answered with what is wrong and how to
write it (DESIGN: what an operator types wrong is answered). A new annotation of a Service has a
module here and stands in `KNOWN`.
"""

from __future__ import annotations

from collections.abc import Mapping

from ipvsproxy.core.annotations.reading import Reader
from ipvsproxy.core.annotations.schedulers import (
    SCHEDULER,
    SCHEDULER_ALIASES,
    SchedulerChoice,
    choose_scheduler,
    scheduler_flags,
)
from ipvsproxy.core.annotations.slice_weights import MAX_WEIGHT, SLICE_WEIGHTS, read_weights
from ipvsproxy.core.problem import Problem, ProblemKind

__all__ = [
    "KNOWN",
    "MAX_WEIGHT",
    "SCHEDULER",
    "SCHEDULER_ALIASES",
    "SLICE_WEIGHTS",
    "Reader",
    "SchedulerChoice",
    "choose_scheduler",
    "read_weights",
    "scheduler_flags",
    "unknown_annotation",
]

KNOWN = (SCHEDULER,)
"""The annotations of our domain that mean something on a Service."""


def unknown_annotation(annotations: Mapping[str, str]) -> Problem | None:
    """Say which annotations of a Service are in our domain and mean nothing there."""
    unknown = sorted(name for name in annotations if name not in (*KNOWN, *SCHEDULER_ALIASES))
    if not unknown:
        return None
    return Problem(
        ProblemKind.INVALID_ANNOTATION,
        f"annotation {', '.join(unknown)}: not known on a Service, and passed over; "
        f"known are {', '.join(KNOWN)} ({SLICE_WEIGHTS} is read on an EndpointSlice)",
    )
