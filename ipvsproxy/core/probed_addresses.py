"""Whose address a node may probe: a pod's, and nobody else's.

Knows addresses and what is around; not what is probed there. Whoever can write an EndpointSlice
must not gain a port scanner with the node's address.
"""

from __future__ import annotations

from collections.abc import Collection

from ipvsproxy.config import WatchNodes
from ipvsproxy.core.surroundings import Surroundings
from ipvsproxy.model import Address, Family, Network


class Guard:
    """Says of addresses whether they may be probed, as things are around.

    What is no pod's is not probed, whatever networks are set: an endpoint with hostNetwork has the
    address of its node. What networks decide they decide for blocks of addresses as large as the
    smallest of them, so that thousands of endpoints are a few blocks.
    """

    def __init__(self, around: Surroundings) -> None:
        self._around = around
        self._own, self._bound, self._taken = (
            around.own_addresses,
            around.kernel.addresses,
            around.taken,
        )
        self._pods = pod_networks(around)
        self._length = dict.fromkeys((4, 16), 0)
        """How many bytes of an address of so many say which block it is in."""
        for network in (*self._pods, *around.service_networks):
            size, needed = len(network.address), -(-network.prefix_length // 8)
            self._length[size] = max(self._length[size], needed)
        self._blocks: dict[int, dict[bytes, str | None]] = {4: {}, 16: {}}

    def why_not(self, address: Address) -> str | None:
        """Say why an address is not probed; None: it may be."""
        if (reason := _special(address)) is not None:
            return reason
        if address in self._own:
            return "an address of this node"
        if address in self._bound:
            return "a Service's address"
        if address in self._taken:
            return self._taken[address]
        size = len(address)
        blocks, block = self._blocks[size], address[: self._length[size]]
        if block not in blocks:
            blocks[block] = self._by_network(address)
        return blocks[block]

    def _by_network(self, address: Address) -> str | None:
        if (taken := self._around.why_taken(address)) is not None:
            return taken
        if any(address in network for network in self._pods):
            return None
        blind = self._around.settings.watch_nodes is WatchNodes.NEVER
        why = "it could be a node (watchNodes: never)" if blind else "outside of the pod networks"
        return f"{why}; healthCheckNetworks may name its network"


def why_not_probed(address: Address, around: Surroundings) -> str | None:
    """Say why an address is not probed; None: it may be."""
    return Guard(around).why_not(address)


def pod_networks(around: Surroundings) -> Collection[Network]:
    """Give the networks within which endpoints may be probed.

    Where Nodes are never watched nobody knows which addresses are other nodes': only this node's
    own range has none, and what the operator names for it.
    """
    own = around.node.pod_cidrs if around.node is not None else ()
    settings = around.settings
    blind = settings.watch_nodes is WatchNodes.NEVER
    return (*(() if blind else settings.cluster_cidrs), *own, *settings.health_check_networks)


def _special(address: Address) -> str | None:
    """Say what makes an address one that no pod has: by its first bytes, for this is asked often.

    127.0.0.0/8, 169.254.0.0/16, 224.0.0.0/4, 0.0.0.0/8, 240.0.0.0/4; ::1, fe80::/10, ff00::/8, ::.
    """
    first = address[0]
    if address.family is Family.IPV4:
        if first == _LINK_LOCAL[0]:
            return "a link-local address" if address[1] == _LINK_LOCAL[1] else None
        return _SPECIAL_BY_FIRST.get(first)
    if first == _LINK_LOCAL_IPV6[0]:
        linked = address[1] & 0xC0 == _LINK_LOCAL_IPV6[1]
        return "a link-local address" if linked else None
    if first == _MULTICAST_IPV6:
        return "a multicast address"
    return _SPECIAL_IPV6.get(address) if not first else None


_LINK_LOCAL = (169, 254)
_LINK_LOCAL_IPV6 = (0xFE, 0x80)
_MULTICAST_IPV6 = 0xFF
_NO_HOST = "no address of a host"
_SPECIAL_BY_FIRST = {
    0: _NO_HOST,
    127: "a loopback address",
    **dict.fromkeys(range(224, 240), "a multicast address"),
    **dict.fromkeys(range(240, 256), _NO_HOST),
}
_SPECIAL_IPV6 = {
    Address.parse("::"): _NO_HOST,
    Address.parse("::1"): "a loopback address",
}
