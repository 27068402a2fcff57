"""What is the same for all Services of a cycle: settings, the node, and what surrounds it.

Knows where NodePorts are served and which addresses no Service may take; what a Service makes of
that is core.frontends'. Derived values are worked out once, when a `Surroundings` is made.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from ipvsproxy.config import DetectLocalMode, NodePortAddresses, Settings
from ipvsproxy.core.endpoints import Whereabouts
from ipvsproxy.model import Address, Family, Network, NodeNetwork, State
from ipvsproxy.objects import Node

_NEAR = {Family.IPV4: 16, Family.IPV6: 64}
"""Prefix lengths of what is near: the most that one node network commonly has."""
_LOOPBACK_FIRST = b"\x7f"
_LOOPBACK_IPV6 = bytes(15) + b"\x01"
_LINK_LOCAL_FIRST = b"\xfe"
_LINK_LOCAL_SECOND = range(0x80, 0xC0)


@dataclass(frozen=True)
class Surroundings:
    """What every translation of a cycle depends on."""

    settings: Settings
    kernel: State
    unavailable: Collection[str] = frozenset()
    """Schedulers that this kernel has refused."""
    node: Node | None = None
    """The own Node object; None: not known."""
    taken: Mapping[Address, str] = field(default_factory=dict)
    """Addresses outside of this node that no Service may have, with what they are."""
    service_networks: frozenset[Network] = frozenset()
    """What ClusterIPs are taken from: an address in it is some Service's, or will be."""
    nodes_known: bool = True
    """Whether `taken` has the addresses of all other nodes, and `nodes` all of them."""
    nodes_awaited: float = 0.0
    """So many seconds at least all Nodes have been waited for since the agent's start was over."""
    nodes: Mapping[str, Node] = field(default_factory=dict)
    """The Nodes that are known, by name."""
    pod_weights: Mapping[tuple[str, str], str] = field(default_factory=dict)
    """What Pods say they weigh, as written, by namespace and name."""
    pods_known: bool = True
    """Whether `pod_weights` has all of them."""
    starting: bool = False
    """Whether not every Service has been translated since the agent's start."""

    @cached_property
    def here(self) -> Whereabouts:
        """Where this node is."""
        return Whereabouts(self.settings.node_name, self.node.zone if self.node else None)

    @cached_property
    def own_addresses(self) -> frozenset[Address]:
        """All addresses that are this node's, those too that its interfaces have lost just now."""
        own = frozenset(self.node.addresses) if self.node is not None else frozenset[Address]()
        return own | self.kernel.network.addresses

    @cached_property
    def node_port_addresses(self) -> Mapping[Family, frozenset[Address]]:
        """The node's addresses on which NodePorts are served, by family."""
        return served_node_port_addresses(self.settings, self.kernel.network, self.node)

    @property
    def health_check_addresses(self) -> frozenset[Address] | None:
        """The node's addresses on which health check node ports answer; None: all of them."""
        wanted = self.settings.node_port_addresses
        if not wanted.primary and not wanted.networks:
            return None
        return frozenset[Address]().union(*self.node_port_addresses.values())

    def why_taken(self, address: Address) -> str | None:
        """Say what makes an address that is not this node's one that no Service may have."""
        reason = self.taken.get(address)
        if reason is None:
            networks = (str(one) for one in self.service_networks if address in one)
            network = min(networks, default=None)
            reason = f"within {network}, where ClusterIPs are taken from" if network else None
        return reason

    def primary_addresses(self, family: Family) -> Collection[Address]:
        """Give the node's own addresses by which source ranges are held to let it in or not.

        The first InternalIP, as in kube-proxy (GetNodeIPs); without a Node any address of it.
        `bind_address` goes before both (detectNodeIPs in cmd/kube-proxy/app/server.go).
        """
        bound = self.settings.bind_address
        if bound is not None and bound.family is family:
            return [bound]
        if self.node is not None:
            own = [address for address in self.node.addresses if address.family is family]
            return own[:1]
        return [one for one in self.kernel.network.addresses if one.family is family]


def needs_own_node(settings: Settings) -> str:
    """Name the setting for which the own Node object has to be known; empty: none."""
    if settings.node_port_addresses.primary:
        return "nodePortAddresses: primary"
    if settings.detect_local_mode is DetectLocalMode.NODE_CIDR:
        return "detectLocalMode: NodeCIDR"
    return ""


def may_be_a_node(address: Address, node: Node | None) -> bool:
    """Whether a load balancer's address may well be that of another node, as k3s' servicelb sets.

    Nodes of a cluster mostly share a network, so an address near this node's InternalIPs may; one
    of a cloud's load balancer is elsewhere. Only then is it worth to watch all Nodes for it.
    """
    own = node.addresses if node is not None else ()
    return any(address in Network(one, _NEAR[one.family]) for one in own)


def served_node_port_addresses(
    settings: Settings, network: NodeNetwork, node: Node | None
) -> Mapping[Family, frozenset[Address]]:
    """Give the node's addresses on which NodePorts are served by these settings, by family."""
    wanted, bound = settings.node_port_addresses, settings.bind_address
    return {
        family: node_port_addresses(wanted, family, network, node, bind_address=bound)
        for family in Family
    }


def node_port_addresses(
    wanted: NodePortAddresses,
    family: Family,
    network: NodeNetwork,
    node: Node | None,
    *,
    bind_address: Address | None = None,
) -> frozenset[Address]:
    """Give the node's addresses of a family on which NodePorts are served.

    kube-proxy's rules (pkg/proxy/util/nodeport_addresses.go), but that an address of the dummy
    interface is none of the node's, whatever networks are given. Loopback addresses never count:
    IPVS cannot serve them (kubernetes #96879); nor do IPv6 link-local ones. `bind_address`: what
    `primary` means for its family.
    """
    own = frozenset(
        address for address in network.addresses if address.family is family and _usable(address)
    )
    if wanted.primary and bind_address is not None and bind_address.family is family:
        return own & {bind_address}
    if wanted.primary:
        return own & frozenset(node.addresses if node is not None else ())
    networks = [one for one in wanted.networks if one.family is family]
    if not networks:
        return own
    return frozenset(one for one in own if any(one in block for block in networks))


def _usable(address: Address) -> bool:
    if address.family is Family.IPV4:
        return address[:1] != _LOOPBACK_FIRST
    link_local = address[:1] == _LINK_LOCAL_FIRST and address[1] in _LINK_LOCAL_SECOND
    return address != _LOOPBACK_IPV6 and not link_local
