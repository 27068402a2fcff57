"""A parsed manifest of any kind: which reader it goes to, and lists taken apart.

Knows apiVersion and kind; knows neither files nor YAML. What is of a kind that this program does
not read is counted and passed over: a folder may hold Deployments too. What has no kind or no name
at all is not passed over, because nobody can say which object it was meant to be (`Unnamed`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple, TypeAlias

from ipvsproxy.objects.reading import (
    WEIGHT_ANNOTATION,
    read_endpoint_slice,
    read_node,
    read_pod,
    read_service,
)
from ipvsproxy.objects.refusal import InvalidObject, describe
from ipvsproxy.objects.values import SERVICE_LABEL, KubernetesObject, Service

_Reader: TypeAlias = Callable[[Mapping[str, object]], KubernetesObject | None]

_READERS: Mapping[tuple[str, str], _Reader] = {
    ("v1", "Service"): read_service,
    ("discovery.k8s.io/v1", "EndpointSlice"): partial(read_endpoint_slice, pods=True),
    ("v1", "Node"): read_node,
    ("v1", "Pod"): read_pod,
}
_MEANT = {
    (version.lower(), right[1].lower()): right
    for right in _READERS
    for version in ("v1", "discovery.k8s.io/v1")
}
"""Kinds that are read, by what may be written for them: in these two groups there is no other of
such a name."""
_LACKING = {
    "EndpointSlice": f"EndpointSlice without label {SERVICE_LABEL}",
    "Pod": f"Pod without annotation {WEIGHT_ANNOTATION}",
}
"""What is said of an object that says nothing to us."""
_LISTS: Mapping[tuple[str, str], str] = {
    (version, f"{kind}List"): kind for version, kind in _READERS
} | {("v1", "List"): ""}
"""List kinds, with the kind of their items where an item does not say its own."""


class Unnamed(NamedTuple):
    """Something that was meant to be an object, and nobody can say which."""

    place: str
    """Where in the document, as in `items[3]`; empty: the document itself."""
    reason: str


@dataclass(slots=True)
class Contents:
    """What documents say; grows with each one that is read."""

    objects: list[KubernetesObject | InvalidObject] = field(default_factory=list)
    """In the order in which they are written. An InvalidObject in it has a reference."""
    unnamed: list[Unnamed] = field(default_factory=list)
    ignored: Counter[str] = field(default_factory=Counter)
    """What was passed over, by what it is, for the operator."""


def read_document(document: object, contents: Contents) -> None:
    """Add what one parsed document says to `contents`; an empty document says nothing."""
    if document is None:
        return
    if not isinstance(document, Mapping):
        contents.unnamed.append(_not_a_mapping("", document))
        return
    version, kind = document.get("apiVersion"), document.get("kind")
    if isinstance(version, str) and isinstance(kind, str) and (version, kind) in _LISTS:
        _read_list(document, (version, kind), contents)
    else:
        _read_object("", document, contents)


def _read_list(
    document: Mapping[str, object], list_kind: tuple[str, str], contents: Contents
) -> None:
    items = document.get("items")
    if items is None:
        return
    if not isinstance(items, list):
        contents.unnamed.append(Unnamed("items", "a list is needed"))
        return
    implied = _LISTS[list_kind]
    for i, item in enumerate(items):
        place = f"items[{i}]"
        if not isinstance(item, Mapping):
            contents.unnamed.append(_not_a_mapping(place, item))
        elif implied and "kind" not in item:
            typed = {**item, "apiVersion": list_kind[0], "kind": implied}
            _read_object(place, typed, contents)
        else:
            _read_object(place, item, contents)


def _read_object(place: str, document: Mapping[str, object], contents: Contents) -> None:
    version, kind = document.get("apiVersion"), document.get("kind")
    if not isinstance(version, str) or not isinstance(kind, str) or not version or not kind:
        missing = "apiVersion" if isinstance(kind, str) and kind else "kind"
        contents.unnamed.append(Unnamed(place, f"an object without {missing}"))
        return
    if (version, kind) in _LISTS:
        contents.unnamed.append(Unnamed(place, "a list within a list"))
        return
    reader = _READERS.get((version, kind))
    if reader is None:
        _pass_over(place, version, kind, contents)
        return
    try:
        found = reader(document)
    except InvalidObject as refusal:
        if refusal.reference is None:
            contents.unnamed.append(Unnamed(place, f"{kind}: {refusal.reason}"))
        else:
            contents.objects.append(refusal)
        return
    if found is None:
        contents.ignored[_LACKING[kind]] += 1
        return
    if isinstance(found, Service) and _lacks_address(found, document):
        reason = "spec.clusterIP: is missing; write an address, for nobody allocates one here"
        contents.objects.append(describe("Service", document, reason))
        return
    contents.objects.append(found)


def _lacks_address(service: Service, document: Mapping[str, object]) -> bool:
    """Say whether an address was forgotten: nobody allocates one for a folder."""
    if service.cluster_ips or service.type == "ExternalName":
        return False
    spec = document.get("spec")
    return isinstance(spec, Mapping) and not spec.get("clusterIP") and not spec.get("clusterIPs")


def _pass_over(place: str, version: str, kind: str, contents: Contents) -> None:
    """Count an object of another kind; one whose kind is misspelt is not taken for gone."""
    meant = _MEANT.get((version.lower(), kind.lower().removesuffix("s")))
    if meant is not None:
        reason = f"{version} {kind}: there is no such kind; write {' '.join(meant)}"
        contents.unnamed.append(Unnamed(place, reason))
    else:
        contents.ignored[_hint(version, kind)] += 1


def _hint(version: str, kind: str) -> str:
    match version, kind:
        case "v1", "Endpoints":
            return "v1 Endpoints (write discovery.k8s.io/v1 EndpointSlice instead)"
        case (("discovery.k8s.io/v1beta1" | "discovery.k8s.io/v1alpha1"), "EndpointSlice"):
            return f"{version} EndpointSlice (write discovery.k8s.io/v1 instead)"
        case _:
            return f"{version} {kind}"


def _not_a_mapping(place: str, value: object) -> Unnamed:
    kind = "a list" if isinstance(value, list) else f"{str(value)[:40]!r}"
    return Unnamed(place, f"an object is needed, not {kind}")
