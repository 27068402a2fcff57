"""The text of a state is what ipvsadm, which shares no code with us, prints of the same table."""

from __future__ import annotations

import asyncio
import subprocess

import pytest

from ipvsproxy.core.operations import AddRealServer, AddVirtualServer, Operation
from ipvsproxy.kernel.listing import ipvsadm_text
from ipvsproxy.model import (
    Address,
    Flags,
    ForwardingMethod,
    Protocol,
    RealServer,
    State,
    VirtualServer,
    VirtualServerKey,
)
from tests.contract.conftest import linux_dataplane, own_network
from tests.contract.steps import OTHER_POD, POD, POD6, WEB, WEB6, do

ALL = Flags.SCHED_1 | Flags.SCHED_2 | Flags.SCHED_3
OTHER = Address.parse("10.96.0.2")
TABLE: list[Operation] = [
    AddVirtualServer(WEB, VirtualServer("sh", ALL, 300, 24)),
    AddRealServer(WEB, POD, RealServer(0, upper_threshold=9)),
    AddRealServer(WEB, OTHER_POD, RealServer(65535, ForwardingMethod.TUNNEL)),
    AddVirtualServer(WEB6, VirtualServer("mh", ALL, 60, 64)),
    AddRealServer(WEB6, POD6, RealServer(2, ForwardingMethod.DIRECT_ROUTE)),
    AddVirtualServer(
        VirtualServerKey(Protocol.UDP, OTHER, 53),
        VirtualServer("rr", Flags.ONE_PACKET | ALL),
    ),
    AddVirtualServer(
        VirtualServerKey(Protocol.SCTP, OTHER, 80), VirtualServer("wlc", persistence=5)
    ),
    AddRealServer(
        VirtualServerKey(Protocol.SCTP, OTHER, 80), POD, RealServer(1, ForwardingMethod.LOCAL)
    ),
]


@pytest.mark.kernel
def test_the_listing_is_what_ipvsadm_prints() -> None:
    with own_network():
        ours = ipvsadm_text(asyncio.run(filled()))
        printed = subprocess.run(
            ["ipvsadm", "-Sn"], check=True, capture_output=True, text=True
        ).stdout
    assert len(ours.splitlines()) == len(TABLE)
    assert sorted(ours.splitlines()) == sorted(line.strip() for line in printed.splitlines())


async def filled() -> State:
    linux = linux_dataplane()
    try:
        await do(linux, *TABLE)
        return await linux.dump()
    finally:
        await linux.close()
