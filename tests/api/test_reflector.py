"""List and watch against a server that misbehaves in every way that the real one does."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator

import pytest
import structlog

from ipvsproxy.sources.kubernetes.client import ApiConnection
from ipvsproxy.sources.kubernetes.errors import ApiError, Unavailable
from ipvsproxy.sources.kubernetes.reflector import (
    Changed,
    Complete,
    Freshness,
    Item,
    Reflector,
)
from tests.api.fake_server import FakeApiServer, Fault
from tests.api.support import SERVICES, Follower, VirtualTime, following, health_in, names, service


class Rig:
    """A reflector of Services with everything that it needs."""

    def __init__(
        self,
        connection: ApiConnection,
        time: VirtualTime,
        *,
        first_list: Freshness = Freshness.CACHED,
    ) -> None:
        self.health = health_in(time)
        self.reflector = Reflector(
            SERVICES, connection, timing=time.timing, health=self.health, first_list=first_list
        )


@pytest.fixture
async def follower(
    server: FakeApiServer, connection: ApiConnection, time: VirtualTime
) -> AsyncIterator[Follower[Item]]:
    """A reflector that runs; `first` and `second` exist when it starts."""
    await server.put(service("first"))
    await server.put(service("second"))
    async with following(Rig(connection, time).reflector.items()) as running:
        yield running


async def started(server: FakeApiServer, follower: Follower[Item]) -> None:
    assert names(await follower.take(3)) == ["+first", "+second", "="]
    await server.until_watched(1)


async def settled(server: FakeApiServer, follower: Follower[Item]) -> None:
    """Start, and wait until the client, too, has noticed that it watches."""
    await started(server, follower)
    await server.put(service("settled"))
    assert names(await follower.take(1)) == ["+settled"]


async def held_up(server: FakeApiServer) -> asyncio.Event:
    """Have the next watch wait for the event that is returned, and wait until it has begun."""
    server.faults.append(Fault(verb="watch", end=True, gate=(gate := asyncio.Event())))
    await server.end_watches()
    await server.until(lambda: len(server.asked("watch", "Service")) == 2)
    return gate


async def test_a_list_is_followed_by_what_changes(
    server: FakeApiServer, follower: Follower[Item]
) -> None:
    await started(server, follower)
    await server.put(service("third"))
    await server.put(service("first", port=81))
    await server.delete("Service", "default", "second")
    assert names(await follower.take(3)) == ["+third", "+first", "-second"]


async def test_objects_pass_as_they_are(follower: Follower[Item]) -> None:
    items = await follower.take(3)
    assert isinstance(items[0], Changed)
    assert json.loads(bytes(items[0].raw))["spec"]["clusterIP"] == "10.0.0.1"


async def test_the_first_list_may_come_from_the_cache_and_the_watch_starts_there(
    server: FakeApiServer, follower: Follower[Item]
) -> None:
    await started(server, follower)
    (listed,) = server.asked("list", "Service")
    assert listed["resourceVersion"] == "0"
    assert listed["labelSelector"] == (
        "!service.kubernetes.io/headless,!service.kubernetes.io/service-proxy-name"
    )
    assert listed["fieldSelector"] == "spec.clusterIP!=None"
    (watched,) = server.asked("watch", "Service")
    assert watched["resourceVersion"] == str(server.objects.version)
    assert watched["allowWatchBookmarks"] == "true"
    assert watched["timeoutSeconds"] == "450"


async def test_a_list_of_the_latest_version_comes_in_pages(
    server: FakeApiServer, connection: ApiConnection, time: VirtualTime
) -> None:
    for number in range(1201):
        server.objects.put(service(f"s{number}"))
    reflector = Rig(connection, time, first_list=Freshness.LATEST).reflector
    items = [item async for item in reflector.list()]
    assert len(items) == 1202
    assert items[-1] == Complete()
    asked = server.asked("list", "Service")
    assert [("continue" in one, "resourceVersion" in one) for one in asked] == [
        (False, False),
        (True, False),
        (True, False),
    ]


async def test_a_list_of_an_empty_collection_is_complete(
    connection: ApiConnection, time: VirtualTime
) -> None:
    assert [item async for item in Rig(connection, time).reflector.list()] == [Complete()]


@pytest.mark.parametrize("as_status", [True, False], ids=["as HTTP status", "as ERROR event"])
async def test_after_410_a_list_gives_the_difference(
    server: FakeApiServer, follower: Follower[Item], *, as_status: bool
) -> None:
    await started(server, follower)
    server.gone_as_status = as_status
    gate = await held_up(server)
    await server.put(service("third"))
    await server.delete("Service", "default", "first")
    server.objects.compact()
    gate.set()
    assert names(await follower.take(3)) == ["+third", "-first", "="]
    assert "resourceVersion" not in server.asked("list", "Service")[-1]
    await server.until_watched(1)
    await server.put(service("fourth"))
    assert names(await follower.take(1)) == ["+fourth"]


async def test_410_between_two_pages_starts_the_list_again(
    server: FakeApiServer, connection: ApiConnection, time: VirtualTime
) -> None:
    for number in range(600):
        server.objects.put(service(f"s{number:03}"))
    server.faults.append(Fault(verb="list"))
    server.faults.append(Fault(verb="list", gate=(gate := asyncio.Event())))
    reflector = Rig(connection, time, first_list=Freshness.LATEST).reflector
    async with following(reflector.items()) as follower:
        await server.until(lambda: len(server.asked("list", "Service")) == 2)
        server.objects.delete("Service", "default", "s000")
        server.objects.delete("Service", "default", "s599")
        server.objects.compact()
        gate.set()
        items = names(await follower.until(lambda seen: Complete() in seen))
    assert items[:500] == [f"+s{number:03}" for number in range(500)]
    assert items[500:] == [f"+s{number:03}" for number in range(500, 599)] + ["-s000", "="]


async def test_a_list_that_was_cut_removes_nothing(
    server: FakeApiServer, follower: Follower[Item]
) -> None:
    await started(server, follower)
    watch_gate = await held_up(server)
    await server.delete("Service", "default", "second")
    server.objects.compact()
    server.faults.append(Fault(verb="list", cut_after=40))
    server.faults.append(Fault(verb="list", status=500))
    server.faults.append(Fault(verb="list", gate=(gate := asyncio.Event())))
    watch_gate.set()
    await server.until(lambda: len(server.asked("list", "Service")) == 4)
    assert follower.seen == []
    gate.set()
    assert names(await follower.take(2)) == ["-second", "="]


async def test_a_watch_that_is_cut_within_an_object_resumes_without_loss(
    server: FakeApiServer, follower: Follower[Item]
) -> None:
    await started(server, follower)
    server.faults.append(Fault(verb="watch", cut_after=60))
    await server.end_watches()
    await server.until_watched(1)
    await server.put(service("third"))
    assert names(await follower.take(1)) == ["+third"]
    assert len(server.asked("list", "Service")) == 1
    versions = [one["resourceVersion"] for one in server.asked("watch", "Service")]
    assert len(set(versions)) == 1


@pytest.mark.parametrize("size", [1, 7, 64])
async def test_lines_may_be_split_anywhere(
    server: FakeApiServer, follower: Follower[Item], size: int
) -> None:
    await started(server, follower)
    server.chunk_size = size
    for number in range(3):
        await server.put(service(f"n{number}", labels={"who": "dœmon-守護-🐚"}))
    items = await follower.take(3)
    assert names(items) == ["+n0", "+n1", "+n2"]
    assert isinstance(items[2], Changed)
    assert json.loads(bytes(items[2].raw))["metadata"]["labels"] == {"who": "dœmon-守護-🐚"}


async def test_a_bookmark_moves_the_version_from_which_a_watch_resumes(
    server: FakeApiServer, follower: Follower[Item]
) -> None:
    await started(server, follower)
    server.objects.put({"kind": "Node", "metadata": {"name": "elsewhere"}})
    await server.bookmark()
    await server.end_watches()
    await server.until(lambda: len(server.asked("watch", "Service")) == 2)
    assert server.asked("watch", "Service")[1]["resourceVersion"] == str(server.objects.version)


async def test_an_object_that_leaves_the_selector_is_removed_and_comes_back(
    server: FakeApiServer, follower: Follower[Item]
) -> None:
    await started(server, follower)
    other = {"service.kubernetes.io/service-proxy-name": "another"}
    await server.put(service("first", labels=other))
    await server.put(service("second", address="None"))
    await server.put(service("first"))
    assert names(await follower.take(3)) == ["-first", "-second", "+first"]


async def test_a_server_that_does_not_know_the_field_is_asked_without(
    server: FakeApiServer, connection: ApiConnection, time: VirtualTime
) -> None:
    server.objects.collections["Service"].fields = frozenset()
    await server.put(service("first"))
    async with following(Rig(connection, time).reflector.items()) as follower:
        assert names(await follower.take(2)) == ["+first", "="]
        await server.until_watched(1)
    assert "fieldSelector" not in server.asked("watch", "Service")[0]
    assert time.slept == []


async def test_a_watch_that_reached_its_time_limit_is_resumed_at_once(
    server: FakeApiServer, follower: Follower[Item], time: VirtualTime
) -> None:
    await settled(server, follower)
    time.now += 450
    await server.end_watches()
    await server.until(lambda: len(server.asked("watch", "Service")) == 2)
    assert time.slept == []


async def test_watches_that_end_at_once_are_resumed_with_growing_pauses(
    server: FakeApiServer, follower: Follower[Item], time: VirtualTime
) -> None:
    server.faults.extend(Fault(verb="watch", end=True) for _ in range(7))
    await started(server, follower)
    assert time.slept == [0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 15.0]


async def test_failures_are_tried_again_with_growing_pauses_until_a_watch_has_lived(
    server: FakeApiServer, follower: Follower[Item], time: VirtualTime
) -> None:
    page = "<html><body>502 Bad Gateway</body></html>"
    server.faults.extend(Fault(verb="list", status=502, body=page) for _ in range(3))
    await settled(server, follower)
    assert time.slept == [0.4, 0.8, 1.6]
    time.now += 121
    server.faults.append(Fault(verb="watch", status=503))
    await server.end_watches()
    await server.until(lambda: len(server.asked("watch", "Service")) == 3)
    assert time.slept[3:] == [0.4]


async def test_the_pause_is_as_long_as_a_busy_server_asks_for(
    server: FakeApiServer, follower: Follower[Item], time: VirtualTime
) -> None:
    server.faults.append(Fault(verb="list", status=429, headers={"Retry-After": "17"}))
    await started(server, follower)
    assert time.slept == [17.4]


@pytest.mark.parametrize(
    "body",
    [
        "welcome to the hotel's network",
        "{}",
        '{"metadata": {"resourceVersion": "9"}, "items": []}',
        '{"kind": "ServiceList", "metadata": {}, "items": null}',
        '{"kind": "NodeList", "metadata": {"resourceVersion": "9"}, "items": []}',
    ],
)
async def test_what_is_no_list_does_not_pass_for_an_empty_one(
    server: FakeApiServer, follower: Follower[Item], body: str
) -> None:
    await started(server, follower)
    gate = await held_up(server)
    server.objects.compact()
    server.faults.append(Fault(verb="list", body=body))
    gate.set()
    assert names(await follower.take(1)) == ["="]
    assert len(server.asked("list", "Service")) == 3


@pytest.mark.parametrize("code", [500, 429])
async def test_an_error_event_keeps_what_is_known(
    server: FakeApiServer, follower: Follower[Item], code: int
) -> None:
    await started(server, follower)
    server.faults.append(Fault(verb="watch", error_event=code))
    await server.end_watches()
    await server.until_watched(1)
    await server.put(service("third"))
    assert names(await follower.take(1)) == ["+third"]
    assert len(server.asked("list", "Service")) == 1


async def test_a_server_that_has_gone_back_in_time_is_listed_again(
    server: FakeApiServer, follower: Follower[Item]
) -> None:
    """As after a restore of etcd: 504 with this message, see apiserver's cacher."""
    await started(server, follower)
    message = '{"kind": "Status", "code": 504, "message": "Too large resource version: 9"}'
    server.faults.append(Fault(verb="watch", status=504, body=message))
    await server.end_watches()
    assert names(await follower.take(1)) == ["="]
    assert len(server.asked("list", "Service")) == 2


async def test_a_forbidden_list_names_the_missing_rule_once(
    server: FakeApiServer, connection: ApiConnection, time: VirtualTime
) -> None:
    body = '{"kind": "Status", "code": 403, "message": "services is forbidden"}'
    server.faults.extend(Fault(verb="list", status=403, body=body) for _ in range(6))
    rig = Rig(connection, time)
    with structlog.testing.capture_logs() as logs:
        async with following(rig.reflector.items()) as follower:
            await follower.take(1)
            await server.until_watched(1)
            await server.put(service("first"))
            await follower.take(1)
    (warning,) = [entry for entry in logs if entry["log_level"] == "warning"]
    assert warning["error"] == (
        "the API server answered 403: services is forbidden; the role needs the rule "
        '{apiGroups: [""], resources: ["services"], verbs: ["list", "watch"]}'
    )
    assert rig.health.watches.of("Service").connected


async def test_an_api_server_that_has_not_read_the_roles_yet_is_no_missing_rule(
    server: FakeApiServer, connection: ApiConnection, time: VirtualTime
) -> None:
    """It listens before it knows them, and refuses everything for a moment."""
    rig = Rig(connection, time)
    with structlog.testing.capture_logs() as logs:
        async with following(rig.reflector.items()) as follower:
            await follower.take(1)
            await server.until_watched(1)
            server.faults.append(Fault(verb="watch", status=403, body="{}"))
            await server.end_watches()
            await server.until(lambda: not server.faults)
            await server.put(service("first"))
            await follower.take(1)
    assert [entry for entry in logs if entry["log_level"] == "warning"] == []
    assert rig.health.watches.of("Service").errors["Forbidden"] == 1


async def test_who_has_shown_no_credentials_is_told_to(
    server: FakeApiServer, connection: ApiConnection, time: VirtualTime
) -> None:
    body = '{"message": "services is forbidden: User \\"system:anonymous\\" cannot list"}'
    server.faults.append(Fault(status=403, body=body, keep=True))
    with pytest.raises(ApiError, match="in the kubeconfig needs a token or a certificate"):
        _ = [item async for item in Rig(connection, time).reflector.list()]


async def test_a_server_that_is_away_is_waited_for(
    server: FakeApiServer, follower: Follower[Item]
) -> None:
    await started(server, follower)
    await server.stop()
    await server.put(service("third"))
    await server.delete("Service", "default", "first")
    await server.start()
    assert names(await follower.take(2)) == ["+third", "-first"]


async def test_a_list_by_itself_raises_what_went_wrong(
    server: FakeApiServer, connection: ApiConnection, time: VirtualTime
) -> None:
    server.faults.append(Fault(status=503))
    with pytest.raises(Unavailable, match="the API server answered 503"):
        _ = [item async for item in Rig(connection, time).reflector.list()]


@pytest.mark.parametrize(
    ("status", "mend"),
    [
        (401, "check the token or certificate"),
        (403, "the role needs the rule"),
        (404, "it knows no services; check its URL, and that it is Kubernetes 1.21 or newer"),
    ],
)
async def test_a_list_by_itself_says_what_mends_a_refusal(
    server: FakeApiServer, connection: ApiConnection, time: VirtualTime, status: int, mend: str
) -> None:
    server.faults.append(Fault(status=status, keep=True))
    with pytest.raises(ApiError, match=re.escape(mend)):
        _ = [item async for item in Rig(connection, time).reflector.list()]
