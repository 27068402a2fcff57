"""Links, addresses and routes as rtnetlink's bytes (rtnetlink(7); linux/rtnetlink.h, if_addr.h).

Knows the messages and nothing of sockets or of who asks. What is listed comes in thousands, so only
the fields that are used are decoded.
"""

from __future__ import annotations

import socket
import struct
from typing import TYPE_CHECKING

from ipvsproxy.kernel import message
from ipvsproxy.kernel.message import CodecError
from ipvsproxy.kernel.netlink import Request
from ipvsproxy.model import DUMMY_INTERFACE, Address, Family

if TYPE_CHECKING:
    from collections.abc import Iterator

PROTOCOL = 0
"""NETLINK_ROUTE, as a protocol of netlink sockets."""
NEW_LINK, DELETE_LINK, _GET_LINK = 16, 17, 18  # RTM_*
NEW_ADDRESS, DELETE_ADDRESS, _LIST_ADDRESSES = 20, 21, 22  # RTM_*
NEW_ROUTE, DELETE_ROUTE, _LIST_ROUTES = 24, 25, 26  # RTM_*
UNICAST = 1
"""RTN_UNICAST: a route that leads somewhere. Those of the node's own addresses are RTN_LOCAL."""
ROUTE_TYPE_OFFSET = 7
"""Where the type of a route stands in its payload."""
ADDRESS_INDEX_OFFSET = 4
"""Where the interface's number stands in an address's payload."""

_ADDRESS, _LOCAL = 1, 2  # IFA_ADDRESS, IFA_LOCAL
_NAME, _LINK_INFO = 3, 18  # IFLA_IFNAME, IFLA_LINKINFO
_KIND = 1  # IFLA_INFO_KIND
_GATEWAY, _MULTIPATH, _VIA = 5, 9, 18  # RTA_*
_LINK_MESSAGE = struct.Struct("=BxHiII")  # struct ifinfomsg: family, type, index, flags, mask
_ADDRESS_MESSAGE = struct.Struct("=BBBBI")  # struct ifaddrmsg: family, prefix, flags, scope, index
_ROUTE_MESSAGE = struct.Struct("=8BI")  # struct rtmsg: family, lengths, tos, table …, type; flags
_NEXT_HOP = struct.Struct("=HBBi")  # struct rtnexthop: length with attributes, flags, hops, index
_VIA_FAMILY = 2  # bytes of struct rtvia before its address
_AF = {Family.IPV4: socket.AF_INET, Family.IPV6: socket.AF_INET6}
_ADDRESS_LENGTHS = (4, 16)

NEW_DUMMY = (
    _LINK_MESSAGE.pack(socket.AF_UNSPEC, 0, 0, 0, 0)
    + message.attribute(_NAME, DUMMY_INTERFACE.encode() + b"\0")
    + message.attribute(_LINK_INFO, message.attribute(_KIND, b"dummy"))
)
"""Makes the dummy interface, which is down at first; the kernel loads its module."""
LINKS = Request(_GET_LINK, _LINK_MESSAGE.pack(socket.AF_UNSPEC, 0, 0, 0, 0))
"""Lists all interfaces."""
ADDRESSES = Request(_LIST_ADDRESSES, _ADDRESS_MESSAGE.pack(socket.AF_UNSPEC, 0, 0, 0, 0))
"""Lists the addresses of all interfaces."""
ROUTES = tuple(
    Request(_LIST_ROUTES, _ROUTE_MESSAGE.pack(family, 0, 0, 0, 0, 0, 0, UNICAST, 0))
    for family in _AF.values()
)
"""List the routes of all tables, one family each; only those that lead somewhere where the socket
asks for strict checks (Linux 4.20), else those of the node's own addresses too."""


def link_named(name: str) -> Request:
    """Ask for the interface of a name; ENODEV where there is none.

    Not by an ioctl: for a name that is missing that has the kernel launch modprobe (dev_load in
    net/core/dev_ioctl.c), which takes a millisecond, and a tenth of a second in a guest.
    """
    header = _LINK_MESSAGE.pack(socket.AF_UNSPEC, 0, 0, 0, 0)
    return Request(_GET_LINK, header + message.attribute(_NAME, name.encode() + b"\0"))


def link_payload(index: int) -> bytes:
    """Write which interface is meant."""
    return _LINK_MESSAGE.pack(socket.AF_UNSPEC, 0, index, 0, 0)


def address_payload(address: Address, *, index: int, flags: int) -> bytes:
    """Write a host address of the interface `index`, with flags as in IFA_F_NODAD."""
    family = address.family
    header = _ADDRESS_MESSAGE.pack(_AF[family], family.host_prefix, flags, 0, index)
    return header + message.attribute(_LOCAL, address)


def family_and_index(payload: bytes) -> tuple[int, int]:
    """Read the family of a link's or an address's message (AF_*), and the interface's index."""
    # struct ifinfomsg has both in the same places as struct ifaddrmsg.
    family, _, _, _, index = _ADDRESS_MESSAGE.unpack_from(payload)
    return family, index


def interface(payload: bytes) -> tuple[int, str]:
    """Read index and name of a listed interface."""
    _, _, index, _, _ = _LINK_MESSAGE.unpack_from(payload)
    name = message.attributes(payload, _LINK_MESSAGE.size).get(_NAME, b"")
    return index, name.rstrip(b"\0").decode(errors="replace")


def address(payload: bytes) -> Address | None:
    """Read a listed address; None for one of another family."""
    if payload[0] not in _AF.values():
        return None
    found = message.attributes(payload, _ADDRESS_MESSAGE.size)
    # With a peer, IFA_LOCAL is ours; IPv6 without one has IFA_ADDRESS only.
    packed = found.get(_LOCAL) or found.get(_ADDRESS)
    return None if packed is None else Address(packed)


def gateways(payload: bytes) -> Iterator[Address]:
    """Read the next hops of a route: none where it leads to a network that is attached itself."""
    if payload[0] not in _AF.values() or payload[ROUTE_TYPE_OFFSET] != UNICAST:
        return
    found = message.attributes(payload, _ROUTE_MESSAGE.size)
    for hop in (found, *_next_hops(found.get(_MULTIPATH, b""))):
        for packed in (hop.get(_GATEWAY, b""), hop.get(_VIA, b"")[_VIA_FAMILY:]):
            if len(packed) in _ADDRESS_LENGTHS:
                yield Address(packed)


def _next_hops(data: bytes) -> Iterator[dict[int, bytes]]:
    position = 0
    while len(data) - position >= _NEXT_HOP.size:
        length, _, _, _ = _NEXT_HOP.unpack_from(data, position)
        if not _NEXT_HOP.size <= length <= len(data) - position:
            raise CodecError(f"a next hop of {length} bytes in {len(data) - position}")
        yield message.attributes(data[position : position + length], _NEXT_HOP.size)
        position += length + 3 & ~3
