"""The node's own network, read: interfaces, gateways, listening sockets; and the dummy interface.

Knows what belongs together of what `rtnetlink` and `listeners` read; calls block. One listing of
the addresses serves for the node's and for those of the dummy interface. The latter may be many
thousands, so they are decoded only when they are asked for.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

from ipvsproxy.core.predecessors import KUBE_ROUTER_INTERFACE
from ipvsproxy.dataplane import DataplaneError
from ipvsproxy.kernel import rtnetlink
from ipvsproxy.kernel.listeners import listeners
from ipvsproxy.kernel.message import CodecError
from ipvsproxy.model import DUMMY_INTERFACE, Address, Family, NodeNetwork

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ipvsproxy.kernel.netlink import NetlinkSocket

_OF_SERVICES = frozenset({DUMMY_INTERFACE, KUBE_ROUTER_INTERFACE})
"""Interfaces whose addresses are Services', and none of the node's own."""
_LINK_LOCAL = bytes.fromhex("fe80")


class Surroundings(NamedTuple):
    """All interfaces of this network namespace, and the rest of the node's network."""

    dummy: set[Address] | None
    """The addresses of the dummy interface; None when there is no such interface.

    IPv6 link-local ones, which the kernel makes up itself, are left out.
    """
    network: NodeNetwork


def read(netlink: NetlinkSocket) -> Surroundings:
    """Read everything, through a socket of rtnetlink. Raises DataplaneError."""
    listed = _listed(netlink)
    packed = listed.get(DUMMY_INTERFACE)
    dummy = None if packed is None else {one for one in _addresses(packed) if not _is_made_up(one)}
    return Surroundings(dummy, _network(netlink, listed))


def read_network(netlink: NetlinkSocket) -> NodeNetwork:
    """Read the node's own network only, as `read` does. Raises DataplaneError."""
    return _network(netlink, _listed(netlink))


def _network(netlink: NetlinkSocket, listed: Mapping[str, Iterable[bytes]]) -> NodeNetwork:
    try:
        gateways = frozenset(
            gateway
            for request in rtnetlink.ROUTES
            for payload in netlink.dump(request)
            for gateway in rtnetlink.gateways(payload)
        )
    except (OSError, CodecError, struct.error, IndexError) as error:
        raise DataplaneError(f"the routes cannot be listed: {error}") from error
    return NodeNetwork(
        interfaces={
            name: frozenset(_addresses(packed))
            for name, packed in listed.items()
            if name not in _OF_SERVICES
        },
        gateways=gateways,
        listeners=listeners(),
    )


def _listed(netlink: NetlinkSocket) -> dict[str, list[bytes]]:
    """List the addresses, not yet decoded, by the name of their interface."""
    # Interfaces first: an address that is bound meanwhile then belongs to one that is known.
    try:
        names = dict(map(rtnetlink.interface, netlink.dump(rtnetlink.LINKS)))
        found: dict[str, list[bytes]] = {name: [] for name in names.values()}
        for payload in netlink.dump(rtnetlink.ADDRESSES):
            _, index = rtnetlink.family_and_index(payload)
            if index in names:
                found[names[index]].append(payload)
    except (OSError, CodecError, struct.error) as error:
        raise DataplaneError(f"the interfaces cannot be listed: {error}") from error
    return found


def _addresses(packed: Iterable[bytes]) -> Iterable[Address]:
    try:
        return list(filter(None, map(rtnetlink.address, packed)))
    except (CodecError, struct.error) as error:
        raise DataplaneError(f"the addresses cannot be read: {error}") from error


def _is_made_up(address: Address) -> bool:
    return address.family is Family.IPV6 and address[:2] == _LINK_LOCAL
