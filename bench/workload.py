"""A cluster as the API server would describe it: N Services with E endpoints each.

Pure and without chance: the same size gives the same bytes. Objects carry what real ones carry and
nobody reads (managedFields, owners), since skipping it is part of the cost of reading.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import msgspec

from ipvsproxy.objects import ServiceName

NODE = "node-a"
"""The node that the agent runs on; one endpoint in 50 is local to it."""
NODE_ADDRESS = "192.168.50.11"
NAMESPACE = "bench"
PORT, TARGET_PORT = 80, 8080
SLICE_ENDPOINTS = 100
"""Endpoints of one slice at most, as the control plane makes them."""
FIRST_SERVICES = {
    ("default", "kubernetes"): ("10.96.0.1", (("https", "TCP", 443),)),
    ("kube-system", "kube-dns"): ("10.96.0.3", (("dns", "UDP", 53), ("dns-tcp", "TCP", 53))),
}
"""What all others on a node wait for, with address and ports."""

_SERVICE_ADDRESSES = int(ipaddress.IPv4Address("10.96.0.10"))
_POD_ADDRESSES = int(ipaddress.IPv4Address("10.128.0.10"))
_SPARE_ADDRESSES = int(ipaddress.IPv4Address("10.250.0.10"))
_LOCAL_EVERY = 50
_NODE_PORTS, _NODE_PORT_EVERY = 30000, 10
_FIRST_VERSION = 1000


class Size(NamedTuple):
    """How large the cluster is."""

    services: int
    endpoints: int
    """Of each Service."""


class Objects(NamedTuple):
    """The objects of a cluster as JSON, by Service."""

    services: tuple[bytes, ...]
    slices: tuple[bytes, ...]


def objects(size: Size) -> Objects:
    """Write all objects of a cluster."""
    return Objects(
        tuple(service(index) for index in range(size.services)),
        tuple(endpoint_slice(index, pods(index, size.endpoints)) for index in range(size.services)),
    )


def name(index: int) -> ServiceName:
    """Name a Service."""
    return ServiceName(NAMESPACE, f"service-{index:05d}")


def service_address(index: int) -> str:
    """Give the ClusterIP of a Service."""
    return str(ipaddress.IPv4Address(_SERVICE_ADDRESSES + index))


def pods(index: int, count: int) -> list[str]:
    """Give the addresses of a Service's first endpoints; no two Services share one."""
    first = _POD_ADDRESSES + index * count
    return [str(ipaddress.IPv4Address(first + one)) for one in range(count)]


def spare_pod(number: int) -> str:
    """Give the address of a pod that no Service has at first, on another node."""
    return str(ipaddress.IPv4Address(_SPARE_ADDRESSES + number))


def node_port(index: int) -> int | None:
    """Give the NodePort that a Service has where NodePorts are asked for: one in ten has."""
    return _NODE_PORTS + index // _NODE_PORT_EVERY if index % _NODE_PORT_EVERY == 0 else None


def service(index: int, *, node_port: int | None = None, version: int | None = None) -> bytes:
    """Write a Service; with a NodePort, if one is given."""
    port = {"name": "http", "protocol": "TCP", "port": PORT, "targetPort": TARGET_PORT}
    spec = {"ports": [port if node_port is None else {**port, "nodePort": node_port}]}
    if node_port is not None:
        spec |= {"type": "NodePort", "externalTrafficPolicy": "Cluster"}  # type: ignore[dict-item]
    return _service(name(index), index, service_address(index), spec, version)


def first_objects() -> Iterator[tuple[ServiceName, bytes, bytes]]:
    """Write the Services that all others wait for, each with its slice."""
    for number, ((namespace, own), (address, ports)) in enumerate(FIRST_SERVICES.items()):
        owner, index = ServiceName(namespace, own), 900_000 + number
        written = [
            {"name": called, "protocol": protocol, "port": port, "targetPort": port}
            for called, protocol, port in ports
        ]
        targets = [
            {"name": called, "protocol": protocol, "port": port} for called, protocol, port in ports
        ]
        endpoints = [_endpoint(own, address) for address in first_pods(number)]
        yield (
            owner,
            _service(owner, index, address, {"ports": written}, None),
            _slice(owner, (index, 0), targets, endpoints, None),
        )


def first_pods(number: int) -> list[str]:
    """Give the addresses of the endpoints of a Service that all others wait for."""
    return [spare_pod(-2 - 2 * number), spare_pod(-1 - 2 * number)]


def _service(
    own: ServiceName,
    index: int,
    address: str,
    spec: Mapping[str, object],
    version: int | None,
) -> bytes:
    labels = {"app.kubernetes.io/name": own.name, "app.kubernetes.io/part-of": "bench"}
    return msgspec.json.encode(
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {
                "name": own.name,
                "namespace": own.namespace,
                "uid": f"5e000000-0000-4000-8000-{index:012d}",
                "resourceVersion": str(_FIRST_VERSION + index if version is None else version),
                "creationTimestamp": "2024-03-01T10:00:00Z",
                "labels": labels,
                "managedFields": _managed("kubectl", "f:spec", ("f:ports", "f:selector", "f:type")),
            },
            "spec": {
                "type": "ClusterIP",
                "clusterIP": address,
                "clusterIPs": [address],
                "ipFamilies": ["IPv4"],
                "ipFamilyPolicy": "SingleStack",
                "internalTrafficPolicy": "Cluster",
                "sessionAffinity": "None",
                "selector": labels,
                **spec,
            },
            "status": {"loadBalancer": {}},
        }
    )


def endpoint_slice(
    index: int, addresses: list[str], *, part: int = 0, version: int | None = None
) -> bytes:
    """Write a slice of a Service, the first one unless `part` says otherwise."""
    own = name(index)
    ports = [{"name": "http", "protocol": "TCP", "port": TARGET_PORT}]
    endpoints = [_endpoint(own.name, address) for address in addresses]
    return _slice(own, (index, part), ports, endpoints, version)


def slice_name(own: ServiceName, part: int) -> ServiceName:
    """Name a slice of a Service."""
    return ServiceName(own.namespace, f"{own.name}-abc{part:02d}")


def _slice(
    own: ServiceName,
    number: tuple[int, int],
    ports: list[dict[str, object]] | list[dict[str, str | int]],
    endpoints: list[dict[str, object]],
    version: int | None,
) -> bytes:
    index, part = number
    return msgspec.json.encode(
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": slice_name(own, part).name,
                "namespace": own.namespace,
                "uid": f"51000000-0000-4000-80{part:02d}-{index:012d}",
                "resourceVersion": str(_FIRST_VERSION + index if version is None else version),
                "creationTimestamp": "2024-03-01T10:00:01Z",
                "labels": {"kubernetes.io/service-name": own.name},
                "ownerReferences": [{"apiVersion": "v1", "kind": "Service", "name": own.name}],
                "managedFields": _managed("kube-controller-manager", "f:endpoints", ("f:ports",)),
            },
            "addressType": "IPv4",
            "ports": ports,
            "endpoints": endpoints,
        }
    )


def node() -> bytes:
    """Write the Node of the agent."""
    return msgspec.json.encode(
        {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {
                "name": NODE,
                "uid": "0d000000-0000-4000-8000-000000000000",
                "resourceVersion": str(_FIRST_VERSION),
                "labels": {"kubernetes.io/hostname": NODE, "topology.kubernetes.io/zone": "zone-a"},
            },
            "spec": {"podCIDR": "10.128.0.0/24", "podCIDRs": ["10.128.0.0/24"]},
            "status": {"addresses": [{"type": "InternalIP", "address": NODE_ADDRESS}]},
        }
    )


def _endpoint(owner: str, address: str) -> dict[str, object]:
    number = int(ipaddress.IPv4Address(address))
    spare = number >= _SPARE_ADDRESSES
    local = not spare and (number - _POD_ADDRESSES) % _LOCAL_EVERY == 0
    return {
        "addresses": [address],
        "conditions": {"ready": True, "serving": True, "terminating": False},
        "nodeName": NODE if local else f"node-{number % 100:03d}",
        "zone": "zone-b",
        "targetRef": {"kind": "Pod", "namespace": NAMESPACE, "name": f"{owner}-{number:x}"},
    }


def _managed(manager: str, field: str, fields: tuple[str, ...]) -> list[dict[str, object]]:
    return [
        {
            "manager": manager,
            "operation": "Update",
            "apiVersion": "v1",
            "time": "2024-03-01T10:00:00Z",
            "fieldsType": "FieldsV1",
            "fieldsV1": {"f:metadata": {"f:labels": {".": {}}}, field: {key: {} for key in fields}},
        }
    ]
