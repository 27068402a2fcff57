"""What an event of a watch costs before anything is decided: the bytes that are parsed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from ipvsproxy.objects import wire
from ipvsproxy.sources.kubernetes import messages
from ipvsproxy.sources.kubernetes.client import ApiConnection
from ipvsproxy.sources.kubernetes.source import KubernetesSource
from ipvsproxy.store import Listed, Put
from tests.api.fake_server import FakeApiServer
from tests.api.support import VirtualTime, endpoint_slice, following, health_in, node, service

SERVICES = 40
KINDS = {"Service", "EndpointSlice", "Node", "ServiceCIDR"}


@dataclass
class Counted:
    """A decoder that counts what it is given."""

    decoder: Any
    sizes: list[int] = field(default_factory=list)

    def decode(self, data: Any) -> Any:
        self.sizes.append(len(bytes(data)))
        return self.decoder.decode(data)


@pytest.fixture
def decoders(monkeypatch: pytest.MonkeyPatch) -> list[Counted]:
    """All decoders that a watch of slices goes through, each counting."""
    counted = []
    kinds = (wire.SERVICE, wire.ENDPOINT_SLICE, wire.NODE, wire.SERVICE_CIDR)
    places = [(messages, "_pages"), (messages, "_events"), (messages, "_objects")]
    for owner, name in [*places, *((kind, "_decoder") for kind in kinds)]:
        counted.append(Counted(getattr(owner, name)))
        monkeypatch.setattr(owner, name, counted[-1])
    return counted


async def test_a_change_of_one_slice_parses_that_slice_and_nothing_else(
    server: FakeApiServer, connection: ApiConnection, time: VirtualTime, decoders: list[Counted]
) -> None:
    """Its line of the watch, in it the name and version, and what is read of the object."""
    source = KubernetesSource(connection, "node-1", timing=time.timing, health=health_in(time))
    await server.put(node("node-1"))
    for index in range(SERVICES):
        await server.put(service(f"s{index}"))
        await server.put(endpoint_slice(f"s{index}-1", owner=f"s{index}", addresses=("10.1.0.1",)))
    async with following(source.events()) as follower:
        await follower.until(
            lambda seen: {one.kind for one in seen if isinstance(one, Listed)} == KINDS
        )
        await server.until_watched(4)
        for one in decoders:
            one.sizes.clear()
        changed = endpoint_slice("s7-1", owner="s7", addresses=("10.1.0.1", "10.1.0.2"))
        await server.put(changed)
        (event,) = await follower.take(1)
    assert isinstance(event, Put)
    pages, lines, heads, _, slices, *others = (one.sizes for one in decoders)
    assert [len(pages), len(lines), len(heads), len(slices)] == [0, 1, 1, 1]
    assert not any(others)
    assert sum(map(sum, (lines, heads, slices))) <= 3 * lines[0]
