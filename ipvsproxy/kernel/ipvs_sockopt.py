"""The real servers of one IPv4 virtual server by one system call, for a table is read one by one.

Knows IP_VS_SO_GET_DESTS (include/uapi/linux/ip_vs.h). By netlink the same takes a send and two
receives, and attributes that are decoded one by one: at 5,000 Services the most of an audit. The
interface has IPv4 only, and says nothing of how many there are: what does not fit, or fails, is
asked for by netlink.
"""

from __future__ import annotations

import ctypes
import errno
import socket
import struct
from typing import TYPE_CHECKING

from ipvsproxy.dataplane import RealServerReading
from ipvsproxy.model import (
    Address,
    Connections,
    ForwardingMethod,
    RealServer,
    RealServerKey,
)

if TYPE_CHECKING:
    from ipvsproxy.model import VirtualServerKey

__all__ = ["MOST", "SocketOption"]

MOST = 64
"""Real servers that are read so; of a virtual server with as many or more, netlink tells."""
_GET_DESTS = 64 + 1024 + 64 + 4  # IP_VS_SO_GET_DESTS
# struct ip_vs_get_dests: protocol, address, port, firewall mark, number; the entries are aligned
_QUESTION = struct.Struct("=H2x4s2s2xII4x")
# struct ip_vs_dest_entry, up to its statistics
_ENTRY = struct.Struct("=4s2s2xIiIIIII60x")
_SIZE = _QUESTION.size + MOST * _ENTRY.size
_KNOWN_LAYOUT = struct.calcsize("P") == 8  # noqa: PLR2004 - 32-bit machines align 64-bit numbers otherwise
_METHOD_MASK = 0x7  # IP_VS_CONN_F_FWD_MASK
_METHODS = {int(method): method for method in ForwardingMethod}
_IPV4_BYTES = 4
_NOTHING = bytes(_IPV4_BYTES)


class SocketOption:
    """A socket by which real servers are read; opens itself when used."""

    def __init__(self) -> None:
        self._socket: socket.socket | None = None
        self._system = ctypes.CDLL(None, use_errno=True)

    def read(self, key: VirtualServerKey) -> dict[RealServerKey, RealServerReading] | None:
        """Read the real servers, none where there is no virtual server; None: ask by netlink."""
        if len(key.address) != _IPV4_BYTES or not _KNOWN_LAYOUT:
            return None
        question = _QUESTION.pack(key.protocol, key.address, key.port.to_bytes(2), 0, MOST)
        buffer = ctypes.create_string_buffer(question, _SIZE)
        length = ctypes.c_uint(_SIZE)
        try:
            number = self._open().fileno()
        except OSError:
            return None
        if self._system.getsockopt(number, socket.SOL_IP, _GET_DESTS, buffer, ctypes.byref(length)):
            return {} if ctypes.get_errno() == errno.ESRCH else None
        return _decode(buffer.raw)

    def close(self) -> None:
        """Close the socket; the next use opens another."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _open(self) -> socket.socket:
        if self._socket is None:
            self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        return self._socket


def _decode(answer: bytes) -> dict[RealServerKey, RealServerReading] | None:
    found: dict[RealServerKey, RealServerReading] = {}
    for position in range(_QUESTION.size, _SIZE, _ENTRY.size):
        address, port, flags, weight, upper, lower, *connections = _ENTRY.unpack_from(
            answer, position
        )
        if address == _NOTHING:
            return found
        method = _METHODS.get(flags & _METHOD_MASK)
        if method is None:
            return None
        found[RealServerKey(Address(address), int.from_bytes(port))] = RealServerReading(
            RealServer(weight, method, upper, lower), Connections(*connections)
        )
    return None
