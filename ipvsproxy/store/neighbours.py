"""The Nodes, and the addresses that no Service may have as an external one.

These are other nodes', the API servers', and all that ClusterIPs are taken from. Knows Nodes,
ServiceCIDRs and the endpoints of the API server's Service; which Services want such an address is
the store's to find. The own Node, once told, stays known: nothing on it may fall back to what an
unnamed node would do while its Node object is made anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet

from ipvsproxy.model import Address, Network
from ipvsproxy.objects import EndpointSlice, Node, ServiceCIDR, ServiceName

API_SERVER = ServiceName("default", "kubernetes")
"""The Service whose endpoints are the API servers."""


class Neighbours:
    """The Nodes that are known, and the API servers."""

    def __init__(self, node_name: str) -> None:
        self._node_name = node_name
        self._nodes: dict[str, Node] = {}
        self._api_servers: frozenset[Address] = frozenset()
        self._taken: Mapping[Address, str] | None = None
        self._service_cidrs: dict[str, ServiceCIDR] = {}

    @property
    def own(self) -> Node | None:
        """The own Node, as it was last told; None: there is none of this name."""
        return self._nodes.get(self._node_name)

    @property
    def nodes(self) -> Mapping[str, Node]:
        """All Nodes that are known, by name."""
        return self._nodes

    @property
    def taken(self) -> Mapping[Address, str]:
        """Addresses that no Service may have, with what they are.

        The same object until one changes.
        """
        if self._taken is None:
            others = (node for node in self._nodes.values() if node.name != self._node_name)
            self._taken = {
                **{
                    one: f"the address of node {node.name}"
                    for node in others
                    for one in node.addresses
                },
                **dict.fromkeys(self._api_servers, "the address of an API server"),
            }
        return self._taken

    @property
    def service_networks(self) -> frozenset[Network]:
        """The networks that ClusterIPs are taken from, as far as they are known."""
        return frozenset(
            network for one in self._service_cidrs.values() for network in one.networks
        )

    def is_own(self, name: str) -> bool:
        """Whether this is the own Node's name."""
        return name == self._node_name

    def put(self, node: Node) -> AbstractSet[Address] | None:
        """Take in a Node; give the addresses that came or went, None where nothing is new."""
        before = self._nodes.get(node.name)
        if before == node:
            return None
        self._nodes[node.name] = node
        changed = set(node.addresses) ^ set(before.addresses if before is not None else ())
        if changed:
            self._taken = None
        return changed

    def remove(self, name: str) -> AbstractSet[Address] | None:
        """Forget another Node; give the addresses that it had, None where it is not known."""
        if self.is_own(name) or name not in self._nodes:
            return None
        self._taken = None
        return set(self._nodes.pop(name).addresses)

    def forget_others(self) -> AbstractSet[Address]:
        """Forget all Nodes but the own one; give the addresses that they had."""
        names = [name for name in self._nodes if not self.is_own(name)]
        return {one for name in names for one in self.remove(name) or ()}

    def put_api_servers(self, slices: Iterable[EndpointSlice]) -> AbstractSet[Address]:
        """Take in the endpoints of `API_SERVER`; give those that have come or gone."""
        found = frozenset(one.address for part in slices for one in part.endpoints)
        changed = found ^ self._api_servers
        if changed:
            self._api_servers = found
            self._taken = None
        return changed

    def put_service_cidr(self, found: ServiceCIDR) -> AbstractSet[Network] | None:
        """Take in a ServiceCIDR; give the networks that came or went, None where nothing is new."""
        before = self._service_cidrs.get(found.name)
        if before == found:
            return None
        known = self.service_networks
        self._service_cidrs[found.name] = found
        return known ^ self.service_networks

    def remove_service_cidr(self, name: str) -> AbstractSet[Network] | None:
        """Forget a ServiceCIDR; give the networks that went, None where it is not known."""
        known = self.service_networks
        if self._service_cidrs.pop(name, None) is None:
            return None
        return known ^ self.service_networks
