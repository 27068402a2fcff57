"""ipset over nfnetlink as bytes: members in bulk, and what the kernel lists.

Knows the numbers and layouts of include/uapi/linux/netfilter/ipset/ip_set.h and no socket. One
message adds or removes many members of one set, which `ipset restore` cannot do without a text, a
program, and for each line a look into /etc/protocols. A member that is there already, or is gone
already, is no error (`-exist`): NLM_F_EXCL is what would make it one.

What is listed is read only where it is as we make it; of a set that is made otherwise `Odd` says so
and no more, since what its options mean is known by the program's text (`ipset_text`).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping
from typing import assert_never

from ipvsproxy.kernel.message import CodecError, attribute, attributes
from ipvsproxy.kernel.netlink import Request
from ipvsproxy.model import (
    Address,
    Family,
    IpMember,
    IpPortIpMember,
    IpPortMember,
    IpPortNetMember,
    Member,
    Network,
    PortMember,
    Protocol,
    SetSpec,
    SetType,
)

_SUBSYSTEM = 6 << 8  # NFNL_SUBSYS_IPSET
_LIST, _ADD, _DELETE = _SUBSYSTEM | 7, _SUBSYSTEM | 9, _SUBSYSTEM | 10  # IPSET_CMD_*
_HEADER = _SUBSYSTEM | 12
_VERSION = 6  # IPSET_PROTOCOL_MIN, since Linux 2.6.39
_HEADER_SIZE = 4  # struct nfgenmsg
_NAMES_ONLY = 1 << 1  # IPSET_FLAG_LIST_SETNAME

_ATTR_PROTOCOL, _ATTR_NAME, _ATTR_TYPE, _ATTR_FAMILY, _ATTR_FLAGS = 1, 2, 3, 5, 6
_ATTR_DATA, _ATTR_MEMBERS, _ATTR_LINE = 7, 8, 9
_IP, _CIDR, _PORT, _PORT_TO, _PROTO, _IP2, _CIDR2 = 1, 3, 4, 5, 7, 20, 21
_INITVAL, _HASHSIZE, _MAXELEM, _BUCKETSIZE = 17, 18, 19, 21
_ELEMENTS, _REFERENCES, _MEMSIZE = 24, 25, 26
_IPV4, _IPV6 = 1, 2  # IPSET_ATTR_IPADDR_*
_NESTED, _NET_ORDER = 0x8000, 0x4000

_OF_EVERY_SET = frozenset({_ELEMENTS, _REFERENCES, _MEMSIZE})
_PLAIN_HASH = frozenset({_INITVAL, _HASHSIZE, _MAXELEM, _BUCKETSIZE}) | _OF_EVERY_SET
_PLAIN_BITMAP = frozenset({_PORT, _PORT_TO}) | _OF_EVERY_SET
_ADDRESS_LENGTHS = (4, 16)
_ALL_PORTS = (bytes(2), b"\xff\xff")
_FAMILIES = {2: Family.IPV4, 10: Family.IPV6}  # AF_*
_PROTOCOLS = {int(protocol): protocol for protocol in Protocol}
_FIELDS: Mapping[SetType, frozenset[int]] = {
    SetType.HASH_IP: frozenset({_IP}),
    SetType.HASH_IP_PORT: frozenset({_IP, _PORT, _PROTO}),
    SetType.HASH_IP_PORT_IP: frozenset({_IP, _PORT, _PROTO, _IP2}),
    SetType.HASH_IP_PORT_NET: frozenset({_IP, _PORT, _PROTO, _IP2, _CIDR2}),
    SetType.BITMAP_PORT: frozenset({_PORT}),
}
"""What a member has in a listing; one with anything else (a counter, nomatch) is none of ours."""

_GENERIC = struct.pack("=BBH", 0, 0, 0)  # struct nfgenmsg: family, version, resource
_U32 = struct.Struct(">I")
_LENGTH = struct.Struct("=H")
_NO_LINE = attribute(_ATTR_LINE, bytes(4))
"""Has to be there; were the members numbered too, a refusal would come with the whole request."""
_VERSION_ATTRIBUTE = attribute(_ATTR_PROTOCOL, bytes([_VERSION]))

NAMES = Request(
    _LIST,
    _GENERIC + _VERSION_ATTRIBUTE + attribute(_ATTR_FLAGS | _NET_ORDER, _U32.pack(_NAMES_ONLY)),
)
"""Lists the names of all sets."""


class OddError(Exception):
    """A set that is made otherwise than ours are, or a listing that is not as it should be."""


def listing(name: str) -> Request:
    """Ask for one set with its members; for a dump."""
    return Request(_LIST, _head(name))


def header(name: str) -> Request:
    """Ask whether a set is there, and of which type; ENOENT where there is none."""
    return Request(_HEADER, _head(name))


def additions(name: str, members: Iterable[Member]) -> Request:
    """Have the members added to a set in one message. Raises CodecError."""
    return Request(_ADD, _of_members(name, members))


def removals(name: str, members: Iterable[Member]) -> Request:
    """Have the members removed from a set in one message. Raises CodecError."""
    return Request(_DELETE, _of_members(name, members))


def decode_names(payloads: Iterable[bytes]) -> list[str]:
    """Read the names of sets. Raises OddError."""
    try:
        return [_name(attributes(payload, _HEADER_SIZE)) for payload in payloads]
    except (CodecError, KeyError, UnicodeError) as error:
        raise OddError(str(error)) from error


def decode_set(payloads: Iterable[bytes]) -> tuple[SetSpec, set[Member]]:
    """Read a set that was listed; a member that we would never write is left out.

    Raises OddError.
    """
    spec: SetSpec | None = None
    members: set[Member] = set()
    try:
        for payload in payloads:
            found = attributes(payload, _HEADER_SIZE)
            if spec is None:
                spec = _spec(found)
            members.update(_members(spec, found.get(_ATTR_MEMBERS, b"")))
    except (CodecError, LookupError, ValueError, struct.error) as error:
        raise OddError(f"a set could not be read: {error!r}") from error
    if spec is None:
        raise OddError("a set was not listed")
    return spec, members


def _head(name: str) -> bytes:
    return _GENERIC + _VERSION_ATTRIBUTE + attribute(_ATTR_NAME, name.encode() + b"\0")


def _of_members(name: str, members: Iterable[Member]) -> bytes:
    entries = b"".join(attribute(_ATTR_DATA | _NESTED, _entry(member)) for member in members)
    if len(entries) > 0xFFF0:  # noqa: PLR2004 - what the length of an attribute can say
        raise CodecError(f"{len(entries)} bytes of members in one message")
    return _head(name) + _NO_LINE + attribute(_ATTR_MEMBERS | _NESTED, entries)


def _entry(member: Member) -> bytes:
    match member:
        case IpMember(address):
            return _address(_IP, address)
        case PortMember(port):
            return _port(port)
        case IpPortMember(address, protocol, port):
            return _address(_IP, address) + _service(protocol, port)
        case IpPortIpMember(address, protocol, port, other):
            return _address(_IP, address) + _service(protocol, port) + _address(_IP2, other)
        case IpPortNetMember(address, protocol, port, network):
            return (
                _address(_IP, address)
                + _service(protocol, port)
                + _address(_IP2, network.address)
                + attribute(_CIDR2, bytes([network.prefix_length]))
            )
        case _:
            assert_never(member)


def _address(kind: int, address: Address) -> bytes:
    inner = _IPV4 if address.family is Family.IPV4 else _IPV6
    return attribute(kind | _NESTED, attribute(inner | _NET_ORDER, address))


def _port(port: int) -> bytes:
    return attribute(_PORT | _NET_ORDER, port.to_bytes(2))


def _service(protocol: Protocol, port: int) -> bytes:
    return _port(port) + attribute(_PROTO, bytes([protocol]))


def _name(found: Mapping[int, bytes]) -> str:
    return found[_ATTR_NAME].rstrip(b"\0").decode("ascii")


def _spec(found: Mapping[int, bytes]) -> SetSpec:
    """Read how a set is made. Raises OddError for what `SetSpec` cannot say."""
    kind = SetType(found[_ATTR_TYPE].rstrip(b"\0").decode("ascii"))
    options = attributes(found[_ATTR_DATA])
    if kind is SetType.BITMAP_PORT:
        if not options.keys() <= _PLAIN_BITMAP or (options[_PORT], options[_PORT_TO]) != _ALL_PORTS:
            raise OddError("a bitmap with options")
        family = Family.IPV6 if _name(found).startswith("KUBE-6-") else Family.IPV4
        return SetSpec(kind, family)
    if not options.keys() <= _PLAIN_HASH:
        raise OddError("a set with options")
    (maxelem,) = _U32.unpack(options[_MAXELEM])
    return SetSpec(kind, _FAMILIES[found[_ATTR_FAMILY][0]], maxelem)


def _entries(data: bytes) -> Iterator[bytes]:
    """Give what is in attributes of one type that follow each other."""
    position, end = 0, len(data)
    while end - position >= 4:  # noqa: PLR2004 - the size of a header
        length: int = _LENGTH.unpack_from(data, position)[0]
        if not 4 <= length <= end - position:  # noqa: PLR2004 - as above
            raise CodecError(f"a netlink attribute of {length} bytes in {end - position}")
        yield data[position + 4 : position + length]
        position += length + 3 & ~3


def _members(spec: SetSpec, data: bytes) -> Iterable[Member]:
    """Read members: at once where they are laid out alike, for a listing has thousands."""
    layout = _ROWS.get((spec.type, spec.family))
    if layout is None or len(data) % layout[0].size:
        return _one_by_one(spec.type, data)
    row, head = layout
    found = list(row.iter_unpack(data))
    if spec.type is SetType.HASH_IP and {(one,) for one, _ in found} <= {head}:
        return [IpMember(Address(address)) for _, address in found]
    if spec.type is SetType.HASH_IP_PORT and {(one[0], one[2], one[4]) for one in found} <= {head}:
        return [
            IpPortMember(Address(address), _PROTOCOLS[protocol], port[0] << 8 | port[1])
            for _, address, _, port, _, protocol in found
            if protocol in _PROTOCOLS
        ]
    return _one_by_one(spec.type, data)


def _one_by_one(kind: SetType, data: bytes) -> Iterator[Member]:
    fields = _FIELDS[kind]
    for item in _entries(data):
        entry = attributes(item)
        if entry.keys() == fields and (one := _member(kind, entry)) is not None:
            yield one


def _member(kind: SetType, entry: Mapping[int, bytes]) -> Member | None:
    if kind is SetType.BITMAP_PORT:
        return PortMember(int.from_bytes(entry[_PORT]))
    address = _read_address(entry[_IP])
    if kind is SetType.HASH_IP:
        return IpMember(address)
    protocol = _PROTOCOLS.get(entry[_PROTO][0])
    if protocol is None:
        return None
    port = int.from_bytes(entry[_PORT])
    match kind:
        case SetType.HASH_IP_PORT:
            return IpPortMember(address, protocol, port)
        case SetType.HASH_IP_PORT_IP:
            return IpPortIpMember(address, protocol, port, _read_address(entry[_IP2]))
        case SetType.HASH_IP_PORT_NET:
            block = Network(_read_address(entry[_IP2]), entry[_CIDR2][0])
            return IpPortNetMember(address, protocol, port, block)
        case _:
            assert_never(kind)


def _read_address(nested: bytes) -> Address:
    (packed,) = attributes(nested).values()
    if len(packed) not in _ADDRESS_LENGTHS:
        raise CodecError(f"an address of {len(packed)} bytes")
    return Address(packed)


def _row(member: Member) -> tuple[struct.Struct, tuple[bytes, ...]]:
    """Give the layout of a listed member like this one, and the headers of its attributes.

    The kernel writes the attributes in the order in which we do (ip_set_hash_ip.c and
    ip_set_hash_ipport.c, hash_*_data_list), so that all members of a set are alike.
    """
    match member:
        case IpMember(address):
            row = struct.Struct(f"=12s{len(address)}s")
            head, _ = row.unpack(attribute(_ATTR_DATA | _NESTED, _entry(member)))
            return row, (head,)
        case IpPortMember(address):
            row = struct.Struct(f"=12s{len(address)}s4s2s2x4sB3x")
            one, _, two, _, three, _ = row.unpack(attribute(_ATTR_DATA | _NESTED, _entry(member)))
            return row, (one, two, three)
        case _:
            raise CodecError(f"members like {member} are read one by one")


_ROWS = {
    (kind, address.family): _row(member)
    for address in (Address(bytes(4)), Address(bytes(16)))
    for kind, member in (
        (SetType.HASH_IP, IpMember(address)),
        (SetType.HASH_IP_PORT, IpPortMember(address, Protocol.TCP, 0)),
    )
}
