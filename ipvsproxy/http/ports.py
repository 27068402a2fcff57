"""The agent's two fixed HTTP ports: health, for kubelet and load balancers; metrics, for operators.

    health port   /healthz /livez /readyz                     (kube-proxy's 10256)
    metrics port  /metrics /status /proxyMode /configz /healthz   (kube-proxy's 10249)

Knows how to answer; what is answered comes from `telemetry` and from the agent's parts that are
looked at.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

import msgspec
from aiohttp import web
from prometheus_client.exposition import choose_encoder

from ipvsproxy.config import Settings, effective
from ipvsproxy.http.health import health_application
from ipvsproxy.http.server import Clock, Server, application
from ipvsproxy.http.service_health import HealthChecks
from ipvsproxy.telemetry import AgentStatus, Conditions, Health, Metrics

PROXY_MODE = "ipvs"
_OPENMETRICS_END = b"# EOF\n"


class Agent(Protocol):
    """What is served: the parts of a running agent that can be looked at."""

    @property
    def settings(self) -> Settings:
        """Where to listen."""
        ...

    @property
    def conditions(self) -> Conditions:
        """Where a port that is taken is told."""
        ...

    @property
    def metrics(self) -> Metrics:
        """Answer /metrics."""
        ...

    @property
    def health(self) -> Health:
        """Answer /healthz, /livez and /readyz."""
        ...

    @property
    def health_checks(self) -> HealthChecks:
        """Answer on the health check node ports of Services."""
        ...

    async def status(self) -> AgentStatus:
        """Answer /status."""
        ...

    async def scrape(self) -> None:
        """Bring gauges and traffic counters up to date, before a scrape."""
        ...


async def serve(agent: Agent, *, clock: Clock, wall_clock: Clock) -> None:
    """Serve all ports until cancelled; `clock` is the one by which `agent.health` was told."""
    settings = agent.settings
    health = health_application(agent.health, agent.metrics, clock=clock, wall_clock=wall_clock)
    async with asyncio.TaskGroup() as group:
        for name, address, pages in (
            ("healthz", settings.healthz_bind_address, health),
            ("metrics", settings.metrics_bind_address, metrics_application(agent)),
        ):
            server = Server(
                address,
                pages,
                name=name,
                conditions=agent.conditions,
                wall_clock=wall_clock,
            )
            group.create_task(server.run(), name=name)
        group.create_task(agent.health_checks.run(), name="health checks")


def metrics_application(agent: Agent) -> web.Application:
    """Answer for /metrics, /status, /proxyMode, /configz and a plain /healthz."""

    async def show_metrics(request: web.Request) -> web.Response:
        await agent.scrape()
        try:
            encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        except (TypeError, ValueError):  # a version that is none
            encode, content_type = choose_encoder("")
        body = encode(agent.metrics.registry).removesuffix(_OPENMETRICS_END)
        # A series for each Service port: tens of thousands take a second to write.
        body += await asyncio.to_thread(encode, agent.metrics.traffic.registry)
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def show_status(_: web.Request) -> web.Response:
        body = msgspec.json.encode(await agent.status())
        return web.Response(body=body, content_type="application/json")

    async def proxy_mode(_: web.Request) -> web.Response:
        return web.Response(text=PROXY_MODE)

    async def configz(_: web.Request) -> web.Response:
        config = msgspec.json.encode({"ipvsproxy": effective(agent.settings)})
        return web.Response(body=config, content_type="application/json")

    async def healthz(_: web.Request) -> web.Response:
        return web.Response(text="ok")

    return application(
        {
            "/metrics": show_metrics,
            "/status": show_status,
            "/proxyMode": proxy_mode,
            "/configz": configz,
            "/healthz": healthz,
        }
    )
