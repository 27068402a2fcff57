"""What can be seen at a glance: one system call for what would take a listing of thousands.

Knows an ioctl of netdevice(7) on a socket that somebody else has opened. SIOCGIFCONF without a
buffer says how large one would have to be for the addresses of all interfaces (inet_gifconf in
net/ipv4/devinet.c), so the kernel counts them, in a hundredth of the time in which it lists them.
It knows IPv4 only, and there is nothing like it for IPv6.
"""

from __future__ import annotations

import fcntl
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import socket

__all__ = ["address_count"]

_ADDRESSES = 0x8912  # SIOCGIFCONF
_LIST = struct.Struct("@iP")  # struct ifconf: bytes, buffer
_ENTRY_SIZE = 24 + 2 * struct.calcsize("P")  # struct ifreq, whose union has a struct ifmap


def address_count(control: socket.socket) -> int | None:
    """Count the IPv4 addresses of all interfaces; None where this kernel does not say."""
    question = bytearray(_LIST.pack(0, 0))
    try:
        fcntl.ioctl(control, _ADDRESSES, question)
    except OSError:
        return None
    size: int = _LIST.unpack(question)[0]
    return size // _ENTRY_SIZE
