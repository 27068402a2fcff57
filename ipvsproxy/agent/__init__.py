"""The agent: everything wired up, once for each command that needs it.

The only package that reads the clock and the environment, and the only one that knows sources,
kernel, reconciler and HTTP at the same time; they do not know each other.
"""

from __future__ import annotations

from ipvsproxy.agent.commands import cleanup, plan, run_once, status
from ipvsproxy.agent.lock import AnotherAgentError
from ipvsproxy.agent.running import run

__all__ = ["AnotherAgentError", "cleanup", "plan", "run", "run_once", "status"]
