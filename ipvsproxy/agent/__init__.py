"""The agent: everything wired up, once for each command that needs it.

The only package that knows sources, kernel, reconciler and HTTP at the same time; they do not know
each other. Clock and chance enter here and nowhere else; the environment here (what a pod is told
of its API server) and in `cli` (the settings).
"""

from __future__ import annotations

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
from ipvsproxy.agent.reload import ConfigFile
from ipvsproxy.agent.running import run
from ipvsproxy.agent.switching import readiness

__all__ = [
    "AnotherAgentError",
    "ConfigFile",
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
