"""What a source says: the events that the store understands, and the protocol of a source.

A source is an async iterator of events and knows no more of the store.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import NamedTuple, Protocol, TypeAlias, assert_never

from ipvsproxy.core.probing import Target, Verdict
from ipvsproxy.model import Address
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


class Put(NamedTuple):
    """An object as it is now; it may be the same as before. Ends every refusal of its name."""

    object: KubernetesObject
    origin: str
    """Where it was read, for the operator: a file, or the API server."""


class Gone(NamedTuple):
    """An object that is no longer there, on a source's sound knowledge."""

    reference: ObjectReference


class Refused(NamedTuple):
    """An object that is there but is nonsense; its last good state is kept.

    Takes the place of what was said before of what is wrong with the same object.
    `addresses` and `service` are what could be read of it in spite of that: they keep what the
    kernel has of an object that was already nonsense when the agent started. None: not known,
    so that anything in the kernel may be the object's last good state.
    """

    reference: ObjectReference
    origin: str
    reason: str
    addresses: frozenset[Address] | None = frozenset()
    service: ServiceName | None = None

    def may_belong_to(self, name: ServiceName) -> bool:
        """Whether a slice belongs to a Service, or may for all that can be read."""
        if self.service is None:
            return self.reference.namespace == name.namespace
        return self.service == name


class Unreadable(NamedTuple):
    """A part of the source cannot be read: a file that does not parse, a folder that is missing.

    Until `Readable` says otherwise no object counts as deleted.
    """

    origin: str
    reason: str


class Readable(NamedTuple):
    """What was `Unreadable` can be read again, or is gone for good."""

    origin: str


class Listed(NamedTuple):
    """The initial list of a kind has been sent, whole as far as it could be read."""

    kind: str
    """`Node` is the own one; `Nodes`: all of them are known (`Source.need_nodes`). `Pods`: all that
    say what they weigh are (`Source.need_pods`). `ServiceCIDR`
    is also listed where the source has none and never will: an older API server, a folder."""


class Unlisted(NamedTuple):
    """What was told of a kind that is not watched any more, for it is needed no longer.

    Nothing of it is known from now on; it is `Nodes` (all but the own one stop to be known) or
    `Pods`.
    """

    kind: str


class Judged(NamedTuple):
    """What the probes of an endpoint have come to; of these the prober is the source."""

    target: Target
    verdict: Verdict | None
    """None: it is probed no longer."""


Event: TypeAlias = Put | Gone | Refused | Unreadable | Readable | Listed | Unlisted | Judged


class Source(Protocol):
    """Where objects come from."""

    def events(self) -> AsyncIterator[Event]:
        """Give everything that is there, then everything that changes; ends when cancelled."""
        ...

    def once(self) -> AsyncIterator[Event]:
        """Give everything that is there, once. What cannot be read is an event too."""
        ...

    def need_nodes(self, *, needed: bool = True) -> None:
        """Have all Nodes told, and `Listed("Nodes")` once all were; before, only the own one is.

        May be called at any time, from the event loop, and again. When they have been needed no
        longer for a while, `Unlisted("Nodes")` may be told. Not at once: a watch that begins costs
        the API server more than one that lasts.
        """
        ...

    def need_pods(self, *, needed: bool = True) -> None:
        """Have all Pods told that say what they weigh, and `Listed("Pods")` once all were.

        As `need_nodes`; before, none is told. Where the settings do not allow it, none ever is.
        """
        ...


def reference_of(value: KubernetesObject) -> ObjectReference:
    """Name an object for the operator."""
    match value:
        case Service(name=name):
            return ObjectReference("Service", name.namespace, name.name)
        case EndpointSlice(namespace=namespace, name=slice_name):
            return ObjectReference("EndpointSlice", namespace, slice_name)
        case Node(name=node_name):
            return ObjectReference("Node", "", node_name)
        case Pod(namespace=namespace, name=pod_name):
            return ObjectReference("Pod", namespace, pod_name)
        case ServiceCIDR(name=cidr_name):
            return ObjectReference("ServiceCIDR", "", cidr_name)
        case _:
            assert_never(value)
