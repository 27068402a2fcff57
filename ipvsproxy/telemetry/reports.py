"""The values that commands and `/status` show; how they look is the command line's affair.

All can be written as JSON by msgspec as they stand; field names are part of the interface. The
table of `status` is made of two halves, and either can be missing: what the kernel has, and what
the running agent knows of it (which Service, what was asked for, what is wrong).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum

import msgspec

from ipvsproxy.dataplane import Reading
from ipvsproxy.model import VirtualServerKey
from ipvsproxy.telemetry.conditions import Condition, ConditionType

_SAY_WHY = (
    ConditionType.FOREIGN_VIRTUAL_SERVER,
    ConditionType.OPERATION_REFUSED,
    ConditionType.INTERNAL_ERROR,
)
"""Conditions of a Service that say why the kernel lacks a frontend of it, and what follows."""

CLUSTER_IP = "ClusterIP"
"""The kind of a frontend that says nothing else."""

_MISSING = "not in the kernel yet; the agent tries again"


class Verdict(StrEnum):
    """How a check of `preflight` went."""

    OK = "ok"
    WARN = "warn"
    """Works, with something missing that the check names."""
    FAIL = "fail"
    """The agent cannot do its work."""


class Check(msgspec.Struct, frozen=True):
    """One line of `preflight`."""

    name: str
    verdict: Verdict
    finding: str
    """What was found, in one line."""
    mend: str = ""
    """What to do; empty where nothing is to be done."""


class PlanReport(msgspec.Struct, frozen=True):
    """What would be changed, in the order in which it would be sent."""

    operations: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    """One line each: what is wrong, where, what to do."""
    whole: bool = True
    """Whether all of the source could be read; if not, more may change once it can."""
    lost_node_port_addresses: tuple[str, ...] = ()
    """The node's addresses on which a predecessor serves NodePorts, and `run` would not."""


class CleanupReport(msgspec.Struct, frozen=True):
    """What was removed; in a dry run, what would be."""

    operations: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()
    """One line each: what stayed, and why."""


class CycleSummary(msgspec.Struct, frozen=True, kw_only=True):
    """The last cycle."""

    completed: float
    """Seconds since the epoch."""
    duration: float
    """Seconds."""
    operations: int
    refused: int
    result: str
    """As in the metric ipvsproxy_cycles_total."""


class FrontendStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One virtual server of a Service, as the agent wants it."""

    virtual_server: str
    """As `VirtualServerKey` is written: `10.0.0.1:80/TCP`."""
    port: str
    """The Service port's name, or its number where it has none."""
    kind: str = CLUSTER_IP
    """What makes it an address of the Service: ClusterIP, NodePort, LoadBalancer or ExternalIP."""
    scheduler: str
    """The effective one; while real servers drain it can differ from what is asked for."""
    annotated: str | None = None
    """The scheduler that the annotation asks for, as written; None: no annotation."""
    draining: tuple[str, ...] = ()
    """Real servers that only finish their connections, as `RealServerKey` is written."""
    unhealthy: tuple[str, ...] = ()
    """Real servers that fail their health check from this node; used where too many do."""


class ServiceStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What the agent knows of one Service."""

    name: str
    """NAMESPACE/NAME."""
    frontends: tuple[FrontendStatus, ...] = ()
    problems: tuple[str, ...] = ()
    """Messages of its conditions."""
    targets: int = 0
    """Endpoints that its health check is for, on this node."""
    resting: int = 0
    """Those of them that are not probed now, for they have no traffic from here."""


class AgentStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What the running agent answers on /status."""

    version: str
    node: str
    applied_revision: int = 0
    """Rises with each change of the inputs; all changes up to this one are in the kernel, or
    refused and reported."""
    synced: bool = False
    """The initial lists are complete and a cycle has gone through them."""
    working: bool = True
    """As /livez says: changes do not wait for too long."""
    restart_needed: tuple[str, ...] = ()
    """Fields of the configuration file that were changed and count after a restart only."""
    services: tuple[ServiceStatus, ...] = ()
    conditions: tuple[Condition, ...] = ()
    counts: dict[str, int] = {}
    """Of Services, virtual servers, real servers, draining ones, ..."""
    last_cycle: CycleSummary | None = None
    writes: dict[str, int] = {}
    """Acknowledged operations since the start, by kind; a restart without changes has none."""


class RealServerRow(msgspec.Struct, frozen=True, kw_only=True):
    """A real server in the kernel."""

    address: str
    """ADDRESS:PORT."""
    weight: int
    active: int
    inactive: int
    draining: bool = False
    unhealthy: bool = False
    """It fails its health check from this node. One that is not in the kernel was removed for it,
    and has weight 0 here."""


class StatusRow(msgspec.Struct, frozen=True, kw_only=True):
    """One frontend of a Service: a line of the table, with its real servers below."""

    service: str
    """NAMESPACE/NAME; empty where no agent says whose it is."""
    port: str
    kind: str = CLUSTER_IP
    """As in `FrontendStatus`; empty where no agent says whose it is."""
    protocol: str
    address: str
    """ADDRESS:PORT of the frontend."""
    scheduler: str
    """The one in the kernel; empty where the virtual server is not there."""
    annotated: str | None = None
    persistence: int = 0
    """Seconds; 0: none."""
    real_servers: tuple[RealServerRow, ...] = ()
    problems: tuple[str, ...] = ()


class StatusTable(msgspec.Struct, frozen=True, kw_only=True):
    """What `status` shows."""

    rows: tuple[StatusRow, ...] = ()
    problems: tuple[str, ...] = ()
    """What is not about one frontend: `SUBJECT: MESSAGE`."""
    notes: tuple[str, ...] = ()
    """What is as it should be, and good to know: `NAMESPACE/NAME: MESSAGE`."""
    agent: str | None = None
    """Version and state of the running agent, in one line; None: none answered."""
    in_step: bool = False
    """An agent answered, has carried out its initial lists, and keeps up with changes."""


def status_table(
    readings: Mapping[VirtualServerKey, Reading], agent: AgentStatus | None
) -> StatusTable:
    """Join what the kernel has (virtual servers of ours) with what the agent knows.

    A frontend that the agent wants and the kernel lacks is a row with a problem: that of the
    Service where it says why, else that the agent goes on trying. A virtual server that the agent
    does not name is a row without a Service.
    """
    services = agent.services if agent is not None else ()
    left = {str(key): (key, reading) for key, reading in readings.items()}
    rows: list[StatusRow] = []
    explained = set(_explained(agent))
    for service in services:
        missing = () if service.name in explained else (_MISSING,)
        rows.extend(
            _kernel_row(*left.pop(frontend.virtual_server), service, frontend)
            if frontend.virtual_server in left
            else _missing_row(service, frontend, missing)
            for frontend in service.frontends
        )
        if not service.frontends and service.problems:
            rows.append(_bare_row(service))
    rows.extend(_kernel_row(key, reading, None, None) for key, reading in left.values())
    rows.sort(
        key=lambda row: (row.service or "\uffff", row.port, row.protocol, row.kind, row.address)
    )
    return StatusTable(
        rows=tuple(rows),
        problems=tuple(_other_problems(agent)),
        notes=tuple(_notes(services)),
        agent=_agent_line(agent) if agent is not None else None,
        in_step=agent is not None and agent.synced and agent.working,
    )


def _explained(agent: AgentStatus | None) -> Iterator[str]:
    """Give the names of the Services whose conditions say why something is not in the kernel."""
    if agent is not None:
        for condition in agent.conditions:
            kind, _, name = condition.subject.partition(" ")
            if kind == "Service" and condition.type in _SAY_WHY:
                yield name


def _missing_row(
    service: ServiceStatus, frontend: FrontendStatus, missing: tuple[str, ...]
) -> StatusRow:
    address, _, protocol = frontend.virtual_server.rpartition("/")
    return StatusRow(
        service=service.name,
        port=frontend.port,
        kind=frontend.kind,
        protocol=protocol,
        address=address,
        scheduler="",
        annotated=frontend.annotated,
        problems=(*service.problems, *missing),
    )


def _bare_row(service: ServiceStatus) -> StatusRow:
    return StatusRow(
        service=service.name,
        port="",
        kind="",
        protocol="",
        address="",
        scheduler="",
        problems=service.problems,
    )


def _kernel_row(
    key: VirtualServerKey,
    reading: Reading,
    service: ServiceStatus | None,
    frontend: FrontendStatus | None,
) -> StatusRow:
    draining = frozenset(frontend.draining) if frontend is not None else frozenset()
    unhealthy = frozenset(frontend.unhealthy) if frontend is not None else frozenset()
    removed = sorted(unhealthy.difference(map(str, reading.real_servers)))
    real_servers = tuple(
        RealServerRow(
            address=str(member),
            weight=real.weight,
            active=reading.connections[member].active,
            inactive=reading.connections[member].inactive,
            draining=str(member) in draining,
            unhealthy=str(member) in unhealthy,
        )
        for member, real in sorted(reading.real_servers.items())
    )
    return StatusRow(
        service=service.name if service is not None else "",
        port=frontend.port if frontend is not None else str(key.port),
        kind=frontend.kind if frontend is not None else "",
        protocol=key.protocol.name,
        address=str(key).rpartition("/")[0],
        scheduler=reading.server.scheduler,
        annotated=frontend.annotated if frontend is not None else None,
        persistence=reading.server.persistence,
        real_servers=(
            *real_servers,
            *(
                RealServerRow(address=one, weight=0, active=0, inactive=0, unhealthy=True)
                for one in removed
            ),
        ),
        problems=service.problems if service is not None else (),
    )


def _notes(services: Sequence[ServiceStatus]) -> Iterator[str]:
    for service in services:
        if service.resting:
            probed = f"{service.targets - service.resting} of {service.targets} endpoints"
            yield f"{service.name}: {probed} probed, the others have no traffic from here"


def _other_problems(agent: AgentStatus | None) -> Iterator[str]:
    if agent is None:
        return
    shown = {f"Service {service.name}" for service in agent.services}
    for condition in agent.conditions:
        if condition.subject not in shown:
            yield f"{condition.subject}: {condition.message}"


def _agent_line(agent: AgentStatus) -> str:
    state = "in step"
    if not agent.synced:
        state = "not in step yet: its initial lists are incomplete"
    elif not agent.working:
        state = "not in step: changes wait and no cycle completes"
    if agent.restart_needed:
        state += f"; a restart is needed for {', '.join(agent.restart_needed)}"
    return f"ipvsproxy {agent.version} on node {agent.node}, {state}"
