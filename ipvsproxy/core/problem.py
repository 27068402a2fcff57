"""What the core has to say to an operator: one sentence for each thing that is not as asked for.

Values only. The reconciler turns them into conditions, log lines and metrics; the names are the
conditions' names, so that docs/operations.md has one list of them.
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple


class ProblemKind(StrEnum):
    """What is wrong; the value is the condition's name."""

    INVALID_ANNOTATION = "InvalidAnnotation"
    NO_EFFECT = "NoEffect"
    SCHEDULER_UNAVAILABLE = "SchedulerUnavailable"
    CONTESTED_ADDRESS = "ContestedAddress"
    FOREIGN_VIRTUAL_SERVER = "ForeignVirtualServer"
    IGNORED_FIELD = "IgnoredField"
    RESERVED_ADDRESS = "ReservedAddress"
    NODES_UNKNOWN = "NodesUnknown"
    PODS_UNKNOWN = "PodsUnknown"
    TOO_MANY_ENDPOINTS = "TooManyEndpoints"
    HEALTH_CHECKS_IGNORED = "HealthChecksIgnored"
    ENDPOINTS_NOT_PROBED = "EndpointsNotProbed"


class Problem(NamedTuple):
    """One problem of one Service: what is wrong, where, and what to do, in one line."""

    kind: ProblemKind
    message: str


def no_effect(annotation: str, why: str) -> Problem:
    """Tell of an annotation that is right, but does nothing here, or not for all."""
    return Problem(ProblemKind.NO_EFFECT, f"annotation {annotation}: {why}")


LONGEST = 400
"""Characters of what is said of a wrong value, so that it can be read."""


def in_short(text: str, longest: int = LONGEST) -> str:
    """Leave out the middle of a text that is too long.

    What is wrong is said first, how to write it last; between the two may be a quarter of a
    megabyte of what somebody has written.
    """
    if len(text) <= longest:
        return text
    half = longest // 2
    return f"{text[:half]} ... {text[-half:]}"
