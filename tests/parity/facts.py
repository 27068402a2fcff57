"""What the objects of a case ask for, worked out apart from the agent that is compared.

Knows which Service claims which address and port, and whom of its endpoints which clients are to
reach by our design (docs/differences-from-kube-proxy.md says where that is not kube-proxy's). The
objects are read by `ipvsproxy.objects`; nothing of `ipvsproxy.core` is used.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property

from ipvsproxy.core.packet import Sender, SenderKind
from ipvsproxy.model import Address, Family, RealServerKey, VirtualServerKey
from ipvsproxy.objects import (
    Endpoint,
    EndpointSlice,
    KubernetesObject,
    Node,
    Service,
    ServicePort,
)
from ipvsproxy.sources.manifests import read_manifest
from ipvsproxy.store import Put
from tests.parity.recording import NETWORK, NODE, Document

NODE_ADDRESSES = tuple(sorted(NETWORK.interfaces["eth0"]))


class Kind(StrEnum):
    """What makes an address and port a frontend of a Service."""

    CLUSTER_IP = "ClusterIP"
    EXTERNAL_IP = "ExternalIP"
    LOAD_BALANCER = "LoadBalancer"
    NODE_PORT = "NodePort"


@dataclass(frozen=True)
class Claim:
    """A Service that wants an address and port."""

    key: VirtualServerKey
    kind: Kind
    service: Service
    port: ServicePort

    @property
    def external(self) -> bool:
        """Whether externalTrafficPolicy governs it."""
        return self.kind is not Kind.CLUSTER_IP

    @property
    def external_local(self) -> bool:
        """Whether it is for local endpoints only, as far as clients outside are concerned."""
        return self.external and self.service.external_traffic_local

    @property
    def age(self) -> tuple[bool, float, bytes, bytes]:
        """Sort the oldest first; one without a date counts as young."""
        service = self.service
        name = (service.name.namespace.encode(), service.name.name.encode())
        return (service.created is None, service.created or 0.0, *name)


@dataclass(frozen=True)
class Facts:
    """The objects that there are at the end of a case."""

    services: tuple[Service, ...]
    slices: tuple[EndpointSlice, ...]
    nodes: tuple[Node, ...]

    @cached_property
    def claims(self) -> dict[VirtualServerKey, list[Claim]]:
        """Who claims which address and port, the oldest first."""
        found: dict[VirtualServerKey, list[Claim]] = {}
        for service in self.services:
            if service.proxy_name is None:
                for claim in _claims(service):
                    found.setdefault(claim.key, []).append(claim)
        return {key: sorted(claims, key=lambda one: one.age) for key, claims in found.items()}

    @cached_property
    def node(self) -> Node | None:
        """This node's object."""
        return next((node for node in self.nodes if node.name == NODE), None)

    def owner(self, key: VirtualServerKey) -> Claim | None:
        """Give the claim that counts; None: nobody's."""
        claims = self.claims.get(key)
        return claims[0] if claims else None

    def contested(self, key: VirtualServerKey) -> bool:
        """Say whether more than one Service claims an address and port."""
        return len({claim.service.name for claim in self.claims.get(key, ())}) > 1

    def reserved(self, address: Address) -> bool:
        """Say whether an address is another node's, or one of the API server's."""
        others = {one for node in self.nodes if node.name != NODE for one in node.addresses}
        servers = {
            endpoint.address
            for part in self.slices
            if str(part.service) == "default/kubernetes"
            for endpoint in part.endpoints
        }
        return address in (others | servers) - NETWORK.addresses

    def endpoints(self, claim: Claim) -> dict[RealServerKey, Endpoint]:
        """Give all endpoints of a Service port, of one family."""
        found: dict[RealServerKey, Endpoint] = {}
        for part in self.slices:
            if part.service != claim.service.name or part.family is not claim.key.family:
                continue
            for port in part.ports:
                if (port.name, port.protocol) != (claim.port.name, claim.port.protocol):
                    continue
                for endpoint in part.endpoints:
                    key = RealServerKey(endpoint.address, port.port)
                    present = found.get(key)
                    if present is None or _rank(endpoint) > _rank(present):
                        found[key] = endpoint
        return found

    def serving(self, claim: Claim, *, local: bool) -> frozenset[RealServerKey]:
        """Give those who serve under policy Local, or Cluster (KEP-1669, KEP-2433, KEP-3015)."""
        here = {
            key: endpoint
            for key, endpoint in self.endpoints(claim).items()
            if not local or endpoint.node_name == NODE
        }
        ready = {key: endpoint for key, endpoint in here.items() if endpoint.ready}
        if not local:
            ready = self._hinted(ready)
        return frozenset(ready) or frozenset(
            key for key, endpoint in here.items() if endpoint.serving and endpoint.terminating
        )

    def hinted(self, claim: Claim) -> bool:
        """Say whether hints leave out some endpoint that is ready."""
        ready = {key for key, endpoint in self.endpoints(claim).items() if endpoint.ready}
        return bool(ready) and self.serving(claim, local=False) != ready

    def expected(self, claim: Claim, sender: SenderKind | None) -> frozenset[RealServerKey]:
        """Give whom a client reaches; `sender` None: who is in the virtual server's own list."""
        if claim.external_local and sender in (None, SenderKind.OUTSIDE):
            return self.serving(claim, local=True)
        if claim.external and not claim.external_local:
            return self.serving(claim, local=False)
        return self.serving(claim, local=claim.service.internal_traffic_local)

    def allowed(self, claim: Claim, sender: Sender) -> bool:
        """Say whether a client may use a load balancer's address, by its source ranges.

        The node may, where a range has its address: what it sends comes from the service address.
        """
        claims = (one for one in self.claims[claim.key] if one.service is claim.service)
        if not any(one.kind is Kind.LOAD_BALANCER for one in claims):
            return True
        ranges = claim.service.allowed(claim.key.family)
        if ranges is None or any(one.prefix_length == 0 for one in ranges):
            return True
        own = [one for one in NODE_ADDRESSES if one.family is claim.key.family]
        addresses = own if sender.kind is SenderKind.NODE else [sender.address]
        return any(address in network for network in ranges for address in addresses)

    def _hinted(self, ready: dict[RealServerKey, Endpoint]) -> dict[RealServerKey, Endpoint]:
        zone = self.node.zone if self.node is not None else None
        every = ready.values()
        for place, hints in (
            (NODE, {key: one.node_hints for key, one in ready.items()}),
            (zone, {key: one.zone_hints for key, one in ready.items()}),
        ):
            meant = {key: ready[key] for key, places in hints.items() if place in places}
            if every and all(hints.values()) and meant:
                return meant
        return ready


def facts_of(documents: Sequence[Document]) -> Facts:
    """Read the objects of a case."""
    read = [one for document in documents for one in _objects(document)]
    return Facts(
        tuple(one for one in read if isinstance(one, Service)),
        tuple(one for one in read if isinstance(one, EndpointSlice)),
        tuple(one for one in read if isinstance(one, Node)),
    )


def manifest(document: Document) -> str:
    """Write an object as a manifest file, of JSON."""
    return json.dumps(document)


def _objects(document: Document) -> Iterator[KubernetesObject]:
    for statement in read_manifest(manifest(document).encode(), "case.json").statements:
        if isinstance(statement, Put):
            yield statement.object


def _claims(service: Service) -> Iterator[Claim]:
    for cluster_ip in service.cluster_ips:
        for port in service.ports:
            for kind, address, number in _places(service, cluster_ip.family, cluster_ip, port):
                yield Claim(VirtualServerKey(port.protocol, address, number), kind, service, port)


def _places(
    service: Service, family: Family, cluster_ip: Address, port: ServicePort
) -> Iterable[tuple[Kind, Address, int]]:
    yield Kind.CLUSTER_IP, cluster_ip, port.port
    for address in service.ingress_ips:
        if address.family is family:
            yield Kind.LOAD_BALANCER, address, port.port
    for address in service.external_ips:
        if address.family is family:
            yield Kind.EXTERNAL_IP, address, port.port
    if port.node_port:
        for address in NODE_ADDRESSES:
            if address.family is family:
                yield Kind.NODE_PORT, address, port.node_port


def _rank(endpoint: Endpoint) -> tuple[bool, bool, bool]:
    return endpoint.ready, endpoint.serving, endpoint.node_name == NODE
