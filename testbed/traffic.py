"""Backends and clients on one event loop, in a thread, for synchronous callers.

One loop for both sides: in the rig there is one CPU, and switching between processes or threads
would cost more than the requests do.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import TYPE_CHECKING, Self, TypeVar

from testbed import client
from testbed.backend import Backend

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Coroutine, Iterable, Iterator, Sequence
    from types import TracebackType

    from testbed.backend import Web
    from testbed.client import Load, Reply, Steady, Target
    from testbed.layout import Host, Pod

Result = TypeVar("Result")

CALL_SECONDS = 120.0
"""Limit for one call, a thousand requests included."""


class Held:
    """A long connection that a client keeps open."""

    def __init__(self, traffic: Traffic, connection: client.Connection, first: Reply) -> None:
        self._traffic = traffic
        self._connection = connection
        self.first = first
        """The reply to its first line."""

    def talk(self) -> Reply:
        """Send another line on it."""
        return self._traffic.call(self.reply())

    async def reply(self) -> Reply:
        """Send another line on it, for a caller on the event loop."""
        return await self._connection.reply()

    def reset(self) -> None:
        """Have it end by a reset when it is closed: nothing of it is left to wait for."""
        self._connection.reset()

    def close(self) -> None:
        """Close it."""
        self._traffic.call(self._close())

    async def _close(self) -> None:
        self._connection.close()


class Traffic:
    """All backends and clients of a testbed; a context manager."""

    def __init__(self, pods: Iterable[Pod]) -> None:
        self._backends = {pod.name: _backend(pod) for pod in pods}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="traffic", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        for backend in self._backends.values():
            self.call(backend.listen())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.call(self._end())
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(CALL_SECONDS)
            self._loop.close()

    async def _end(self) -> None:
        for backend in self._backends.values():
            await backend.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    def call(self, work: Coroutine[None, None, Result]) -> Result:
        """Run a coroutine on the loop and wait for it, a bounded time."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(CALL_SECONDS)

    def listen(self, pod: str) -> None:
        """Have a pod take connections."""
        self.call(self._backends[pod].listen())

    def refuse(self, pod: str) -> None:
        """Have a pod take no new connection, and keep its open ones."""
        self.call(self._backends[pod].refuse())

    @contextlib.contextmanager
    def answering(self, pod: str, *pages: Web) -> Iterator[None]:
        """Have a pod answer requests of HTTP so, in turn to each client, while the block runs."""
        before, self._backends[pod].pages = self._backends[pod].pages, pages
        try:
            yield
        finally:
            self._backends[pod].pages = before

    @contextlib.contextmanager
    def deaf(self, pod: str, datagram: bytes) -> Iterator[None]:
        """Have a pod leave a certain datagram unanswered while the block runs."""
        self._backends[pod].unheard = datagram
        try:
            yield
        finally:
            self._backends[pod].unheard = b""

    def seen(self, pod: str) -> Counter[str]:
        """Count the connections and datagrams that a pod has had, by who sent them."""
        return self._backends[pod].seen.copy()

    @contextlib.contextmanager
    def busy(self, pod: str, *, seconds: float) -> Iterator[None]:
        """Have a pod take this long over each answer."""
        self._backends[pod].delay = seconds
        try:
            yield
        finally:
            self._backends[pod].delay = 0.0

    def ask(self, host: Host, target: Target, times: int, *, at_once: int = 1) -> list[Reply]:
        """Make short requests; see `client.ask`."""
        return self.call(client.ask(host, target, times, at_once=at_once))

    @contextlib.contextmanager
    def serve(self, pod: Pod, *, port: int) -> Iterator[None]:
        """Have something listen on another port of a pod's network while the block runs."""
        backend = Backend(pod, port=port)
        self.call(backend.listen())
        try:
            yield
        finally:
            self.call(backend.close())

    @contextlib.contextmanager
    def steady(self, host: Host, target: Target, connections: int) -> Iterator[Steady]:
        """Keep connections open that talk all the time while the block runs."""
        steady = client.Steady(host, target)
        self.call(steady.start(connections))
        try:
            yield steady
        finally:
            self.call(steady.stop())

    @contextlib.contextmanager
    def load(
        self, host: Host, target: Target, *, workers: int = 2, pause: float = 0.02
    ) -> Iterator[Load]:
        """Ask without end while the block runs; afterwards its replies are complete."""
        load = client.Load(host, target, pause)
        self.call(load.start(workers))
        try:
            yield load
        finally:
            self.call(load.stop())

    @contextlib.contextmanager
    def hold(self, host: Host, target: Target, times: int) -> Iterator[list[Held]]:
        """Open long connections, each of which has talked once, and keep them for the block."""
        held = self.open(host, target, times)
        try:
            yield held
        finally:
            for one in held:
                one.close()

    def open(self, host: Host, target: Target, times: int) -> list[Held]:
        """Open long connections, each of which has talked once; who asked for them closes them."""
        return [self._open_one(host, target) for _ in range(times)]

    def talk(self, held: Sequence[Held]) -> list[Reply]:
        """Send another line on many connections at once; return the replies in their order."""

        async def all_of_them() -> list[Reply]:
            return await asyncio.gather(*(one.reply() for one in held))

        return self.call(all_of_them())

    def _open_one(self, host: Host, target: Target) -> Held:
        async def opened() -> tuple[client.Connection, Reply]:
            connection = client.Connection(host, target)
            return connection, await connection.open_and_reply()

        return Held(self, *self.call(opened()))


def _backend(pod: Pod) -> Backend:
    """Make the server of a pod.

    One in the host network listens on the addresses by which it is known: from a socket on all
    addresses the kernel would answer datagrams with whichever it likes, and an SCTP association
    would be offered all of them.
    """
    return Backend(pod, addresses=pod.addresses) if pod.in_host_network else Backend(pod)
