"""The inputs of every Service: objects as they are now, and who has to be looked at again.

Knows which objects a Service's translation depends on, and so whom a change makes dirty; does not
know what becomes of them, nor the kernel. Only `apply` changes what is kept.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from typing import assert_never

from ipvsproxy.core.translate import Inputs
from ipvsproxy.model import Address, Network, Protocol
from ipvsproxy.objects import (
    EndpointSlice,
    KubernetesObject,
    Node,
    ObjectReference,
    Pod,
    Service,
    ServiceCIDR,
    ServiceName,
)
from ipvsproxy.store.concerns import Concerns
from ipvsproxy.store.dirty import Dirty
from ipvsproxy.store.events import (
    Event,
    Gone,
    Judged,
    Listed,
    Put,
    Readable,
    Refused,
    Unlisted,
    Unreadable,
    reference_of,
)
from ipvsproxy.store.neighbours import API_SERVER, Neighbours
from ipvsproxy.store.pod_weights import PodWeights
from ipvsproxy.store.refusals import held_addresses, is_sound
from ipvsproxy.store.slices import Slices
from ipvsproxy.store.verdicts import Verdicts

KINDS = frozenset({"Service", "EndpointSlice", "Node", "ServiceCIDR"})
"""The kinds whose initial lists are waited for."""


class Store:
    """The inputs of every Service, kept current by `apply`.

    What is refused or unreadable is kept as `troubles`, by where it was found, for as long as it
    lasts.
    """

    def __init__(self, node_name: str, kinds: frozenset[str] = KINDS) -> None:
        """Keep what concerns the node `node_name`; `kinds` are those without which nothing is done.

        The own Node is among them: without its zone and addresses a restart would change much.
        """
        self._awaited = set(kinds)
        self._neighbours = Neighbours(node_name)
        self._concerns = Concerns()
        self._verdicts = Verdicts()
        self._services: dict[ServiceName, Service] = {}
        self._slices = Slices()
        self._refused: dict[ObjectReference, Refused] = {}
        self._unreadable: dict[str, Unreadable] = {}
        self._dirty = Dirty()
        self.nodes_listed = False
        """Whether all other Nodes are known."""
        self.pod_weights = PodWeights()
        self.revision = 0
        """Counts the events that changed something; see `Reconciler.wait_until_applied`."""

    @property
    def node(self) -> Node | None:
        """The own Node, as it was last told; None: there is none of this name."""
        return self._neighbours.own

    @property
    def needs_nodes(self) -> bool:
        """Whether some Service has to know of other nodes: whose an address is, or for weights."""
        return self._concerns.needs_nodes or bool(self._verdicts.checked)

    @property
    def nodes(self) -> Mapping[str, Node]:
        """The Nodes that are known, by name."""
        return self._neighbours.nodes

    @property
    def needs_pods(self) -> bool:
        """Whether weights of some Service go by Pods."""
        return bool(self._concerns.weighed_by_pod)

    @property
    def node_count(self) -> int:
        """How many Nodes there are, as far as it is known: the own one, or all (`nodes_listed`)."""
        return max(len(self._neighbours.nodes), 1)

    @property
    def taken(self) -> Mapping[Address, str]:
        """Addresses that no Service may have, with what they are: other nodes', the API server's.

        The same object until one changes.
        """
        return self._neighbours.taken

    @property
    def service_networks(self) -> frozenset[Network]:
        """The networks that ClusterIPs are taken from: no external address may be in one."""
        return self._neighbours.service_networks

    @property
    def listed(self) -> bool:
        """Whether every kind's initial list has been read; nothing is translated before."""
        return not self._awaited

    @property
    def awaited(self) -> frozenset[str]:
        """The kinds whose initial list has not been read yet."""
        return frozenset(self._awaited)

    @property
    def whole(self) -> bool:
        """Whether everything that the source describes could be read, nonsense objects apart."""
        return self.listed and not self._unreadable

    @property
    def dirty(self) -> int:
        """How many Services have changed since they were last taken."""
        return len(self._dirty)

    @property
    def names(self) -> Collection[ServiceName]:
        """All Services that are there."""
        return self._services.keys()

    @property
    def refused(self) -> Collection[Refused]:
        """Objects that are nonsense now."""
        return self._refused.values()

    @property
    def unreadable(self) -> Collection[Unreadable]:
        """Parts of the source that cannot be read now."""
        return self._unreadable.values()

    def held_addresses(self) -> frozenset[Address] | None:
        """Addresses of nonsense Services of which no good state is known; None: any may be."""
        return held_addresses(self.refused, self._services)

    def inputs(self, name: ServiceName) -> Inputs | None:
        """Give what a Service's translation depends on; None for a Service that is not there."""
        service = self._services.get(name)
        if service is None:
            return None
        return Inputs(
            service,
            tuple(self._slices.of(name)),
            whole=self.whole,
            sound=is_sound(name, self.refused, self._slices),
            verdicts=self._verdicts.of(name),
        )

    def concerned(
        self, addresses: AbstractSet[Address], *, node_ports: bool
    ) -> Iterator[ServiceName]:
        """Name those that have, or probe, one of these addresses; `node_ports`: or any NodePort."""
        yield from self._verdicts.at(addresses, self._slices.by_service)
        for name, service in self._services.items():
            own = (*service.cluster_ips, *service.external_ips, *service.ingress_ips)
            if not addresses.isdisjoint(own) or (
                node_ports and any(port.node_port for port in service.ports)
            ):
                yield name

    def created(self, names: Collection[ServiceName]) -> list[tuple[ServiceName, float | None]]:
        """Give when each of some Services was made (s since 1970); None: that is not known."""
        found = zip(names, map(self._services.get, names), strict=True)
        return [(name, service.created if service is not None else None) for name, service in found]

    def cluster_ips(self, name: ServiceName) -> tuple[Address, ...]:
        """Give the addresses of a Service; none where it is not there."""
        service = self._services.get(name)
        return service.cluster_ips if service is not None else ()

    def external_addresses(self, name: ServiceName) -> tuple[Address, ...]:
        """Give the external addresses of a Service; none where it is not there."""
        return self._concerns.external_addresses(name)

    def uid(self, subject: str) -> str:
        """Give the uid of the Service that a condition is about; empty for any other subject."""
        kind, _, name = subject.partition(" ")
        namespace, _, own = name.partition("/")
        service = self._services.get(ServiceName(namespace, own)) if kind == "Service" else None
        return service.uid if service is not None else ""

    def port_names(self, name: ServiceName) -> Mapping[tuple[Protocol, int], str]:
        """Give the names of a Service's ports, else their numbers; none where it is not there."""
        service, found = self._services.get(name), dict[tuple[Protocol, int], str]()
        for port in service.ports if service is not None else ():
            for number in (port.port, port.node_port):
                found.setdefault((port.protocol, number), port.name or str(port.port))
        return found

    @property
    def taken_up_to(self) -> int:
        """The last revision of which no Service waits to be taken."""
        return self._dirty.before(self.revision)

    def take_dirty(
        self, only: Collection[ServiceName] | None = None, most: int | None = None
    ) -> list[ServiceName]:
        """Take the names of Services that have changed, in order of change; see `Dirty.take`."""
        return self._dirty.take(only, most)

    def mark_dirty(self, names: Iterable[ServiceName]) -> None:
        """Have Services translated again though no object of theirs has changed."""
        self._dirty.mark(names, self.revision + 1)

    def mark_checked(self) -> None:
        """Have those Services translated again that ask for a health check."""
        self.mark_dirty(self._verdicts.checked)

    def apply(self, event: Event) -> None:
        """Take in what a source says."""
        match event:
            case Put(changed):
                reference = reference_of(changed)
                changes = self._put(changed) | self._forget_refusals(reference)
            case Gone(reference):
                changes = self._remove(reference) | self._forget_refusals(reference)
            case Refused(reference):
                changes = self._refused.get(reference) != event
                self._refused[reference] = event
                self._mark_owner(event)
            case Unreadable(origin):
                changes = self._unreadable.get(origin) != event
                self._unreadable[origin] = event
            case Readable(origin):
                changes = self._unreadable.pop(origin, None) is not None
                self._reconsider()
            case Listed(kind):
                changes = self._note_listed(kind)
            case Unlisted(kind):
                changes = self._note_unlisted(kind)
            case Judged(target):
                changes = self._verdicts.put(event)
                if changes and target.service in self._services:
                    self.mark_dirty([target.service])
            case _:
                assert_never(event)
        self.revision += changes

    def _note_listed(self, kind: str) -> bool:
        match kind:
            case "Nodes":
                changes, self.nodes_listed = not self.nodes_listed, True
                self.mark_dirty((*self._concerns.by_nodes, *self._verdicts.checked))
            case "Pods":
                changes, self.pod_weights.listed = not self.pod_weights.listed, True
                self.mark_dirty(self._concerns.weighed_by_pod)
            case _:
                changes = kind in self._awaited
                self._awaited.discard(kind)
        return changes

    def _note_unlisted(self, kind: str) -> bool:
        """Forget what is told no more. Who needs it again by now waits for it again."""
        match kind:
            case "Nodes":
                changes, self.nodes_listed = self.nodes_listed, False
                self._note_taken(self._neighbours.forget_others())
                concerned = (*self._concerns.by_nodes, *self._verdicts.checked)
            case _:
                changes, self.pod_weights = self.pod_weights.listed, PodWeights()
                concerned = (*self._concerns.weighed_by_pod,)
        self.mark_dirty(concerned if changes else ())
        return changes

    def _forget_refusals(self, reference: ObjectReference) -> bool:
        refused = self._refused.pop(reference, None)
        if refused is None:
            return False
        self._mark_owner(refused)
        return True

    def _mark_owner(self, refused: Refused) -> None:
        """Have the Service of a slice translated again: its endpoints may be known no longer."""
        if refused.reference.kind != "EndpointSlice":
            return
        if refused.service is None:
            self.mark_dirty(name for name in self._services if refused.may_belong_to(name))
        elif refused.service in self._services:
            self.mark_dirty([refused.service])

    def _put(self, changed: KubernetesObject) -> bool:
        match changed:
            case Service(name=name):
                if self._services.get(name) == changed:
                    return False
                self._services[name] = changed
                self.mark_dirty([name])
                self._concerns.note(changed, self.node)
                self._concerns.note_endpoints(name, self._slices.of(name))
                self._verdicts.note(name, changed)
            case EndpointSlice():
                owners = self._slices.put(changed)
                self._note_endpoints(owners)
                return bool(owners)
            case Node():
                return self._put_node(changed)
            case Pod(namespace, pod_name, weight):
                return self._put_pod_weight(namespace, pod_name, weight)
            case ServiceCIDR():
                networks = self._neighbours.put_service_cidr(changed)
                if networks is None:
                    return False
                self.mark_dirty(self._concerns.within(networks))
            case _:
                assert_never(changed)
        return True

    def _put_node(self, changed: Node) -> bool:
        before = self.node
        known = self.nodes.get(changed.name)
        addresses = self._neighbours.put(changed)
        if addresses is None:
            return False
        if known is None or known.weighing != changed.weighing or known.zone != changed.zone:
            self._note_weights_of(changed.name)
        if self._neighbours.is_own(changed.name):
            if before is None or _whereabouts(before) != _whereabouts(changed):
                self.mark_dirty(self._services)
            elif before.pod_cidrs != changed.pod_cidrs:
                self.mark_checked()
            self._concerns.move(changed)
        elif self.nodes_listed:
            self._note_taken(addresses)
        return True

    def _remove(self, reference: ObjectReference) -> bool:
        match reference:
            case ObjectReference("Service", namespace, name):
                return self._remove_service(ServiceName(namespace, name))
            case ObjectReference("EndpointSlice", namespace, name):
                owner = self._slices.remove(namespace, name)
                self._note_endpoints([] if owner is None else [owner])
                return owner is not None
            case ObjectReference("Node", _, name):
                addresses = self._neighbours.remove(name)
                self._note_taken(addresses or frozenset())
                if addresses is not None:
                    self._note_weights_of(name)
                return addresses is not None
            case ObjectReference("Pod", namespace, name):
                return self._put_pod_weight(namespace, name, None)
            case ObjectReference("ServiceCIDR", _, name):
                networks = self._neighbours.remove_service_cidr(name)
                self.mark_dirty(self._concerns.within(networks or frozenset()))
                return networks is not None
            case _:
                return False

    def _remove_service(self, name: ServiceName) -> bool:
        if self._services.pop(name, None) is None:
            return False
        self.mark_dirty([name])
        self._concerns.forget(name)
        self._verdicts.note(name, None)
        return True

    def _note_weights_of(self, node: str) -> None:
        """Have Services translated again whose weights depend on a Node, and that are on it.

        While other Nodes are being listed they are not looked for: when all are known, all are.
        """
        if not self.nodes_listed and not self._neighbours.is_own(node):
            return
        names = self._concerns.weighed_by_node
        self.mark_dirty(self._slices.having(names, lambda endpoint: endpoint.node_name == node))

    def _put_pod_weight(self, namespace: str, pod: str, weight: str | None) -> bool:
        """Have Services looked at again that a Pod is in; once all Pods are known, not before."""
        if not self.pod_weights.put(namespace, pod, weight):
            return False
        if self.pod_weights.listed:
            names = [one for one in self._concerns.weighed_by_pod if one.namespace == namespace]
            self.mark_dirty(self._slices.having(names, lambda endpoint: endpoint.pod == pod))
        return True

    def _note_endpoints(self, owners: Iterable[ServiceName]) -> None:
        """Have the Services translated again whose slices have changed."""
        for owner in owners:
            self.mark_dirty([owner])
            self._concerns.note_endpoints(owner, self._slices.of(owner))
            if owner == API_SERVER:
                self._note_taken(self._neighbours.put_api_servers(self._slices.of(owner)))

    def _note_taken(self, addresses: AbstractSet[Address]) -> None:
        """Have Services looked at again that have, or probe, an address whose meaning changed."""
        self.mark_dirty(self._concerns.at(addresses))
        self.mark_dirty(self._verdicts.at(addresses, self._slices.by_service))

    def _reconsider(self) -> None:
        """Have those Services translated again whose endpoints may have been missing."""
        for name, service in self._services.items():
            read = {part.family for part in self._slices.of(name)}
            if any(address.family not in read for address in service.cluster_ips):
                self.mark_dirty([name])


def _whereabouts(node: Node) -> tuple[object, ...]:
    """Give what of the own Node every Service's translation depends on; a taint is none of it."""
    return node.zone, node.addresses
