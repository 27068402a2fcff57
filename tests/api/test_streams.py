"""Lists that come as streams (KEP-3157), and every way in which they do not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from ipvsproxy.sources.kubernetes import reflector
from ipvsproxy.sources.kubernetes.client import ApiConnection
from ipvsproxy.sources.kubernetes.reflector import Item, Reflector
from tests.api.fake_server import FakeApiServer, Fault, Streams
from tests.api.support import (
    SERVICES,
    Follower,
    VirtualTime,
    following,
    health_in,
    names,
    service,
)


@pytest.fixture
async def follower(
    server: FakeApiServer, connection: ApiConnection, time: VirtualTime
) -> AsyncIterator[Follower[Item]]:
    """A reflector that runs on a server that streams lists; two Services are there."""
    server.streams = Streams.OFFERED
    await server.put(service("first"))
    await server.put(service("second"))
    running = Reflector(SERVICES, connection, timing=time.timing, health=health_in(time))
    async with following(running.items()) as followed:
        yield followed


async def streamed(server: FakeApiServer, follower: Follower[Item]) -> None:
    assert names(await follower.take(3)) == ["+first", "+second", "="]
    assert server.asked("list", "Service") == []


async def test_a_streamed_list_goes_on_as_a_watch(
    server: FakeApiServer, follower: Follower[Item]
) -> None:
    await streamed(server, follower)
    (asked,) = server.asked("stream", "Service")
    assert (asked["resourceVersionMatch"], "resourceVersion" in asked) == ("NotOlderThan", False)
    await server.put(service("third"))
    await server.delete("Service", "default", "first")
    assert names(await follower.take(2)) == ["+third", "-first"]
    await server.end_watches()
    await server.until(lambda: len(server.asked("watch", "Service")) == 1)
    assert server.asked("watch", "Service")[0]["resourceVersion"] == str(server.objects.version)


async def test_after_410_the_stream_gives_the_difference(
    server: FakeApiServer, follower: Follower[Item]
) -> None:
    await streamed(server, follower)
    server.faults.append(Fault(verb="watch", end=True, gate=(gate := asyncio.Event())))
    await server.end_watches()
    await server.until(lambda: len(server.asked("watch", "Service")) == 1)
    await server.put(service("third"))
    await server.delete("Service", "default", "first")
    server.objects.compact()
    gate.set()
    assert names(await follower.take(3)) == ["+third", "-first", "="]
    assert len(server.asked("stream", "Service")) == 2
    assert server.asked("list", "Service") == []


async def test_a_stream_that_is_cut_before_its_end_removes_nothing(
    server: FakeApiServer, follower: Follower[Item]
) -> None:
    await streamed(server, follower)
    server.faults += [
        Fault(verb="watch", error_event=410),
        Fault(verb="stream", cut_after=40),
        Fault(verb="stream", cut_after=40, sound=1),
        Fault(verb="stream", gate=(gate := asyncio.Event())),
    ]
    await server.delete("Service", "default", "first")
    assert names(await follower.take(1)) == ["-first"]
    await server.put(service("third"))
    await server.put(service("fourth"))
    assert names(await follower.take(2)) == ["+third", "+fourth"]
    await server.end_watches()
    await server.until(lambda: len(server.asked("stream", "Service")) == 4)
    server.objects.delete("Service", "default", "second")
    assert follower.seen == []
    gate.set()
    assert names(await follower.take(2)) == ["-second", "="]
    assert server.asked("list", "Service") == []


@pytest.mark.parametrize(
    "fault",
    [
        Fault(verb="stream", status=422),
        Fault(verb="stream", status=400),
        Fault(verb="stream", error_event=410),
    ],
    ids=["not offered", "not understood", "cannot be brought up to date"],
)
async def test_where_it_is_refused_it_is_a_list_at_once_and_from_then_on(
    server: FakeApiServer, connection: ApiConnection, time: VirtualTime, fault: Fault
) -> None:
    server.streams = Streams.OFFERED
    server.faults.append(fault)
    await server.put(service("first"))
    running = Reflector(SERVICES, connection, timing=time.timing, health=health_in(time))
    async with following(running.items()) as follower:
        assert names(await follower.take(2)) == ["+first", "="]
        assert time.slept == []
        await server.until_watched(1)
        server.faults.append(Fault(verb="watch", error_event=410))
        await server.end_watches()
        assert names(await follower.take(1)) == ["="]
    assert len(server.asked("stream", "Service")) == 1
    assert len(server.asked("list", "Service")) == 2


async def test_a_busy_server_is_asked_for_a_stream_again(
    server: FakeApiServer, connection: ApiConnection, time: VirtualTime
) -> None:
    server.streams = Streams.OFFERED
    server.faults.append(Fault(verb="stream", status=429, headers={"Retry-After": "5"}))
    server.faults.append(Fault(verb="stream", status=503, headers={"Retry-After": "7"}))
    running = Reflector(SERVICES, connection, timing=time.timing, health=health_in(time))
    async with following(running.items()) as follower:
        assert names(await follower.take(1)) == ["="]
    assert time.slept == [5.4, 7.8]
    assert server.asked("list", "Service") == []


async def test_a_server_that_never_ends_the_list_is_asked_for_pages(
    server: FakeApiServer,
    connection: ApiConnection,
    time: VirtualTime,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What came before is passed on all the same: it is true."""
    monkeypatch.setattr(reflector, "LIST_SILENCE_SECONDS", 0.05)
    server.streams = Streams.ENDLESS
    await server.put(service("first"))
    running = Reflector(SERVICES, connection, timing=time.timing, health=health_in(time))
    async with following(running.items()) as follower:
        assert names(await follower.take(2)) == ["+first", "="]
    assert len(server.asked("list", "Service")) == 1


async def test_a_watch_whose_bookmarks_stop_is_made_anew(
    server: FakeApiServer,
    follower: Follower[Item],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A proxy in between holds the connection open, and its other end is gone."""
    await streamed(server, follower)
    monkeypatch.setattr(reflector, "BOOKMARK_SILENCE_SECONDS", 0.05)
    await server.bookmark()
    await server.until(lambda: len(server.asked("watch", "Service")) == 1)
    await server.put(service("third"))
    assert names(await follower.take(1)) == ["+third"]
    assert len(server.asked("stream", "Service")) == 1
