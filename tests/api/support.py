"""What the tests of the API source share: virtual time, a follower of a stream, objects."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Generic, TypeVar

from ipvsproxy.sources.kubernetes.access import Access
from ipvsproxy.sources.kubernetes.client import ApiConnection, connect
from ipvsproxy.sources.kubernetes.health import SourceHealth
from ipvsproxy.sources.kubernetes.pace import Timing
from ipvsproxy.sources.kubernetes.reflector import Changed, Complete, Item, Removed
from ipvsproxy.sources.kubernetes.resources import Resource, resources
from ipvsproxy.sources.kubernetes.sending import LibrarySender
from ipvsproxy.sources.kubernetes.session import Session
from tests.api.fake_objects import Object

Value = TypeVar("Value")

SERVICES: Resource = resources("node-1")[0]


@asynccontextmanager
async def connected(access: Access) -> AsyncIterator[ApiConnection]:
    """Give a connection, closed at the end."""
    connection = await connect(access)
    try:
        yield connection
    finally:
        await connection.close()


def bearer_token(loaded: Session) -> str:
    """Give the header's value that a kubeconfig has led to."""
    sender = loaded._sender
    assert isinstance(sender, LibrarySender)
    return str(sender.client.configuration.api_key["BearerToken"])


class VirtualTime:
    """A clock that only sleeping moves; `slept` has every pause that was taken."""

    def __init__(self, chance: float = 0.5) -> None:
        self.now = 1000.0
        self.slept: list[float] = []
        self.timing = Timing(lambda: self.now, self._sleep, lambda: chance)
        self._changed = asyncio.Condition()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until a pause begins at which a condition is fulfilled."""
        async with asyncio.timeout(20), self._changed:
            await self._changed.wait_for(condition)

    async def _sleep(self, seconds: float) -> None:
        async with self._changed:
            self.slept.append(seconds)
            self.now += seconds
            self._changed.notify_all()
        await asyncio.sleep(0)


def health_in(time: VirtualTime) -> SourceHealth:
    return SourceHealth(wall_clock=time.timing.now)


class Follower(Generic[Value]):
    """Collects what a stream yields, and waits for it to be enough."""

    def __init__(self) -> None:
        self.seen: list[Value] = []
        self._arrived = asyncio.Condition()

    async def follow(self, stream: AsyncGenerator[Value, None]) -> None:
        async with aclosing(stream) as values:
            async for value in values:
                async with self._arrived:
                    self.seen.append(value)
                    self._arrived.notify_all()

    async def until(self, condition: Callable[[list[Value]], bool]) -> list[Value]:
        """Wait until what was seen fulfils a condition; give it all and forget it."""
        async with asyncio.timeout(20), self._arrived:
            await self._arrived.wait_for(lambda: condition(self.seen))
            seen, self.seen = self.seen, []
            return seen

    async def take(self, count: int) -> list[Value]:
        return await self.until(lambda seen: len(seen) >= count)


@asynccontextmanager
async def following(stream: AsyncGenerator[Value, None]) -> AsyncIterator[Follower[Value]]:
    follower: Follower[Value] = Follower()
    task = asyncio.create_task(follower.follow(stream))
    try:
        yield follower
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def names(items: list[Item]) -> list[str]:
    """What items say, in short: +name, -name, and = for the end of a list."""
    short = []
    for item in items:
        match item:
            case Changed(name):
                short.append(f"+{name.name}")
            case Removed(name):
                short.append(f"-{name.name}")
            case Complete():
                short.append("=")
    return short


def service(
    name: str, *, address: str = "10.0.0.1", port: int = 80, labels: dict[str, str] | None = None
) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": "default", "labels": labels or {}},
        "spec": {"clusterIP": address, "ports": [{"port": port, "protocol": "TCP"}]},
    }


def endpoint_slice(name: str, *, owner: str, addresses: tuple[str, ...]) -> Object:
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": name,
            "namespace": "default",
            "labels": {"kubernetes.io/service-name": owner},
        },
        "addressType": "IPv4",
        "endpoints": [{"addresses": [address]} for address in addresses],
        "ports": [{"name": "", "port": 8080, "protocol": "TCP"}],
    }


def node(name: str) -> Object:
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}}


def pod(name: str, weight: str | None = None) -> Object:
    written = {} if weight is None else {"ipvsproxy.io/weight": weight}
    metadata = {"name": name, "namespace": "default", "annotations": written}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"nodeName": "node-2"}}


def service_cidr(name: str, *networks: str) -> Object:
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "ServiceCIDR",
        "metadata": {"name": name},
        "spec": {"cidrs": list(networks)},
    }
