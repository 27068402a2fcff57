"""What can be seen at a glance: three system calls for what would take a listing of thousands.

Knows the ioctls of netdevice(7) on a socket that somebody else has opened. SIOCGIFCONF without a
buffer says how large one would have to be for the addresses of all interfaces (inet_gifconf in
net/ipv4/devinet.c), so the kernel counts them, in a hundredth of the time in which it lists them.
It knows IPv4 only, and there is nothing like it for IPv6.
"""

from __future__ import annotations

import errno
import fcntl
import struct
from typing import TYPE_CHECKING

from ipvsproxy.model import DUMMY_INTERFACE

if TYPE_CHECKING:
    import socket

__all__ = ["address_count", "has_dummy"]

_ADDRESSES, _INDEX = 0x8912, 0x8933  # SIOCGIFCONF, SIOCGIFINDEX
_LIST = struct.Struct("@iP")  # struct ifconf: bytes, buffer
_ENTRY_SIZE = 24 + 2 * struct.calcsize("P")  # struct ifreq, whose union has a struct ifmap
_ENTRY = struct.Struct(f"@16s{_ENTRY_SIZE - 16}x")  # struct ifreq: name, a union


def address_count(control: socket.socket) -> int | None:
    """Count the IPv4 addresses of all interfaces; None where this kernel does not say."""
    question = bytearray(_LIST.pack(0, 0))
    try:
        fcntl.ioctl(control, _ADDRESSES, question)
    except OSError:
        return None
    size: int = _LIST.unpack(question)[0]
    return size // _ENTRY_SIZE


def has_dummy(control: socket.socket) -> bool:
    """Whether there is a dummy interface. Raises OSError."""
    try:
        fcntl.ioctl(control, _INDEX, _ENTRY.pack(DUMMY_INTERFACE.encode()))
    except OSError as error:
        if error.errno == errno.ENODEV:
            return False
        raise
    return True
