"""What probes have come to, by Service; and which Services have asked for probes.

Knows verdicts and where the endpoints of such Services are; nothing of who probes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from collections.abc import Set as AbstractSet

from ipvsproxy.core.annotations import HEALTH_CHECK
from ipvsproxy.core.probing import Target, Verdict
from ipvsproxy.core.translate import NO_VERDICTS
from ipvsproxy.model import Address
from ipvsproxy.objects import EndpointSlice, Service, ServiceName
from ipvsproxy.store.events import Judged


class Verdicts:
    """The verdicts that stand."""

    def __init__(self) -> None:
        self._standing: dict[ServiceName, dict[Target, Verdict]] = {}
        self.checked: set[ServiceName] = set()
        """Services that ask for a health check, well or badly."""

    def of(self, name: ServiceName) -> Mapping[Target, Verdict]:
        """Give the verdicts on a Service's endpoints, as they are now."""
        standing = self._standing.get(name)
        return dict(standing) if standing else NO_VERDICTS

    def put(self, judged: Judged) -> bool:
        """Take in a verdict, or that there is none any more; give whether it is another one."""
        name = judged.target.service
        standing = self._standing.setdefault(name, {})
        changed = standing.get(judged.target) is not judged.verdict
        if judged.verdict is None:
            standing.pop(judged.target, None)
        else:
            standing[judged.target] = judged.verdict
        if not standing:
            del self._standing[name]
        return changed

    def note(self, name: ServiceName, service: Service | None) -> None:
        """Take note of what a Service asks for; None: it is gone."""
        if service is not None and any(one == HEALTH_CHECK for one, _ in service.annotations):
            self.checked.add(name)
        else:
            self.checked.discard(name)

    def at(
        self,
        addresses: AbstractSet[Address],
        slices: Mapping[ServiceName, Collection[EndpointSlice]],
    ) -> Iterator[ServiceName]:
        """Name the Services with a health check that have an endpoint at one of these addresses."""
        for name in self.checked if addresses else ():
            parts = slices.get(name, ())
            if any(one.address in addresses for part in parts for one in part.endpoints):
                yield name
