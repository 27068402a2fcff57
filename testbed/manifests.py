"""Services, EndpointSlices and Nodes as YAML files in a folder, replaced atomically.

One file for each Service: the Service and its two slices, so that a reader never sees a half.
"""

from __future__ import annotations

import ipaddress
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import yaml

from testbed.backend import PORT
from testbed.layout import CLUSTER_NETWORKS, EXTERNAL_NETWORKS, INGRESS_NETWORKS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from testbed.layout import Node, Pod

IPV4 = 4
DOMAIN = "ipvsproxy.io/"
SCHEDULER = f"{DOMAIN}scheduler"
WEIGHTS = f"{DOMAIN}weights"
HEALTH_CHECK = f"{DOMAIN}health-check"
SERVICE_PORT = 80
FIRST_NODE_PORT = 30000
FIRST_HEALTH_CHECK_NODE_PORT = 32000
PROTOCOLS = ("TCP", "UDP", "SCTP")
NODE_PORT = "NodePort"
LOAD_BALANCER = "LoadBalancer"
LOCAL = "Local"
"""The traffic policy; the other one is Cluster."""

Json: TypeAlias = "bool | int | str | list[Json] | dict[str, Json] | None"
Document: TypeAlias = "dict[str, Json]"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A pod as an endpoint of a Service."""

    pod: Pod
    ready: bool = True
    terminating: bool = False
    """Not ready any more, still serving what it has."""
    weight: int | None = None


@dataclass(frozen=True, slots=True)
class Exposure:
    """How a Service is to be had besides its ClusterIP, and by whom."""

    type: str = "ClusterIP"
    """Or NodePort, or LoadBalancer."""
    external_ips: bool = False
    """Whether it has externalIPs, one of each family."""
    policy: str = "Cluster"
    """Its externalTrafficPolicy; or Local."""
    source_ranges: tuple[str, ...] = ()
    """loadBalancerSourceRanges; empty: everybody."""
    ip_mode: str = "VIP"
    """Of its load balancer's addresses; or Proxy."""
    node_ports: bool = True
    """allocateLoadBalancerNodePorts."""

    @property
    def external(self) -> bool:
        """Whether it has any frontend to which the external policy applies."""
        return self.type != "ClusterIP" or self.external_ips

    @property
    def local(self) -> bool:
        """Whether outside clients get local endpoints only."""
        return self.external and self.policy == LOCAL


@dataclass(frozen=True, slots=True)
class Service:
    """A Service of the testbed, on port 80; dual-stack over TCP, UDP and SCTP."""

    name: str
    number: int
    """The last part of its addresses, as in 10.96.0.N and fd00:10:96::N (hexadecimal), and of its
    ports: node port 30000 + N, health check node port 32000 + N."""
    endpoints: tuple[Endpoint, ...]
    scheduler: str | None = None
    """The value of the annotation; None: no annotation."""
    protocols: tuple[str, ...] = PROTOCOLS
    families: tuple[int, ...] = (4, 6)
    affinity_seconds: int = 0
    """ClientIP affinity; 0: none."""
    exposure: Exposure = Exposure()
    internal_policy: str = "Cluster"
    """Its internalTrafficPolicy; or Local."""
    annotations: tuple[tuple[str, str], ...] = ()
    """Others than the scheduler's, names without our domain and values."""

    def address(self, family: int) -> str:
        """Its cluster address in a family, 4 or 6."""
        return self._within(CLUSTER_NETWORKS, family)

    def ingress_address(self, family: int) -> str:
        """Return its load balancer's address in a family, 4 or 6, whether it has one or not."""
        return self._within(INGRESS_NETWORKS, family)

    def external_address(self, family: int) -> str:
        """Return the one of its externalIPs in a family, 4 or 6, whether it has any or not."""
        return self._within(EXTERNAL_NETWORKS, family)

    def _within(self, networks: tuple[str, str], family: int) -> str:
        block = ipaddress.ip_network(networks[family != IPV4])
        return str(block[self.number])

    @property
    def addresses(self) -> tuple[str, ...]:
        """Its cluster addresses, in the order of its families."""
        return tuple(map(self.address, self.families))

    def bound_addresses(self, family: int) -> tuple[str, ...]:
        """Every address of a family, 4 or 6, that a node is to take for its own."""
        exposure = self.exposure
        ingress = exposure.type == LOAD_BALANCER and exposure.ip_mode == "VIP"
        return (
            self.address(family),
            *([self.external_address(family)] if exposure.external_ips else []),
            *([self.ingress_address(family)] if ingress else []),
        )

    @property
    def node_port(self) -> int:
        """Its node port, the same for every protocol; 0: it has none."""
        exposure = self.exposure
        has = exposure.type == NODE_PORT or (exposure.type == LOAD_BALANCER and exposure.node_ports)
        return FIRST_NODE_PORT + self.number if has else 0

    @property
    def health_check_node_port(self) -> int:
        """The port that a load balancer asks for local endpoints; 0: none."""
        has = self.exposure.type == LOAD_BALANCER and self.exposure.local
        return FIRST_HEALTH_CHECK_NODE_PORT + self.number if has else 0

    @property
    def annotation(self) -> str:
        """The scheduler's annotation, as a person reads it."""
        return f"{SCHEDULER}: {self.scheduler}" if self.scheduler else "none"

    @property
    def ready(self) -> tuple[Endpoint, ...]:
        """The endpoints that take new connections."""
        return tuple(endpoint for endpoint in self.endpoints if endpoint.ready)

    def serving(self, *, on: str = "") -> tuple[Endpoint, ...]:
        """Return who is to take new connections, of all nodes or on one.

        Those that are ready; where none is, those that still serve although they terminate.
        """
        here = [one for one in self.endpoints if on in {"", one.pod.node}]
        ready = tuple(one for one in here if one.ready)
        return ready or tuple(one for one in here if one.terminating)

    def scheduled_by(self, scheduler: str) -> Service:
        """Return the same Service with another annotation."""
        return replace(self, scheduler=scheduler)

    def annotated(self, **annotations: str) -> Service:
        """Return the same Service with other annotations besides the scheduler's.

        Names are without our domain, and with `_` for `-`.
        """
        written = ((name.replace("_", "-"), text) for name, text in annotations.items())
        return replace(self, annotations=tuple(written))

    def checked(self, kind: str, options: str = "") -> Service:
        """Return the same Service with a health check."""
        written = {"health_check": kind, **({"health_check_options": options} if options else {})}
        return self.annotated(**written)

    def with_endpoints(self, endpoints: Iterable[Endpoint]) -> Service:
        """Return the same Service with other endpoints."""
        return replace(self, endpoints=tuple(endpoints))

    def exposed(self, exposure: Exposure) -> Service:
        """Return the same Service with other frontends."""
        return replace(self, exposure=exposure)


def endpoints_of(
    pods: Iterable[Pod], *, weights: Mapping[str, int] | None = None
) -> tuple[Endpoint, ...]:
    """Return ready endpoints for pods; `weights` by pod name."""
    return tuple(Endpoint(pod, weight=(weights or {}).get(pod.name)) for pod in pods)


def documents(service: Service) -> list[Document]:
    """Return the Service and its slices as Kubernetes objects."""
    annotations: dict[str, Json] = {SCHEDULER: service.scheduler} if service.scheduler else {}
    annotations |= {f"{DOMAIN}{name}": text for name, text in service.annotations}
    return [
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {
                "name": service.name,
                "namespace": "default",
                "annotations": annotations,
            },
            "spec": _spec(service),
            "status": _status(service),
        },
        *(_slice(service, family) for family in service.families),
    ]


def _spec(service: Service) -> Document:
    names: list[Json] = [f"IPv{family}" for family in service.families]
    return {
        "type": service.exposure.type,
        "clusterIP": service.addresses[0],
        "clusterIPs": list(service.addresses),
        "ipFamilies": names,
        "ipFamilyPolicy": "SingleStack" if len(names) == 1 else "RequireDualStack",
        "internalTrafficPolicy": service.internal_policy,
        **_external(service),
        **_affinity(service),
        "ports": [_port(service, protocol) for protocol in service.protocols],
    }


def _port(service: Service, protocol: str) -> Document:
    port: Document = {
        "name": protocol.lower(),
        "protocol": protocol,
        "port": SERVICE_PORT,
        "targetPort": PORT,
    }
    return port | {"nodePort": service.node_port} if service.node_port else port


def _external(service: Service) -> Document:
    exposure = service.exposure
    fields: Document = {}
    if exposure.external_ips:
        fields["externalIPs"] = [service.external_address(family) for family in service.families]
    if exposure.external:
        fields["externalTrafficPolicy"] = exposure.policy
    if exposure.type == LOAD_BALANCER:
        fields["allocateLoadBalancerNodePorts"] = exposure.node_ports
    if exposure.source_ranges:
        fields["loadBalancerSourceRanges"] = list(exposure.source_ranges)
    if service.health_check_node_port:
        fields["healthCheckNodePort"] = service.health_check_node_port
    return fields


def _status(service: Service) -> Document:
    if service.exposure.type != LOAD_BALANCER:
        return {"loadBalancer": {}}
    mode = service.exposure.ip_mode
    ingress: list[Json] = [
        {"ip": service.ingress_address(family), "ipMode": mode} for family in service.families
    ]
    return {"loadBalancer": {"ingress": ingress}}


def _affinity(service: Service) -> Document:
    if not service.affinity_seconds:
        return {"sessionAffinity": "None"}
    return {
        "sessionAffinity": "ClientIP",
        "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": service.affinity_seconds}},
    }


def _slice(service: Service, family: int) -> Document:
    name = f"IPv{family}"
    weights: dict[str, Json] = {
        endpoint.pod.address(family): endpoint.weight
        for endpoint in service.endpoints
        if endpoint.weight is not None
    }
    metadata: dict[str, Json] = {
        "name": f"{service.name}-{name.lower()}",
        "namespace": "default",
        "labels": {"kubernetes.io/service-name": service.name},
    }
    if weights:
        metadata["annotations"] = {WEIGHTS: json.dumps(weights)}
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": metadata,
        "addressType": name,
        "endpoints": [_endpoint(endpoint, family) for endpoint in service.endpoints],
        "ports": [
            {"name": protocol.lower(), "protocol": protocol, "port": PORT}
            for protocol in service.protocols
        ],
    }


def _endpoint(endpoint: Endpoint, family: int) -> Json:
    return {
        "addresses": [endpoint.pod.address(family)],
        "conditions": {
            "ready": endpoint.ready,
            "serving": endpoint.ready or endpoint.terminating,
            "terminating": endpoint.terminating,
        },
        "nodeName": endpoint.pod.node,
    }


def node_document(node: Node) -> Document:
    """Return a Node."""
    networks: list[Json] = list(node.pod_networks)
    addresses: list[Json] = [
        {"type": "InternalIP", "address": address} for address in node.addresses
    ]
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": node.name},
        "spec": {"podCIDR": node.pod_networks[0], "podCIDRs": networks},
        "status": {"addresses": addresses},
    }


@dataclass(frozen=True, slots=True)
class Folder:
    """The folder that the agents follow."""

    path: Path

    def write(self, name: str, objects: Iterable[Document]) -> Path:
        """Write a file of objects, or replace it, in one step; return its path."""
        target = self.path / f"{name}.yaml"
        draft = self.path / f".{name}.draft"
        draft.write_text(yaml.safe_dump_all(objects, sort_keys=False))
        draft.replace(target)
        return target

    def publish(self, service: Service) -> Path:
        """Write a Service."""
        return self.write(service.name, documents(service))

    def withdraw(self, service: Service) -> None:
        """Remove a Service."""
        (self.path / f"{service.name}.yaml").unlink(missing_ok=True)
