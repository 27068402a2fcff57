"""Kubernetes objects as they are written: the fields that are read, and only their types checked.

Knows JSON names and types; knows no rule of what a field may hold. The structs are what makes
reading fast: msgspec skips every field that is not named here (managedFields above all) without
building anything for it. A null is the same as an absent field, as in the API's own decoder.

A decoder is made once for each kind. `decode` is the one entrance for bytes and for mappings.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Generic, TypeAlias, TypeVar

import msgspec
from msgspec import field

Raw: TypeAlias = bytes | msgspec.Raw | Mapping[str, object]
"""An object as JSON text, or as a parsed mapping."""


class Metadata(msgspec.Struct, rename="camel"):
    """ObjectMeta."""

    name: str | None = None
    namespace: str | None = None
    uid: str | None = None
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None
    labels: dict[str, str | None] | None = None
    annotations: dict[str, str | None] | None = None


class ServicePort(msgspec.Struct, rename="camel"):
    """core/v1 ServicePort."""

    name: str | None = None
    protocol: str | None = None
    port: int | None = None
    node_port: int | None = None


class ClientIPConfig(msgspec.Struct, rename="camel"):
    """core/v1 ClientIPConfig."""

    timeout_seconds: int | None = None


class SessionAffinityConfig(msgspec.Struct):
    """core/v1 SessionAffinityConfig."""

    client_ip: ClientIPConfig | None = field(default=None, name="clientIP")


class ServiceSpec(msgspec.Struct, rename="camel"):
    """core/v1 ServiceSpec."""

    type: str | None = None
    cluster_ip: str | None = field(default=None, name="clusterIP")
    cluster_ips: list[str] | None = field(default=None, name="clusterIPs")
    ip_families: list[str] | None = None
    ports: list[ServicePort] | None = None
    session_affinity: str | None = None
    session_affinity_config: SessionAffinityConfig | None = None
    internal_traffic_policy: str | None = None
    external_traffic_policy: str | None = None
    external_ips: list[str] | None = field(default=None, name="externalIPs")
    load_balancer_source_ranges: list[str] | None = None
    health_check_node_port: int | None = None


class LoadBalancerIngress(msgspec.Struct, rename="camel"):
    """core/v1 LoadBalancerIngress."""

    ip: str | None = None
    ip_mode: str | None = None


class LoadBalancerStatus(msgspec.Struct):
    """core/v1 LoadBalancerStatus."""

    ingress: list[LoadBalancerIngress] | None = None


class ServiceStatus(msgspec.Struct, rename="camel"):
    """core/v1 ServiceStatus."""

    load_balancer: LoadBalancerStatus | None = None


class Service(msgspec.Struct):
    """core/v1 Service."""

    metadata: Metadata | None = None
    spec: ServiceSpec | None = None
    status: ServiceStatus | None = None


class Conditions(msgspec.Struct):
    """discovery.k8s.io/v1 EndpointConditions."""

    ready: bool | None = None
    serving: bool | None = None
    terminating: bool | None = None


class Hint(msgspec.Struct):
    """discovery.k8s.io/v1 ForZone and ForNode."""

    name: str | None = None


class Hints(msgspec.Struct, rename="camel"):
    """discovery.k8s.io/v1 EndpointHints."""

    for_zones: list[Hint] | None = None
    for_nodes: list[Hint] | None = None


class TargetReference(msgspec.Struct):
    """core/v1 ObjectReference, as far as it names a Pod in the slice's own namespace."""

    kind: str | None = None
    name: str | None = None


class Endpoint(msgspec.Struct, rename="camel"):
    """discovery.k8s.io/v1 Endpoint."""

    addresses: list[str] | None = None
    conditions: Conditions | None = None
    node_name: str | None = None
    zone: str | None = None
    hints: Hints | None = None
    target_ref: TargetReference | None = None


class SlicePort(msgspec.Struct):
    """discovery.k8s.io/v1 EndpointPort."""

    name: str | None = None
    protocol: str | None = None
    port: int | None = None


class EndpointSlice(msgspec.Struct, rename="camel"):
    """discovery.k8s.io/v1 EndpointSlice."""

    metadata: Metadata | None = None
    address_type: str | None = None
    endpoints: list[Endpoint] | None = None
    ports: list[SlicePort] | None = None


class Taint(msgspec.Struct):
    """core/v1 Taint."""

    key: str | None = None


class NodeSpec(msgspec.Struct):
    """core/v1 NodeSpec."""

    pod_cidr: str | None = field(default=None, name="podCIDR")
    pod_cidrs: list[str] | None = field(default=None, name="podCIDRs")
    taints: list[Taint] | None = None


class NodeAddress(msgspec.Struct):
    """core/v1 NodeAddress."""

    type: str | None = None
    address: str | None = None


class NodeStatus(msgspec.Struct):
    """core/v1 NodeStatus."""

    addresses: list[NodeAddress] | None = None
    allocatable: dict[str, str | int | float | None] | None = None


class Node(msgspec.Struct):
    """core/v1 Node."""

    metadata: Metadata | None = None
    spec: NodeSpec | None = None
    status: NodeStatus | None = None


class Pod(msgspec.Struct):
    """core/v1 Pod, or its metadata only (meta/v1 PartialObjectMetadata)."""

    metadata: Metadata | None = None


class ServiceCIDRSpec(msgspec.Struct):
    """networking.k8s.io/v1 ServiceCIDRSpec."""

    cidrs: list[str] | None = None


class ServiceCIDR(msgspec.Struct):
    """networking.k8s.io/v1 ServiceCIDR."""

    metadata: Metadata | None = None
    spec: ServiceCIDRSpec | None = None


WireObject = TypeVar("WireObject", bound=msgspec.Struct)


class Kind(Generic[WireObject]):
    """A kind of object: its name, its struct, and a decoder that is made once."""

    def __init__(self, name: str, struct: type[WireObject]) -> None:
        self.name = name
        self._struct: type[WireObject] = struct
        self._decoder: msgspec.json.Decoder[WireObject] = msgspec.json.Decoder(struct)

    def decode(self, raw: Raw) -> WireObject:
        """Read the fields; raises ValueError (msgspec's are its children) for a wrong type."""
        if isinstance(raw, Mapping):
            return msgspec.convert(raw, self._struct)
        return self._decoder.decode(raw)


SERVICE = Kind("Service", Service)
ENDPOINT_SLICE = Kind("EndpointSlice", EndpointSlice)
NODE = Kind("Node", Node)
POD = Kind("Pod", Pod)
SERVICE_CIDR = Kind("ServiceCIDR", ServiceCIDR)


_MISMATCH = re.compile(r"Expected `(?P<wanted>\w+)(?: \| null)?`(?:, got `(?P<got>\w+)`)?")
_PLACE = re.compile(r"- at (?P<key>`key` in )?`\$\.?(?P<path>[^`]*)`")
_WORDS = {
    "array": "a list",
    "bool": "true or false",
    "date": "a date",
    "datetime": "a time",
    "float": "a number with a fraction",
    "int": "a whole number",
    "null": "nothing",
    "object": "a mapping",
    "str": "text",
}


def explain(error: Exception, raw: Raw) -> str:
    """Say in one line what msgspec did not like, the field's path first."""
    text = " ".join(str(error).split())
    mismatch = _MISMATCH.search(text)
    if mismatch is None:
        return text
    wanted, got = mismatch["wanted"], mismatch["got"]
    reason = f"{_WORDS.get(wanted, wanted)} is needed"
    if got is not None:
        reason += f", not {_WORDS.get(got, got)}"
    if wanted == "str" and got in ("bool", "int", "float", "null"):
        reason += " (put it in quotes)"
    place = _PLACE.search(text)
    if place is None:
        return f"the object: {reason}"
    path = _name_the_key(place["path"], raw)
    return f"{path}: {'as a key ' if place['key'] else ''}{reason}"


def _name_the_key(path: str, raw: Raw) -> str:
    """Replace msgspec's `[...]` by the first key of that mapping whose value is not text."""
    head, mark, tail = path.partition("[...]")
    if not mark:
        return path or "the object"
    value: object = raw if isinstance(raw, Mapping) else loosely(raw)
    for name in head.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    if isinstance(value, Mapping):
        for key, item in value.items():
            if item is not None and not isinstance(item, str):
                return f"{head}[{key}]{tail}"
    return path


def loosely(raw: Raw) -> object:
    """Read an object without any type in mind, for what can be said of one that is refused.

    Returns None for text that is not JSON.
    """
    if isinstance(raw, Mapping):
        return raw
    try:
        return msgspec.json.decode(raw)
    except (ValueError, RecursionError):
        return None
