"""Real servers of IPv4 virtual servers by one system call each, for a table is read one by one.

Knows IP_VS_SO_GET_INFO, _SERVICES, _SERVICE and _DESTS (include/uapi/linux/ip_vs.h). By netlink
the real servers of one virtual server take a send and two receives, and attributes that are decoded
one by one: at 5,000 Services the most of an audit. The interface tells of IPv4 only: how many real
servers a virtual server has is told too, and where others come than that many, or anything fails,
netlink is asked (a virtual server may have real servers of IPv6 behind a tunnel). The kernel fills
the room that it is given and says neither how much of it nor whether more was to tell
(__ip_vs_get_dest_entries in ip_vs_ctl.c): so there is room for one more than were counted.

While real servers drain, their virtual server is read every few seconds, and may have thousands: so
what has been read of large ones is recognized by its bytes, and made into objects once. And the
room for an answer is kept: half a megabyte that is allocated for each call is touched for the first
time in each, which takes longer than the call.
"""

from __future__ import annotations

import ctypes
import socket
import struct
from collections.abc import Mapping
from functools import lru_cache
from itertools import chain, count
from typing import TYPE_CHECKING, NamedTuple

from ipvsproxy.core.sharing import shared_real_server
from ipvsproxy.dataplane import Reading
from ipvsproxy.kernel.configuration import virtual_server
from ipvsproxy.model import (
    Address,
    Connections,
    Family,
    ForwardingMethod,
    Protocol,
    RealServer,
    RealServerKey,
    VirtualServer,
    VirtualServerKey,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

__all__ = ["SocketOption"]

_GET_INFO, _GET_SERVICES, _GET_SERVICE, _GET_DESTS = (64 + 1024 + 64 + one for one in range(1, 5))
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
_CONFIGURED_DEST = struct.Struct("=24s72x")  # its configuration
_CONFIGURATION = struct.Struct("=4s2s2xIiII")
_ACTIVE, _INACTIVE, _PERSISTENT, _WORDS = 6, 7, 8, _DEST.size // 4
"""Where its connections are, in words of 32 bits, and how many words there are."""
_KNOWN_LAYOUT = struct.calcsize("P") == struct.calcsize("Q")
"""On 32-bit machines 64-bit numbers are aligned otherwise."""
_METHOD_MASK = 0x7  # IP_VS_CONN_F_FWD_MASK
_METHODS = {int(method): method for method in ForwardingMethod}
_PROTOCOLS = {int(protocol): protocol for protocol in Protocol}
_NOTHING = bytes(4)
_KEPT_ROOM = 1 << 20
"""Bytes of room that are kept from one question to the next: 10,000 real servers."""
_LARGE = 200
"""Of virtual servers with more real servers than these it is remembered what was read ..."""
_REMEMBERED = 8
"""... of so many of them."""


class ListedVirtualServer(NamedTuple):
    """A virtual server, and how many real servers it has."""

    server: VirtualServer
    real_servers: int


class _RealServers(dict[bytes, tuple[RealServerKey, RealServer]]):
    """What the kernel's entries say, by their bytes; one that is new is decoded.

    Raises KeyError for a forwarding method that is not known.
    """

    def __missing__(self, entry: bytes) -> tuple[RealServerKey, RealServer]:
        address, port, flags, weight, upper, lower = _CONFIGURATION.unpack(entry)
        server = shared_real_server(weight, _METHODS[flags & _METHOD_MASK], upper, lower)
        self[entry] = RealServerKey(Address(address), int.from_bytes(port)), server
        return self[entry]


class _Counts(Mapping[RealServerKey, Connections]):
    """The connections of real servers, of which few are asked for, or none."""

    def __init__(self, members: Collection[RealServerKey], entries: memoryview) -> None:
        """Take the real servers in the order of the entries, which may change afterwards."""
        self._members = members
        words = entries.cast("I")
        self._numbers = [
            words[which::_WORDS].tolist() for which in (_ACTIVE, _INACTIVE, _PERSISTENT)
        ]
        self._places: Mapping[RealServerKey, int] | None = None

    def __getitem__(self, member: RealServerKey) -> Connections:
        if self._places is None:
            self._places = dict(zip(self._members, count(), strict=False))
        place = self._places[member]
        active, inactive, persistent = self._numbers
        return Connections(active[place], inactive[place], persistent[place])

    def __iter__(self) -> Iterator[RealServerKey]:
        return iter(self._members)

    def __len__(self) -> int:
        return len(self._members)


class SocketOption:
    """A socket by which the table is read; opens itself when used."""

    def __init__(self) -> None:
        self._socket: socket.socket | None = None
        self._system = ctypes.CDLL(None, use_errno=True)
        self._known: dict[VirtualServerKey, _RealServers] = {}
        self._room = ctypes.create_string_buffer(0)

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

    def read(self, key: VirtualServerKey, number: int) -> dict[RealServerKey, RealServer] | None:
        """Read the real servers, `number` of them; None: there are others, ask by netlink."""
        answer = self._entries(key, number)
        if answer is None:
            return None
        found = {
            RealServerKey(Address(address), int.from_bytes(port)): shared_real_server(
                weight, _METHODS[flags & _METHOD_MASK], upper, lower
            )
            for address, port, flags, weight, upper, lower in _DEST.iter_unpack(answer)
            if address != _NOTHING and flags & _METHOD_MASK in _METHODS
        }
        return found if len(found) == number else None

    def reading(self, key: VirtualServerKey) -> Reading | None:
        """Read a virtual server of IPv4, with its connections.

        None: it is not there, is of IPv6, has real servers of IPv6, or that fails: ask by netlink.
        """
        if key.family is not Family.IPV4 or not _KNOWN_LAYOUT:
            return None
        listed = self._virtual_server(key)
        answer = None if listed is None else self._entries(key, listed.real_servers)
        if listed is None or answer is None:
            return None
        number = listed.real_servers
        entries, end = answer[: -_DEST.size], answer[-_DEST.size :]
        if end[:4] != _NOTHING or entries[-_DEST.size :][:4] == _NOTHING:
            return None  # there are more by now, or fewer
        known = self._known.pop(key, _RealServers())
        try:
            found = _decoded(entries, known)
        except KeyError:
            return None
        if len(found) != number:
            return None
        if number > _LARGE:
            self._remember(key, known)
        return Reading(listed.server, found, _Counts(found, entries))

    def close(self) -> None:
        """Close the socket; the next use opens another."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _virtual_server(self, key: VirtualServerKey) -> ListedVirtualServer | None:
        """Read one virtual server of IPv4; None where it is not there, or that fails."""
        question = _SERVICE.pack(
            key.protocol, key.address, key.port.to_bytes(2), 0, b"", 0, 0, _NOTHING, 0
        )
        answer = self._exchange(_GET_SERVICE, question, 0)
        if answer is None:
            return None
        *_, name, flags, timeout, mask, real_servers = _SERVICE.unpack(answer)
        try:
            return ListedVirtualServer(_server(name, flags, timeout, mask), real_servers)
        except UnicodeError:
            return None

    def _entries(self, key: VirtualServerKey, number: int) -> memoryview | None:
        """Read the real servers, with room for one more; None where that fails.

        It is good until the next question.
        """
        room = number + 1  # the kernel gives no more than that, and does not say that there are
        question = _DESTS.pack(key.protocol, key.address, key.port.to_bytes(2), 0, room)
        return self._ask(_GET_DESTS, question, room * _DEST.size)

    def _remember(self, key: VirtualServerKey, known: _RealServers) -> None:
        """Remember what was read of a large virtual server, and forget that of the oldest."""
        self._known[key] = known
        if len(self._known) > _REMEMBERED:
            del self._known[next(iter(self._known))]

    def _ask(self, option: int, question: bytes, room: int) -> memoryview | None:
        """Ask with a question; give what comes behind it, None where that fails."""
        answer = self._exchange(option, question, room)
        return None if answer is None else answer[len(question) :]

    def _exchange(self, option: int, question: bytes, room: int) -> memoryview | None:
        """Ask with a question, which the socket module cannot; give it as the kernel leaves it.

        It is good until the next question.
        """
        size = len(question) + room
        buffer = self._buffer(size)
        length = ctypes.c_uint(size)
        try:
            number = self.opened().fileno()
        except OSError:
            return None
        ctypes.memset(buffer, 0, size)
        given = memoryview(buffer).cast("B")[:size]
        given[: len(question)] = question
        failed = self._system.getsockopt(
            number, socket.SOL_IP, option, buffer, ctypes.byref(length)
        )
        return None if failed else given

    def _buffer(self, size: int) -> ctypes.Array[ctypes.c_char]:
        """Give room for so many bytes, mostly that of the question before."""
        if size > _KEPT_ROOM:
            return ctypes.create_string_buffer(size)
        if size > len(self._room):
            self._room = ctypes.create_string_buffer(size)
        return self._room

    def opened(self) -> socket.socket:
        """Give the socket. Raises OSError."""
        if self._socket is None:
            self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        return self._socket


def _decoded(entries: memoryview, known: _RealServers) -> dict[RealServerKey, RealServer]:
    """Give the real servers of some entries; what is not among these is not known afterwards.

    Raises KeyError for a forwarding method that is not known.
    """
    configurations = list(chain.from_iterable(_CONFIGURED_DEST.iter_unpack(entries)))
    found = dict(map(known.__getitem__, configurations))
    if len(known) > 2 * len(found):
        for one in known.keys() - set(configurations):
            del known[one]
    return found


@lru_cache(maxsize=256)
def _server(scheduler: bytes, flags: int, timeout: int, mask: bytes) -> VirtualServer:
    """Give one of the few kinds of which the many are."""
    return virtual_server(scheduler, flags, timeout, int.from_bytes(mask).bit_count())
