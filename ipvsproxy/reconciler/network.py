"""Following the node's own network: when it is read again, and which Services that concerns.

Knows the writer's picture of the network and who in the store has an address; what a Service makes
of a change is the translation's affair. Where the network cannot be read its last picture stays
(kubernetes #129146).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ipvsproxy.config import Settings
from ipvsproxy.core.surroundings import served_node_port_addresses
from ipvsproxy.model import Address, Family, NodeNetwork
from ipvsproxy.reconciler.writer import Writer
from ipvsproxy.store import Store

PAUSE = 0.2
"""Seconds from the first news to the look: news come in bursts."""


class NetworkFollower:
    """Has those Services translated again to whom a change of the node's network matters."""

    def __init__(
        self, store: Store, writer: Writer, settings: Settings, clock: Callable[[], float]
    ) -> None:
        self._store = store
        self._writer = writer
        self.settings = settings
        """Of the cycle that is under way."""
        self._clock = clock
        self.due: float | None = None
        """When the network is to be read; None: nothing is known to have changed."""

    def changed(self) -> None:
        """Take note that something has changed."""
        if self.due is None:
            self.due = self._clock() + PAUSE

    async def look_if_due(self) -> None:
        """Read the network where it is time to."""
        if self.due is not None and self._clock() >= self.due:
            await self.look()

    async def look(self) -> None:
        """Read the network now."""
        self.due = None
        self.follow(await self._writer.look_around())

    def follow(self, before: NodeNetwork) -> None:
        """Compare the network with what it was, and mark the Services that this concerns."""
        after = self._writer.state.network
        addresses = before.addresses ^ after.addresses
        gateways = before.gateways ^ after.gateways
        if addresses or gateways:
            node_ports = self._node_ports_at(before) != self._node_ports_at(after)
            concerned = self._store.concerned(addresses | gateways, node_ports=node_ports)
            self._store.mark_dirty(list(concerned))

    def _node_ports_at(self, network: NodeNetwork) -> Mapping[Family, frozenset[Address]]:
        return served_node_port_addresses(self.settings, network, self._store.node)
