"""Real servers of IPv4 virtual servers by one system call each, for a table is read one by one.

Knows IP_VS_SO_GET_INFO, _SERVICES and _DESTS (include/uapi/linux/ip_vs.h). By netlink the real
servers of one virtual server take a send and two receives, and attributes that are decoded one by
one: at 5,000 Services the most of an audit. The interface tells of IPv4 only: how many real servers
a virtual server has is told too, and where others come than that many, or anything fails, netlink
is asked (a virtual server may have real servers of IPv6 behind a tunnel). The kernel fills the room
that it is given and says neither how much of it nor whether more was to tell
(__ip_vs_get_dest_entries in ip_vs_ctl.c): so there is room for one more than were counted.
"""

from __future__ import annotations

import ctypes
import socket
import struct
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from ipvsproxy.kernel.configuration import virtual_server
from ipvsproxy.model import (
    Address,
    ForwardingMethod,
    Protocol,
    RealServer,
    RealServerKey,
    VirtualServer,
    VirtualServerKey,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["SocketOption"]

_GET_INFO, _GET_SERVICES, _GET_DESTS = (64 + 1024 + 64 + one for one in (1, 2, 4))
_INFO = struct.Struct("=III")  # struct ip_vs_getinfo: version, size, number of virtual servers
# struct ip_vs_get_services: the number; and of struct ip_vs_service_entry: protocol, address, port,
# firewall mark, scheduler, flags, timeout, netmask, number of real servers; each is aligned for
# 64-bit counters
_SERVICES = struct.Struct("=I4x")
_SERVICE = struct.Struct("=H2x4s2s2xI16sII4sI56x")
# struct ip_vs_get_dests: protocol, address, port, firewall mark, the number; and
# struct ip_vs_dest_entry up to its counters
_DESTS = struct.Struct("=H2x4s2s2xII4x")
_DEST = struct.Struct("=4s2s2xIiII12x60x")
_KNOWN_LAYOUT = struct.calcsize("P") == struct.calcsize("Q")
"""On 32-bit machines 64-bit numbers are aligned otherwise."""
_METHOD_MASK = 0x7  # IP_VS_CONN_F_FWD_MASK
_METHODS = {int(method): method for method in ForwardingMethod}
_PROTOCOLS = {int(protocol): protocol for protocol in Protocol}
_NOTHING = bytes(4)


class ListedVirtualServer(NamedTuple):
    """A virtual server, and how many real servers it has."""

    server: VirtualServer
    real_servers: int


class SocketOption:
    """A socket by which the table is read; opens itself when used."""

    def __init__(self) -> None:
        self._socket: socket.socket | None = None
        self._system = ctypes.CDLL(None, use_errno=True)

    def number(self) -> int | None:
        """Say how many virtual servers of IPv4 there are, those by firewall mark included.

        None where that fails.
        """
        try:
            info = self.opened().getsockopt(socket.SOL_IP, _GET_INFO, _INFO.size)
            number: int = _INFO.unpack(info)[2]
        except (OSError, struct.error):
            return None
        return number

    def counts(self) -> Mapping[VirtualServerKey, int]:
        """Say how many real servers each virtual server of IPv4 has; none where that fails."""
        found = self.virtual_servers()
        return {} if found is None else {key: one.real_servers for key, one in found.items()}

    def virtual_servers(self) -> dict[VirtualServerKey, ListedVirtualServer] | None:
        """List the virtual servers of IPv4 but those by firewall mark; None where that fails."""
        number = self.number() if _KNOWN_LAYOUT else None
        if number is None:
            return None
        answer = self._ask(_GET_SERVICES, _SERVICES.pack(number), number * _SERVICE.size)
        if answer is None:
            return None
        try:
            return {
                VirtualServerKey(
                    _PROTOCOLS[protocol], Address(address), int.from_bytes(port)
                ): ListedVirtualServer(_server(name, flags, timeout, mask), real_servers)
                for protocol, address, port, fwmark, name, flags, timeout, mask, real_servers in (
                    _SERVICE.iter_unpack(answer)
                )
                if not fwmark and protocol in _PROTOCOLS
            }
        except UnicodeError:
            return None

    def read(self, key: VirtualServerKey, count: int) -> dict[RealServerKey, RealServer] | None:
        """Read the real servers, `count` of them; None: there are others, ask by netlink."""
        room = count + 1  # the kernel gives no more than that, and does not say that there are
        question = _DESTS.pack(key.protocol, key.address, key.port.to_bytes(2), 0, room)
        answer = self._ask(_GET_DESTS, question, room * _DEST.size)
        if answer is None:
            return None
        found = {
            RealServerKey(Address(address), int.from_bytes(port)): RealServer(
                weight, _METHODS[flags & _METHOD_MASK], upper, lower
            )
            for address, port, flags, weight, upper, lower in _DEST.iter_unpack(answer)
            if address != _NOTHING and flags & _METHOD_MASK in _METHODS
        }
        return found if len(found) == count else None

    def close(self) -> None:
        """Close the socket; the next use opens another."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _ask(self, option: int, question: bytes, room: int) -> bytes | None:
        """Ask with a question, which the socket module cannot; give what comes behind it."""
        size = len(question) + room
        buffer = ctypes.create_string_buffer(question, size)
        length = ctypes.c_uint(size)
        try:
            number = self.opened().fileno()
        except OSError:
            return None
        failed = self._system.getsockopt(
            number, socket.SOL_IP, option, buffer, ctypes.byref(length)
        )
        return None if failed else buffer.raw[len(question) :]

    def opened(self) -> socket.socket:
        """Give the socket. Raises OSError."""
        if self._socket is None:
            self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        return self._socket


@lru_cache(maxsize=256)
def _server(scheduler: bytes, flags: int, timeout: int, mask: bytes) -> VirtualServer:
    """Give one of the few kinds of which the many are."""
    return virtual_server(scheduler, flags, timeout, int.from_bytes(mask).bit_count())
