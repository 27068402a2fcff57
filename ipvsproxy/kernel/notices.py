"""What changes of the node's own network, as the kernel reports it.

Knows rtnetlink's notifications. Most of them are echoes of the addresses that we bind ourselves,
and of the routes that the kernel makes for each: a start would wake the event loop thousands of
times for nothing. So a filter within the kernel lets neither through: of routes only those that
lead somewhere, of addresses those of other interfaces than the dummy one. Its number is looked up
when an interface has come or gone, and the filter is changed with it.
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import socket
import struct
import sys
from contextlib import closing
from typing import TYPE_CHECKING

from ipvsproxy.dataplane import Change, NodeNetworkChanged
from ipvsproxy.kernel import message, rtnetlink
from ipvsproxy.kernel.link import index_of
from ipvsproxy.kernel.message import CodecError
from ipvsproxy.kernel.netlink import NetlinkSocket
from ipvsproxy.model import DUMMY_INTERFACE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

# RTMGRP_LINK, RTMGRP_IPV4_IFADDR, RTMGRP_IPV4_ROUTE, RTMGRP_IPV6_IFADDR, RTMGRP_IPV6_ROUTE
_GROUPS = 0x1 | 0x10 | 0x40 | 0x100 | 0x400
_BUFFER = 65536
_HEADER = 16  # bytes of struct nlmsghdr, with the message's kind behind its length
_KIND = 4
_SO_ATTACH_FILTER = 26
_LOAD_WORD, _LOAD_HALF, _LOAD_BYTE = 0x20, 0x28, 0x30  # BPF_LD: linux/bpf_common.h
_IF_EQUAL, _RETURN = 0x15, 0x06  # BPF_JMP | BPF_JEQ, BPF_RET
_WHOLE = 0xFFFFFFFF
_NO_INTERFACE = 0


async def changes() -> AsyncIterator[Change]:
    """Report links, addresses and gateways that come and go.

    What concerns addresses of the dummy interface is not reported. Lasts until it is closed.
    Notifications that were lost (ENOBUFS) are reported as a change; the socket goes on after that.
    """
    loop = asyncio.get_running_loop()
    kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
    with (
        closing(NetlinkSocket(rtnetlink.PROTOCOL)) as questions,
        socket.socket(socket.AF_NETLINK, kind, rtnetlink.PROTOCOL) as connection,
    ):
        _attach_filter(connection, _NO_INTERFACE)
        connection.bind((0, _GROUPS))
        own = _follow_dummy(questions, connection, _NO_INTERFACE)
        while True:
            try:
                notice = await loop.sock_recv(connection, _BUFFER)
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                own = _follow_dummy(questions, connection, own)
                yield NodeNetworkChanged()
            else:
                if _is_of_links(notice):
                    own = _follow_dummy(questions, connection, own)
                if _is_change(notice, own):
                    yield NodeNetworkChanged()


def _follow_dummy(questions: NetlinkSocket, connection: socket.socket, before: int) -> int:
    """Give the number of the dummy interface, which the filter leaves out from now on."""
    number = index_of(questions, DUMMY_INTERFACE) or _NO_INTERFACE
    if number != before:
        _attach_filter(connection, number)
    return number


def _filter(dummy: int) -> tuple[tuple[int, int, int, int], ...]:
    """Write the program that lets pass what may be a change (linux/filter.h, classic BPF).

    What is loaded is turned from network order into the machine's, though it is none.
    """
    return (
        # code, steps to go on if equal, if not, value
        (_LOAD_HALF, 0, 0, _KIND),
        (_IF_EQUAL, 4, 0, socket.htons(rtnetlink.NEW_ROUTE)),
        (_IF_EQUAL, 3, 0, socket.htons(rtnetlink.DELETE_ROUTE)),
        (_IF_EQUAL, 4, 0, socket.htons(rtnetlink.NEW_ADDRESS)),
        (_IF_EQUAL, 3, 0, socket.htons(rtnetlink.DELETE_ADDRESS)),
        (_RETURN, 0, 0, _WHOLE),
        (_LOAD_BYTE, 0, 0, _HEADER + rtnetlink.ROUTE_TYPE_OFFSET),
        (_IF_EQUAL, 2, 3, rtnetlink.UNICAST),
        (_LOAD_WORD, 0, 0, _HEADER + rtnetlink.ADDRESS_INDEX_OFFSET),
        (_IF_EQUAL, 1, 0, socket.htonl(dummy)),
        (_RETURN, 0, 0, _WHOLE),
        (_RETURN, 0, 0, 0),
    )


def _attach_filter(connection: socket.socket, dummy: int) -> None:
    """Put the filter in the place of the one before, if any."""
    steps = _filter(dummy)
    program = b"".join(struct.pack("=HBBI", *step) for step in steps)
    kept = ctypes.create_string_buffer(program, len(program))
    wrapped = struct.pack("@HP", len(steps), ctypes.addressof(kept))  # struct sock_fprog
    connection.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, wrapped)


def _is_of_links(notice: bytes) -> bool:
    kind = int.from_bytes(notice[_KIND : _KIND + 2], sys.byteorder)
    return kind in {rtnetlink.NEW_LINK, rtnetlink.DELETE_LINK}


def _is_change(notice: bytes, dummy: int) -> bool:
    try:
        return any(_concerns_node(one, dummy) for one in message.messages(notice))
    except (CodecError, struct.error, IndexError):
        return True


def _concerns_node(notice: message.Message, dummy: int) -> bool:
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
