"""Netlink messages as bytes: headers, attributes, acknowledgements (RFC 3549; linux/netlink.h).

Knows the frame that every netlink protocol shares and nothing of what is inside, of sockets or of
who asks: bytes in, values out. Numbers are in the byte order of the machine, as the kernel's are.

Whatever the bytes, the only exception is `CodecError`.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "ACK",
    "CREATE",
    "DUMP",
    "EXCLUSIVE",
    "REQUEST",
    "CodecError",
    "Message",
    "attribute",
    "attributes",
    "failure",
    "frame",
    "messages",
]

REQUEST = 0x1
ACK = 0x4
DUMP = 0x300
EXCLUSIVE = 0x200
CREATE = 0x400
_DUMP_INTERRUPTED = 0x10

_ERROR = 2
_DONE = 3

_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr: length, type, flags, sequence, port
_ATTRIBUTE = struct.Struct("=HH")  # struct nlattr: length with this header, type
_NUMBER = struct.Struct("=i")
_TYPE_MASK = 0x3FFF  # without NLA_F_NESTED and NLA_F_NET_BYTEORDER


class CodecError(Exception):
    """Bytes that are not what they should be, or a value that has no place in them."""


class Message(NamedTuple):
    """One message as it came: what follows its header is `payload`."""

    kind: int
    flags: int
    sequence: int
    payload: bytes

    @property
    def interrupted(self) -> bool:
        """Whether the kernel says that its table changed during the dump (NLM_F_DUMP_INTR)."""
        return bool(self.flags & _DUMP_INTERRUPTED)


def frame(kind: int, payload: bytes, *, flags: int, sequence: int) -> bytes:
    """Put the header before a payload, whose length is a multiple of four."""
    return _HEADER.pack(_HEADER.size + len(payload), kind, flags, sequence, 0) + payload


def messages(buffer: bytes) -> Iterator[Message]:
    """Split what one receive call has returned; CodecError where a length is impossible."""
    position, end = 0, len(buffer)
    while position < end:
        if end - position < _HEADER.size:
            raise CodecError(f"{end - position} bytes are left over after a netlink message")
        length, kind, flags, sequence, _ = _HEADER.unpack_from(buffer, position)
        if length < _HEADER.size or length > end - position:
            raise CodecError(f"a netlink message of {length} bytes in {end - position}")
        payload = buffer[position + _HEADER.size : position + length]
        yield Message(kind, flags, sequence, payload)
        position += length + 3 & ~3


def failure(message: Message) -> int | None:
    """Return the errno that ends an exchange: 0 is success, None is that this ends nothing.

    An acknowledgement is an error message with number 0; the end of a dump carries a number too.
    """
    if message.kind not in {_ERROR, _DONE}:
        return None
    if len(message.payload) < _NUMBER.size:
        if message.kind == _DONE:
            return 0
        raise CodecError("a netlink error without a number")
    number: int = _NUMBER.unpack_from(message.payload)[0]
    return max(-number, 0)


def attribute(kind: int, value: bytes) -> bytes:
    """Encode one attribute, padded to a multiple of four."""
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value + b"\0" * (-len(value) % 4)


def attributes(data: bytes, start: int = 0) -> dict[int, bytes]:
    """Decode attributes from `start` on, by type; of duplicates the last counts, as in the kernel.

    CodecError where a length is impossible.
    """
    found: dict[int, bytes] = {}
    end = len(data)
    header = _ATTRIBUTE.unpack_from
    while end - start >= 4:  # noqa: PLR2004 - the size of a header; three bytes are padding
        length, kind = header(data, start)
        if length < 4 or length > end - start:  # noqa: PLR2004 - as above
            raise CodecError(f"a netlink attribute of {length} bytes in {end - start}")
        found[kind & _TYPE_MASK] = data[start + 4 : start + length]
        start += length + 3 & ~3
    return found
