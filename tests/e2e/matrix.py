"""The traffic matrix: who may ask whom, and what must come of it.

A cell is a client, a frontend of a Service, a protocol and an address family. What must come of it
is derived here, from what Kubernetes says of traffic policies and source ranges and from the few
differences from kube-proxy that this product has on purpose (docs/packet-flow.md); nothing is
asked of the product.

    the packet is balanced by     the client's own node; the node whose address it is for a node
                                  port; the node that a client outside has its route to
    external policy Cluster       everybody has all endpoints
    external policy Local         outside: those of that node, or silence if these are elsewhere
                                  inside: what the ClusterIP has
    internal policy               the ClusterIP has all endpoints, or those of that node
    source ranges                 hold for the load balancer's address, for everybody
    no endpoint to be had         refused
    source address                a pod's own; the node's for the node itself, for outside clients
                                  that have all endpoints, for a pod that reaches itself, and for
                                  node ports with external policy Cluster; but a pod in that
                                  node's own network sees the client's, for what stays on the node
                                  is not masqueraded
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, TypeAlias

from testbed.client import Protocol, Target
from testbed.layout import Node, Pod
from testbed.manifests import LOAD_BALANCER, LOCAL, SERVICE_PORT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from testbed.layout import Host, Layout
    from testbed.manifests import Service

CLIENTS = ("outside", "elsewhere", "c1", "c2", "a1", "node1", "node2")
"""Two outside the cluster; a pod of each node, a pod that is an endpoint, and the nodes."""


class Frontend(Enum):
    """Where a client asks."""

    CLUSTER_IP = "ClusterIP"
    EXTERNAL_IP = "externalIP"
    LOAD_BALANCER = "LoadBalancer"
    NODE_PORT_OF_NODE1 = "node1"
    NODE_PORT_OF_NODE2 = "node2"


NODE_PORTS = (Frontend.NODE_PORT_OF_NODE1, Frontend.NODE_PORT_OF_NODE2)


class Source(Enum):
    """Which address the pod sees."""

    CLIENT = "the client's own"
    NODE = "one of the node that balanced it"


@dataclass(frozen=True, slots=True)
class Answered:
    """Every request is answered, by each of the pods at some time and by no others."""

    pods: frozenset[str]
    source: Source


@dataclass(frozen=True, slots=True)
class Refused:
    """Somebody says no at once (SCTP takes no notice of that, and waits)."""


@dataclass(frozen=True, slots=True)
class Dropped:
    """Nothing comes back."""


@dataclass(frozen=True, slots=True)
class Unserved:
    """No node serves it; whether and how that is told is the network's matter."""


Expected: TypeAlias = Answered | Refused | Dropped | Unserved


class Role(Enum):
    """What a client is to the node that balances its packet."""

    POD = "a pod"
    NODE = "the node itself"
    OUTSIDE = "anybody else"


@dataclass(frozen=True, slots=True)
class Cell:
    """One question of the matrix."""

    layout: Layout
    service: Service
    frontend: Frontend
    client: str
    protocol: Protocol
    family: int

    def __str__(self) -> str:
        """Return its name: the one of its test."""
        where = f"{self.service.name}-{self.frontend.value}"
        return f"{self.client}-to-{where}-{self.protocol.name}-IPv{self.family}"

    @property
    def host(self) -> Host:
        """The client."""
        return self.layout.host(self.client)

    @property
    def target(self) -> Target:
        """Where it asks."""
        service, family = self.service, self.family
        if self.frontend in NODE_PORTS:
            node = self.layout.node(self.frontend.value)
            return Target(node.address(family), service.node_port, self.protocol)
        address = {
            Frontend.CLUSTER_IP: service.address,
            Frontend.EXTERNAL_IP: service.external_address,
            Frontend.LOAD_BALANCER: service.ingress_address,
        }[self.frontend]
        return Target(address(family), SERVICE_PORT, self.protocol)

    @property
    def via(self) -> Node:
        """The node that balances its packets."""
        if self.frontend in NODE_PORTS:
            return self.layout.node(self.frontend.value)
        match self.host:
            case Pod() as pod:
                return self.layout.node(pod.node)
            case Node() as node:
                return node
            case outside:
                return self.layout.nodes[0 if outside == self.layout.outside else -1]

    @property
    def role(self) -> Role:
        """What the client is to that node."""
        match self.host:
            case Pod():
                return Role.POD
            case Node() as node if node == self.via:
                return Role.NODE
            case _:
                return Role.OUTSIDE

    @property
    def between_nodes(self) -> bool:
        """Whether one node asks another."""
        return isinstance(self.host, Node) and self.host != self.via

    @property
    def of_another_node(self) -> bool:
        """Whether the client is a pod of another node than the one that balances."""
        return isinstance(self.host, Pod) and self.host.node != self.via.name


def cells_of(layout: Layout, service: Service) -> Iterator[Cell]:
    """Yield every cell of a Service."""
    for frontend in _frontends(service):
        for client in CLIENTS:
            for protocol in service.protocols:
                for family in service.families:
                    yield Cell(layout, service, frontend, client, Protocol[protocol], family)


def _frontends(service: Service) -> Iterator[Frontend]:
    yield Frontend.CLUSTER_IP
    if service.exposure.external_ips:
        yield Frontend.EXTERNAL_IP
    if service.exposure.type == LOAD_BALANCER:
        yield Frontend.LOAD_BALANCER
    if service.node_port:
        yield from NODE_PORTS


def expected(cell: Cell) -> Expected:
    """Say what must come of a cell."""
    service = cell.service
    if cell.frontend is Frontend.LOAD_BALANCER:
        if service.exposure.ip_mode == "Proxy":
            return Unserved()
        if not _in_source_ranges(cell):
            return Dropped()
    if cell.frontend is Frontend.CLUSTER_IP:
        return _internal(cell)
    if not service.exposure.local:
        return _by_any_endpoint(cell)
    if cell.role is Role.OUTSIDE:
        return _by_local_endpoint(cell)
    return _internal(cell)


def _in_source_ranges(cell: Cell) -> bool:
    """Say whether the client's address (a node's: its primary one) is in one of the ranges."""
    address = ipaddress.ip_address(cell.host.address(cell.family))
    ranges = [
        ipaddress.ip_network(text, strict=False) for text in cell.service.exposure.source_ranges
    ]
    return not ranges or any(address in one for one in ranges)


def _internal(cell: Cell) -> Expected:
    """Say what comes of a packet to the ClusterIP, or redirected to it."""
    on = cell.via.name if cell.service.internal_policy == LOCAL else ""
    pods = _pods(cell.service, on)
    if not pods:
        return Refused()
    # What was redirected in a node port comes from anywhere, so its answer must come back here.
    own = cell.role is Role.POD and not cell.of_another_node
    return Answered(pods, Source.CLIENT if own else Source.NODE)


def _by_any_endpoint(cell: Cell) -> Expected:
    pods = _pods(cell.service)
    if not pods:
        return Refused()
    own = cell.role is Role.POD and cell.frontend not in NODE_PORTS
    return Answered(pods, Source.CLIENT if own else Source.NODE)


def _by_local_endpoint(cell: Cell) -> Expected:
    pods = _pods(cell.service, cell.via.name)
    if pods:
        return Answered(pods, Source.CLIENT)
    return Dropped() if _pods(cell.service) else Refused()


def _pods(service: Service, on: str = "") -> frozenset[str]:
    return frozenset(one.pod.name for one in service.serving(on=on))
