"""The sockets that listen in this network namespace, from /proc/net.

Knows the columns of the files tcp, tcp6, udp, udp6 and sctp/eps (proc(5); net/ipv4/tcp_ipv4.c,
net/ipv4/udp.c, net/sctp/proc.c); does not know what listens there, nor whose business it is. A node
has tens of thousands of TCP connections: the kernel lists the listening sockets before them, so
reading ends with the first that does not listen.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from itertools import takewhile
from pathlib import Path

from ipvsproxy.dataplane import DataplaneError
from ipvsproxy.model import Address, Listener, Protocol

_NET = Path("/proc/thread-self/net")
"""Of this thread's namespace; /proc/net is that of the process's first thread."""
_LISTENING, _UNCONNECTED = "0A", "07"  # TCP_LISTEN, TCP_CLOSE in net/tcp_states.h
_SCTP_LISTENING = "10"  # SCTP_SS_LISTENING, which is TCP_LISTEN, in decimal
_MAPPED = bytes(10) + b"\xff\xff"
_WORD = 8


def listeners(net: Path = _NET) -> frozenset[Listener]:
    """Read who listens: TCP and SCTP sockets that do, UDP sockets that are not connected.

    An IPv6 socket without an address counts as one for both families, as it usually is; whether it
    is for IPv6 only (IPV6_V6ONLY) is not told. Raises DataplaneError.
    """
    found: set[Listener] = set()
    try:
        for name in ("tcp", "tcp6"):
            found.update(listening_tcp(_rows(net / name)))
        for name in ("udp", "udp6"):
            found.update(unconnected_udp(_rows(net / name)))
        found.update(listening_sctp(_rows(net / "sctp" / "eps")))
    except (OSError, ValueError, IndexError) as error:
        raise DataplaneError(f"the listening sockets cannot be read: {error}") from error
    return frozenset(found)


def listening_tcp(rows: Iterable[str]) -> Iterator[Listener]:
    """Read the listening sockets, which come first, of a table of TCP."""
    for words in takewhile(lambda words: words[3] == _LISTENING, map(str.split, rows)):
        yield _listener(Protocol.TCP, words[1])


def unconnected_udp(rows: Iterable[str]) -> Iterator[Listener]:
    """Read the sockets of a table of UDP that take what anybody sends to their port."""
    for words in map(str.split, rows):
        if words[3] == _UNCONNECTED:
            yield _listener(Protocol.UDP, words[1])


def listening_sctp(rows: Iterable[str]) -> Iterator[Listener]:
    """Read the listening endpoints of SCTP, each with one address or several."""
    for words in map(str.split, rows):
        if words[3] == _SCTP_LISTENING:
            for text in words[8:]:
                yield Listener(Protocol.SCTP, _plain(Address.parse(text)), int(words[5]))


def _rows(path: Path) -> Iterator[str]:
    """Give the rows below the heading; none where this kernel has no such table."""
    try:
        opened = path.open(encoding="ascii")
    except FileNotFoundError:
        return
    with opened:
        next(opened, None)
        yield from opened


def _listener(protocol: Protocol, local: str) -> Listener:
    """Read `ADDRESS:PORT` in hexadecimal; the address in words of the machine's byte order."""
    digits, _, port = local.partition(":")
    packed = b"".join(
        int(digits[start : start + _WORD], 16).to_bytes(4, sys.byteorder)
        for start in range(0, len(digits), _WORD)
    )
    return Listener(protocol, _plain(Address(packed)), int(port, 16))


def _plain(address: Address) -> Address:
    """Give the IPv4 address of one that is mapped into IPv6 (RFC 4291, 2.5.5.2)."""
    return Address(address[len(_MAPPED) :]) if address.startswith(_MAPPED) else address
