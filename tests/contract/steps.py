"""Short words for what the contract's cases do all the time, and the things they do it to."""

from __future__ import annotations

from ipvsproxy.core.operations import AddVirtualServer, Operation
from ipvsproxy.dataplane import Dataplane, Reading, Refusal
from ipvsproxy.model import (
    Address,
    Protocol,
    RealServer,
    RealServerKey,
    VirtualServer,
    VirtualServerKey,
)

WEB = VirtualServerKey(Protocol.TCP, Address.parse("10.96.0.1"), 80)
WEB6 = VirtualServerKey(Protocol.TCP, Address.parse("fd00:96::1"), 80)
POD = RealServerKey(Address.parse("10.1.0.1"), 8080)
OTHER_POD = RealServerKey(Address.parse("10.1.0.2"), 8080)
POD6 = RealServerKey(Address.parse("fd00:1::1"), 8080)
ONE = RealServer(1)
ROUND = VirtualServer("rr")
ROUND6 = VirtualServer("rr", persistence_prefix=128)
SERVE_WEB = AddVirtualServer(WEB, ROUND)


async def do(dataplane: Dataplane, *operations: Operation) -> None:
    """Apply operations one after the other, each of which must be acknowledged."""
    for operation in operations:
        (outcome,) = await dataplane.apply([operation])
        assert outcome.refusal is None, f"{operation}: {outcome.reason}"
        assert outcome.reason == ""


async def refused(dataplane: Dataplane, operation: Operation) -> tuple[Refusal, str]:
    """Apply an operation that must be refused, with a reason of one line; say which."""
    (outcome,) = await dataplane.apply([operation])
    assert outcome.refusal is not None, f"{operation} was done"
    assert outcome.reason
    assert "\n" not in outcome.reason
    return outcome.refusal, outcome.reason


async def reading(dataplane: Dataplane, key: VirtualServerKey) -> Reading | None:
    """Read one virtual server."""
    return (await dataplane.read([key]))[key]
