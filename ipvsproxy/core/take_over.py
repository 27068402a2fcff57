"""Who served this node before us, and what its clients lose when we take its place.

For `plan` and `preflight`. Knows what is in the kernel and the settings; decides nothing: what is
done about a predecessor is core.ledger's, core.plan's and core.foreign's.
"""

from __future__ import annotations

from collections.abc import Iterator

from ipvsproxy.config import NodePortAddresses, Settings
from ipvsproxy.core.foreign import Traces
from ipvsproxy.core.ledger import claimed
from ipvsproxy.core.predecessors import (
    KUBE_ROUTER_FRONTENDS,
    KUBE_ROUTER_INTERFACE,
    NFT_TABLE,
    Predecessor,
    are_others,
    serves_without_ipvs,
)
from ipvsproxy.core.sets import NODE_PORT, frontend_member, set_name
from ipvsproxy.core.surroundings import node_port_addresses, served_node_port_addresses
from ipvsproxy.model import Address, Family, PortMember, State, VirtualServerKey
from ipvsproxy.objects import Node

_LOOPBACK = Address.parse("127.0.0.1")


def predecessors(state: State, traces: Traces) -> tuple[Predecessor, ...]:
    """Say who has left something that may still serve; empty: nobody, or only we ourselves."""
    found = state.rulesets.values()
    signs = {
        Predecessor.KUBE_PROXY_IPTABLES: any(map(serves_without_ipvs, found)),
        Predecessor.KUBE_PROXY_IPVS: any(
            are_others(one) and not serves_without_ipvs(one) for one in found
        ),
        Predecessor.KUBE_PROXY_NFTABLES: any(one.name == NFT_TABLE for one in traces.nft_tables),
        Predecessor.KUBE_ROUTER: KUBE_ROUTER_INTERFACE in traces.interfaces,
    }
    return tuple(predecessor for predecessor, there in signs.items() if there)


def of_others(state: State) -> tuple[VirtualServerKey, ...]:
    """Give the virtual servers that are neither ours nor to be adopted: they stay as they are."""
    return tuple(sorted(state.virtual_servers.keys() - set(claimed(state))))


def lost_node_port_addresses(
    settings: Settings, state: State, node: Node | None
) -> tuple[Address, ...]:
    """Give the addresses on which a predecessor serves NodePorts, and we shall not.

    Those of `primary` are not known without the Node, but of the family of bindAddress: of another
    family none counts as lost then.
    """
    served = served_node_port_addresses(settings, state.network, node)
    bound = settings.bind_address
    unknown = {
        family
        for family in Family
        if settings.node_port_addresses.primary and node is None
        if bound is None or bound.family is not family
    }
    lost = set(_node_port_addresses_of_predecessor(state)).difference(*served.values())
    return tuple(sorted(address for address in lost if address.family not in unknown))


def _node_port_addresses_of_predecessor(state: State) -> Iterator[Address]:
    for family, found in state.rulesets.items():
        if serves_without_ipvs(found):  # at every local address, localhost too
            everywhere = NodePortAddresses()
            yield from node_port_addresses(everywhere, family, state.network, None)
            if family is Family.IPV4:
                yield _LOOPBACK
    if any(map(are_others, state.rulesets.values())) or _was_kube_router(state):
        for key in state.virtual_servers:
            if key.address in state.network.addresses and _is_node_port(key, state):
                yield key.address


def _was_kube_router(state: State) -> bool:
    names = (name for names in KUBE_ROUTER_FRONTENDS.values() for name in names)
    return any(state.members.get(name) for name in names)


def _is_node_port(key: VirtualServerKey, state: State) -> bool:
    name = set_name(NODE_PORT[key.protocol], key.family)
    listed = state.members.get(name, ())
    return (
        PortMember(key.port) in listed
        or frontend_member(key) in listed
        or any(
            frontend_member(key) in state.members.get(of_router, ())
            for of_router in KUBE_ROUTER_FRONTENDS[key.family]
        )
    )
