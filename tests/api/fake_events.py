"""The Events of a fake API server: what it takes, and what kubectl reads of them; no HTTP.

One store serves events.k8s.io/v1, where Events are made, and core/v1, where they are read. What is
taken follows pkg/apis/core/validation/events.go (ValidateEventCreate).
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from typing import NamedTuple

from tests.api.fake_objects import Object

_PATH = re.compile(r"/apis/events\.k8s\.io/v1/namespaces/(?P<namespace>[^/]+)/events")
_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
_QUALIFIED = re.compile(r"([a-z0-9.-]+/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_FORMS = {
    "eventTime": re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z"),
    "reportingController": _QUALIFIED,
    "type": re.compile("Normal|Warning"),
}
_LONGEST = {"reason": 128, "action": 128, "reportingInstance": 128}
_DEPRECATED = ("deprecatedCount", "deprecatedFirstTimestamp", "deprecatedLastTimestamp")


class Answer(NamedTuple):
    status: int
    reason: str
    message: str


class Events:
    """What was told, by namespace and name."""

    def __init__(self) -> None:
        self.told: dict[tuple[str, str], Object] = {}

    def create(self, namespace: str, event: Object) -> Answer:
        metadata = event.get("metadata")
        name = str(metadata.get("name", "")) if isinstance(metadata, dict) else ""
        if wrong := [*_wrong(namespace, name, event)]:
            return Answer(422, "Invalid", f'Event "{name}" is invalid: {"; ".join(wrong)}')
        if (namespace, name) in self.told:
            return Answer(409, "AlreadyExists", f'events.events.k8s.io "{name}" already exists')
        self.told[namespace, name] = copy.deepcopy(event)
        return Answer(201, "", "")

    def of(self, uid: str) -> list[str]:
        """Show what `kubectl describe` lists of the object with a uid: reason, from, message."""
        return [
            f"{event['type']} {event['reason']} {event['reportingController']} {event['note']}"
            for event in self.told.values()
            if isinstance(event["regarding"], dict) and event["regarding"].get("uid") == uid
        ]


def namespace_of(path: str) -> str | None:
    """Give the namespace that Events are made in at a path; None for another path."""
    found = _PATH.fullmatch(path)
    return found["namespace"] if found else None


def _wrong(namespace: str, name: str, event: Object) -> Iterator[str]:
    regarding = event.get("regarding")
    about = regarding.get("namespace", "") if isinstance(regarding, dict) else ""
    allowed = (about,) if about else ("default", "kube-system")
    text = {field: str(event.get(field, "")) for field in (*_LONGEST, *_FORMS, "note")}
    sound = {
        "metadata.name": _NAME.fullmatch(name),
        "involvedObject.namespace": namespace in allowed,
        "message": len(text["note"].encode()) <= 1024,
        **{field: form.fullmatch(text[field]) for field, form in _FORMS.items()},
        **{field: 0 < len(text[field]) <= longest for field, longest in _LONGEST.items()},
        **{field: field not in event for field in _DEPRECATED},
    }
    yield from (f"{field}: invalid" for field, right in sound.items() if not right)
