"""What changes of the node's own network, as the kernel reports it.

Knows rtnetlink's notifications. They are hardly decoded, since most of them are echoes of the
addresses that we bind ourselves, and of the routes that the kernel makes for each: of routes only
those that lead somewhere reach the socket at all, by a filter within the kernel.
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import socket
import struct
from typing import TYPE_CHECKING

from ipvsproxy.dataplane import Change, NodeNetworkChanged
from ipvsproxy.kernel import message, rtnetlink
from ipvsproxy.kernel.message import CodecError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

# RTMGRP_LINK, RTMGRP_IPV4_IFADDR, RTMGRP_IPV4_ROUTE, RTMGRP_IPV6_IFADDR, RTMGRP_IPV6_ROUTE
_GROUPS = 0x1 | 0x10 | 0x40 | 0x100 | 0x400
_BUFFER = 65536
_HEADER = 16  # bytes of struct nlmsghdr, with the message's kind behind its length
_KIND = 4
_SO_ATTACH_FILTER = 26
_LOAD_HALF, _LOAD_BYTE, _IF_EQUAL, _RETURN = 0x28, 0x30, 0x15, 0x06  # BPF_*: linux/filter.h
_WHOLE = 0xFFFFFFFF
_FILTER = (
    # code, steps to go on if equal, if not, value; loading turns network order into the machine's
    (_LOAD_HALF, 0, 0, _KIND),
    (_IF_EQUAL, 1, 0, socket.htons(rtnetlink.NEW_ROUTE)),
    (_IF_EQUAL, 0, 2, socket.htons(rtnetlink.DELETE_ROUTE)),
    (_LOAD_BYTE, 0, 0, _HEADER + rtnetlink.ROUTE_TYPE_OFFSET),
    (_IF_EQUAL, 0, 1, rtnetlink.UNICAST),
    (_RETURN, 0, 0, _WHOLE),
    (_RETURN, 0, 0, 0),
)
"""Lets everything pass but routes of other types than unicast (linux/filter.h, classic BPF)."""


async def changes() -> AsyncIterator[Change]:
    """Report links, addresses and gateways that come and go.

    What concerns addresses of the dummy interface is not reported. Lasts until it is closed.
    Notifications that were lost (ENOBUFS) are reported as a change; the socket goes on after that.
    """
    loop = asyncio.get_running_loop()
    kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
    with socket.socket(socket.AF_NETLINK, kind, rtnetlink.PROTOCOL) as connection:
        _attach_filter(connection)
        connection.bind((0, _GROUPS))
        while True:
            try:
                notice = await loop.sock_recv(connection, _BUFFER)
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                yield NodeNetworkChanged()
            else:
                if _is_change(notice, rtnetlink.dummy_index()):
                    yield NodeNetworkChanged()


def _attach_filter(connection: socket.socket) -> None:
    program = b"".join(struct.pack("=HBBI", *step) for step in _FILTER)
    kept = ctypes.create_string_buffer(program, len(program))
    wrapped = struct.pack("@HP", len(_FILTER), ctypes.addressof(kept))  # struct sock_fprog
    connection.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, wrapped)


def _is_change(notice: bytes, dummy: int | None) -> bool:
    try:
        return any(_concerns_node(one, dummy) for one in message.messages(notice))
    except (CodecError, struct.error, IndexError):
        return True


def _concerns_node(notice: message.Message, dummy: int | None) -> bool:
    match notice.kind:
        case rtnetlink.NEW_ADDRESS | rtnetlink.DELETE_ADDRESS:
            _, index = rtnetlink.family_and_index(notice.payload)
            return index != dummy
        case rtnetlink.NEW_LINK | rtnetlink.DELETE_LINK:
            # Those of other families tell of bridge ports and advertisements.
            family, _ = rtnetlink.family_and_index(notice.payload)
            return family == socket.AF_UNSPEC
        case rtnetlink.NEW_ROUTE | rtnetlink.DELETE_ROUTE:
            return any(rtnetlink.gateways(notice.payload))
        case _:
            return False
