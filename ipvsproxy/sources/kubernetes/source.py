"""The Kubernetes API as a source of events: Services, EndpointSlices, ServiceCIDRs, Nodes, Pods.

Knows when a resource is watched and how an item of a reflector becomes an event of the store. An
outage of the API is no event: the store keeps what it has, and `health` says how the watches are
doing.

The other Nodes are watched while they are needed, and some minutes longer: a thousand agents that
each watch a thousand Nodes are what API servers die of, and a watch that begins costs them more
than one that lasts. So are Pods, and those only where the settings allow it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
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
from ipvsproxy.store import Event, Gone, Listed, Put, Refused, Unlisted

_QUEUE_LENGTH = 1000
"""Events that may wait for the store before a reflector has to."""

IDLE_SECONDS = 300.0
"""What was needed is watched for so long after it was last: annotations are tried out."""

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
        self._nodes_need = _Need(lasting=watch_nodes is WatchNodes.ALWAYS)
        self._pods_need = _Need()
        self.health = health
        for resource in self._resources:
            health.begin(resource.watch)

    def need_nodes(self, *, needed: bool = True) -> None:
        """Have all Nodes told from now on, or not; see `store.Source`."""
        if self._watch_nodes is not WatchNodes.NEVER:
            self._nodes_need.say(needed=needed)

    def need_pods(self, *, needed: bool = True) -> None:
        """Have Pods told from now on, or not; see `store.Source`."""
        if self._watch_pods:
            self._pods_need.say(needed=needed)

    async def events(self) -> AsyncGenerator[Event, None]:
        """Follow all kinds for ever; the order is that of the API within a kind, and free between.

        `Listed` comes once for each kind, after its first complete list; of "Nodes" and "Pods",
        each time they are needed, with `Unlisted` between. Nothing that the API server does or
        fails to do ends the iteration.
        """
        queue: asyncio.Queue[Event] = asyncio.Queue(_QUEUE_LENGTH)
        feeds = [
            asyncio.create_task(self._feed(resource, queue), name=f"watch {resource.watch}")
            for resource in self._resources
        ]
        feeds += [
            asyncio.create_task(
                self._feed_while(need, resource, queue), name=f"watch {resource.watch}"
            )
            for resource, need in self._later()
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
        for resource, need in self._later():
            if need.there.is_set():
                async with aclosing(self._list(resource)) as events:
                    async for event in events:
                        yield event

    def _later(self) -> tuple[tuple[Resource, _Need], ...]:
        """Give what is not watched from the beginning, and what says that it is needed."""
        return (self._other_nodes, self._nodes_need), (self._pods, self._pods_need)

    async def _list(self, resource: Resource) -> AsyncGenerator[Event, None]:
        self.health.begin(resource.watch)
        async with aclosing(self._reflector(resource, Freshness.LATEST).list()) as items:
            async for item in items:
                yield self._event(resource, item)

    async def _feed_while(
        self, need: _Need, resource: Resource, queue: asyncio.Queue[Event]
    ) -> None:
        while True:
            await need.there.wait()
            self.health.begin(resource.watch)
            feed = asyncio.create_task(self._feed(resource, queue))
            idle = asyncio.create_task(need.has_gone(self._timing.sleep))
            try:
                await asyncio.wait({feed, idle}, return_when=asyncio.FIRST_COMPLETED)
                if feed.done():
                    feed.result()
            finally:
                for task in (feed, idle):
                    task.cancel()
                await asyncio.gather(feed, idle, return_exceptions=True)
            self.health.absent(resource.watch)
            await queue.put(Unlisted(resource.watch))

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


class _Need:
    """Whether something is needed, by what was said last."""

    def __init__(self, *, lasting: bool = False) -> None:
        self._lasting = lasting
        self.there, self.gone = asyncio.Event(), asyncio.Event()
        self.say(needed=lasting)

    def say(self, *, needed: bool) -> None:
        """Note it; what is lasting stays needed."""
        now, other = self.there, self.gone
        if not (needed or self._lasting):
            now, other = other, now
        now.set()
        other.clear()

    async def has_gone(self, sleep: Callable[[float], Awaitable[None]]) -> None:
        """Return when it has not been needed for `IDLE_SECONDS`."""
        while True:
            await self.gone.wait()
            waits = [
                asyncio.ensure_future(sleep(IDLE_SECONDS)),
                asyncio.create_task(self.there.wait()),
            ]
            try:
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for one in waits:
                    one.cancel()
                await asyncio.gather(*waits, return_exceptions=True)
            if self.gone.is_set():
                return


def _reference(kind: str, name: ObjectName) -> ObjectReference:
    return ObjectReference(kind, name.namespace, name.name)
