"""The JSON of lists and watches, as far as it is the protocol's: pages, events, heads of objects.

Knows what the API server promises to send, and that something in between may send anything else:
what is none of it raises Unavailable with its first characters, and never passes for an empty list.
What the objects hold is not looked at.

Reference: apimachinery meta/v1 ListMeta, ObjectMeta, WatchEvent.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

import msgspec

from ipvsproxy.sources.kubernetes.errors import Unavailable

INITIAL_EVENTS_END = "k8s.io/initial-events-end"
"""Annotation of the bookmark after which a streamed list is whole (KEP-3157)."""
_SHOWN = 80


class ObjectName(NamedTuple):
    """What names an object within its kind."""

    namespace: str
    name: str


class ListMeta(msgspec.Struct):
    """ListMeta."""

    resource_version: str = msgspec.field(name="resourceVersion")
    continuation: str = msgspec.field(default="", name="continue")


class Page(msgspec.Struct):
    """One page of a list; the items are as they were sent."""

    kind: str
    metadata: ListMeta
    items: list[msgspec.Raw] | None = None


class Head(msgspec.Struct):
    """The part of ObjectMeta that the protocol needs."""

    resource_version: str = msgspec.field(name="resourceVersion")
    name: str = ""
    """Empty in a bookmark."""
    namespace: str = ""
    annotations: dict[str, str | None] | None = None

    @property
    def object_name(self) -> ObjectName:
        """What the object is known by."""
        return ObjectName(self.namespace, self.name)

    @property
    def ends_initial_events(self) -> bool:
        """Whether this is the bookmark after the last object of a streamed list."""
        return (self.annotations or {}).get(INITIAL_EVENTS_END) == "true"


class WatchEvent(msgspec.Struct):
    """One line of a watch."""

    type: str
    object: msgspec.Raw


class _Object(msgspec.Struct):
    metadata: Head


_pages = msgspec.json.Decoder(Page)
_objects = msgspec.json.Decoder(_Object)
_events = msgspec.json.Decoder(WatchEvent)


def read_page(body: bytes, kinds: Collection[str]) -> Page:
    """Read a page of a list of one of these kinds, as in ServiceList. Raises Unavailable."""
    expected = " or ".join(sorted(kinds))
    try:
        page = _pages.decode(body)
    except ValueError:
        raise _no(expected, body) from None
    if page.kind not in kinds or not page.metadata.resource_version:
        raise _no(expected, body)
    return page


def read_event(line: bytes) -> WatchEvent:
    """Read a line of a watch. Raises Unavailable."""
    try:
        return _events.decode(line)
    except ValueError:
        raise _no("watch event", line) from None


def read_head(raw: msgspec.Raw) -> Head:
    """Read an object's name and version, which the API server gives to each. Raises Unavailable."""
    try:
        return _objects.decode(raw).metadata
    except ValueError:
        raise _no("object", bytes(raw)) from None


def _no(expected: str, body: bytes) -> Unavailable:
    return Unavailable(
        f"the API server sent no {expected}: {body[:_SHOWN].decode(errors='replace')!r}"
    )
