"""The health port, for kubelet and load balancers: /healthz, /livez, /readyz (kube-proxy's 10256).

Knows how answers look; whether the agent is healthy is for `telemetry.Health` to say.
"""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec
from aiohttp.web_request import BaseRequest
from aiohttp.web_response import Response
from prometheus_client.core import Counter

from ipvsproxy.http.server import Clock, Handler, application
from ipvsproxy.telemetry import Health, Metrics


def health_application(
    health: Health, metrics: Metrics, *, clock: Clock, wall_clock: Clock
) -> Handler:
    """Answer for /healthz, /livez and /readyz.

    Bodies and headers are kube-proxy's (pkg/proxy/healthcheck/proxy_health.go); /readyz is ours.
    """

    def times(now: float) -> dict[str, object]:
        """Say when the state was last as wanted: now, unless changes wait for too long."""
        wall = wall_clock()
        updated = wall if health.is_working(now) else wall - (now - health.last_completed)
        return {"lastUpdated": _go_time(updated), "currentTime": _go_time(wall)}

    async def healthz(_: BaseRequest) -> Response:
        now = clock()
        eligible = health.is_eligible(now)
        body = {**times(now), "nodeEligible": not health.leaving}
        return _counted(metrics.healthz, body, eligible)

    async def livez(_: BaseRequest) -> Response:
        now = clock()
        return _counted(metrics.livez, times(now), health.is_working(now))

    async def readyz(_: BaseRequest) -> Response:
        now = clock()
        body = {**times(now), "synced": health.synced}
        return _json(body, status=200 if health.is_ready(now) else 503)

    return application({"/healthz": healthz, "/livez": livez, "/readyz": readyz})


def _counted(counter: Counter, body: dict[str, object], good: bool) -> Response:
    status = 200 if good else 503
    counter.labels(code=str(status)).inc()
    return _json(body, status=status)


def _json(body: dict[str, object], *, status: int) -> Response:
    return Response(body=msgspec.json.encode(body), status=status, content_type="application/json")


def _go_time(seconds: float) -> str:
    """Write a time as Go's time.Time.String does."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S.%f +0000 UTC")
