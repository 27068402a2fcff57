"""The objects of a fake API server: versions, history, selectors; no HTTP.

One counter gives every write its resourceVersion, over all kinds, as etcd's revision does. Each
collection keeps the history of its changes; what lies before `compacted` counts as forgotten.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

Object = dict[str, object]


class Kind(NamedTuple):
    name: str
    api_version: str
    plural: str
    namespaced: bool
    fields: frozenset[str]
    """Fields that a selector may name, `metadata.name` and `metadata.namespace` apart."""

    @property
    def prefix(self) -> str:
        return (
            f"/api/{self.api_version}" if self.api_version == "v1" else f"/apis/{self.api_version}"
        )

    @property
    def path(self) -> str:
        return f"{self.prefix}/{self.plural}"


KINDS = (
    Kind("Service", "v1", "services", True, frozenset({"spec.clusterIP"})),
    Kind("EndpointSlice", "discovery.k8s.io/v1", "endpointslices", True, frozenset()),
    Kind("Node", "v1", "nodes", False, frozenset({"spec.unschedulable"})),
    Kind("Pod", "v1", "pods", True, frozenset({"spec.nodeName"})),
    Kind("ServiceCIDR", "networking.k8s.io/v1", "servicecidrs", False, frozenset()),
)


class Change(NamedTuple):
    version: int
    before: Object | None
    after: Object | None


class SelectorError(ValueError):
    """A selector that the server does not know; answered with 400."""


Selector = Callable[[Object], bool]


@dataclass
class Collection:
    kind: Kind
    fields: frozenset[str]
    objects: dict[tuple[str, str], Object] = field(default_factory=dict)
    history: list[Change] = field(default_factory=list)

    def selector(self, labels: str, fields: str) -> Selector:
        tests = [*_label_tests(labels), *self._field_tests(fields)]
        return lambda found: all(test(found) for test in tests)

    def _field_tests(self, text: str) -> Iterator[Selector]:
        for term in filter(None, text.split(",")):
            path, operator, value = _split(term)
            if path not in self.fields | {"metadata.name", "metadata.namespace"}:
                raise SelectorError(f"field label not supported: {path}")
            yield lambda found, path=path, value=value, operator=operator: (  # type: ignore[misc]
                (_at(found, path) == value) is (operator == "=")
            )


class Objects:
    """All collections, under one counter."""

    def __init__(self) -> None:
        self.version = 1
        self.compacted = 0
        """Changes up to this version are forgotten."""
        self.collections = {kind.name: Collection(kind, kind.fields) for kind in KINDS}

    def put(self, written: Object) -> Object:
        """Create or replace an object; gives it uid and resourceVersion, and returns a copy."""
        collection = self.collections[str(written["kind"])]
        new = copy.deepcopy(written)
        metadata = _mapping(new["metadata"])
        if collection.kind.namespaced:
            metadata.setdefault("namespace", "default")
        key = str(metadata.get("namespace", "")), str(metadata["name"])
        before = collection.objects.get(key)
        self.version += 1
        metadata["resourceVersion"] = str(self.version)
        metadata["uid"] = _mapping(before["metadata"])["uid"] if before else f"uid-{self.version}"
        collection.objects[key] = new
        collection.history.append(Change(self.version, before, new))
        return copy.deepcopy(new)

    def delete(self, kind: str, namespace: str, name: str) -> None:
        collection = self.collections[kind]
        before = collection.objects.pop((namespace, name))
        self.version += 1
        collection.history.append(Change(self.version, before, None))

    def compact(self) -> None:
        """Forget all history, so that every older version is answered with 410."""
        self.version += 1
        self.compacted = self.version

    def events(self, kind: str, since: int, selects: Selector) -> Iterator[Object]:
        """Yield the watch event of each change, as one selector sees it."""
        for change in self.collections[kind].history:
            if change.version <= since:
                continue
            was = change.before is not None and selects(change.before)
            now = change.after is not None and selects(change.after)
            if now:
                yield {"type": "MODIFIED" if was else "ADDED", "object": change.after}
            elif was and change.before is not None:
                last = copy.deepcopy(change.before)
                _mapping(last["metadata"])["resourceVersion"] = str(change.version)
                yield {"type": "DELETED", "object": last}


def _label_tests(text: str) -> Iterator[Selector]:
    for term in filter(None, text.split(",")):
        if term.startswith("!"):
            yield lambda found, key=term[1:]: key not in _labels(found)  # type: ignore[misc]
        elif "=" in term:
            key, operator, value = _split(term)
            yield lambda found, key=key, value=value, operator=operator: (  # type: ignore[misc]
                (_labels(found).get(key) == value) is (operator == "=")
            )
        else:
            yield lambda found, key=term: key in _labels(found)  # type: ignore[misc]


def _split(term: str) -> tuple[str, str, str]:
    for operator in ("!=", "==", "="):
        key, found, value = term.partition(operator)
        if found:
            return key.strip(), "!=" if operator == "!=" else "=", value.strip()
    raise SelectorError(f"unable to parse requirement: {term}")


def _labels(found: Object) -> dict[str, object]:
    return _mapping(_mapping(found["metadata"]).get("labels") or {})


def _at(found: Object, path: str) -> str:
    value: object = found
    for name in path.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return "" if value is None else str(value)


def _mapping(value: object) -> dict[str, object]:
    assert isinstance(value, dict)
    return value
