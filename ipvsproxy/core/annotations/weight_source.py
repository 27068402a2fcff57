"""The annotation of a Service by which endpoints weigh what their Node does; and the Node's own.

Knows what may be written, and which weight a Node's capacity is; not where Nodes come from.
"""

from __future__ import annotations

from enum import StrEnum

from ipvsproxy.objects import Capacity

WEIGHT_SOURCE = "ipvsproxy.io/weight-source"
NODE_WEIGHT = "ipvsproxy.io/weight"
"""On a Node: the weight of each endpoint on it, of Services that have `WEIGHT_SOURCE`."""


class WeightSource(StrEnum):
    """What of its Node an endpoint weighs; the annotation `NODE_WEIGHT` goes before all."""

    NODE = "node"
    CPU = "cpu"
    PODS = "pods"

    def weight(self, capacity: Capacity) -> int | None:
        """Give the weight that a Node's allocatable capacity is; None where it is not known.

        `cpu`: one for each processor, rounded half up, at least 1; `pods`: the greatest number of
        pods.
        """
        match self:
            case WeightSource.NODE:
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
        raise ValueError(f"{text!r} is none of node cpu pods; write one of them") from None
