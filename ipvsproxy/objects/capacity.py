"""What a Node can bear, read from the quantities of its status.

Knows how the API writes quantities, as far as processors and pods need it (k8s.io/apimachinery
resource.Quantity). It is never a reason to refuse a Node: what cannot be read is not known.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal

from ipvsproxy.objects.values import Capacity

_QUANTITY = re.compile(r"(?P<number>\d+(?:\.\d+)?)(?P<unit>m|k|)")
_THOUSANDTHS = {"m": 1, "": 1000, "k": 1_000_000}


def read_capacity(allocatable: Mapping[str, str | int | float | None]) -> Capacity:
    """Read status.allocatable of a Node."""
    cpu = _thousandths(allocatable.get("cpu"))
    pods = _thousandths(allocatable.get("pods"))
    return Capacity(cpu, None if pods is None else pods // 1000)


def _thousandths(written: str | float | None) -> int | None:
    """Read a quantity as the API server writes those of processors and pods: 4, 3920m, 1k."""
    found = _QUANTITY.fullmatch("" if written is None else str(written).strip())
    if found is None:
        return None
    return int(Decimal(found["number"]) * _THOUSANDTHS[found["unit"]])
