"""What the kernel holds, read by calls so cheap that asking does not disturb who is measured.

One call of getsockopt gives the number of virtual servers, or the real servers of one of them
(include/uapi/linux/ip_vs.h); one dump gives the addresses; one message the size of a set. Only the
chains need a program, where they are nft's. Nothing of the agent's own code is used, and nothing
that it says is believed.
"""

from __future__ import annotations

import ctypes
import re
import socket
import struct
import subprocess
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path

from bench.cluster import Backend, Backends, Frontend

DEVICE = "kube-ipvs0"
MASQUERADE_SET = "KUBE-CLUSTER-IP"
SAVE_PROGRAMS = ("iptables-legacy-save", "iptables-nft-save")

_GET_INFO, _GET_DESTS = (64 + 1024 + 64 + one for one in (1, 4))
_INFO = struct.Struct("=III")
_DESTS = struct.Struct("=H2x4s2s2xII4x")
_DEST = struct.Struct("=4s2s2xIi8x12x60x")
_SPARE_ROOM = 64
"""Real servers that may be there besides the wanted ones: those that drain."""
_NEWEST = 8
"""So many real servers are looked at for one that was added just now."""
_IPT_GET_INFO = 64
_IPT_INFO = struct.Struct("=32sI5I5III")
_EMPTY_CHAINS = 10
"""Entries of the nat table at most while it has no rules: its chains' ends."""

_HEADER, _ATTRIBUTE = struct.Struct("=IHHII"), struct.Struct("=HH")
_ADDRESS_BODY, _ADDRESS_INDEX = struct.Struct("=BBBBI"), struct.Struct("=4xI")
_LINK_BODY, _LINK_NAME, _GET_LINK = struct.Struct("=BxHiII"), 3, 18
_REQUEST, _ACKNOWLEDGE, _DUMP = 1, 4, 0x300
_ERROR, _DONE, _GET_ADDRESS, _NEW_ADDRESS = 2, 3, 22, 20
_ROUTE, _NETFILTER = 0, 12
_LIST_SET = 6 << 8 | 7
_LIST_HEADER = 1 << 2
_SET_DATA, _SET_ELEMENTS = 7, 24


class Table:
    """The IPVS table of this network namespace, IPv4."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._system = ctypes.CDLL(None, use_errno=True)
        self._buffer = ctypes.create_string_buffer(0)

    def close(self) -> None:
        """Close its socket."""
        self._socket.close()

    def count(self) -> int:
        """Count the virtual servers."""
        number: int = _INFO.unpack(self._socket.getsockopt(socket.SOL_IP, _GET_INFO, _INFO.size))[2]
        return number

    def serving(self, frontend: Frontend, room: int) -> Backends | None:
        """Give the real servers that take new connections; None: no such virtual server.

        `room` is how many are wanted; the kernel does not tell of more than there is room for.
        """
        answer = self._real_servers(frontend, room + _SPARE_ROOM)
        if answer is None:
            return None
        return frozenset(
            (socket.inet_ntoa(found), int.from_bytes(at, "big"))
            for found, at, _, weight in _DEST.iter_unpack(answer)
            if weight > 0
        )

    def is_replaced(self, frontend: Frontend, room: int, old: Backend, new: Backend) -> bool:
        """Whether a real server takes new connections and another, whose place it takes, does not.

        The kernel tells of those first that were added last (list_add in __ip_vs_update_dest): as
        long as the new one is not among the first few, thousands of others are not looked at.
        """
        for number in (_NEWEST, room + _SPARE_ROOM):
            answer = self._real_servers(frontend, number)
            serving = () if answer is None else _DEST.iter_unpack(answer)
            found = {(address, port) for address, port, _, weight in serving if weight > 0}
            if _packed(new) not in found or _packed(old) in found:
                return False
        return True

    def _real_servers(self, frontend: Frontend, number: int) -> memoryview | None:
        address, port = _packed((frontend.address, frontend.port))
        question = _DESTS.pack(frontend.protocol, address, port, 0, number)
        return self._ask(self._socket, _GET_DESTS, question, number * _DEST.size)

    def nat_entries(self) -> int:
        """Count the entries of the legacy nat table; 0 where nobody has made one."""
        names = Path("/proc/net/ip_tables_names")
        if not names.exists() or "nat" not in names.read_text().split():
            return 0
        with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
            answer = self._ask(raw, _IPT_GET_INFO, b"", _IPT_INFO.size, b"nat")
        number: int = _IPT_INFO.unpack(answer)[12] if answer is not None else 0
        return number

    def _ask(
        self, by: socket.socket, option: int, question: bytes, room: int, name: bytes = b""
    ) -> memoryview | None:
        """Ask with a question; give what comes behind it, which is good until the next one.

        The room is kept: in a guest it takes ten times what the call does to touch it anew.
        """
        size = len(question) + room
        if size > len(self._buffer):
            self._buffer = ctypes.create_string_buffer(size)
        ctypes.memset(self._buffer, 0, size)
        given = memoryview(self._buffer).cast("B")[:size]
        given[: len(question or name)] = question or name
        length = ctypes.c_uint(size)
        failed = self._system.getsockopt(
            by.fileno(), socket.SOL_IP, option, self._buffer, ctypes.byref(length)
        )
        return None if failed else given[len(question) :]


def _packed(backend: Backend) -> tuple[bytes, bytes]:
    address, port = backend
    return socket.inet_aton(address), port.to_bytes(2, "big")


class Pending:
    """Virtual servers that are not yet as wanted; each is looked at until it is, and no more."""

    def __init__(self, table: Table, expected: Mapping[Frontend, Backends]) -> None:
        self._table = table
        self._left = deque(expected.items())

    def __len__(self) -> int:
        return len(self._left)

    def look(self) -> bool:
        """Look at them until one is not as wanted; say whether all of them are."""
        while self._left:
            frontend, wanted = self._left[0]
            if self._table.serving(frontend, len(wanted)) != wanted:
                self._left.rotate(1)
                return False
            self._left.popleft()
        return True


def _index() -> int | None:
    """Give the interface's number; not by an ioctl, which launches modprobe for a missing one."""
    body = _LINK_BODY.pack(socket.AF_UNSPEC, 0, 0, 0, 0)
    body += _attribute(_LINK_NAME, DEVICE.encode() + b"\0")
    for payload in _listed(_ROUTE, _GET_LINK, body, _ACKNOWLEDGE):
        index: int = _LINK_BODY.unpack_from(payload)[2]
        return index
    return None


def has_link() -> bool:
    """Whether the interface of the service addresses is there."""
    return _index() is not None


def is_local(addresses: Iterable[str]) -> bool:
    """Whether each of these is an address of this node."""
    for address in addresses:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.bind((address, 0))
            except OSError:
                return False
    return True


def bound_addresses() -> int:
    """Count the IPv4 addresses of the interface of the service addresses."""
    if (index := _index()) is None:
        return 0
    body = _ADDRESS_BODY.pack(socket.AF_INET, 0, 0, 0, 0)
    found = _listed(_ROUTE, _GET_ADDRESS, body, _DUMP)
    return sum(_ADDRESS_INDEX.unpack_from(payload)[0] == index for payload in found)


def set_members(name: str = MASQUERADE_SET) -> int:
    """Count the members of a set; 0 where it is missing."""
    body = bytes(4) + _attribute(1, bytes([6])) + _attribute(2, name.encode() + b"\0")
    body += _attribute(6 | 0x4000, _LIST_HEADER.to_bytes(4, "big"))
    for payload in _listed(_NETFILTER, _LIST_SET, body, _DUMP):
        data = _attributes(payload[4:]).get(_SET_DATA, b"")
        return int.from_bytes(_attributes(data).get(_SET_ELEMENTS, b""), "big")
    return 0


def has_rules() -> bool:
    """Whether the nat table, of either backend, leads to chains that use the masquerade set."""
    wanted = ("-A PREROUTING", "-A OUTPUT", f"--match-set {MASQUERADE_SET} ", "MASQUERADE")
    for program in SAVE_PROGRAMS:
        done = subprocess.run((program, "-t", "nat"), capture_output=True, text=True, check=False)
        if all(one in done.stdout for one in wanted):
            return True
    return False


class Rules:
    """Whether the chains are there: of the legacy backend a call tells, of nft's a program."""

    def __init__(self, table: Table) -> None:
        self._table = table
        argv = ("iptables-nft-save", "-t", "nat")
        self._nft = not subprocess.run(argv, capture_output=True, check=False).returncode
        self.launched = 0
        """Programs that were started to find out."""

    def look(self) -> bool:
        """Say whether they are there."""
        if not self._nft and self._table.nat_entries() <= _EMPTY_CHAINS:
            return False
        self.launched += len(SAVE_PROGRAMS)
        return has_rules()


def everything() -> dict[str, str]:
    """All tables as the system's own programs print them, for comparing before with after."""
    programs: dict[str, Collection[tuple[str, ...]]] = {
        "ipvs": (("ipvsadm", "-Sn"),),
        "sets": (("ipset", "save"),),
        "rules": tuple((one,) for one in (*SAVE_PROGRAMS, "ip6tables-legacy-save")),
        "addresses": (("ip", "-o", "addr", "show", "dev", DEVICE),),
    }
    return {
        what: "".join(sorted(line for argv in some for line in _printed(argv)))
        for what, some in programs.items()
    }


def _printed(argv: tuple[str, ...]) -> Iterator[str]:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    for line in done.stdout.splitlines(keepends=True):
        if not line.startswith("#"):
            yield re.sub(r"\[\d+:\d+\]", "", line)


def _attribute(kind: int, data: bytes) -> bytes:
    return _ATTRIBUTE.pack(len(data) + 4, kind) + data + bytes(-len(data) % 4)


def _attributes(data: bytes) -> dict[int, bytes]:
    found, position = {}, 0
    while position + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, position)
        found[kind & 0x3FFF] = data[position + 4 : position + length]
        position += max(length + 3 & ~3, 4)
    return found


def _listed(protocol: int, kind: int, body: bytes, flags: int) -> Iterator[bytes]:
    """Give the payloads of the messages that answer one request; none where it is refused."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol) as netlink:
        netlink.bind((0, 0))
        netlink.send(_HEADER.pack(_HEADER.size + len(body), kind, _REQUEST | flags, 1, 0) + body)
        while True:
            data = netlink.recv(1 << 17)
            position = 0
            while position + _HEADER.size <= len(data):
                length, answered = _HEADER.unpack_from(data, position)[:2]
                if answered in (_ERROR, _DONE):
                    return
                yield data[position + _HEADER.size : position + length]
                position += length + 3 & ~3
