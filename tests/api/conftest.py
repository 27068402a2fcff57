"""A fake API server, a connection to it, and virtual time."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from ipvsproxy.sources.kubernetes.access import Server
from ipvsproxy.sources.kubernetes.client import ApiConnection, connect
from tests.api.fake_server import FakeApiServer
from tests.api.support import VirtualTime


@pytest.fixture
async def server() -> AsyncIterator[FakeApiServer]:
    async with FakeApiServer() as running:
        yield running


@pytest.fixture
async def connection(server: FakeApiServer) -> AsyncIterator[ApiConnection]:
    made = await connect(Server((server.url,)))
    yield made
    await made.close()


@pytest.fixture
def time() -> VirtualTime:
    return VirtualTime()
