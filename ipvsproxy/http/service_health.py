"""Health check node ports: load balancers ask whether this node has endpoints of a Service.

One HTTP server has all ports, so a Service costs one listening socket and no task. `update` says
what is to be answered and touches no socket; `run` opens and closes them. A number of endpoints
that changes is another answer, not another socket. A port that is taken concerns one Service: it
has a condition, is tried again, and holds up nothing else.

The answers are kube-proxy's (pkg/proxy/healthcheck/service_health.go), on whatever path. Other than
there, one socket answers for both families, with the endpoints of both; there the second family
finds the port taken.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable
from typing import NamedTuple

import structlog
from aiohttp.web_request import BaseRequest
from aiohttp.web_response import Response, StreamResponse
from aiohttp.web_server import Server as Answering

from ipvsproxy.core.health_check import HealthCheck
from ipvsproxy.http.server import (
    RETRY_SECONDS,
    SIGNATURE,
    Clock,
    accept,
    asked,
    end,
    open_socket,
)
from ipvsproxy.model import Address, Family
from ipvsproxy.objects import ServiceName
from ipvsproxy.telemetry import Condition, Conditions, ConditionType, Health

log = structlog.get_logger(__name__)


class _Place(NamedTuple):
    """Where a socket listens."""

    address: Address | None
    """None: all addresses of the node."""
    port: int

    def __str__(self) -> str:
        if self.address is None:
            return f"port {self.port}"
        bracketed = f"[{self.address}]" if self.address.family is Family.IPV6 else self.address
        return f"{bracketed}:{self.port}"


def _tell_nobody(_: Condition) -> None:
    """Say nothing."""


class HealthChecks:
    """The health check node ports of all Services."""

    def __init__(
        self,
        health: Health,
        conditions: Conditions,
        *,
        clock: Clock,
        wall_clock: Clock,
        tell: Callable[[Condition], None] = _tell_nobody,
        retry_seconds: float = RETRY_SECONDS,
    ) -> None:
        """Answer while `health` is good, which was told by `clock`.

        `tell` is called once with each condition that is raised; nobody else hears of it.
        """
        self._health = health
        self._conditions = conditions
        self._clock = clock
        self._wall_clock = wall_clock
        self._tell_of = tell
        self._retry_seconds = retry_seconds
        self._checks: tuple[HealthCheck, ...] = ()
        self._addresses: frozenset[Address] | None = None
        self._owners: dict[int, HealthCheck] = {}
        """Who answers on a port."""
        self._changed = asyncio.Event()
        self._listeners: dict[_Place, asyncio.Server] = {}
        self._refused: dict[_Place, str] = {}
        """Where there is no listening, and why."""
        self._told: set[str] = set()
        """Subjects of the conditions that stand."""
        self.settled = asyncio.Event()
        """The sockets are as the last `update` asked for, except those that were refused."""

    @property
    def listening(self) -> int:
        """Count the ports on which something is answered."""
        return len({place.port for place in self._listeners})

    def update(
        self, checks: Iterable[HealthCheck], addresses: Collection[Address] | None = None
    ) -> None:
        """Say what is to be answered: all `checks`, on all addresses of the node or on these only.

        Cheap when nothing has changed, never fails, and waits for nothing. Where two Services have
        the same port the older one has it, then the first by name.
        """
        wanted = tuple(sorted(checks, key=_seniority))
        places = None if addresses is None else frozenset(addresses)
        if (wanted, places) == (self._checks, self._addresses):
            return
        self._checks, self._addresses = wanted, places
        self._owners = {}
        for check in wanted:
            self._owners.setdefault(check.port, check)
        self.settled.clear()
        self._changed.set()

    async def run(self) -> None:
        """Listen where `update` says, until cancelled."""
        server = Answering(self._answer)
        try:
            while True:
                self._changed.clear()
                await self._follow(server)
                self._tell()
                if not self._changed.is_set():
                    self.settled.set()
                await self._next()
        finally:
            for listener in self._listeners.values():
                listener.close()
            self._listeners.clear()
            await end(server)

    async def _next(self) -> None:
        """Wait until there is something to do: a change, or time to try again what was refused."""
        try:
            async with asyncio.timeout(self._retry_seconds if self._refused else None):
                await self._changed.wait()
        except TimeoutError:
            return

    async def _follow(self, server: Answering) -> None:
        """Close what is not wanted, then open what is: an address may take a wildcard's place."""
        addresses: Collection[Address | None] = (
            (None,) if self._addresses is None else sorted(self._addresses)
        )
        wanted = {_Place(address, port) for port in self._owners for address in addresses}
        for place in self._listeners.keys() - wanted:
            self._listeners.pop(place).close()
        self._refused = {}
        for place in sorted(wanted - self._listeners.keys(), key=lambda place: place.port):
            try:
                address = str(place.address) if place.address else None
                self._listeners[place] = await accept(open_socket(address, place.port), server)
            except OSError as error:
                self._refused[place] = os.strerror(error.errno or 0).lower()

    def _tell(self) -> None:
        """Make conditions equal to what is wrong, and log each once: no cycle may be near."""
        messages = self._messages()
        for service, message in messages.items():
            subject = f"Service {service}"
            self._conditions.set(
                subject,
                ConditionType.HEALTH_CHECK_PORT_TAKEN,
                message=message,
                now=self._wall_clock(),
            )
            raised = self._conditions.take_raised_of(subject, ConditionType.HEALTH_CHECK_PORT_TAKEN)
            if raised is not None:
                self._tell_of(raised)
                log.warning(
                    "condition", subject=subject, type=str(raised.type), problem=raised.message
                )
        told = {f"Service {service}" for service in messages}
        for subject in self._told - told:
            self._conditions.clear(subject, ConditionType.HEALTH_CHECK_PORT_TAKEN)
        self._told = told

    def _messages(self) -> dict[ServiceName, str]:
        """Say which Service is not answered for, and why."""
        refused: dict[int, list[str]] = defaultdict(list)
        for place, reason in self._refused.items():
            refused[place.port].append(f"{place} ({reason})")
        messages: dict[ServiceName, str] = {}
        for check in self._checks:
            owner = self._owners[check.port]
            if owner.service != check.service:
                messages[check.service] = (
                    f"the health check node port {check.port} belongs to Service {owner.service}, "
                    "first by age, then name; make one of the two anew with another one"
                )
            elif check.port in refused:
                messages[check.service] = (
                    f"the health check cannot listen on {', '.join(refused[check.port])}: stop "
                    "what listens there; until then load balancers may pass this node over"
                )
        return messages

    async def _answer(self, request: BaseRequest) -> StreamResponse:
        asked(request)
        place = request.get_extra_info("sockname")
        check = self._owners.get(place[1]) if place else None
        if check is None:  # a connection of a Service that is gone, or one that is lost by now
            gone = Response(status=503, headers={"Server": SIGNATURE})
            gone.force_close()
            return gone
        healthy = self._health.is_working(self._clock())
        good = check.local_endpoints > 0 and healthy
        log.debug("answered", path=request.path, status=200 if good else 503, client=request.remote)
        return Response(
            body=_body(check, healthy=healthy),
            status=200 if good else 503,
            content_type="application/json",
            headers={
                "Server": SIGNATURE,
                "X-Content-Type-Options": "nosniff",
                "X-Load-Balancing-Endpoint-Weight": str(check.local_endpoints),
            },
        )


def _body(check: HealthCheck, *, healthy: bool) -> bytes:
    """Write kube-proxy's body: its order of fields, one to a line, indented with tabs."""
    body = {
        "service": {"namespace": check.service.namespace, "name": check.service.name},
        "localEndpoints": check.local_endpoints,
        "serviceProxyHealthy": healthy,
    }
    return json.dumps(body, indent="\t").encode()


def _seniority(check: HealthCheck) -> tuple[bool, float, ServiceName]:
    """Order as for a contested address: by age, without one last, then by name."""
    return check.created is None, check.created or 0.0, check.service
