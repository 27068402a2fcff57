"""The agent's two fixed HTTP ports: health, for kubelet and load balancers; metrics, for operators.

    health port   /healthz /livez /readyz                     (kube-proxy's 10256)
    metrics port  /metrics /status /proxyMode /configz /healthz   (kube-proxy's 10249)

Knows how to answer; what is answered comes from `telemetry` and from the agent's parts that are
looked at.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import msgspec
from aiohttp.web_request import BaseRequest
from aiohttp.web_response import Response

from ipvsproxy.config import Settings, effective
from ipvsproxy.http.health import health_application
from ipvsproxy.http.server import Clock, Handler, Server, application
from ipvsproxy.http.service_health import HealthChecks
from ipvsproxy.telemetry import AgentStatus, Conditions, Health, Metrics

if TYPE_CHECKING:
    from prometheus_client.core import CollectorRegistry

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


def metrics_application(agent: Agent) -> Handler:
    """Answer for /metrics, /status, /proxyMode, /configz and a plain /healthz."""

    async def show_metrics(request: BaseRequest) -> Response:
        await agent.scrape()
        # The import with the first scrape is 10 ms and more.
        encode, content_type = await asyncio.to_thread(_encoder, request.headers.get("Accept", ""))
        body = encode(agent.metrics.registry).removesuffix(_OPENMETRICS_END)
        # A series for each Service port: tens of thousands take a second to write.
        body += await asyncio.to_thread(encode, agent.metrics.traffic.registry)
        return Response(body=body, headers={"Content-Type": content_type})

    async def show_status(_: BaseRequest) -> Response:
        body = msgspec.json.encode(await agent.status())
        return Response(body=body, content_type="application/json")

    async def proxy_mode(_: BaseRequest) -> Response:
        return Response(text=PROXY_MODE)

    async def configz(_: BaseRequest) -> Response:
        config = msgspec.json.encode({"ipvsproxy": effective(agent.settings)})
        return Response(body=config, content_type="application/json")

    async def healthz(_: BaseRequest) -> Response:
        return Response(text="ok")

    return application(
        {
            "/metrics": show_metrics,
            "/status": show_status,
            "/proxyMode": proxy_mode,
            "/configz": configz,
            "/healthz": healthz,
        }
    )


def _encoder(accepted: str) -> tuple[Callable[[CollectorRegistry], bytes], str]:
    """Give what writes metrics as whoever scrapes accepts them, and the Content-Type of that."""
    # It brings an HTTP server and client of the library's, which no start should wait for.
    from prometheus_client.exposition import choose_encoder  # noqa: PLC0415

    try:
        return choose_encoder(accepted)
    except (TypeError, ValueError):  # a version that is none
        return choose_encoder("")
