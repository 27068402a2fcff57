"""The annotation that gives a Service's scheduler its flags.

Two schedulers have flags (net/netfilter/ipvs/ip_vs_sh.c, ip_vs_mh.c), two each. Their fallback flag
is always set, whatever is written (`schedulers.scheduler_flags`), so it is accepted and says
nothing new. A flag of a scheduler that is not in force does nothing, and that is said.
"""

from __future__ import annotations

from ipvsproxy.core.annotations.reading import Reader
from ipvsproxy.core.annotations.schedulers import scheduler_flags
from ipvsproxy.model import Flags, Scheduler

SCHEDULER_FLAGS = "ipvsproxy.io/scheduler-flags"

_FLAGS = {
    "sh-port": (Scheduler.SH, Flags.SCHED_2),
    "mh-port": (Scheduler.MH, Flags.SCHED_2),
    "sh-fallback": (Scheduler.SH, Flags.SCHED_1),
    "mh-fallback": (Scheduler.MH, Flags.SCHED_1),
}
"""What can be written, in ipvsadm's words."""

_HINT = "write sh-port or mh-port (sh-fallback and mh-fallback are always on)"


def choose_flags(reader: Reader, scheduler: str, *, sticky: bool) -> Flags:
    """Give the flags of the scheduler in force, those that it always has among them.

    `sticky`: the Service has session affinity.
    """
    asked = reader.read(SCHEDULER_FLAGS, read_scheduler_flags) or ()
    flags = scheduler_flags(scheduler)
    idle = [name for name in asked if _FLAGS[name][0] != scheduler]
    for name in asked:
        owner, flag = _FLAGS[name]
        if owner == scheduler:
            flags |= flag
    if idle:
        owners = " and ".join(dict.fromkeys(_FLAGS[name][0] for name in idle))
        reader.no_effect(
            SCHEDULER_FLAGS,
            f"{', '.join(idle)} means something to {owners} only, and the scheduler is "
            f"{scheduler}; choose {owners} by ipvsproxy.io/scheduler or take the flag away",
        )
    if sticky and flags & Flags.SCHED_2:
        reader.no_effect(
            SCHEDULER_FLAGS,
            f"{scheduler}-port decides only where a client begins: with session affinity it stays "
            "there, whatever its port; take one of the two away",
        )
    return flags


def read_scheduler_flags(text: str) -> tuple[str, ...]:
    """Read the annotation: ipvsadm's names with commas between them. Raises ValueError."""
    names = tuple(dict.fromkeys(part.strip() for part in text.split(",")))
    for name in names:
        if name not in _FLAGS:
            raise ValueError(f"{name!r} is no flag of a scheduler; {_HINT}")
    return names
