"""What makes a Service, EndpointSlice, Node, Pod or ServiceCIDR sound, and the reading of each.

Knows the API's rules as far as breaking them would hurt this node; rules that only matter to the
control plane are not repeated. Each reader takes JSON bytes or a parsed mapping, and returns a
sound value or raises `InvalidObject` for the first thing that is wrong, the field's path first.
How a Service is reached from outside the cluster is read by `external`.

References: k8s.io/api core/v1 and discovery/v1 types.go; pkg/apis/{core,discovery}/validation.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from functools import lru_cache

from ipvsproxy.model import Address, Family, Protocol
from ipvsproxy.objects import fields, wire
from ipvsproxy.objects.capacity import read_capacity
from ipvsproxy.objects.external import Reach, has_node_ports, read_reach
from ipvsproxy.objects.guarding import guarded, name_of, namespace_of
from ipvsproxy.objects.values import (
    DEFAULT_AFFINITY_SECONDS,
    PROXY_NAME_LABEL,
    SERVICE_LABEL,
    ZONE_LABEL,
    Endpoint,
    EndpointSlice,
    Node,
    Pod,
    Service,
    ServiceCIDR,
    ServiceName,
    ServicePort,
    SlicePort,
)

ANNOTATION_DOMAIN = "ipvsproxy.io/"
"""Annotations that are ours; all of them are kept, the unknown ones too: they may be misspelt."""
ALIAS_ANNOTATIONS = frozenset({"kube-router.io/service.scheduler"})
"""Annotations of others that are accepted in place of ours."""
WEIGHTS_ANNOTATION = "ipvsproxy.io/weights"
_SLICE_WEIGHT_ALIAS = "service.cilium.io/weight"
WEIGHT_ANNOTATION = "ipvsproxy.io/weight"
"""Of a Node or a Pod."""
_TRIGGER_ANNOTATION = "endpoints.kubernetes.io/last-change-trigger-time"

_LEAVING_TAINT = "ToBeDeletedByClusterAutoscaler"
_SERVICE_TYPES = ("ClusterIP", "NodePort", "LoadBalancer", "ExternalName")
_LONGEST_AFFINITY = 86400
_NO_CONDITIONS = wire.Conditions()
_NO_HINTS = wire.Hints()
_FAMILIES = {"IPv4": Family.IPV4, "IPv6": Family.IPV6}


def read_service(raw: wire.Raw) -> Service:
    """Read a core/v1 Service. Raises InvalidObject."""
    return guarded(wire.SERVICE, raw, _service)


def read_endpoint_slice(raw: wire.Raw, *, pods: bool = False) -> EndpointSlice | None:
    """Read a discovery.k8s.io/v1 EndpointSlice. Raises InvalidObject.

    `pods`: whether the names of the endpoints' Pods are kept, some 100 bytes for each.

    None for one without the label `SERVICE_LABEL`: the API allows it, it belongs to no Service,
    and to us it is as if it were not there.
    """
    return guarded(wire.ENDPOINT_SLICE, raw, lambda written: _endpoint_slice(written, pods=pods))


def read_node(raw: wire.Raw) -> Node:
    """Read a core/v1 Node. Raises InvalidObject."""
    return guarded(wire.NODE, raw, _node)


def read_pod(raw: wire.Raw) -> Pod | None:
    """Read a core/v1 Pod, or its metadata. Raises InvalidObject.

    None for one without the annotation `WEIGHT_ANNOTATION`, whatever else it is: it says nothing.
    """
    return guarded(wire.POD, raw, _pod)


def read_service_cidr(raw: wire.Raw) -> ServiceCIDR:
    """Read a networking.k8s.io ServiceCIDR, v1 or v1beta1. Raises InvalidObject."""
    return guarded(wire.SERVICE_CIDR, raw, _service_cidr)


# ---------------------------------------------------------------------------- Service


def _service(written: wire.Service) -> Service:
    metadata = written.metadata or wire.Metadata()
    spec = written.spec or wire.ServiceSpec()
    name = ServiceName(namespace_of(metadata), name_of(metadata))
    service_type = spec.type or "ClusterIP"
    if service_type not in _SERVICE_TYPES:
        raise fields.Wrong("spec.type", f"{spec.type!r} is none of {', '.join(_SERVICE_TYPES)}")
    labels = metadata.labels or {}
    cluster_ips = _cluster_ips(spec, service_type)
    reach = _reach(written, service_type, cluster_ips)
    return Service(
        name=name,
        type=service_type,
        uid=metadata.uid or "",
        created=fields.moment("metadata.creationTimestamp", metadata.creation_timestamp),
        cluster_ips=cluster_ips,
        ports=_service_ports(spec, service_type),
        affinity_seconds=_affinity_seconds(spec),
        external_ips=reach.external_ips,
        ingress_ips=reach.ingress_ips,
        source_ranges=reach.source_ranges,
        closed_families=reach.closed_families,
        health_check_node_port=reach.health_check_node_port,
        internal_traffic_local=_is_local(
            "spec.internalTrafficPolicy", spec.internal_traffic_policy
        ),
        external_traffic_local=reach.traffic_local,
        proxy_name=(labels[PROXY_NAME_LABEL] or "") if PROXY_NAME_LABEL in labels else None,
        annotations=_kept_annotations(metadata.annotations or {}),
        remarks=reach.remarks,
    )


def _reach(written: wire.Service, service_type: str, cluster_ips: tuple[Address, ...]) -> Reach:
    """Read how a Service is reached from outside: not at all without a ClusterIP (kube-proxy)."""
    policy = written.spec.external_traffic_policy if written.spec else None
    traffic_local = _is_local("spec.externalTrafficPolicy", policy)
    if not cluster_ips:
        return Reach()
    return read_reach(written, service_type, traffic_local=traffic_local)


def _cluster_ips(spec: wire.ServiceSpec, service_type: str) -> tuple[Address, ...]:
    """Return the service addresses: none where the Service has none, one of each family at most."""
    if service_type == "ExternalName" or _is_headless(spec):
        return ()
    texts = spec.cluster_ips or ([spec.cluster_ip] if spec.cluster_ip else [])
    path = "spec.clusterIPs[{}]" if spec.cluster_ips else "spec.clusterIP"
    addresses = tuple(fields.unicast(path.format(i), text) for i, text in enumerate(texts))
    if len(addresses) > len({address.family for address in addresses}):
        raise fields.Wrong("spec.clusterIPs", f"{', '.join(texts)}: at most one of each family")
    if spec.cluster_ip and spec.cluster_ips and texts[0] != spec.cluster_ip:
        raise fields.Wrong(
            "spec.clusterIPs[0]", f"{texts[0]} is not spec.clusterIP, {spec.cluster_ip}"
        )
    _check_families(spec.ip_families or [], addresses)
    return addresses


def _is_headless(spec: wire.ServiceSpec) -> bool:
    return spec.cluster_ip == "None" or spec.cluster_ips == ["None"]


def _check_families(written: list[str], addresses: tuple[Address, ...]) -> None:
    families = [
        _FAMILIES[text]
        if text in _FAMILIES
        else fields.not_one_of(f"spec.ipFamilies[{i}]", text, _FAMILIES)
        for i, text in enumerate(written)
    ]
    for i, (family, address) in enumerate(zip(families, addresses, strict=False)):
        if address.family is not family:
            raise fields.Wrong(
                f"spec.ipFamilies[{i}]", f"{written[i]}, but the address is {address}"
            )


def _service_ports(spec: wire.ServiceSpec, service_type: str) -> tuple[ServicePort, ...]:
    node_ports = has_node_ports(service_type)
    ports = tuple(
        _service_port(f"spec.ports[{i}]", port, node_ports=node_ports)
        for i, port in enumerate(spec.ports or ())
    )
    if not ports and service_type != "ExternalName" and not _is_headless(spec):
        raise fields.Wrong("spec.ports", "a Service with an address needs at least one port")
    _check_unique(ports)
    return ports


def _check_unique(ports: Iterable[ServicePort]) -> None:
    names: set[str] = set()
    numbers: set[tuple[str, Protocol, int]] = set()
    for i, port in enumerate(ports):
        path = f"spec.ports[{i}]"
        if port.name in names:
            reason = f"{port.name!r} is used twice" if port.name else "several ports need names"
            raise fields.Wrong(f"{path}.name", reason)
        names.add(port.name)
        claims = {"port": port.port, "nodePort": port.node_port}
        for claim in [(what, port.protocol, number) for what, number in claims.items() if number]:
            if claim in numbers:
                raise fields.Wrong(
                    f"{path}.{claim[0]}", f"{claim[1].name} {claim[2]} is used twice"
                )
            numbers.add(claim)


def _service_port(path: str, written: wire.ServicePort, *, node_ports: bool) -> ServicePort:
    if written.port is None:
        raise fields.Wrong(f"{path}.port", "is missing")
    node_port = written.node_port if node_ports else None
    return ServicePort(
        name=sys.intern(written.name or ""),
        protocol=fields.protocol(f"{path}.protocol", written.protocol),
        port=fields.port(f"{path}.port", written.port),
        node_port=fields.port(f"{path}.nodePort", node_port) if node_port else 0,
    )


def _affinity_seconds(spec: wire.ServiceSpec) -> int:
    match spec.session_affinity or "None":
        case "None":
            return 0
        case "ClientIP":
            config = spec.session_affinity_config
            client = config.client_ip if config else None
            seconds = client.timeout_seconds if client else None
            if seconds is None:
                return DEFAULT_AFFINITY_SECONDS
            if not 1 <= seconds <= _LONGEST_AFFINITY:
                path = "spec.sessionAffinityConfig.clientIP.timeoutSeconds"
                raise fields.Wrong(path, f"{seconds} is not within 1-{_LONGEST_AFFINITY}")
            return seconds
        case other:
            return fields.not_one_of("spec.sessionAffinity", other, ("None", "ClientIP"))


def _is_local(path: str, policy: str | None) -> bool:
    match policy or "Cluster":
        case "Cluster":
            return False
        case "Local":
            return True
        case other:
            return fields.not_one_of(path, other, ("Cluster", "Local"))


def _kept_annotations(written: Mapping[str, str | None]) -> tuple[tuple[str, str], ...]:
    return tuple(
        sorted(
            (key, value or "")
            for key, value in written.items()
            if _is_ours(key) or key in ALIAS_ANNOTATIONS
        )
    )


# ---------------------------------------------------------------------- EndpointSlice


def _endpoint_slice(written: wire.EndpointSlice, *, pods: bool) -> EndpointSlice | None:
    metadata = written.metadata or wire.Metadata()
    namespace, name = namespace_of(metadata), name_of(metadata)
    service = (metadata.labels or {}).get(SERVICE_LABEL)
    if not service:
        return None
    address_type = written.address_type
    if address_type not in _FAMILIES and address_type != "FQDN":
        if address_type is None:
            raise fields.Wrong("addressType", "is missing: write IPv4 or IPv6")
        fields.not_one_of("addressType", address_type, (*_FAMILIES, "FQDN"))
    family = _FAMILIES.get(address_type)
    return EndpointSlice(
        namespace=sys.intern(namespace),
        name=name,
        service=ServiceName(
            sys.intern(namespace),
            sys.intern(fields.sound_name(f"metadata.labels[{SERVICE_LABEL}]", service)),
        ),
        family=family,
        endpoints=_endpoints(written.endpoints or (), family, pods=pods) if family else (),
        ports=_slice_ports(written.ports or ()),
        weights=(metadata.annotations or {}).get(WEIGHTS_ANNOTATION),
        weight=(metadata.annotations or {}).get(_SLICE_WEIGHT_ALIAS),
        triggered=_triggered(metadata.annotations or {}),
        strays=_strays(metadata.annotations or {}, WEIGHTS_ANNOTATION),
    )


def _is_ours(annotation: str) -> bool:
    """Whether an annotation is in our domain; its letters may be large, by mistake."""
    return annotation[: len(ANNOTATION_DOMAIN)].lower() == ANNOTATION_DOMAIN


def _strays(annotations: Iterable[str], known: str) -> tuple[str, ...]:
    return tuple(sorted(name for name in annotations if _is_ours(name) and name != known))


def _triggered(annotations: Mapping[str, str | None]) -> float | None:
    """Read what the control plane writes for measurements; nonsense is no reason to refuse."""
    try:
        return fields.moment(_TRIGGER_ANNOTATION, annotations.get(_TRIGGER_ANNOTATION))
    except fields.Wrong:
        return None


def _endpoints(
    written: Iterable[wire.Endpoint], family: Family, *, pods: bool
) -> tuple[Endpoint, ...]:
    return tuple(_endpoint(i, endpoint, family, pods=pods) for i, endpoint in enumerate(written))


def _endpoint(index: int, written: wire.Endpoint, family: Family, *, pods: bool) -> Endpoint:
    """Read an endpoint; of its addresses only the first one is ever used (KEP-752).

    A condition that is absent: ready is true, serving is true, terminating is false, as
    discovery/v1 says today. (Before 1.33 an absent `serving` meant "as ready says"; the difference
    shows only where `terminating` is true, which comes with `serving` from every controller.)
    """
    if not written.addresses:
        raise fields.Wrong(f"endpoints[{index}].addresses", "an endpoint needs an address")
    path = f"endpoints[{index}].addresses[0]"
    address = fields.unicast(path, written.addresses[0])
    if address.family is not family:
        raise fields.Wrong(path, f"{address} in a slice of addressType IPv{family.value}")
    conditions = written.conditions or _NO_CONDITIONS
    hints = written.hints or _NO_HINTS
    return Endpoint(
        address=address,
        ready=conditions.ready is not False,
        serving=conditions.serving is not False,
        terminating=conditions.terminating is True,
        # A few thousand names shared by a hundred thousand endpoints.
        node_name=sys.intern(written.node_name) if written.node_name else None,
        zone=sys.intern(written.zone) if written.zone else None,
        zone_hints=_hinted(hints.for_zones) if hints.for_zones else (),
        node_hints=_hinted(hints.for_nodes) if hints.for_nodes else (),
        pod=_pod_name(written.target_ref) if pods else None,
    )


def _pod_name(target: wire.TargetReference | None) -> str | None:
    if target is None or target.kind != "Pod" or not target.name:
        return None
    return sys.intern(target.name)  # a Pod may be in slices of several Services and families


def _hinted(hints: list[wire.Hint]) -> tuple[str, ...]:
    return _shared(tuple(hint.name for hint in hints if hint.name))


@lru_cache(maxsize=4096)
def _shared(names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the one tuple that stands for all equal ones: endpoints have few different hints."""
    return names


def _slice_ports(written: Iterable[wire.SlicePort]) -> tuple[SlicePort, ...]:
    """Read the ports; one without a number means "all ports" in the API and is not balanced."""
    ports: dict[tuple[str, Protocol], SlicePort] = {}
    for i, port in enumerate(written):
        if not port.port:
            continue
        path = f"ports[{i}]"
        name, protocol = (
            sys.intern(port.name or ""),
            fields.protocol(f"{path}.protocol", port.protocol),
        )
        if (name, protocol) in ports:
            raise fields.Wrong(f"{path}.name", f"{name!r} for {protocol.name} is used twice")
        ports[name, protocol] = SlicePort(name, protocol, fields.port(f"{path}.port", port.port))
    return tuple(ports.values())


# ------------------------------------------------------------------------------- Node


def _node(written: wire.Node) -> Node:
    metadata = written.metadata or wire.Metadata()
    spec = written.spec or wire.NodeSpec()
    status = written.status or wire.NodeStatus()
    ranges = spec.pod_cidrs or ([spec.pod_cidr] if spec.pod_cidr else [])
    taints = {taint.key for taint in spec.taints or ()}
    return Node(
        name=name_of(metadata),
        zone=(metadata.labels or {}).get(ZONE_LABEL) or None,
        pod_cidrs=tuple(
            fields.network(f"spec.podCIDRs[{i}]", text) for i, text in enumerate(ranges)
        ),
        addresses=tuple(
            fields.address(f"status.addresses[{i}].address", item.address or "")
            for i, item in enumerate(status.addresses or ())
            if item.type == "InternalIP"
        ),
        leaving=bool(metadata.deletion_timestamp) or _LEAVING_TAINT in taints,
        labels=tuple(sorted((key, value or "") for key, value in (metadata.labels or {}).items())),
        weight=(metadata.annotations or {}).get(WEIGHT_ANNOTATION),
        strays=_strays(metadata.annotations or {}, WEIGHT_ANNOTATION),
        capacity=read_capacity(status.allocatable or {}),
    )


# -------------------------------------------------------------------- Pod, ServiceCIDR


def _pod(written: wire.Pod) -> Pod | None:
    metadata = written.metadata or wire.Metadata()
    weight = (metadata.annotations or {}).get(WEIGHT_ANNOTATION)
    if weight is None:
        return None
    return Pod(sys.intern(namespace_of(metadata)), sys.intern(name_of(metadata)), weight)


def _service_cidr(written: wire.ServiceCIDR) -> ServiceCIDR:
    spec = written.spec or wire.ServiceCIDRSpec()
    return ServiceCIDR(
        name=name_of(written.metadata or wire.Metadata()),
        networks=tuple(
            fields.network(f"spec.cidrs[{i}]", text) for i, text in enumerate(spec.cidrs or ())
        ),
    )
