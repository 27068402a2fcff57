"""The agent's two HTTP ports: health, for kubelet and load balancers; metrics, for the operator.

    health port   /healthz /livez /readyz                     (kube-proxy's 10256)
    metrics port  /metrics /status /proxyMode /configz /healthz   (kube-proxy's 10249)

Knows how to answer; what is answered comes from `telemetry` and from a callable that the agent
gives. A port that is taken is no reason to stop serving traffic: the server says so in a condition
and tries again (kube-proxy does the same unless bindAddressHardFail is set). The other end is here
too: how commands ask a running agent, and how a second proxy on the node is found.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import NamedTuple, Protocol

import aiohttp
import msgspec
import structlog
from aiohttp import web
from prometheus_client import Counter
from prometheus_client.exposition import choose_encoder

from ipvsproxy import __version__
from ipvsproxy.config import Settings, effective
from ipvsproxy.config.values import split_bind_address
from ipvsproxy.telemetry import AgentStatus, Conditions, ConditionType, Health, Metrics

log = structlog.get_logger(__name__)

PROXY_MODE = "ipvs"
KUBE_PROXY_ADDRESS = "127.0.0.1:10249"
"""Where a kube-proxy serves /proxyMode unless its metricsBindAddress says otherwise
(SetDefaults_KubeProxyConfiguration in pkg/proxy/apis/config/v1alpha1/defaults.go)."""
RETRY_SECONDS = 5.0
"""Between attempts to listen; kube-proxy's."""
_SERVER = f"ipvsproxy/{__version__}"
_ANSWER_SECONDS = 2.0
"""Longest wait for a neighbour's answer: it is on this machine."""

Clock = Callable[[], float]
"""Seconds: of `Health`'s clock, or since the epoch (`wall_clock`)."""

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


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

    def status(self) -> AgentStatus:
        """Answer /status."""
        ...

    def scrape(self) -> None:
        """Bring the gauges up to date, before a scrape."""
        ...


async def serve(agent: Agent, *, clock: Clock, wall_clock: Clock) -> None:
    """Serve both ports until cancelled; `clock` is the one by which `agent.health` was told."""
    settings = agent.settings
    health = health_application(agent.health, agent.metrics, clock=clock, wall_clock=wall_clock)
    async with asyncio.TaskGroup() as group:
        for name, address, application in (
            ("healthz", settings.healthz_bind_address, health),
            ("metrics", settings.metrics_bind_address, metrics_application(agent)),
        ):
            server = Server(
                address,
                application,
                name=name,
                conditions=agent.conditions,
                wall_clock=wall_clock,
            )
            group.create_task(server.run(), name=name)


class Server:
    """One port: listens, tries again while it cannot, and stops when it is cancelled."""

    def __init__(
        self,
        bind_address: str,
        application: web.Application,
        *,
        name: str,
        conditions: Conditions,
        wall_clock: Clock,
        retry_seconds: float = RETRY_SECONDS,
    ) -> None:
        self._bind_address = bind_address
        self._application = application
        self._subject = f"Port {bind_address}"
        self._name = name
        self._conditions = conditions
        self._wall_clock = wall_clock
        self._retry_seconds = retry_seconds
        self.listening = asyncio.Event()

    async def run(self) -> None:
        """Serve until cancelled; returns at once when the address is empty."""
        if not self._bind_address:
            return
        runner = web.AppRunner(self._application, access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        try:
            await self._listen(runner)
            self.listening.set()
            await asyncio.get_running_loop().create_future()
        finally:
            self.listening.clear()
            await runner.cleanup()

    async def _listen(self, runner: web.AppRunner) -> None:
        host, port = split_bind_address(self._bind_address)
        while True:
            site = web.TCPSite(runner, host, port)
            try:
                await site.start()
            except OSError as error:
                self._report(error)
            else:
                self._conditions.clear(self._subject, ConditionType.PORT_TAKEN)
                return
            await site.stop()
            await asyncio.sleep(self._retry_seconds)

    def _report(self, error: OSError) -> None:
        """Make it a condition, and log it once: the next cycle that logs conditions may be far."""
        reason = (error.strerror or str(error)).rpartition(": ")[2]
        message = (
            f"the {self._name} server cannot listen on {self._bind_address} ({reason}): stop "
            f"what listens there or set --{self._name}-bind-address; traffic is not affected"
        )
        self._conditions.set(
            self._subject, ConditionType.PORT_TAKEN, message=message, now=self._wall_clock()
        )
        raised = self._conditions.take_raised_of(self._subject, ConditionType.PORT_TAKEN)
        if raised is not None:
            log.warning(
                "condition", subject=raised.subject, type=str(raised.type), problem=raised.message
            )


def health_application(
    health: Health, metrics: Metrics, *, clock: Clock, wall_clock: Clock
) -> web.Application:
    """Answer for /healthz, /livez and /readyz.

    Bodies and headers are kube-proxy's (pkg/proxy/healthcheck/proxy_health.go); /readyz is ours.
    """

    def times(now: float) -> dict[str, object]:
        """Say when the state was last as wanted: now, unless changes wait for too long."""
        wall = wall_clock()
        updated = wall if health.is_working(now) else wall - (now - health.last_completed)
        return {"lastUpdated": _go_time(updated), "currentTime": _go_time(wall)}

    async def healthz(_: web.Request) -> web.Response:
        now = clock()
        eligible = health.is_eligible(now)
        body = {**times(now), "nodeEligible": not health.leaving}
        return _counted(metrics.healthz, body, eligible)

    async def livez(_: web.Request) -> web.Response:
        now = clock()
        return _counted(metrics.livez, times(now), health.is_working(now))

    async def readyz(_: web.Request) -> web.Response:
        now = clock()
        body = {**times(now), "synced": health.synced}
        return _json(body, status=200 if health.is_ready(now) else 503)

    return _application({"/healthz": healthz, "/livez": livez, "/readyz": readyz})


def metrics_application(agent: Agent) -> web.Application:
    """Answer for /metrics, /status, /proxyMode, /configz and a plain /healthz."""
    config = msgspec.json.encode({"ipvsproxy": effective(agent.settings)})

    async def show_metrics(request: web.Request) -> web.Response:
        agent.scrape()
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        body = encode(agent.metrics.registry)
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def show_status(_: web.Request) -> web.Response:
        return web.Response(
            body=msgspec.json.encode(agent.status()), content_type="application/json"
        )

    async def proxy_mode(_: web.Request) -> web.Response:
        return web.Response(text=PROXY_MODE)

    async def configz(_: web.Request) -> web.Response:
        return web.Response(body=config, content_type="application/json")

    async def healthz(_: web.Request) -> web.Response:
        return web.Response(text="ok")

    return _application(
        {
            "/metrics": show_metrics,
            "/status": show_status,
            "/proxyMode": proxy_mode,
            "/configz": configz,
            "/healthz": healthz,
        }
    )


class Neighbour(NamedTuple):
    """A service proxy that answers on this node's metrics port."""

    mode: str
    """As its /proxyMode says: `ipvs`, `iptables`, `nftables`."""
    address: str
    """Where it answers."""
    is_ours: bool
    """It is an ipvsproxy; else it is taken for kube-proxy."""


def neighbour_addresses(bind_address: str) -> tuple[str, ...]:
    """Give the addresses where another proxy is looked for: kube-proxy's, and our own metrics'."""
    return tuple(dict.fromkeys(one for one in (KUBE_PROXY_ADDRESS, bind_address) if one))


async def find_neighbour(bind_address: str) -> Neighbour | None:
    """Ask who serves /proxyMode on this node; None when nobody does.

    Our own metrics address alone says nothing of a kube-proxy, which has its own. Where both a
    kube-proxy and an ipvsproxy answer, the kube-proxy is told.
    """
    asked = (_ask_mode(address) for address in neighbour_addresses(bind_address))
    found = [neighbour for neighbour in await asyncio.gather(*asked) if neighbour is not None]
    return min(found, key=lambda neighbour: neighbour.is_ours, default=None)


async def _ask_mode(address: str) -> Neighbour | None:
    answer = await _get(address, "/proxyMode")
    if answer is None:
        return None
    mode = answer.body.decode(errors="replace").strip()
    return Neighbour(mode[:40], address, is_ours=answer.server.startswith("ipvsproxy/"))


async def ask_agent(bind_address: str) -> AgentStatus | None:
    """Ask the running agent for its status; None when none answers, or it is not one of ours."""
    answer = await _get(bind_address, "/status")
    if answer is None or not answer.server.startswith("ipvsproxy/"):
        return None
    try:
        return msgspec.json.decode(answer.body, type=AgentStatus)
    except msgspec.DecodeError:
        return None


class _Answer(NamedTuple):
    server: str
    body: bytes


async def _get(bind_address: str, path: str) -> _Answer | None:
    """Get a page from this machine; None when nobody listens or the answer is not 200."""
    if not bind_address:
        return None
    host, port = split_bind_address(bind_address)
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - what it stands for
    url = f"http://[{host}]:{port}{path}" if ":" in host else f"http://{host}:{port}{path}"
    limit = aiohttp.ClientTimeout(total=_ANSWER_SECONDS)
    try:
        async with aiohttp.ClientSession(timeout=limit) as session, session.get(url) as response:
            body = await response.read()
            served = response.status == web.HTTPOk.status_code
            return _Answer(response.headers.get("Server", ""), body) if served else None
    except (aiohttp.ClientError, TimeoutError, OSError):
        return None


def _application(handlers: dict[str, _Handler]) -> web.Application:
    application = web.Application()
    application.on_response_prepare.append(_sign)
    application.add_routes([web.get(path, handler) for path, handler in handlers.items()])
    return application


async def _sign(request: web.Request, response: web.StreamResponse) -> None:
    response.headers["Server"] = _SERVER
    response.headers["X-Content-Type-Options"] = "nosniff"
    log.debug("answered", path=request.path, status=response.status, client=request.remote)


def _counted(counter: Counter, body: dict[str, object], good: bool) -> web.Response:
    status = 200 if good else 503
    counter.labels(code=str(status)).inc()
    return _json(body, status=status)


def _json(body: dict[str, object], *, status: int) -> web.Response:
    return web.Response(
        body=msgspec.json.encode(body), status=status, content_type="application/json"
    )


def _go_time(seconds: float) -> str:
    """Write a time as Go's time.Time.String does."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S.%f +0000 UTC")
