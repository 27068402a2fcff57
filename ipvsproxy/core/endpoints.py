"""Which endpoints of a Service port serve, and which are merely still there.

Knows endpoint conditions and traffic policies; knows nothing of virtual servers. The rules are
kube-proxy's (KEP-1669 ProxyTerminatingEndpoints, KEP-2086 internalTrafficPolicy):

1. an endpoint that is ready serves;
2. where none is ready, those serve that are serving and terminating;
3. with policy Local both rules look at this node's endpoints only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import Enum
from typing import NamedTuple

from ipvsproxy.model import Family, Protocol, RealServerKey
from ipvsproxy.objects import Endpoint, EndpointSlice


class Policy(Enum):
    """Where a frontend's connections may go."""

    CLUSTER = "Cluster"
    LOCAL = "Local"


class PlacedEndpoint(NamedTuple):
    """An endpoint, and the name of the slice that it was read from."""

    endpoint: Endpoint
    slice_name: str


class Selection(NamedTuple):
    """The endpoints of one port under one policy; the three parts share no member."""

    serving: frozenset[RealServerKey]
    """In rotation."""
    displaced: frozenset[RealServerKey]
    """Ready, but not chosen: by policy."""
    retiring: frozenset[RealServerKey]
    """Still in a slice, but not ready or terminating, and not needed as a last resort."""


def gather(
    slices: Iterable[EndpointSlice], *, port_name: str, protocol: Protocol, family: Family
) -> dict[RealServerKey, PlacedEndpoint]:
    """Merge the slices' endpoints for one port of a Service, by address and port.

    Ports are matched by name and protocol. The same address and port in two slices is one
    endpoint: one that is ready wins, then one that is serving, then the first slice by name.
    """
    merged: dict[RealServerKey, PlacedEndpoint] = {}
    for part in sorted(slices, key=lambda part: part.name):
        if part.family is not family:
            continue
        numbers = [
            port.port for port in part.ports if port.name == port_name and port.protocol is protocol
        ]
        for number in numbers:
            for endpoint in part.endpoints:
                key = RealServerKey(endpoint.address, number)
                present = merged.get(key)
                if present is None or _rank(endpoint) > _rank(present.endpoint):
                    merged[key] = PlacedEndpoint(endpoint, part.name)
    return merged


def select(
    endpoints: Mapping[RealServerKey, PlacedEndpoint], policy: Policy, node_name: str
) -> Selection:
    """Choose the endpoints that serve under a policy, as seen from the node `node_name`."""
    candidates = {
        key: placed.endpoint
        for key, placed in endpoints.items()
        if policy is Policy.CLUSTER or placed.endpoint.node_name == node_name
    }
    ready = frozenset(key for key, endpoint in candidates.items() if endpoint.ready)
    serving = ready or frozenset(
        key for key, endpoint in candidates.items() if endpoint.serving and endpoint.terminating
    )
    others = endpoints.keys() - serving
    displaced = frozenset(key for key in others if endpoints[key].endpoint.ready)
    return Selection(serving, displaced, frozenset(others - displaced))


def _rank(endpoint: Endpoint) -> tuple[bool, bool]:
    return endpoint.ready, endpoint.serving
