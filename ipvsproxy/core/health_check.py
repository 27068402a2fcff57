"""What the health check node port of a Service answers: how many of its endpoints are here.

Knows slices and a node's name; who listens and answers is no affair of the core. A load balancer
asks each node on this port whether to send traffic there (`externalTrafficPolicy: Local`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from ipvsproxy.objects import EndpointSlice, ServiceName


class HealthCheck(NamedTuple):
    """One Service's health check node port, as this node answers it."""

    service: ServiceName
    port: int
    """spec.healthCheckNodePort, 1-65535."""
    local_endpoints: int
    """As `local_endpoints` counts them; the node wants traffic while it is above 0."""
    created: float | None = None
    """When the Service was made, seconds since the epoch; None: unknown, younger than all others.
    It decides where two Services have the same port."""


def local_endpoints(slices: Iterable[EndpointSlice], node_name: str) -> int:
    """Count a Service's ready endpoints on this node, by address: two ports do not make it two.

    A terminating endpoint is not ready, so the balancer turns away while its connections end; one
    of a Service with publishNotReadyAddresses stays ready and counts. One port answers for both
    families, so a pod with an address of each must not count twice: it is the greater of the
    families' numbers. kube-proxy, whose rule this is otherwise, has a server for each family, and
    only one of them gets the port (EndpointsMap.LocalReadyEndpoints in pkg/proxy).
    """
    ready = {
        endpoint.address
        for part in slices
        if part.ports
        for endpoint in part.endpoints
        if endpoint.ready and endpoint.node_name == node_name
    }
    families = Counter(address.family for address in ready)
    return max(families.values(), default=0)
