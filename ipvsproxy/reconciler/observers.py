"""Who is told what the reconciler does; it decides nothing by their answers, for they give none.

Protocols only: metrics and HTTP ports implement them, and the reconciler knows neither.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Protocol

from ipvsproxy.core.health_check import HealthCheck
from ipvsproxy.core.probing import Probing
from ipvsproxy.model import Address
from ipvsproxy.objects import ServiceName
from ipvsproxy.reconciler.report import CycleReport


class CycleObserver(Protocol):
    """Who wants to know of cycles."""

    def cycle_started(self) -> None:
        """Take note that a cycle begins."""
        ...

    def cycle_finished(self, report: CycleReport) -> None:
        """Take note of what a cycle did."""
        ...


class HealthCheckPorts(Protocol):
    """Who answers on the health check node ports of Services."""

    def update(
        self, checks: Iterable[HealthCheck], addresses: Collection[Address] | None = None
    ) -> None:
        """Answer these, on these addresses of the node only; None: on all."""
        ...


class Probes(Protocol):
    """Who probes the endpoints of Services."""

    def update(self, probings: Mapping[ServiceName, Probing], *, stretch: float, most: int) -> None:
        """Probe these, with intervals `stretch` times as long, at most so many at a time."""
        ...
