"""The EndpointSlices of every Service, and which Services have an endpoint of some sort.

Knows whose a slice is, also after its label has changed; does not know what a change makes dirty.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

from ipvsproxy.objects import Endpoint, EndpointSlice, ServiceName


class Slices:
    """Slices by Service and name."""

    def __init__(self) -> None:
        self._by_service: dict[ServiceName, tuple[EndpointSlice, ...]] = {}
        """No two of a name. Most have one or two: a dict for each would take twice the room."""
        self._owner: dict[tuple[str, str], ServiceName] = {}

    @property
    def by_service(self) -> Mapping[ServiceName, Collection[EndpointSlice]]:
        """All of them; a Service that has none is not in it."""
        return self._by_service

    def of(self, name: ServiceName) -> Collection[EndpointSlice]:
        """Give the slices of a Service."""
        return self._by_service.get(name, ())

    def owner(self, namespace: str, name: str) -> ServiceName | None:
        """Say whose a slice is; None: there is none of this name."""
        return self._owner.get((namespace, name))

    def put(self, changed: EndpointSlice) -> list[ServiceName]:
        """Take in a slice; give the Services whose slices are others now, that it left first."""
        namespace, name, owner = changed.namespace, changed.name, changed.service
        before = self._owner.get((namespace, name))
        present = self._by_service.get(owner, ())
        if before == owner:
            if changed in present:
                return []
            parts = [changed if one.name == name else one for one in present]
            self._by_service[owner] = tuple(parts)
            return [owner]
        left = self.remove(namespace, name)
        self._owner[namespace, name] = owner
        self._by_service[owner] = (*present, changed)
        return [owner] if left is None else [left, owner]

    def remove(self, namespace: str, name: str) -> ServiceName | None:
        """Forget a slice; say whose it was."""
        owner = self._owner.pop((namespace, name), None)
        if owner is not None:
            rest = tuple(one for one in self._by_service[owner] if one.name != name)
            if rest:
                self._by_service[owner] = rest
            else:
                del self._by_service[owner]
        return owner

    def having(
        self, names: Iterable[ServiceName], wanted: Callable[[Endpoint], bool]
    ) -> Iterator[ServiceName]:
        """Name those of some Services that have an endpoint such as is wanted."""
        for name in names:
            if any(wanted(endpoint) for part in self.of(name) for endpoint in part.endpoints):
                yield name
