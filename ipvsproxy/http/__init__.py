"""Everything that the agent answers, or asks, over HTTP.

`ports` has the health and the metrics port, `service_health` a port for each Service whose load
balancer asks which nodes have endpoints, `neighbours` the other end: how commands ask a running
agent, and how a second proxy on the node is found. What is answered comes from `telemetry`;
`health` says it to kubelet and load balancers, and `server` is what all ports have in common.
"""

from __future__ import annotations

from ipvsproxy.http.health import health_application
from ipvsproxy.http.neighbours import Neighbour, ask_agent, find_neighbour, neighbour_addresses
from ipvsproxy.http.ports import Agent, metrics_application, serve
from ipvsproxy.http.server import Clock, Server
from ipvsproxy.http.service_health import HealthChecks

__all__ = [
    "Agent",
    "Clock",
    "HealthChecks",
    "Neighbour",
    "Server",
    "ask_agent",
    "find_neighbour",
    "health_application",
    "metrics_application",
    "neighbour_addresses",
    "serve",
]
