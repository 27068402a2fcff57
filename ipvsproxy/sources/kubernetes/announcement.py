"""What Event a condition becomes, and which are told again too soon.

Knows the Event of events.k8s.io/v1 and the conditions' subjects; knows nothing of sending. Pure.

An Event about a Service has the same name on every node that finds the same, so that the API
server takes it once and answers the other nodes with 409: no election is needed, and a thousand
nodes make one line. One about the Node is of that node alone.

events.k8s.io/v1 and core/v1 are two views of the same stored objects, so that
`kubectl describe service` lists these too: it asks core/v1 by the uid in `involvedObject`, which is
`regarding` here, and shows `reportingController` as "From" (kubectl pkg/describe, DescribeEvents).
The former is what kube-proxy uses, and it is there since 1.19.

Reference: pkg/apis/core/validation/events.go (ValidateEventCreate), KEP-383.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import NamedTuple

from ipvsproxy.telemetry import Condition

REPEAT_SECONDS = 3600.0
"""The same is not told again for so long: what an API server keeps Events for (--event-ttl)."""
MOST_OF_ONE_OBJECT = 10
"""So many different Events about one object are told within that time."""
MOST_REMEMBERED = 2000

_REPORTER = "ipvsproxy"
_ACTION = "Program"
_LONGEST_NOTE, _LONGEST_INSTANCE, _LONGEST_NAME = 1024, 128, 253
_DIGEST_CHARACTERS = 16
_CUT = "…"
_NODE_NAMESPACE = "default"
"""Of Events about objects that have none; the API server takes no other but kube-system."""


class Announcement(NamedTuple):
    """An Event that is to be told."""

    namespace: str
    name: str
    about: str
    """The condition's subject."""
    body: Mapping[str, object]
    """As it is sent."""


def announce(condition: Condition, *, uid: str, node_name: str, now: float) -> Announcement | None:
    """Make the Event of a condition; None where its subject is neither a Service nor the Node.

    `uid` is the Service's; without one `kubectl get events` shows the Event, `kubectl describe`
    does not. For the Node it is not looked at: kubelet and kube-proxy put the name there, and
    `kubectl describe node` looks for that. `now` is in seconds since the epoch.
    """
    kind, _, written = condition.subject.partition(" ")
    match kind:
        case "Service":
            namespace, _, name = written.partition("/")
        case "Node" if not written:
            namespace, name, uid = "", node_name, node_name
        case _:
            return None
    regarding = {"apiVersion": "v1", "kind": kind, "name": name}
    regarding |= {key: text for key, text in (("namespace", namespace), ("uid", uid)) if text}
    event_name = _name(name, uid, condition.type, condition.message)
    body = {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": event_name, "namespace": namespace or _NODE_NAMESPACE},
        "eventTime": datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "type": "Warning",
        "reason": str(condition.type),
        "note": _note(condition.message),
        "action": _ACTION,
        "regarding": regarding,
        "reportingController": _REPORTER,
        "reportingInstance": f"{_REPORTER}-{node_name}"[:_LONGEST_INSTANCE],
    }
    return Announcement(namespace or _NODE_NAMESPACE, event_name, condition.subject, body)


def _name(name: str, *parts: str) -> str:
    digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:_DIGEST_CHARACTERS]
    return f"{name[: _LONGEST_NAME - len(digest) - 1].rstrip('.-')}.{digest}"


def _note(message: str) -> str:
    """Cut a message to what the API server takes, which counts bytes."""
    written = message.encode()
    if len(written) <= _LONGEST_NOTE:
        return message
    return written[: _LONGEST_NOTE - len(_CUT.encode())].decode(errors="ignore") + _CUT


class Memory:
    """What was told of late; what flaps would else be told without end."""

    def __init__(self) -> None:
        self._told: dict[tuple[str, str], tuple[float, str]] = {}
        """When, and about what, by namespace and name; the oldest first."""

    def admit(self, announcement: Announcement, now: float) -> bool:
        """Say whether to tell, and count it as told; `now` is of a clock that never goes back."""
        for key, (since, _) in list(self._told.items()):
            if now - since < REPEAT_SECONDS and len(self._told) < MOST_REMEMBERED:
                break
            del self._told[key]
        key = (announcement.namespace, announcement.name)
        same = sum(about == announcement.about for _, about in self._told.values())
        if key in self._told or same >= MOST_OF_ONE_OBJECT:
            return False
        self._told[key] = (now, announcement.about)
        return True

    def forget(self, announcement: Announcement) -> None:
        """Take back that something was told: it could not be."""
        self._told.pop((announcement.namespace, announcement.name), None)
