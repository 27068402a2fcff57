"""Services, EndpointSlices and Nodes as YAML files in a folder, replaced atomically.

One file for each Service: the Service and its two slices, so that a reader never sees a half.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import yaml

from testbed.backend import PORT

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from testbed.layout import Node, Pod

IPV4 = 4
SCHEDULER = "ipvsproxy.io/scheduler"
WEIGHTS = "ipvsproxy.io/weights"
SERVICE_PORT = 80
PROTOCOLS = ("TCP", "UDP", "SCTP")

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
class Service:
    """A ClusterIP Service of the testbed, on port 80; dual-stack over TCP, UDP and SCTP."""

    name: str
    number: int
    """The last part of its cluster addresses: 10.96.0.N and fd00:10:96::N (hexadecimal)."""
    endpoints: tuple[Endpoint, ...]
    scheduler: str | None = None
    """The value of the annotation; None: no annotation."""
    protocols: tuple[str, ...] = PROTOCOLS
    families: tuple[int, ...] = (4, 6)
    affinity_seconds: int = 0
    """ClientIP affinity; 0: none."""

    def address(self, family: int) -> str:
        """Its cluster address in a family, 4 or 6."""
        if family == IPV4:
            return f"10.96.{self.number >> 8}.{self.number & 255}"
        return f"fd00:10:96::{self.number:x}"

    @property
    def addresses(self) -> tuple[str, ...]:
        """Its cluster addresses, in the order of its families."""
        return tuple(map(self.address, self.families))

    @property
    def annotation(self) -> str:
        """The scheduler's annotation, as a person reads it."""
        return f"{SCHEDULER}: {self.scheduler}" if self.scheduler else "none"

    @property
    def ready(self) -> tuple[Endpoint, ...]:
        """The endpoints that take new connections."""
        return tuple(endpoint for endpoint in self.endpoints if endpoint.ready)

    def scheduled_by(self, scheduler: str) -> Service:
        """Return the same Service with another annotation."""
        return replace(self, scheduler=scheduler)

    def with_endpoints(self, endpoints: Iterable[Endpoint]) -> Service:
        """Return the same Service with other endpoints."""
        return replace(self, endpoints=tuple(endpoints))


def endpoints_of(
    pods: Iterable[Pod], *, weights: Mapping[str, int] | None = None
) -> tuple[Endpoint, ...]:
    """Return ready endpoints for pods; `weights` by pod name."""
    return tuple(Endpoint(pod, weight=(weights or {}).get(pod.name)) for pod in pods)


def documents(service: Service) -> list[Document]:
    """Return the Service and its slices as Kubernetes objects."""
    names: list[Json] = [f"IPv{family}" for family in service.families]
    annotations: dict[str, Json] = {SCHEDULER: service.scheduler} if service.scheduler else {}
    return [
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {
                "name": service.name,
                "namespace": "default",
                "annotations": annotations,
            },
            "spec": {
                "clusterIP": service.addresses[0],
                "clusterIPs": list(service.addresses),
                "ipFamilies": names,
                "ipFamilyPolicy": "SingleStack" if len(names) == 1 else "RequireDualStack",
                **_affinity(service),
                "ports": [
                    {
                        "name": protocol.lower(),
                        "protocol": protocol,
                        "port": SERVICE_PORT,
                        "targetPort": PORT,
                    }
                    for protocol in service.protocols
                ],
            },
        },
        *(_slice(service, family) for family in service.families),
    ]


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
