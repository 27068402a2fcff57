"""What the fields mean by which the kernel describes a virtual server, whoever has read them.

Knows the flags of include/uapi/linux/ip_vs.h; netlink and the socket options have them alike, and
each has a layout of its own (`codec`, `ipvs_sockopt`).
"""

from __future__ import annotations

from ipvsproxy.model import Flags, VirtualServer

__all__ = ["PERSISTENT", "virtual_server"]

PERSISTENT = 0x1
"""IP_VS_SVC_F_PERSISTENT. F_HASHED (0x2) is the kernel's own."""
_KNOWN_FLAGS = int(Flags.ONE_PACKET | Flags.SCHED_1 | Flags.SCHED_2 | Flags.SCHED_3)
_FLAG_SETS = {bits: Flags(bits) for bits in range(_KNOWN_FLAGS + 1) if not bits & ~_KNOWN_FLAGS}


def virtual_server(name: bytes, flags: int, timeout: int, prefix_length: int) -> VirtualServer:
    """Give the virtual server of which the kernel says this; a zero byte ends the scheduler's name.

    Raises UnicodeError for a name that is none.
    """
    return VirtualServer(
        name.partition(b"\0")[0].decode("ascii"),
        _FLAG_SETS[flags & _KNOWN_FLAGS],
        timeout if flags & PERSISTENT else 0,
        prefix_length,
    )
