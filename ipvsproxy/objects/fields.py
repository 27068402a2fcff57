"""The rules of single fields: a name, a port, a protocol, an address, a time, a choice.

Knows what each may hold and no object as a whole. Every function takes the field's path and what
is written there, and raises `Wrong` with the path first.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import NoReturn

from ipvsproxy.model import Address, Family, Network, Protocol

_IPV4_OCTETS = 4
_OCTETS = {str(value): value for value in range(256)}
"""As they are written: without leading zeros."""
_HIGHEST_PORT = 65535
_LONGEST_NAME = 253
# RFC 1123 as the API checks it; an API server never lets another name pass. From a folder, a name
# with a space, a slash or a line break would make ambiguous what is shown and written.
_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")
_LEADING_ZEROS = re.compile(r"\b0+(?=\d)")
_PROTOCOLS = {protocol.name: protocol for protocol in Protocol}
_LOOPBACK = "a loopback address"
_UNSPECIFIED = "the unspecified address"
_LINK_LOCAL = "a link-local address"
_MULTICAST = "a multicast address"
_SPECIAL: Mapping[Family, Mapping[bytes, str]] = {
    Family.IPV4: {
        b"\x00": _UNSPECIFIED,
        b"\x7f": _LOOPBACK,
        b"\xa9\xfe": _LINK_LOCAL,
        **{bytes([first]): _MULTICAST for first in range(224, 240)},
        b"\xff" * 4: "the broadcast address",
    },
    Family.IPV6: {
        bytes(16): _UNSPECIFIED,
        bytes(15) + b"\x01": _LOOPBACK,
        **{bytes([0xFE, second]): _LINK_LOCAL for second in range(0x80, 0xC0)},
        b"\xff": _MULTICAST,
    },
}
"""Reasons by the bytes that an address begins with: one, two, or all of it."""


class Wrong(Exception):  # noqa: N818  (never leaves this package)
    """What is wrong and where; becomes an InvalidObject once it is known of which object."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")


def sound_name(path: str, name: str) -> str:
    """Return the name of an object, of a namespace or of a Service that a label refers to."""
    if len(name) > _LONGEST_NAME or not _NAME.fullmatch(name):
        raise Wrong(path, f"{name!r} is not a name (small letters, digits, '-' and '.')")
    return name


def moment(path: str, text: str | None) -> float | None:
    """Read a time of RFC 3339 as seconds since the epoch; None for none."""
    if not text:
        return None
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError:
        parsed = None
    if parsed is None or parsed.tzinfo is None:
        raise Wrong(path, f"{text!r} is not a time as in RFC 3339")
    return parsed.timestamp()


def protocol(path: str, text: str | None) -> Protocol:
    """Read a protocol; TCP where none is written, the API's default."""
    return _PROTOCOLS.get(text or "TCP") or not_one_of(path, text or "", _PROTOCOLS)


def port(path: str, number: int) -> int:
    """Return a port number if it is one: 1-65535."""
    if not 1 <= number <= _HIGHEST_PORT:
        raise Wrong(path, f"{number} is not a port (1-{_HIGHEST_PORT})")
    return number


def address(path: str, text: str) -> Address:
    """Read an address of any sort."""
    octets = text.split(".")
    if len(octets) == _IPV4_OCTETS:
        # A start reads tens of thousands, and the standard library takes several times as long.
        try:
            return Address(map(_OCTETS.__getitem__, octets))
        except KeyError:
            pass
    try:
        return Address.parse(text)
    except ValueError:
        raise Wrong(path, f"{text!r} is not an address") from None


def plain(text: str) -> str:
    """Write an address or network of IPv4 without leading zeros; all else stays as it is.

    Go read 192.0.2.010 as 192.0.2.10 once, and for objects of that time Kubernetes still does
    (ParseIPSloppy, KEP-4858). Today's parsers refuse it.
    """
    return text if ":" in text else _LEADING_ZEROS.sub("", text)


def unicast(path: str, text: str) -> Address:
    """Read an address that a Service or an endpoint can have.

    The API's rule for endpoints (ValidateEndpointIP: neither loopback nor link-local nor
    unspecified) plus multicast as a whole, 0.0.0.0/8 and the broadcast address, which the kernel
    routes to nobody. A loopback address as a service address would take the node's own.
    """
    found = address(path, text)
    reasons = _SPECIAL[found.family]
    special = reasons.get(found[:1]) or reasons.get(found[:2]) or reasons.get(found)
    if special:
        raise Wrong(path, f"{text} is {special}; a unicast address is needed")
    return found


def network(path: str, text: str) -> Network:
    """Read an address block."""
    try:
        return Network.parse(text)
    except ValueError:
        raise Wrong(path, f"{text!r} is not a network (address/length)") from None


def not_one_of(path: str, text: str, allowed: Iterable[str]) -> NoReturn:
    """Refuse a word that is none of those allowed."""
    raise Wrong(path, f"{text!r} is none of {', '.join(allowed)}")
