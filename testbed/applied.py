"""What a node's kernel must hold once a Service is applied, and what of it is missing.

Knows what Kubernetes says of frontends and of traffic policies, and reads the kernel through
`witness`; the agent is not asked. Virtual servers must have the scheduler, the real servers that
are to take new connections must do so and no others, the addresses must be bound, and the
frontends with an external policy of Local, and no others, must be in the set of those from which
clients inside the cluster are redirected.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from testbed import witness
from testbed.backend import PORT
from testbed.manifests import IPV4, LOCAL, SERVICE_PORT

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from testbed.layout import Node
    from testbed.manifests import Service

DEFAULT_SCHEDULER = "rr"
DRAINING_SCHEDULERS = {"dh": frozenset({"dh", "fo"})}
"""What a virtual server may have in the kernel for a scheduler that was asked for: a dh virtual
server is set to fo while a real server of it drains."""
SPLIT_SETS = {4: "KUBE-SPLIT", 6: "KUBE-6-SPLIT"}

Frontend = tuple[str, int]
"""An address and a port."""


def missing(node: Node, services: tuple[Service, ...]) -> str | None:
    """Say what the kernel of a node does not hold yet; None where it holds everything."""
    table = witness.table(node.namespace)
    for service in services:
        text = _missing_from(table, node, service)
        if text is not None:
            return f"Service {service.name}: {text}"
    lines = witness.addresses(node.namespace).splitlines()
    bound = {line.split()[2].partition("/")[0] for line in lines}
    unbound = {address for service in services for address in _bound_by(service)} - bound
    if unbound:
        return f"not bound: {', '.join(sorted(unbound))}"
    exposed = tuple(service for service in services if service.exposure.external)
    return _missing_from_sets(node, exposed) if exposed else None


def external_frontends(service: Service, node: Node, family: int) -> Iterator[Frontend]:
    """Yield every frontend of a Service on a node in a family, but the ClusterIP."""
    for address in service.bound_addresses(family)[1:]:
        yield address, SERVICE_PORT
    if service.node_port:
        for address in (node.address(family), node.bridge_addresses[family != IPV4]):
            yield address, service.node_port


def _bound_by(service: Service) -> Iterable[str]:
    return (one for family in service.families for one in service.bound_addresses(family))


def _missing_from(table: witness.Table, node: Node, service: Service) -> str | None:
    for family in service.families:
        cluster_ip = service.address(family), SERVICE_PORT
        inside = node.name if service.internal_policy == LOCAL else ""
        outside = node.name if service.exposure.local else ""
        wanted = {cluster_ip: inside}
        wanted |= dict.fromkeys(external_frontends(service, node, family), outside)
        for frontend, where in wanted.items():
            text = _missing_from_frontend(table, service, frontend, where)
            if text is not None:
                return text
    return None


def _missing_from_frontend(
    table: witness.Table, service: Service, frontend: Frontend, where: str
) -> str | None:
    """Compare the virtual servers of a frontend; `where` is the one node whose endpoints count."""
    scheduler = service.scheduler or DEFAULT_SCHEDULER
    family = 6 if ":" in frontend[0] else 4
    serving = {_host(one.pod.address(family), PORT) for one in service.serving(on=where)}
    for protocol in service.protocols:
        key = protocol.lower(), _host(*frontend)
        found = table.get(key)
        if found is None:
            return f"no virtual server {key}"
        if found.scheduler not in DRAINING_SCHEDULERS.get(scheduler, {scheduler}):
            return f"{key} has scheduler {found.scheduler}, not {scheduler}"
        if found.serving != serving:
            return f"{key} is served by {sorted(found.serving)}, not {sorted(serving)}"
    return None


def _missing_from_sets(node: Node, services: tuple[Service, ...]) -> str | None:
    lines = frozenset(witness.sets(node.namespace).splitlines())
    for service in services:
        for family in service.families:
            for address, port in external_frontends(service, node, family):
                for protocol in service.protocols:
                    member = f"{address},{protocol.lower()}:{port}"
                    is_split = f"add {SPLIT_SETS[family]} {member}" in lines
                    if is_split is not service.exposure.local:
                        return f"{member} is {'' if is_split else 'not '}redirected inside"
    return None


def _host(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
