"""A network namespace, and adapters in it, for a test that talks to the kernel itself."""

import fcntl
import socket
import struct
from collections.abc import Iterator

import pytest

from ipvsproxy.kernel.link import Link
from tests.kernel.namespace import fresh_network_namespace

SIOCSIFFLAGS = 0x8914
IFF_UP = 0x1


@pytest.fixture
def link() -> Iterator[Link]:
    adapter = Link()
    yield adapter
    adapter.close()


@pytest.fixture
def own_namespace() -> Iterator[None]:
    """Run the test, and threads that it starts, in a namespace of its own with `lo` up."""
    with fresh_network_namespace():
        # Where `lo` was never up, IPVS takes no real server.
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
            fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", IFF_UP))
        yield
