"""Which Services depend on what is none of theirs: on others' addresses, on Nodes, Pods.

Knows a Service's external addresses and whether its weights go by Nodes or by Pods; does not know
what is at an address, nor what a Node or a Pod says.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from collections.abc import Set as AbstractSet

from ipvsproxy.core.annotations import asks_for_nodes, asks_for_pods, asks_for_zones
from ipvsproxy.core.surroundings import may_be_a_node
from ipvsproxy.model import Address, Network
from ipvsproxy.objects import EndpointSlice, Node, Service, ServiceName


class Concerns:
    """The Services that are to be looked at again when something around them changes."""

    def __init__(self) -> None:
        self._external: dict[ServiceName, Service] = {}
        """Services with external addresses."""
        self._doubtful: set[ServiceName] = set()
        """Those of them with an address that may be another node's."""
        self._weighed_by_node: set[ServiceName] = set()
        """Services whose weights depend on Nodes."""
        self._weighed_by_zone: set[ServiceName] = set()
        """Services whose weights depend on zones."""
        self._without_zones: set[ServiceName] = set()
        """Those of them with endpoints whose zone their Node alone may say."""
        self._weighed_by_pod: set[ServiceName] = set()

    @property
    def needs_nodes(self) -> bool:
        """Whether an external address of some Service may be another node's, or weights need Nodes.

        Any of the externalIPs may; of the others those that are near this node.
        """
        return bool(self._doubtful or self._weighed_by_node or self._without_zones)

    @property
    def by_nodes(self) -> AbstractSet[ServiceName]:
        """Services for which it matters whether all Nodes are known."""
        return self._external.keys() | self.weighed_by_node

    @property
    def weighed_by_node(self) -> AbstractSet[ServiceName]:
        """Services whose weights depend on Nodes."""
        return self._weighed_by_node | self._without_zones

    @property
    def weighed_by_pod(self) -> AbstractSet[ServiceName]:
        """Services whose weights depend on Pods."""
        return self._weighed_by_pod

    def note(self, service: Service, node: Node | None) -> None:
        """Take in a Service; `node` is the own one."""
        self.forget(service.name)
        if service.external_ips or service.ingress_ips:
            self._external[service.name] = service
            self._note_doubt(service, node)
        annotations = dict(service.annotations)
        if asks_for_nodes(annotations):
            self._weighed_by_node.add(service.name)
        if asks_for_zones(annotations):
            self._weighed_by_zone.add(service.name)
        if asks_for_pods(annotations):
            self._weighed_by_pod.add(service.name)

    def note_endpoints(self, name: ServiceName, slices: Iterable[EndpointSlice]) -> None:
        """Take in the slices of a Service, after the Service or when they have changed."""
        if name in self._weighed_by_zone and any(part.lacks_zones for part in slices):
            self._without_zones.add(name)
        else:
            self._without_zones.discard(name)

    def forget(self, name: ServiceName) -> None:
        """Forget a Service that is no longer there."""
        self._external.pop(name, None)
        self._doubtful.discard(name)
        self._weighed_by_node.discard(name)
        self._weighed_by_zone.discard(name)
        self._without_zones.discard(name)
        self._weighed_by_pod.discard(name)

    def move(self, node: Node) -> None:
        """Take in the own Node, which says what is near it."""
        for service in self._external.values():
            self._note_doubt(service, node)

    def external_addresses(self, name: ServiceName) -> tuple[Address, ...]:
        """Give the external addresses of a Service."""
        service = self._external.get(name)
        return (*service.external_ips, *service.ingress_ips) if service is not None else ()

    def at(self, addresses: AbstractSet[Address]) -> Iterator[ServiceName]:
        """Name the Services that have one of these as an external address."""
        for name in self._external if addresses else ():
            if not addresses.isdisjoint(self.external_addresses(name)):
                yield name

    def within(self, networks: AbstractSet[Network]) -> Iterator[ServiceName]:
        """Name the Services that have an external address in one of these networks."""
        for name in self._external if networks else ():
            addresses = self.external_addresses(name)
            if any(address in network for address in addresses for network in networks):
                yield name

    def _note_doubt(self, service: Service, node: Node | None) -> None:
        near = any(may_be_a_node(address, node) for address in service.ingress_ips)
        if service.external_ips or near:
            self._doubtful.add(service.name)
        else:
            self._doubtful.discard(service.name)
