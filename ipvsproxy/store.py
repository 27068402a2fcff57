"""The current inputs of each Service, which Services are dirty, and whether the picture is whole.

Knows objects and what sources say of them (`Event`); decides nothing. It is the one place where
input state lives: the reconciler takes dirty names from it and gets everything that a Service's
translation needs. A source is an async iterator of events and knows no more of the store.

An event that changes nothing (the same object again) makes nothing dirty: in a live cluster most
events do not touch what a node agent reads.

Completeness (DESIGN: never act on half a picture) has two sides: `listed` - every kind's initial
list has been read - without which nothing is translated at all; and `whole` - no part of the
picture is known to be missing - without which nothing counts as deleted that nobody claims.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

from ipvsproxy.model import Address
from ipvsproxy.objects import KubernetesObject, ObjectReference, ServiceName


class Put(NamedTuple):
    """An object as it is now; it may be the same as before."""

    object: KubernetesObject
    origin: str
    """Where it was read, for the operator: a file, or the API server."""


class Gone(NamedTuple):
    """An object that is no longer there, on a source's sound knowledge."""

    reference: ObjectReference


class Refused(NamedTuple):
    """An object that is there but is nonsense; its last good state is kept.

    `addresses` and `service` are what could be read of it in spite of that: they keep what the
    kernel has of an object that was already nonsense when the agent started.
    """

    reference: ObjectReference
    origin: str
    reason: str
    addresses: frozenset[Address] = frozenset()
    service: ServiceName | None = None


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


Event: TypeAlias = Put | Gone | Refused | Unreadable | Readable | Listed
