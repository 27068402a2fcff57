"""The annotation of a Service by which endpoints weigh what their Node or Pod says; and theirs.

Knows what may be written, and which weight a Node's capacity is; not where Nodes and Pods come
from.
"""

from __future__ import annotations

from enum import StrEnum

from ipvsproxy.objects import Capacity

WEIGHT_SOURCE = "ipvsproxy.io/weight-source"
NODE_WEIGHT = "ipvsproxy.io/weight"
"""On a Node: the weight of each endpoint on it, where `WEIGHT_SOURCE` is any but `pod`."""
POD_WEIGHT = "ipvsproxy.io/weight"
"""On a Pod: the weight of its endpoints, of Services whose `WEIGHT_SOURCE` is `pod`."""


class WeightSource(StrEnum):
    """What an endpoint weighs: what its Pod says, or its Node (before all, its `NODE_WEIGHT`)."""

    NODE = "node"
    CPU = "cpu"
    PODS = "pods"
    POD = "pod"

    def weight(self, capacity: Capacity) -> int | None:
        """Give the weight that a Node's allocatable capacity is; None where it is not known.

        `cpu`: one for each processor, rounded half up, at least 1; `pods`: the greatest number of
        pods.
        """
        match self:
            case WeightSource.NODE | WeightSource.POD:
                return None
            case WeightSource.CPU:
                return None if capacity.cpu is None else max(1, (capacity.cpu + 500) // 1000)
            case WeightSource.PODS:
                return None if capacity.pods is None else max(1, capacity.pods)


def read_weight_source(text: str) -> WeightSource:
    """Read what endpoints weigh. Raises ValueError with one line."""
    try:
        return WeightSource(text)
    except ValueError:
        raise ValueError(f"{text!r} is none of node cpu pods pod; write one of them") from None
