"""The annotation that chooses a Service's scheduler, and what the kernel makes of the choice.

A wrong value leaves the last good scheduler, and it never falls to another one in silence; what
this kernel lacks is as good as wrong. After a restart the last good one is read from the kernel:
by whom, this module does not know.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple

from ipvsproxy.core.problem import Problem, ProblemKind, in_short
from ipvsproxy.model import Flags, Scheduler

SCHEDULER = "ipvsproxy.io/scheduler"
SCHEDULER_ALIASES = ("kube-router.io/service.scheduler",)
"""Accepted for those who come from elsewhere; of lower rank than `SCHEDULER`."""

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
                f"annotation {name}: {in_short(repr(value), 100)} is no scheduler; {kept} stays; "
                f"write one of {known}",
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


def scheduler_flags(scheduler: str) -> Flags:
    """Give the flags that a scheduler is always programmed with.

    sh and mh go on hashing new connections to a real server of weight 0 and refuse them, unless
    their fallback flag is set (net/netfilter/ipvs/ip_vs_sh.c, ip_vs_mh.c): without it a draining
    endpoint would turn clients away.
    """
    return Flags.SCHED_1 if scheduler in _HASH_WITH_FALLBACK else Flags.NONE


def _scheduler_annotation(annotations: Mapping[str, str]) -> tuple[str | None, str]:
    for name in (SCHEDULER, *SCHEDULER_ALIASES):
        if name in annotations:
            return name, annotations[name].strip()
    return None, ""
