"""At which addresses and ports a Service is to be reached, and at which it must not be.

Knows the four kinds of frontend (kube-proxy's ServicePortMap, KEP-1860 ipMode) and the rules by
which an external address is accepted on this node; knows neither endpoints nor sets. A family in
which the Service has no ClusterIP has no frontend at all, as in kube-proxy.

An external address may be anything that somebody wrote into a Service. Where it is

- an address of this node, it is served without being bound (many bare-metal clusters live on it),
  but for ports that the node needs: some by setting, and those at which something listens when the
  Service first appears;
- another node's address, a gateway's, that of the API server, or one that is or may become
  another Service's ClusterIP: it is neither bound nor served, for a bound address is lost to who
  lives there (kubernetes #66966, #75290, #93175);
- anything else, it is bound.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from typing import NamedTuple

from ipvsproxy.core.problem import Problem, ProblemKind
from ipvsproxy.core.sets import LEDGER, frontend_member, set_name
from ipvsproxy.core.surroundings import Surroundings, may_be_a_node
from ipvsproxy.model import Address, Family, Listener, VirtualServerKey
from ipvsproxy.objects import Service, ServicePort


class Kind(StrEnum):
    """What makes an address and port a frontend of a Service."""

    CLUSTER_IP = "ClusterIP"
    EXTERNAL_IP = "ExternalIP"
    LOAD_BALANCER = "LoadBalancer"
    NODE_PORT = "NodePort"


class Place(NamedTuple):
    """An address and port at which a Service is to be reached."""

    key: VirtualServerKey
    port: ServicePort
    kinds: tuple[Kind, ...]
    """More than one where, say, an ingress address is an externalIP too; the first one counts."""
    bind: bool
    """Whether the address is put on the dummy interface."""
    cluster: VirtualServerKey
    """The ClusterIP's virtual server of the same port and family; its own for a ClusterIP."""

    @property
    def external(self) -> bool:
        """Whether externalTrafficPolicy governs it; the ClusterIP never is."""
        return self.kinds[0] is not Kind.CLUSTER_IP


class Places(NamedTuple):
    """All places of a Service, no two with the same key, and those that it must not have."""

    places: tuple[Place, ...]
    problems: tuple[Problem, ...]


def places(service: Service, around: Surroundings, served: frozenset[VirtualServerKey]) -> Places:
    """Say where a Service is to be reached; `served` is what it has been served at until now."""
    if service.proxy_name is not None:
        return Places((), ())
    judge = _Judge(service, around, served)
    found: dict[VirtualServerKey, Place] = {}
    for address in service.cluster_ips:
        if address.family not in around.kernel.families:
            continue
        for port in service.ports:
            for place in _of_port(service, port, address, around, judge):
                present = found.get(place.key)
                found[place.key] = _merged(present, place) if present is not None else place
    return Places(tuple(found.values()), tuple(judge.problems()))


def _of_port(
    service: Service, port: ServicePort, cluster_ip: Address, around: Surroundings, judge: _Judge
) -> Iterator[Place]:
    family = cluster_ip.family
    cluster = VirtualServerKey(port.protocol, cluster_ip, port.port)
    # An address of the node's own stays where it is: on the dummy interface it would be filtered,
    # and every other port of the node with it (kubernetes #72236, k3s #7183).
    bind = cluster_ip not in around.own_addresses
    yield Place(cluster, port, (Kind.CLUSTER_IP,), bind, cluster)
    for kind, addresses in (
        (Kind.EXTERNAL_IP, service.external_ips),
        (Kind.LOAD_BALANCER, service.ingress_ips),
    ):
        for address in addresses:
            key = VirtualServerKey(port.protocol, address, port.port)
            if address.family is family and (key == cluster or judge.accepts(kind, key)):
                own = address in around.own_addresses
                yield Place(key, port, (kind,), not own, cluster)
    if port.node_port:
        for address in sorted(around.node_port_addresses[family]):
            key = VirtualServerKey(port.protocol, address, port.node_port)
            yield Place(key, port, (Kind.NODE_PORT,), bind=False, cluster=cluster)


def _merged(present: Place, other: Place) -> Place:
    """Make one place of two with the same key; the port and the policy are the first one's."""
    kinds = (*present.kinds, *(kind for kind in other.kinds if kind not in present.kinds))
    return present._replace(kinds=kinds)


class _Judge:
    """Accepts or refuses external addresses, and keeps what there is to say."""

    def __init__(
        self, service: Service, around: Surroundings, served: frozenset[VirtualServerKey]
    ) -> None:
        self._service = service
        self._around = around
        self._served = served
        self._reserved: dict[VirtualServerKey, str] = {}
        self._waiting: dict[VirtualServerKey, None] = {}

    def accepts(self, kind: Kind, key: VirtualServerKey) -> bool:
        around = self._around
        if key.address in around.own_addresses:
            reason = self._why_not_own(key)
        else:
            reason = around.why_taken(key.address)
        if reason is not None:
            self._reserved[key] = reason
            return False
        doubtful = kind is Kind.EXTERNAL_IP or may_be_a_node(key.address, around.node)
        waits = doubtful and not around.nodes_known and not self._was_served(key)
        if waits:
            self._waiting[key] = None
        return not waits

    def problems(self) -> Iterator[Problem]:
        if self._reserved:
            told = "; ".join(f"{key} is {reason}" for key, reason in self._reserved.items())
            yield Problem(
                ProblemKind.RESERVED_ADDRESS,
                f"not served at an external address: {told}; give the Service another address",
            )
        if self._waiting:
            told = ", ".join(map(str, self._waiting))
            yield Problem(
                ProblemKind.NODES_UNKNOWN,
                f"these wait for the list of Nodes, for they may be another node's: {told}; "
                "see the agent's log for why there is none, or set watchNodes to never",
            )

    def _why_not_own(self, key: VirtualServerKey) -> str | None:
        """Say why a port of the node's own address is not to be taken; None: it may be."""
        if key.port in self._around.settings.protected_ports:
            return "a port of this node that protectedPorts keeps for it"
        if self._was_served(key):
            return None
        if any(_hears(listener, key) for listener in self._around.kernel.network.listeners):
            return "a port of this node at which something listens"
        return None

    def _was_served(self, key: VirtualServerKey) -> bool:
        """Whether a virtual server of ours has been there, before a restart too."""
        if key in self._served:
            return True
        kernel = self._around.kernel
        ledger = kernel.members.get(set_name(LEDGER, key.family), ())
        return key in kernel.virtual_servers and frontend_member(key) in ledger


def _hears(listener: Listener, key: VirtualServerKey) -> bool:
    if (listener.protocol, listener.port) != (key.protocol, key.port):
        return False
    if any(listener.address):
        return listener.address == key.address
    return listener.address.family in (key.family, Family.IPV6)
