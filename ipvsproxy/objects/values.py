"""The few fields of Services, EndpointSlices, Nodes, Pods and ServiceCIDRs, as frozen values.

Knows what an object is to us and nothing of how it is written, read or used. Whatever has one of
these types went through `ipvsproxy.objects.reading` and is sound: no later module checks an
address, a port or a protocol again.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import msgspec

from ipvsproxy.model import Address, Family, Network, Protocol

SERVICE_LABEL = "kubernetes.io/service-name"
"""Label of an EndpointSlice: the Service that it belongs to."""
PROXY_NAME_LABEL = "service.kubernetes.io/service-proxy-name"
"""Label of a Service that another proxy implements (KEP-2447); such a Service is not ours."""
ZONE_LABEL = "topology.kubernetes.io/zone"
DEFAULT_AFFINITY_SECONDS = 10800
"""ClientIP affinity without a timeout: three hours, the API server's default."""


class ServiceName(NamedTuple):
    """A Service's namespace and name."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


class ObjectReference(NamedTuple):
    """What names an object for the operator; `namespace` is empty where the kind has none."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        where = f"{self.namespace}/" if self.namespace else ""
        return f"{self.kind} {where}{self.name}"


class ServicePort(msgspec.Struct, frozen=True, gc=False):
    """One port of a Service."""

    name: str
    protocol: Protocol
    port: int
    node_port: int = 0
    """Of a NodePort or LoadBalancer; 0: none."""


class Service(msgspec.Struct, frozen=True):
    """A Service, as far as a node agent reads it."""

    name: ServiceName
    type: str = "ClusterIP"
    uid: str = ""
    created: float | None = None
    """Seconds since the epoch, from creationTimestamp; None where the object has none."""
    cluster_ips: tuple[Address, ...] = ()
    """Empty for a headless Service and for ExternalName; at most one of each family."""
    ports: tuple[ServicePort, ...] = ()
    affinity_seconds: int = 0
    """ClientIP affinity; 0: none."""
    external_ips: tuple[Address, ...] = ()
    """spec.externalIPs, in their order."""
    ingress_ips: tuple[Address, ...] = ()
    """status.loadBalancer.ingress of a LoadBalancer, those of ipMode VIP (KEP-1860)."""
    source_ranges: tuple[Network, ...] = ()
    """spec.loadBalancerSourceRanges of a LoadBalancer; ask `allowed`, which knows what none of
    them means."""
    closed_families: tuple[Family, ...] = ()
    """Families of which ranges were written and none could be read: nobody is let in."""
    health_check_node_port: int = 0
    """Of a LoadBalancer with externalTrafficPolicy Local; 0: none."""
    internal_traffic_local: bool = False
    """internalTrafficPolicy is Local."""
    external_traffic_local: bool = False
    """externalTrafficPolicy is Local, and the Service can be reached from outside the cluster: it
    is a NodePort or LoadBalancer, or has externalIPs."""
    proxy_name: str | None = None
    """Value of `PROXY_NAME_LABEL`; None: the cluster's own proxy, which is us."""
    annotations: tuple[tuple[str, str], ...] = ()
    """Those in our domain and those that we accept as aliases, sorted; the others are not kept."""
    remarks: tuple[str, ...] = ()
    """What was passed over though the Service is served: one line each, the field's path first."""

    def allowed(self, family: Family) -> tuple[Network, ...] | None:
        """Give who may use the ingress addresses of a family; None: everybody, empty: nobody.

        Ranges of one family say nothing of the other one, as in kube-proxy.
        """
        ranges = tuple(one for one in self.source_ranges if one.family is family)
        return ranges if ranges or family in self.closed_families else None


class Endpoint(msgspec.Struct, frozen=True, gc=False):
    """One endpoint of a slice; conditions are resolved (discovery.k8s.io/v1 EndpointConditions)."""

    address: Address
    ready: bool = True
    serving: bool = True
    terminating: bool = False
    node_name: str | None = None
    zone_hints: tuple[str, ...] = ()
    """hints.forZones: the zones that should use it (KEP-2433)."""
    node_hints: tuple[str, ...] = ()
    """hints.forNodes: the nodes that should use it (KEP-3015)."""
    zone: str | None = None
    """The zone that it is in."""
    pod: str | None = None
    """Name of the Pod behind it, in the slice's namespace; None too where nobody asks for it."""


class SlicePort(msgspec.Struct, frozen=True, gc=False):
    """A port of a slice; one without a number is not kept."""

    name: str
    protocol: Protocol
    port: int


class EndpointSlice(msgspec.Struct, frozen=True):
    """An EndpointSlice of addresses; one of type FQDN is read as having no endpoints."""

    namespace: str
    name: str
    service: ServiceName
    family: Family | None
    """None: FQDN."""
    endpoints: tuple[Endpoint, ...] = ()
    ports: tuple[SlicePort, ...] = ()
    weights: str | None = None
    """Annotation ipvsproxy.io/weights, as written; core.annotations reads it."""
    weight: str | None = None
    """Annotation service.cilium.io/weight, as written: one weight for all of its endpoints."""
    triggered: float | None = None
    """When what led to its latest change happened, seconds since the epoch; None: not told."""
    strays: tuple[str, ...] = ()
    """Names of annotations in our domain that mean nothing on an EndpointSlice, in order."""

    @property
    def lacks_zones(self) -> bool:
        """Whether the zone of some endpoint is not in it, and its Node may say it."""
        return any(one.zone is None and one.node_name is not None for one in self.endpoints)


class Capacity(NamedTuple):
    """What a Node can bear, as the control plane sees it (status.allocatable)."""

    cpu: int | None = None
    """In thousandths of a processor; None: not told, or not to be read."""
    pods: int | None = None


class Node(msgspec.Struct, frozen=True):
    """A Node: the one that the agent runs on, or another."""

    name: str
    zone: str | None = None
    pod_cidrs: tuple[Network, ...] = ()
    addresses: tuple[Address, ...] = ()
    """InternalIPs, in the object's order."""
    leaving: bool = False
    """It is being deleted, or the cluster autoscaler has marked it for deletion."""
    labels: tuple[tuple[str, str], ...] = ()
    """All of them, sorted."""
    weight: str | None = None
    """Annotation ipvsproxy.io/weight, as written; core.annotations reads it."""
    strays: tuple[str, ...] = ()
    """Other annotations of our domain, which mean nothing on a Node, sorted."""
    capacity: Capacity = Capacity()

    @property
    def weighing(self) -> tuple[object, ...]:
        """What the weights of the endpoints on it may depend on."""
        return self.labels, self.weight, self.capacity


class Pod(msgspec.Struct, frozen=True, gc=False):
    """A Pod that says what its endpoints weigh; all others are as if they were not there."""

    namespace: str
    name: str
    weight: str
    """Annotation ipvsproxy.io/weight, as written; core.annotations reads it."""


class ServiceCIDR(msgspec.Struct, frozen=True):
    """Networks from which the API server takes the ClusterIPs (KEP-1880)."""

    name: str
    networks: tuple[Network, ...] = ()


KubernetesObject: TypeAlias = Service | EndpointSlice | Node | Pod | ServiceCIDR
