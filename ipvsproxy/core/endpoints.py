"""Which endpoints of a Service port serve, and which are merely still there.

Knows endpoint conditions, traffic policies and topology hints; knows nothing of virtual servers.
The rules are kube-proxy's (pkg/proxy/topology.go; KEP-1669 ProxyTerminatingEndpoints, KEP-2086
internalTrafficPolicy, KEP-2433 zone hints, KEP-3015 node hints):

1. an endpoint that is ready serves; with policy Cluster and usable hints only those hinted here;
2. where none is ready, those serve that are serving and terminating, wherever they are hinted;
3. with policy Local both rules look at this node's endpoints only, and at no hints.

Hints are usable when every ready endpoint has them and one at least is meant for here: first those
for nodes, then those for zones. One endpoint without makes the control plane's division worthless
for all, so then they are ignored. Which Services have hints is the control plane's to decide, by
trafficDistribution or an annotation: here only the hints are read, as in kube-proxy since 1.33.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from typing import NamedTuple

from ipvsproxy.model import Family, Protocol, RealServerKey
from ipvsproxy.objects import Endpoint, EndpointSlice


class Policy(Enum):
    """Where a frontend's connections may go."""

    CLUSTER = "Cluster"
    LOCAL = "Local"


class Whereabouts(NamedTuple):
    """Where this node is."""

    node_name: str
    zone: str | None = None
    """None: its Node object has no zone, so that hints for zones are ignored."""


class PlacedEndpoint(NamedTuple):
    """An endpoint, and the name of the slice that it was read from."""

    endpoint: Endpoint
    slice_name: str


class Selection(NamedTuple):
    """The endpoints of one port under one policy; the three parts share no member."""

    serving: frozenset[RealServerKey]
    """In rotation."""
    displaced: frozenset[RealServerKey]
    """Ready, but not chosen: by policy or by a hint."""
    retiring: frozenset[RealServerKey]
    """Still in a slice, but not ready or terminating, and not needed as a last resort."""


def gather(
    slices: Iterable[EndpointSlice],
    *,
    port_name: str,
    protocol: Protocol,
    family: Family,
    node_name: str = "",
) -> dict[RealServerKey, PlacedEndpoint]:
    """Merge the slices' endpoints for one port of a Service, by address and port.

    Ports are matched by name and protocol. The same address and port in two slices is one
    endpoint: one that is ready wins, then one that is serving, then one of this node, then the
    first slice by name.
    """
    merged: dict[RealServerKey, PlacedEndpoint] = {}

    def rank(endpoint: Endpoint) -> tuple[bool, bool, bool]:
        return endpoint.ready, endpoint.serving, endpoint.node_name == node_name

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
                if present is None or rank(endpoint) > rank(present.endpoint):
                    merged[key] = PlacedEndpoint(endpoint, part.name)
    return merged


NOBODY: frozenset[RealServerKey] = frozenset()
"""The one that most selections share: an empty one takes 216 bytes."""


def select(
    endpoints: Mapping[RealServerKey, PlacedEndpoint], policy: Policy, here: Whereabouts
) -> Selection:
    """Choose the endpoints that serve under a policy, as seen from `here`."""
    candidates = endpoints
    if policy is Policy.LOCAL:
        candidates = {
            key: placed
            for key, placed in endpoints.items()
            if placed.endpoint.node_name == here.node_name
        }
    ready = {key: one.endpoint for key, one in candidates.items() if one.endpoint.ready}
    if policy is Policy.CLUSTER:
        ready = _hinted(ready, here)
    serving = frozenset(ready) or frozenset(
        key for key, one in candidates.items() if one.endpoint.serving and one.endpoint.terminating
    )
    if len(serving) == len(endpoints):
        return Selection(serving, NOBODY, NOBODY)
    others = endpoints.keys() - serving
    displaced = frozenset(key for key in others if endpoints[key].endpoint.ready)
    return Selection(serving, displaced, frozenset(others - displaced))


def _hinted(
    ready: dict[RealServerKey, Endpoint], here: Whereabouts
) -> dict[RealServerKey, Endpoint]:
    """Give the ready endpoints that are meant for here; all, where the hints are not usable."""
    by_node = _meant_for(ready, here.node_name, lambda endpoint: endpoint.node_hints)
    by_zone = _meant_for(ready, here.zone, lambda endpoint: endpoint.zone_hints)
    return by_node or by_zone or ready


def _meant_for(
    ready: Mapping[RealServerKey, Endpoint],
    place: str | None,
    hints: Callable[[Endpoint], tuple[str, ...]],
) -> dict[RealServerKey, Endpoint]:
    if place is None or not all(map(hints, ready.values())):
        return {}
    return {key: endpoint for key, endpoint in ready.items() if place in hints(endpoint)}
