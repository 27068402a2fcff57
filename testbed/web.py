"""One HTTP request from inside a namespace, for what has no client of its own there.

HTTP/1.0, so that the end of the answer is the end of the connection.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

from testbed import namespaces

if TYPE_CHECKING:
    from collections.abc import Mapping

    from testbed.layout import Host

OK = 200
_SECONDS = 5.0
_CHUNK = 65536


@dataclass(frozen=True, slots=True)
class Page:
    """An answer; the names of its headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: str


def get(host: Host, where: tuple[str, int], path: str = "/") -> Page:
    """Ask an address and port from a host; OSError where nobody answers."""
    with namespaces.inside(host.namespace):
        connection = socket.create_connection(where, _SECONDS)
    with connection:
        request = f"GET {path} HTTP/1.0\r\nHost: {host.name}\r\n\r\n"
        connection.sendall(request.encode())
        received = b""
        while data := connection.recv(_CHUNK):
            received += data
    head, _, body = received.decode().partition("\r\n\r\n")
    status, *lines = head.split("\r\n")
    pairs = (line.partition(":") for line in lines)
    headers = {name.lower(): value.strip() for name, _, value in pairs}
    return Page(int(status.split()[1]), headers, body)
