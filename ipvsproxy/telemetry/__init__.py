"""What the agent says of itself: conditions, metrics, health, and the tables that people read.

Plain objects: they are told what happened and answer when asked; nothing here logs, waits, reads a
clock or knows how it is shown. `conditions` holds what is wrong now, `metrics` the numbers,
`health` whether the agent does its work, `loop_lag` how long its event loop keeps things waiting,
`watches` how the source's watches do, `reports` the values that commands print; those of `explain`
are asked for by name (`explanations`), for they bring all that is known of a packet's way.
"""

from __future__ import annotations

from ipvsproxy.telemetry.conditions import (
    Condition,
    Conditions,
    ConditionType,
    Teller,
    tell_nobody,
)
from ipvsproxy.telemetry.health import Health
from ipvsproxy.telemetry.loop_lag import LoopLag
from ipvsproxy.telemetry.metrics import Metrics
from ipvsproxy.telemetry.reports import (
    CLUSTER_IP,
    AgentStatus,
    Check,
    CleanupReport,
    CycleSummary,
    FrontendStatus,
    PlanReport,
    RealServerRow,
    ServiceStatus,
    StatusRow,
    StatusTable,
    Verdict,
    status_table,
)
from ipvsproxy.telemetry.watches import Watches, WatchHealth

__all__ = [
    "CLUSTER_IP",
    "AgentStatus",
    "Check",
    "CleanupReport",
    "Condition",
    "ConditionType",
    "Conditions",
    "CycleSummary",
    "FrontendStatus",
    "Health",
    "LoopLag",
    "Metrics",
    "PlanReport",
    "RealServerRow",
    "ServiceStatus",
    "StatusRow",
    "StatusTable",
    "Teller",
    "Verdict",
    "WatchHealth",
    "Watches",
    "status_table",
    "tell_nobody",
]
