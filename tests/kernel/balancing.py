"""Pods, a virtual server and clients in one namespace: who gets which connection and datagram.

All addresses are the namespace's own, by routes of type local, so that clients may have any number
of them. IPVS takes packets of local clients as it takes those of others (LOCAL_OUT).
"""

from __future__ import annotations

import contextlib
import resource
import select
import socket
import struct
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Self

from ipvsproxy.core.operations import (
    AddRealServer,
    AddVirtualServer,
    RemoveRealServer,
    RemoveVirtualServer,
    SetRealServer,
    SetTimeouts,
    SetVirtualServer,
)
from ipvsproxy.dataplane import DONE
from ipvsproxy.kernel.ipvs import Ipvs, IpvsOperation
from ipvsproxy.model import (
    Address,
    Protocol,
    RealServer,
    RealServerKey,
    Timeouts,
    VirtualServer,
    VirtualServerKey,
)
from tests.kernel.interfaces import ip

PORT = 8080
WAIT_SECONDS = 40.0
"""The bound of every wait; a connection that was reset is remembered for 10 s."""
ANSWER_SECONDS = 1.0
"""An answer would be there at once."""
_AT_ONCE = 50
_MOST_SOCKETS = 4096
_ABORT = struct.pack("ii", 1, 0)  # struct linger: closing sends a reset
_IPV6_FREEBIND = 78  # linux/in6.h; a route of type local is not enough to bind to
_LOCAL_NETWORKS = ("10.1.0.0/16", "10.9.0.0/16", "10.96.0.0/16", "fd00::/16")


class Balancing:
    """One virtual server with `count` pods; a context manager."""

    def __init__(
        self,
        protocol: Protocol,
        count: int,
        server: VirtualServer,
        *,
        real: RealServer | None = None,
        six: bool = False,
    ) -> None:
        self.ipvs = Ipvs()
        self._protocol = protocol
        self._server = server
        self._real = real or RealServer(1)
        service, pod = ("fd00:96::10", "fd00:1::{:x}") if six else ("10.96.0.10", "10.1.0.{}")
        self.key = VirtualServerKey(protocol, Address.parse(service), 80)
        self.members = [
            RealServerKey(Address.parse(pod.format(number)), PORT) for number in range(1, count + 1)
        ]
        self._family = socket.AF_INET6 if six else socket.AF_INET
        self._kind = socket.SOCK_STREAM if protocol is Protocol.TCP else socket.SOCK_DGRAM
        self._ending = contextlib.ExitStack()
        self._clients: dict[tuple[str, int], socket.socket] = {}
        self.pods: list[socket.socket] = []

    def __enter__(self) -> Self:
        resource.setrlimit(resource.RLIMIT_NOFILE, (_MOST_SOCKETS, _MOST_SOCKETS))
        for network in _LOCAL_NETWORKS:
            family = "-6" if ":" in network else "-4"
            ip(family, "route", "replace", "local", network, "dev", "lo")
        self._ending.callback(self.ipvs.close)
        for member in self.members:
            pod = self._ending.enter_context(self._socket(str(member.address), member.port))
            if self._protocol is Protocol.TCP:
                pod.listen(200)
            self.pods.append(pod)
        self.do(AddVirtualServer(self.key, self._server))
        self._ending.callback(self.do, RemoveVirtualServer(self.key))
        self.do(*(AddRealServer(self.key, member, self._real) for member in self.members))
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.close()

    def do(self, *operations: IpvsOperation) -> None:
        """Carry out operations, each of which must succeed."""
        assert self.ipvs.apply(operations) == [DONE] * len(operations)

    def set(self, server: VirtualServer) -> None:
        """Change the virtual server."""
        self.do(SetVirtualServer(self.key, server))

    def set_real(self, number: int, real: RealServer) -> None:
        """Change the real server of a pod."""
        self.do(SetRealServer(self.key, self.members[number], real))

    def remove(self, number: int) -> None:
        """Remove the real server of a pod."""
        self.do(RemoveRealServer(self.key, self.members[number]))

    def forget_soon(self) -> None:
        """Have UDP flows forgotten after a second of silence."""
        self.do(SetTimeouts(Timeouts(0, 0, 1)))

    def remembered(self) -> list[int]:
        """Count the connections that the kernel remembers, by pod."""
        reading = self.ipvs.read([self.key])[self.key]
        assert reading is not None
        counts = [reading.connections[one] for one in self.members]
        return [one.active + one.inactive for one in counts]

    def wait_for(self, counts: list[int]) -> None:
        """Wait until the kernel remembers so many connections, by pod."""
        end = time.monotonic() + WAIT_SECONDS
        while (found := self.remembered()) != counts:
            assert time.monotonic() < end, f"{found} connections, and not {counts}"

    def connect(self, source: str = "", port: int = 0) -> socket.socket:
        """Connect; ConnectionRefusedError where no pod may be had."""
        client = self._socket(source, port)
        client.settimeout(WAIT_SECONDS)
        try:
            client.connect((str(self.key.address), self.key.port))
        except OSError:
            client.close()
            raise
        return self._ending.enter_context(client)

    def connect_in_time(self) -> socket.socket:
        """Connect, as soon as a pod may be had."""
        end = time.monotonic() + WAIT_SECONDS
        while time.monotonic() < end:
            with contextlib.suppress(ConnectionRefusedError):
                return self.connect()
        raise AssertionError("nobody may be had")

    def is_refused(self) -> bool:
        """Whether a new connection is refused."""
        try:
            self.connect()
        except ConnectionRefusedError:
            return True
        return False

    def accepted(self, number: int) -> list[tuple[str, int]]:
        """Accept all connections that wait at a pod; give the clients' names."""
        clients = []
        while select.select([self.pods[number]], [], [], 0)[0]:
            connection, name = self.pods[number].accept()
            self._ending.enter_context(connection)
            clients.append((name[0], name[1]))
        return clients

    def sent(self, clients: Iterable[tuple[str, int]], *, each: int = 1) -> list[Counter[int]]:
        """Send datagrams from each client; say for each which pod got how many."""
        names = list(clients)
        found: dict[int, Counter[int]] = {number: Counter() for number in range(len(names))}
        where = str(self.key.address), self.key.port
        for first in range(0, len(names), _AT_ONCE):
            some = range(first, min(first + _AT_ONCE, len(names)))
            for number in some:
                for _ in range(each):
                    self._client(names[number]).sendto(number.to_bytes(4), where)
            self._read_into(found, len(some) * each)
        return list(found.values())

    def _client(self, name: tuple[str, int]) -> socket.socket:
        """Give the socket of a client, opened once: in the rig every call is dear."""
        if name not in self._clients:
            self._clients[name] = self._ending.enter_context(self._socket(*name))
        return self._clients[name]

    def is_dropped(self, client: tuple[str, int]) -> bool:
        """Whether a datagram of a client comes to no pod; its sender is told so."""
        with self._socket(*client) as one:
            try:
                one.sendto(bytes(4), (str(self.key.address), self.key.port))
            except PermissionError:
                return True
        return not select.select(self.pods, [], [], WAIT_SECONDS)[0][0].recv(4)

    def is_answered(self, client: tuple[str, int]) -> bool:
        """Whether a client that asks by a datagram hears of the pod that got it."""
        with self._socket(*client) as one:
            one.connect((str(self.key.address), self.key.port))
            one.send(bytes(4))
            [pod] = select.select(self.pods, [], [], WAIT_SECONDS)[0]
            pod.sendto(*pod.recvfrom(4))
            return bool(select.select([one], [], [], ANSWER_SECONDS)[0])

    def _read_into(self, found: Mapping[int, Counter[int]], expected: int) -> None:
        while expected:
            readable = select.select(self.pods, [], [], WAIT_SECONDS)[0]
            assert readable, f"{expected} datagrams did not arrive"
            for pod in readable:
                found[int.from_bytes(pod.recv(4))][self.pods.index(pod)] += 1
                expected -= 1

    def _socket(self, address: str, port: int) -> socket.socket:
        made = socket.socket(self._family, self._kind)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if self._family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, _IPV6_FREEBIND, 1)
        if address or port:
            made.bind((address, port))
        return made


def abort(client: socket.socket) -> None:
    """Close a connection by a reset."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABORT)
    client.close()


def pods_of(counted: Iterable[Counter[int]]) -> list[int]:
    """Give the one pod of each client."""
    found = []
    for one in counted:
        [number] = one
        found.append(number)
    return found
