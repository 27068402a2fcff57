"""A cluster as the API server would describe it: N ClusterIP Services with E endpoints each.

Pure and without chance: the same size gives the same bytes. Objects carry what real ones carry and
nobody reads (managedFields, owners), since skipping it is part of the cost of reading.
"""

from __future__ import annotations

import ipaddress
from typing import NamedTuple

import msgspec

from ipvsproxy.objects import ServiceName

NODE = "node-a"
"""The node that the agent runs on; one endpoint in 50 is local to it."""
NAMESPACE = "bench"
PORT, TARGET_PORT = 80, 8080

_SERVICE_ADDRESSES = int(ipaddress.IPv4Address("10.96.0.10"))
_POD_ADDRESSES = int(ipaddress.IPv4Address("10.128.0.10"))
_SPARE_ADDRESSES = int(ipaddress.IPv4Address("10.250.0.10"))
_LOCAL_EVERY = 50


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


def service(index: int) -> bytes:
    """Write a Service."""
    labels = {"app.kubernetes.io/name": name(index).name, "app.kubernetes.io/part-of": "bench"}
    return msgspec.json.encode(
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {
                "name": name(index).name,
                "namespace": NAMESPACE,
                "uid": f"5e000000-0000-4000-8000-{index:012d}",
                "resourceVersion": str(1000 + index),
                "creationTimestamp": "2024-03-01T10:00:00Z",
                "labels": labels,
                "managedFields": _managed("kubectl", "f:spec", ("f:ports", "f:selector", "f:type")),
            },
            "spec": {
                "type": "ClusterIP",
                "clusterIP": service_address(index),
                "clusterIPs": [service_address(index)],
                "ipFamilies": ["IPv4"],
                "ipFamilyPolicy": "SingleStack",
                "internalTrafficPolicy": "Cluster",
                "sessionAffinity": "None",
                "selector": labels,
                "ports": [
                    {"name": "http", "protocol": "TCP", "port": PORT, "targetPort": TARGET_PORT}
                ],
            },
            "status": {"loadBalancer": {}},
        }
    )


def endpoint_slice(index: int, addresses: list[str]) -> bytes:
    """Write the one slice of a Service, with these endpoints."""
    owner = name(index).name
    return msgspec.json.encode(
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": f"{owner}-abcde",
                "namespace": NAMESPACE,
                "uid": f"51000000-0000-4000-8000-{index:012d}",
                "resourceVersion": str(1000 + index),
                "creationTimestamp": "2024-03-01T10:00:01Z",
                "labels": {"kubernetes.io/service-name": owner},
                "ownerReferences": [{"apiVersion": "v1", "kind": "Service", "name": owner}],
                "managedFields": _managed("kube-controller-manager", "f:endpoints", ("f:ports",)),
            },
            "addressType": "IPv4",
            "ports": [{"name": "http", "protocol": "TCP", "port": TARGET_PORT}],
            "endpoints": [_endpoint(owner, address) for address in addresses],
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
