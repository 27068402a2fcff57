"""What an operator chooses by annotation: the scheduler of a Service, the weights of a slice.

Knows the annotations' names and values, and the one rule for a wrong one: the last good value
stays, and a `Problem` says so (DESIGN: what an operator types wrong is answered). It never falls
to another scheduler in silence. Does not know where the last good value was kept.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple

import msgspec

from ipvsproxy.core.problem import Problem, ProblemKind
from ipvsproxy.model import Address, Flags, Scheduler

SCHEDULER = "ipvsproxy.io/scheduler"
SCHEDULER_ALIASES = ("kube-router.io/service.scheduler",)
"""Accepted for those who come from elsewhere; of lower rank than `SCHEDULER`."""
WEIGHTS = "ipvsproxy.io/weights"

MAX_WEIGHT = 65535
"""Greatest weight of a real server (IP_VS_DEST_ATTR_WEIGHT is 32 bits; ipvsadm stops here)."""

_HASH_WITH_FALLBACK = frozenset({Scheduler.SH, Scheduler.MH})


class SchedulerChoice(NamedTuple):
    """The scheduler asked for, the one to be used, and what is wrong where the two differ."""

    asked: str
    scheduler: str
    annotated: bool = True
    problem: Problem | None = None


def choose_scheduler(
    annotations: Mapping[str, str],
    *,
    default: str,
    previous: str | None,
    unavailable: Collection[str],
) -> SchedulerChoice:
    """Choose a Service's scheduler.

    `previous` is the last good one, None for a Service that is new; `unavailable` are those that
    this kernel has refused. A wrong or unavailable value leaves the previous one, else the default;
    where the kernel lacks that one too, rr, which every kernel with IPVS has been built with.
    """
    kept = previous or (default if default not in unavailable else Scheduler.RR)
    name, value = _scheduler_annotation(annotations)
    if name is None:
        if default not in unavailable:
            return SchedulerChoice(default, default, annotated=False)
        return SchedulerChoice(
            default,
            kept,
            annotated=False,
            problem=Problem(
                ProblemKind.SCHEDULER_UNAVAILABLE,
                f"this kernel has no scheduler {default}, the default; {kept} stays; "
                f"install the module ip_vs_{default} on the node or set another default",
            ),
        )
    if value not in Scheduler.__members__.values():
        known = " ".join(sorted(Scheduler))
        return SchedulerChoice(
            value,
            kept,
            problem=Problem(
                ProblemKind.INVALID_ANNOTATION,
                f"annotation {name}: {value!r} is no scheduler; {kept} stays; write one of {known}",
            ),
        )
    if value in unavailable:
        return SchedulerChoice(
            value,
            kept,
            problem=Problem(
                ProblemKind.SCHEDULER_UNAVAILABLE,
                f"annotation {name}: this kernel has no scheduler {value}; {kept} stays; "
                f"install the module ip_vs_{value} on the node or choose another",
            ),
        )
    return SchedulerChoice(value, value)


def unknown_annotation(annotations: Mapping[str, str]) -> Problem | None:
    """Say which annotations of a Service are in our domain and mean nothing there."""
    unknown = sorted(
        name for name in annotations if name != SCHEDULER and name not in SCHEDULER_ALIASES
    )
    if not unknown:
        return None
    return Problem(
        ProblemKind.INVALID_ANNOTATION,
        f"annotation {', '.join(unknown)}: not known on a Service, and passed over; "
        f"{SCHEDULER} is ({WEIGHTS} is read on an EndpointSlice)",
    )


def scheduler_flags(scheduler: str) -> Flags:
    """Give the flags that a scheduler is always programmed with.

    sh and mh go on hashing new connections to a real server of weight 0 and refuse them, unless
    their fallback flag is set (net/netfilter/ipvs/ip_vs_sh.c, ip_vs_mh.c): without it a draining
    endpoint would turn clients away.
    """
    return Flags.SCHED_1 if scheduler in _HASH_WITH_FALLBACK else Flags.NONE


def read_weights(text: str) -> dict[Address, int]:
    """Read the annotation `WEIGHTS` of a slice: JSON, from address to weight (0-65535).

    Raises ValueError with one line that says which entry is wrong and how to write it.
    """
    try:
        entries = msgspec.json.decode(text, type=dict[str, object])
    except msgspec.DecodeError as error:
        raise ValueError(f"not a JSON object ({error}); {_WEIGHTS_HINT}") from None
    return dict(_weight(address, weight) for address, weight in entries.items())


_WEIGHTS_HINT = 'write for example {"10.244.1.7": 3, "10.244.2.9": 1}'


def _weight(address: str, weight: object) -> tuple[Address, int]:
    try:
        parsed = Address.parse(address)
    except ValueError:
        raise ValueError(f"{address!r} is no IP address; {_WEIGHTS_HINT}") from None
    if isinstance(weight, bool) or not isinstance(weight, int) or not 0 <= weight <= MAX_WEIGHT:
        raise ValueError(
            f"weight {weight!r} of {address} is not a whole number from 0 to {MAX_WEIGHT}; "
            f"{_WEIGHTS_HINT}"
        )
    return parsed, weight


def _scheduler_annotation(annotations: Mapping[str, str]) -> tuple[str | None, str]:
    for name in (SCHEDULER, *SCHEDULER_ALIASES):
        if name in annotations:
            return name, annotations[name].strip()
    return None, ""
