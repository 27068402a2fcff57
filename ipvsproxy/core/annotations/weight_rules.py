"""The annotation of a Service that gives weights by where an endpoint is.

Knows how rules are written and which of them counts for an endpoint; not what a weight is for.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from ipvsproxy.core.annotations.slice_weights import MAX_WEIGHT, is_weight

WEIGHT_RULES = "ipvsproxy.io/weights"

_NODE = re.compile(r"(?=.{1,253}\Z)[a-z0-9]([-a-z0-9.]*[a-z0-9])?")
_LABEL_VALUE = re.compile(r"(?=.{0,63}\Z)([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?")
_LABEL_KEY = re.compile(
    r"([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/)?(?=.{1,63}\Z)[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?"
)
"""What Kubernetes lets be the name of a Node, the value of a label (so, a zone's name) and its key
(k8s.io/apimachinery/pkg/util/validation): a name of other characters would never match."""
_HINT = "write for example zone=a:3,zone=b:1,label=disk=ssd:5,node=big-1:10"


class WeightRules(NamedTuple):
    """Weights by node, by label of the node and by zone; the first that applies counts."""

    nodes: Mapping[str, int]
    labels: Mapping[tuple[str, str], int]
    """By key and value, in the order in which they are written."""
    zones: Mapping[str, int]

    def weight(
        self, node: str | None, zone: str | None, labels: tuple[tuple[str, str], ...]
    ) -> int | None:
        """Give the weight of what is on a node, in a zone; None where no rule speaks of it.

        What is said of a node goes before what is said of a label, and that before the zone's.
        """
        if node is not None and node in self.nodes:
            return self.nodes[node]
        for label, weight in self.labels.items():
            if label in labels:
                return weight
        return self.zones.get(zone) if zone is not None else None


def read_weight_rules(text: str) -> WeightRules:
    """Read `node=NAME:W`, `label=KEY=VALUE:W` and `zone=NAME:W`, separated by commas.

    A weight is 0-65535. Raises ValueError with one line that says which rule is wrong.
    """
    if text.startswith("{"):
        raise ValueError(f"by address weights are written on an EndpointSlice; {_HINT}")
    nodes: dict[str, int] = {}
    labels: dict[tuple[str, str], int] = {}
    zones: dict[str, int] = {}
    for rule in text.split(","):
        place, _, number = (part.strip() for part in rule.rpartition(":"))
        kind, _, name = (part.strip() for part in place.partition("="))
        weight = _weight(rule.strip(), number)
        key, equals, value = (part.strip() for part in name.partition("="))
        match kind:
            case "node" if _NODE.fullmatch(name) and name not in nodes:
                nodes[name] = weight
            case "zone" if name and _LABEL_VALUE.fullmatch(name) and name not in zones:
                zones[name] = weight
            case "label" if equals and _is_label(key, value) and (key, value) not in labels:
                labels[key, value] = weight
            case "node" | "zone" | "label":
                raise ValueError(f"{rule.strip()!r}: {_fault(kind, name)}; {_HINT}")
            case _:
                raise ValueError(
                    f"{rule.strip()!r} begins with none of node= label= zone=; {_HINT}"
                )
    return WeightRules(nodes, labels, zones)


def _is_label(key: str, value: str) -> bool:
    return bool(_LABEL_KEY.fullmatch(key) and _LABEL_VALUE.fullmatch(value))


def _fault(kind: str, name: str) -> str:
    if not name.strip("="):
        return f"names no {kind}"
    key, equals, value = (part.strip() for part in name.partition("="))
    if kind == "label" and (not key or not equals or "=" in value):
        return "a label is KEY=VALUE"
    sound = {
        "node": bool(_NODE.fullmatch(name)),
        "zone": bool(_LABEL_VALUE.fullmatch(name)),
        "label": _is_label(key, value),
    }
    return (
        f"{kind} {name} has a rule already" if sound[kind] else f"{name!r} is no name of a {kind}"
    )


def _weight(rule: str, number: str) -> int:
    if not rule:
        raise ValueError(f"a rule is empty; {_HINT}")
    if not is_weight(number):
        raise ValueError(
            f"{rule!r} does not end with : and a whole number from 0 to {MAX_WEIGHT}; {_HINT}"
        )
    return int(number)
