"""One ICMP echo from inside a namespace: whether an address answers it at all."""

from __future__ import annotations

import socket
import struct
from typing import TYPE_CHECKING

from testbed import namespaces

if TYPE_CHECKING:
    from testbed.layout import Host

SECONDS = 3.0
_REQUEST = {socket.AF_INET: 8, socket.AF_INET6: 128}
_REPLY = {socket.AF_INET: 0, socket.AF_INET6: 129}
_PROTOCOL = {socket.AF_INET: socket.IPPROTO_ICMP, socket.AF_INET6: socket.IPPROTO_ICMPV6}
_MOST_PACKETS = 50
_PACKET = 2048
_IDENTIFIER = 0x1950


def answered(host: Host, address: str) -> bool:
    """Say whether a ping from a host to an address is answered within 3 seconds."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with namespaces.inside(host.namespace):
        raw = socket.socket(family, socket.SOCK_RAW, _PROTOCOL[family])
    with raw:
        raw.settimeout(SECONDS)
        raw.sendto(_echo(family), (address, 0))
        try:
            # A raw socket is given every ICMP packet of its namespace.
            return any(_is_reply(raw.recv(_PACKET), family) for _ in range(_MOST_PACKETS))
        except TimeoutError:
            return False


def _echo(family: socket.AddressFamily) -> bytes:
    body = struct.pack("!HHHH", _REQUEST[family] << 8, 0, _IDENTIFIER, 1)
    if family == socket.AF_INET6:  # the kernel writes this checksum, but not IPv4's
        return body
    total = sum(struct.unpack("!4H", body))
    return struct.pack("!HHHH", _REQUEST[family] << 8, ~total & 0xFFFF, _IDENTIFIER, 1)


def _is_reply(packet: bytes, family: socket.AddressFamily) -> bool:
    start = (packet[0] & 0xF) * 4 if family == socket.AF_INET else 0
    kind, _, _, identifier = struct.unpack_from("!BBHH", packet, start)
    return bool(kind == _REPLY[family] and identifier == _IDENTIFIER)
