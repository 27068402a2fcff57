"""The Kubernetes API as a source of events: Services, EndpointSlices, ServiceCIDRs, Nodes, Pods.

Knows when a resource is watched and how an item of a reflector becomes an event of the store. An
outage of the API is no event: the store keeps what it has, and `health` says how the watches are
doing.

The other Nodes are watched from the moment at which they are needed, and not before: a thousand
agents that each watch a thousand Nodes are what API servers die of. So are Pods, and those only
where the settings allow it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from functools import partial
from typing import TypeAlias, assert_never

import msgspec
import structlog

from ipvsproxy.config import WatchNodes
from ipvsproxy.objects import (
    InvalidObject,
    KubernetesObject,
    ObjectReference,
    read_endpoint_slice,
    read_node,
    read_pod,
    read_service,
    read_service_cidr,
)
from ipvsproxy.sources.kubernetes.client import ApiConnection
from ipvsproxy.sources.kubernetes.health import SourceHealth
from ipvsproxy.sources.kubernetes.messages import ObjectName
from ipvsproxy.sources.kubernetes.pace import Timing
from ipvsproxy.sources.kubernetes.reflector import (
    Changed,
    Complete,
    Freshness,
    Item,
    Reflector,
    Removed,
)
from ipvsproxy.sources.kubernetes.resources import (
    Resource,
    other_nodes,
    resources,
    weighing_pods,
)
from ipvsproxy.store import Event, Gone, Listed, Put, Refused

_QUEUE_LENGTH = 1000
"""Events that may wait for the store before a reflector has to."""

_Reader: TypeAlias = Callable[[msgspec.Raw], KubernetesObject | None]
_READERS: dict[str, _Reader] = {
    "Service": read_service,
    "EndpointSlice": read_endpoint_slice,
    "Node": read_node,
    "Pod": read_pod,
    "ServiceCIDR": read_service_cidr,
}

_log = structlog.get_logger(__name__)


class KubernetesSource:
    """Events from the API servers of one cluster."""

    def __init__(
        self,
        connection: ApiConnection,
        node_name: str,
        *,
        timing: Timing,
        health: SourceHealth,
        watch_nodes: WatchNodes = WatchNodes.AUTO,
        watch_pods: bool = False,
    ) -> None:
        self._connection = connection
        self._resources = resources(node_name)
        self._other_nodes = other_nodes(node_name)
        self._pods = weighing_pods()
        self._readers = dict(_READERS)
        if watch_pods:
            self._readers["EndpointSlice"] = partial(read_endpoint_slice, pods=True)
        self._timing = timing
        self._watch_nodes = watch_nodes
        self._watch_pods = watch_pods
        self._nodes_needed, self._pods_needed = asyncio.Event(), asyncio.Event()
        if watch_nodes is WatchNodes.ALWAYS:
            self._nodes_needed.set()
        self.health = health
        for resource in self._resources:
            health.begin(resource.watch)

    def need_nodes(self) -> None:
        """Have all Nodes told from now on; see `store.Source`."""
        if self._watch_nodes is not WatchNodes.NEVER:
            self._nodes_needed.set()

    def need_pods(self) -> None:
        """Have Pods told from now on; see `store.Source`."""
        if self._watch_pods:
            self._pods_needed.set()

    async def events(self) -> AsyncGenerator[Event, None]:
        """Follow all kinds for ever; the order is that of the API within a kind, and free between.

        `Listed` comes once for each kind, after its first complete list; of "Nodes" and "Pods",
        once they are needed. Nothing that the API server does or fails to do ends the iteration.
        """
        queue: asyncio.Queue[Event] = asyncio.Queue(_QUEUE_LENGTH)
        feeds = [
            asyncio.create_task(self._feed(resource, queue), name=f"watch {resource.watch}")
            for resource in self._resources
        ]
        feeds += [
            asyncio.create_task(
                self._feed_when(needed, resource, queue), name=f"watch {resource.watch}"
            )
            for resource, needed in self._later()
        ]
        waiting: asyncio.Task[Event] | None = None
        try:
            while True:
                while not queue.empty():
                    yield queue.get_nowait()
                waiting = asyncio.create_task(queue.get(), name="next event")
                await asyncio.wait({waiting, *feeds}, return_when=asyncio.FIRST_COMPLETED)
                for feed in feeds:
                    if feed.done():
                        feed.result()
                yield await waiting
        finally:
            tasks = [*feeds, *([waiting] if waiting else [])]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def once(self) -> AsyncGenerator[Event, None]:
        """Give one complete list of each kind. Raises ApiError when that is not possible now.

        The other Nodes and the Pods come last, if they are needed by then.
        """
        for resource in self._resources:
            async with aclosing(self._list(resource)) as events:
                async for event in events:
                    yield event
        for resource, needed in self._later():
            if needed.is_set():
                async with aclosing(self._list(resource)) as events:
                    async for event in events:
                        yield event

    def _later(self) -> tuple[tuple[Resource, asyncio.Event], ...]:
        """Give what is not watched from the beginning, and what says that it is needed."""
        return (self._other_nodes, self._nodes_needed), (self._pods, self._pods_needed)

    async def _list(self, resource: Resource) -> AsyncGenerator[Event, None]:
        self.health.begin(resource.watch)
        async with aclosing(self._reflector(resource, Freshness.LATEST).list()) as items:
            async for item in items:
                yield self._event(resource, item)

    async def _feed_when(
        self, needed: asyncio.Event, resource: Resource, queue: asyncio.Queue[Event]
    ) -> None:
        await needed.wait()
        self.health.begin(resource.watch)
        await self._feed(resource, queue)

    async def _feed(self, resource: Resource, queue: asyncio.Queue[Event]) -> None:
        told = False
        async with aclosing(self._reflector(resource, Freshness.CACHED).items()) as items:
            async for item in items:
                event = self._event(resource, item)
                if isinstance(event, Listed):
                    if told:
                        continue
                    told = True
                await queue.put(event)

    def _reflector(self, resource: Resource, first_list: Freshness) -> Reflector:
        return Reflector(
            resource,
            self._connection,
            timing=self._timing,
            health=self.health,
            first_list=first_list,
        )

    def _event(self, resource: Resource, item: Item) -> Event:
        match item:
            case Changed(name, raw):
                return self._read(_reference(resource.kind, name), raw)
            case Removed(name):
                return Gone(_reference(resource.kind, name))
            case Complete():
                return Listed(resource.watch)
            case _:
                assert_never(item)

    def _read(self, reference: ObjectReference, raw: msgspec.Raw) -> Event:
        """Read an object; one that is none of ours counts as not there."""
        origin = self._connection.url
        try:
            found = self._readers[reference.kind](raw)
        except InvalidObject as error:
            if error.internal:
                _log.error("object could not be read", object=str(reference), exc_info=error)
            return Refused(reference, origin, error.reason, error.addresses, error.service)
        return Gone(reference) if found is None else Put(found, origin)


def _reference(kind: str, name: ObjectName) -> ObjectReference:
    return ObjectReference(kind, name.namespace, name.name)
