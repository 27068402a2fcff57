"""IPVS over generic netlink as bytes: requests to the kernel, and what it reports.

Knows the numbers and layouts of include/uapi/linux/ip_vs.h and the rules of
net/netfilter/ipvs/ip_vs_ctl.c that concern single messages. Knows no socket, no sequence number and
no family number: an `encode_…` function returns what follows the netlink header (the generic header
and the attributes), a `decode_…` function takes the same. `message` has the frame.

The kernel's rules that shape this:

- NEW_SERVICE and SET_SERVICE need scheduler, flags, timeout and netmask together, or fail with
  EINVAL;
- flags are set as `old & ~mask | flags & mask`; the mask here is all ones, so that PERSISTENT
  follows `VirtualServer.persistence` and nothing that somebody else set survives;
- the netmask of an IPv4 service is a mask in network order, that of an IPv6 service is the prefix
  length as a number in the machine's order;
- ports are in network order, everything else is in the machine's;
- an address is always a field of 16 bytes, of which IPv4 uses the first four.

Requests have a fixed layout and are packed by precompiled structs, about 2 µs each; replies are
read attribute by attribute, and attributes that are not known here are skipped.
"""

from __future__ import annotations

import struct
import sys
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from ipvsproxy.core.sharing import shared_real_server
from ipvsproxy.dataplane import Counters
from ipvsproxy.kernel.configuration import PERSISTENT, virtual_server
from ipvsproxy.kernel.message import CodecError, attribute, attributes
from ipvsproxy.model import (
    Address,
    Connections,
    Family,
    ForwardingMethod,
    Protocol,
    RealServer,
    RealServerKey,
    Timeouts,
    VirtualServer,
    VirtualServerKey,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "FAMILY_NAME",
    "ReportedRealServer",
    "ReportedVirtualServer",
    "decode_family",
    "decode_real_server",
    "decode_real_server_counters",
    "decode_timeouts",
    "decode_virtual_server",
    "decode_virtual_server_counters",
    "encode_add_real_server",
    "encode_add_virtual_server",
    "encode_family_request",
    "encode_list_real_servers",
    "encode_list_virtual_servers",
    "encode_read_timeouts",
    "encode_read_virtual_server",
    "encode_remove_real_server",
    "encode_remove_virtual_server",
    "encode_set_real_server",
    "encode_set_timeouts",
    "encode_set_virtual_server",
]

FAMILY_NAME = "IPVS"

# Generic netlink's own family (linux/genetlink.h).
_GET_FAMILY = 3
_FAMILY_ID, _FAMILY_NAME = 1, 2

# IPVS_CMD_*
_NEW_SERVICE, _SET_SERVICE, _DEL_SERVICE, _GET_SERVICE = 1, 2, 3, 4
_NEW_DEST, _SET_DEST, _DEL_DEST, _GET_DEST = 5, 6, 7, 8
_SET_CONFIG, _GET_CONFIG = 12, 13
# IPVS_CMD_ATTR_*
_SERVICE, _DEST = 1, 2
_TIMEOUT_TCP, _TIMEOUT_TCP_FIN, _TIMEOUT_UDP = 4, 5, 6
# IPVS_SVC_ATTR_*
_AF, _PROTOCOL, _ADDRESS, _PORT, _FWMARK, _SCHEDULER, _FLAGS, _TIMEOUT, _NETMASK = range(1, 10)
# IPVS_DEST_ATTR_*
_DEST_ADDRESS, _DEST_PORT, _METHOD, _WEIGHT, _UPPER, _LOWER, _ACTIVE, _INACTIVE, _PERSISTENT = (
    range(1, 10)
)
_DEST_FAMILY = 11
_STATISTICS = 12  # IPVS_SVC_ATTR_STATS64, IPVS_DEST_ATTR_STATS64; since 4.1
_STATISTICS_ATTRIBUTES = range(1, 6)  # IPVS_STATS_ATTR_CONNS to _OUTBYTES, as in `Counters`

_AF_INET, _AF_INET6 = 2, 10
_AF_BY_LENGTH = {4: _AF_INET, 16: _AF_INET6}
_LENGTH_BY_AF = {_AF_INET: 4, _AF_INET6: 16}
_AF_BY_FAMILY = {Family.IPV4: _AF_INET, Family.IPV6: _AF_INET6}

_ALL_BITS = 0xFFFFFFFF
_METHOD_MASK = 0x7  # IP_VS_CONN_F_FWD_MASK

_PROTOCOLS = {int(protocol): protocol for protocol in Protocol}
_METHODS = {int(method): method for method in ForwardingMethod}
_MASKS = tuple((_ALL_BITS << 32 - length & _ALL_BITS).to_bytes(4) for length in range(33))

_GENERIC = struct.Struct("=BBH")  # struct genlmsghdr: command, version, reserved
_U16 = struct.Struct("=H")
_U32 = struct.Struct("=I")
_U64 = struct.Struct("=Q")
_FLAG_PAIR = struct.Struct("=II")  # struct ip_vs_flags: flags, mask
_IDENTITY = struct.Struct("=HHH2x HHH2x HH16s HH2s2x")
_REAL_IDENTITY = struct.Struct("=HH HH16s HH2s2x HHH2x")
_REAL = struct.Struct(f"{_REAL_IDENTITY.format} HHI HHI HHI HHI")

_HEADS = tuple(_GENERIC.pack(command, 1, 0) for command in range(_GET_CONFIG + 1))
_LIST_SERVICES = _HEADS[_GET_SERVICE]
_TIMEOUTS = (_TIMEOUT_TCP, _TIMEOUT_TCP_FIN, _TIMEOUT_UDP)
_UNCODABLE = (struct.error, OverflowError, IndexError, KeyError, UnicodeError)


class ReportedVirtualServer(NamedTuple):
    """A virtual server as the kernel reports it."""

    key: VirtualServerKey
    server: VirtualServer


class ReportedRealServer(NamedTuple):
    """A real server as the kernel reports it."""

    key: RealServerKey
    server: RealServer
    connections: Connections


def encode_family_request() -> bytes:
    """Ask generic netlink for the number of the IPVS family; makes the kernel load ip_vs."""
    name = attribute(_FAMILY_NAME, FAMILY_NAME.encode() + b"\0")
    return _GENERIC.pack(_GET_FAMILY, 1, 0) + name


def decode_family(payload: bytes) -> int:
    """Read the number of the family. Raises CodecError when there is none."""
    try:
        number: int = _U16.unpack(attributes(payload, _GENERIC.size)[_FAMILY_ID])[0]
    except (KeyError, struct.error) as error:
        raise CodecError("no family number in the answer of generic netlink") from error
    return number


def encode_add_virtual_server(key: VirtualServerKey, server: VirtualServer) -> bytes:
    """Encode NEW_SERVICE. Raises CodecError for a value out of range."""
    return _encode_virtual_server(_NEW_SERVICE, key, server)


def encode_set_virtual_server(key: VirtualServerKey, server: VirtualServer) -> bytes:
    """Encode SET_SERVICE, which changes all that is configurable. Raises CodecError as above."""
    return _encode_virtual_server(_SET_SERVICE, key, server)


def encode_remove_virtual_server(key: VirtualServerKey) -> bytes:
    """Encode DEL_SERVICE."""
    return _HEADS[_DEL_SERVICE] + _service(key)


def encode_read_virtual_server(key: VirtualServerKey) -> bytes:
    """Encode GET_SERVICE for one virtual server; not for a dump."""
    return _HEADS[_GET_SERVICE] + _service(key)


def encode_list_virtual_servers() -> bytes:
    """Encode GET_SERVICE for all; for a dump."""
    return _LIST_SERVICES


def encode_add_real_server(
    key: VirtualServerKey, member: RealServerKey, server: RealServer
) -> bytes:
    """Encode NEW_DEST. Raises CodecError for a value out of range."""
    return _encode_real_server(_NEW_DEST, key, member, server)


def encode_set_real_server(
    key: VirtualServerKey, member: RealServerKey, server: RealServer
) -> bytes:
    """Encode SET_DEST. Raises CodecError for a value out of range."""
    return _encode_real_server(_SET_DEST, key, member, server)


def encode_remove_real_server(key: VirtualServerKey, member: RealServerKey) -> bytes:
    """Encode DEL_DEST. Raises CodecError for a value out of range."""
    address, port = member
    try:
        family = _AF_BY_LENGTH[len(address)]
        where = _REAL_IDENTITY.pack(
            _REAL_IDENTITY.size, _DEST,
            20, _DEST_ADDRESS, address,
            6, _DEST_PORT, port.to_bytes(2),
            6, _DEST_FAMILY, family,
        )  # fmt: skip
    except _UNCODABLE as error:
        raise CodecError(f"real server {member} cannot be encoded: {error}") from error
    return _HEADS[_DEL_DEST] + _service(key) + where


def encode_list_real_servers(key: VirtualServerKey) -> bytes:
    """Encode GET_DEST; for a dump, which is empty when the virtual server does not exist."""
    return _HEADS[_GET_DEST] + _service(key)


def encode_read_timeouts() -> bytes:
    """Encode GET_CONFIG; not for a dump."""
    return _HEADS[_GET_CONFIG]


def encode_set_timeouts(timeouts: Timeouts) -> bytes:
    """Encode SET_CONFIG; one of 0 stays as it is. Raises CodecError for a value out of range.

    The kernel wants all three (ip_vs_genl_set_config).
    """
    try:
        return _HEADS[_SET_CONFIG] + b"".join(
            attribute(kind, _U32.pack(seconds))
            for kind, seconds in zip(_TIMEOUTS, timeouts, strict=True)
        )
    except _UNCODABLE as error:
        raise CodecError(f"the timeouts {tuple(timeouts)} cannot be encoded: {error}") from error


def decode_timeouts(payload: bytes) -> Timeouts:
    """Read the answer to GET_CONFIG; a protocol that IPVS was built without has 0.

    Raises CodecError.
    """
    try:
        found = attributes(payload, _GENERIC.size)
        return Timeouts(*(_U32.unpack(found.get(kind, bytes(4)))[0] for kind in _TIMEOUTS))
    except _UNCODABLE as error:
        raise CodecError(f"the timeouts cannot be read: {error!r}") from error


def decode_virtual_server(payload: bytes) -> ReportedVirtualServer | None:
    """Read the report of a virtual server; None for one by firewall mark, which is never ours.

    A netmask that is no prefix (only a foreign virtual server has one) is read as the number of
    its bits. Raises CodecError.
    """
    try:
        found = attributes(attributes(payload, _GENERIC.size)[_SERVICE])
        if _FWMARK in found:
            return None
        return ReportedVirtualServer(_virtual_server_key(found), _virtual_server(found))
    except _UNCODABLE as error:
        raise CodecError(f"the report of a virtual server cannot be read: {error!r}") from error


def decode_real_server(payload: bytes, family: Family) -> ReportedRealServer:
    """Read the report of a real server, `family` being that of its virtual server.

    Kernels before 3.18 say no family, and there the two are equal. Raises CodecError.
    """
    try:
        found = attributes(attributes(payload, _GENERIC.size)[_DEST])
        number = _U32.unpack
        return ReportedRealServer(
            _real_server_key(found, family),
            shared_real_server(
                number(found[_WEIGHT])[0],
                _METHODS[number(found[_METHOD])[0] & _METHOD_MASK],
                number(found[_UPPER])[0],
                number(found[_LOWER])[0],
            ),
            Connections(
                number(found[_ACTIVE])[0],
                number(found[_INACTIVE])[0],
                number(found[_PERSISTENT])[0],
            ),
        )
    except _UNCODABLE as error:
        raise CodecError(f"the report of a real server cannot be read: {error!r}") from error


def decode_virtual_server_counters(payload: bytes) -> tuple[VirtualServerKey, Counters] | None:
    """Read what was counted of a virtual server; None for one by firewall mark.

    Raises CodecError, also where the kernel counts in 32 bits only.
    """
    try:
        found = attributes(attributes(payload, _GENERIC.size)[_SERVICE])
        if _FWMARK in found:
            return None
        return _virtual_server_key(found), _counters(found)
    except _UNCODABLE as error:
        raise CodecError(f"the report of a virtual server cannot be read: {error!r}") from error


def decode_real_server_counters(payload: bytes, family: Family) -> tuple[RealServerKey, Counters]:
    """Read what was counted of a real server; `family` and errors as above."""
    try:
        found = attributes(attributes(payload, _GENERIC.size)[_DEST])
        return _real_server_key(found, family), _counters(found)
    except _UNCODABLE as error:
        raise CodecError(f"the report of a real server cannot be read: {error!r}") from error


def _encode_virtual_server(command: int, key: VirtualServerKey, server: VirtualServer) -> bytes:
    flags = server.flags | PERSISTENT if server.persistence else int(server.flags)
    try:
        configuration = (
            attribute(_SCHEDULER, server.scheduler.encode("ascii") + b"\0")
            + attribute(_FLAGS, _FLAG_PAIR.pack(flags, _ALL_BITS))
            + attribute(_TIMEOUT, _U32.pack(server.persistence))
            + attribute(_NETMASK, _netmask(key.address, server.persistence_prefix))
        )
    except _UNCODABLE as error:
        raise CodecError(f"virtual server {key} cannot be encoded: {error}") from error
    return _HEADS[command] + attribute(_SERVICE, _service(key)[4:] + configuration)


def _encode_real_server(
    command: int, key: VirtualServerKey, member: RealServerKey, server: RealServer
) -> bytes:
    address, port = member
    weight, method, upper, lower = server
    try:
        real = _REAL.pack(
            _REAL.size, _DEST,
            20, _DEST_ADDRESS, address,
            6, _DEST_PORT, port.to_bytes(2),
            6, _DEST_FAMILY, _AF_BY_LENGTH[len(address)],
            8, _METHOD, method,
            8, _WEIGHT, weight,
            8, _UPPER, upper,
            8, _LOWER, lower,
        )  # fmt: skip
    except _UNCODABLE as error:
        raise CodecError(f"real server {member} cannot be encoded: {error}") from error
    return _HEADS[command] + _service(key) + real


@lru_cache(maxsize=256)  # the real servers of one virtual server come one after the other
def _service(key: VirtualServerKey) -> bytes:
    protocol, address, port = key
    try:
        return _IDENTITY_HEAD + _IDENTITY.pack(
            6, _AF, _AF_BY_LENGTH[len(address)],
            6, _PROTOCOL, protocol,
            20, _ADDRESS, address,
            6, _PORT, port.to_bytes(2),
        )  # fmt: skip
    except _UNCODABLE as error:
        raise CodecError(f"virtual server {key} cannot be encoded: {error}") from error


_IDENTITY_HEAD = struct.pack("=HH", _IDENTITY.size + 4, _SERVICE)


def _netmask(address: Address, prefix_length: int) -> bytes:
    if len(address) == _LENGTH_BY_AF[_AF_INET]:
        if not 0 <= prefix_length < len(_MASKS):  # a negative index would count from the end
            raise OverflowError(f"no netmask of {prefix_length} bits")
        return _MASKS[prefix_length]
    return prefix_length.to_bytes(4, sys.byteorder)


def _virtual_server_key(found: Mapping[int, bytes]) -> VirtualServerKey:
    return VirtualServerKey(
        _PROTOCOLS[_U16.unpack(found[_PROTOCOL])[0]],
        _address(found[_ADDRESS], _U16.unpack(found[_AF])[0]),
        _port(found[_PORT]),
    )


def _real_server_key(found: Mapping[int, bytes], family: Family) -> RealServerKey:
    own_family = found.get(_DEST_FAMILY)
    af = _AF_BY_FAMILY[family] if own_family is None else _U16.unpack(own_family)[0]
    return RealServerKey(_address(found[_DEST_ADDRESS], af), _port(found[_DEST_PORT]))


def _counters(found: Mapping[int, bytes]) -> Counters:
    if _STATISTICS not in found:
        raise CodecError("this kernel has no 64-bit counters; they came with Linux 4.1")
    counted = attributes(found[_STATISTICS])
    return Counters(*(_U64.unpack(counted[one])[0] for one in _STATISTICS_ATTRIBUTES))


def _virtual_server(found: Mapping[int, bytes]) -> VirtualServer:
    flags: int = _FLAG_PAIR.unpack(found[_FLAGS])[0]
    mask = found[_NETMASK]
    if len(mask) != _U32.size:
        raise CodecError(f"a netmask of {len(mask)} bytes")
    if _U16.unpack(found[_AF])[0] == _AF_INET:
        prefix_length = int.from_bytes(mask).bit_count()
    else:
        prefix_length = int.from_bytes(mask, sys.byteorder)
    timeout: int = _U32.unpack(found[_TIMEOUT])[0]
    return virtual_server(found[_SCHEDULER], flags, timeout, prefix_length)


def _address(field: bytes, af: int) -> Address:
    length = _LENGTH_BY_AF[af]
    if len(field) < length:
        raise CodecError(f"an address of {len(field)} bytes, {length} are needed")
    return Address(field[:length])


def _port(field: bytes) -> int:
    if len(field) != _U16.size:
        raise CodecError(f"a port of {len(field)} bytes")
    return int.from_bytes(field)
