"""The few fields of Service, EndpointSlice, Node, Pod and ServiceCIDR that are read, and how.

Knows Kubernetes' objects and how to read one from JSON or from a parsed manifest; knows nothing of
where objects come from nor of what is made of them. An object is taken whole or refused with a
reason that names the field (`InvalidObject`): what passes here is known to be sound, so no later
module checks an address, a port or a protocol again.

    JSON bytes ──┐                                    ┌─▶ Service, EndpointSlice, Node,  (values)
                 ├─▶ structs of the wire ─▶ reading ──┤   Pod, ServiceCIDR
    a mapping ───┘        (wire)                      └─▶ InvalidObject, with what is known of it
        ▲                                                                              (refusal)
        └── documents: by kind, lists taken apart

What `reading` finds sound it says by `fields` (single fields), `external` (what is reached from
outside) and `capacity` (of a Node); `guarding` makes a refusal (`refusal`) of whatever goes wrong
with one object, and `values` are what comes of it. Manifests come by `documents`.

References: Kubernetes API core/v1 Service, Node and Pod, discovery.k8s.io/v1 EndpointSlice,
networking.k8s.io/v1 ServiceCIDR.
"""

from ipvsproxy.objects.documents import Contents, Unnamed, read_document
from ipvsproxy.objects.reading import (
    ALIAS_ANNOTATIONS,
    ANNOTATION_DOMAIN,
    WEIGHT_ANNOTATION,
    WEIGHTS_ANNOTATION,
    read_endpoint_slice,
    read_node,
    read_pod,
    read_service,
    read_service_cidr,
)
from ipvsproxy.objects.refusal import InvalidObject
from ipvsproxy.objects.values import (
    DEFAULT_AFFINITY_SECONDS,
    PROXY_NAME_LABEL,
    SERVICE_LABEL,
    ZONE_LABEL,
    Capacity,
    Endpoint,
    EndpointSlice,
    KubernetesObject,
    Node,
    ObjectReference,
    Pod,
    Service,
    ServiceCIDR,
    ServiceName,
    ServicePort,
    SlicePort,
)

__all__ = [
    "ALIAS_ANNOTATIONS",
    "ANNOTATION_DOMAIN",
    "DEFAULT_AFFINITY_SECONDS",
    "PROXY_NAME_LABEL",
    "SERVICE_LABEL",
    "WEIGHTS_ANNOTATION",
    "WEIGHT_ANNOTATION",
    "ZONE_LABEL",
    "Capacity",
    "Contents",
    "Endpoint",
    "EndpointSlice",
    "InvalidObject",
    "KubernetesObject",
    "Node",
    "ObjectReference",
    "Pod",
    "Service",
    "ServiceCIDR",
    "ServiceName",
    "ServicePort",
    "SlicePort",
    "Unnamed",
    "read_document",
    "read_endpoint_slice",
    "read_node",
    "read_pod",
    "read_service",
    "read_service_cidr",
]
