"""One dataplane for each test, on the fake and on the kernel of this machine."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import pytest

from ipvsproxy.dataplane import Dataplane
from ipvsproxy.kernel.fake import FakeDataplane
from ipvsproxy.kernel.linux import LinuxDataplane
from tests.kernel.namespace import fresh_network_namespace
from tests.strategies import SCHEDULERS, SYSCTLS

SIOCSIFFLAGS = 0x8914
IFF_UP = 0x1


@contextmanager
def own_network() -> Iterator[None]:
    """Move this thread, and those that it starts, to a fresh network with `lo` up."""
    with fresh_network_namespace():
        # Where `lo` was never up, IPVS takes no real server.
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
            fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", IFF_UP))
        yield


def linux_dataplane() -> LinuxDataplane:
    """Make a dataplane of this thread's network; user-mode Linux has no nf_tables to look for."""
    in_uml = os.environ.get("IPVSPROXY_RIG_GUEST") == "uml"
    return LinuxDataplane(sysctls=SYSCTLS, iptables_backend="legacy" if in_uml else "auto")


@pytest.fixture(params=["fake", pytest.param("linux", marks=pytest.mark.kernel)])
async def dataplane(request: pytest.FixtureRequest) -> AsyncIterator[Dataplane]:
    """A dataplane whose tables nobody has touched."""
    if request.param == "fake":
        yield FakeDataplane(schedulers=frozenset(SCHEDULERS))
        return
    with own_network():
        linux = linux_dataplane()
        try:
            yield linux
        finally:
            await linux.close()
