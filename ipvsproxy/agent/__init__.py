"""The agent: everything wired up, once for each command that needs it.

The only package that knows sources, kernel, reconciler and HTTP at the same time; they do not know
each other. Clock and chance enter here and nowhere else; the environment here (what a pod is told
of its API server) and in `cli` (the settings). A command's module is imported when it is asked for:
what only `plan` or `explain` need is none of what `run` pays for.

    wiring     a store, a reconciler and what they report to, put together
    running    `run`; `commands` has those that end by themselves, `switching` what is said before
    sources    which source the settings ask for
    lock       one writer in a network namespace
    reload     the configuration file, followed
    observer   what happens in the reconciler, written into metrics and health
    changes    what has been changed and is not in the kernel yet
    traffic    when the traffic counters are read
    loop       the event loop, which takes note of its lag
    memory     the garbage collector's pace
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ipvsproxy.agent.commands import (
        clean_up_after,
        cleanup,
        explain,
        hand_over,
        plan,
        run_once,
        status,
    )
    from ipvsproxy.agent.lock import AnotherAgentError
    from ipvsproxy.agent.loop import MeasuredLoop
    from ipvsproxy.agent.reload import ConfigFile
    from ipvsproxy.agent.running import run
    from ipvsproxy.agent.switching import readiness

__all__ = [
    "AnotherAgentError",
    "ConfigFile",
    "MeasuredLoop",
    "clean_up_after",
    "cleanup",
    "explain",
    "hand_over",
    "plan",
    "readiness",
    "run",
    "run_once",
    "status",
]

_ELSEWHERE = {
    "AnotherAgentError": "lock",
    "ConfigFile": "reload",
    "MeasuredLoop": "loop",
    "readiness": "switching",
    "run": "running",
}
"""The modules of what is not in `commands`."""


def __getattr__(name: str) -> object:
    """Import what is asked for (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = importlib.import_module(f"{__name__}.{_ELSEWHERE.get(name, 'commands')}")
    value: object = getattr(found, name)
    globals()[name] = value
    return value
