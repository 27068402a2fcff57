"""Conditions told as Events: once for all nodes, and never at anybody's cost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import structlog

from ipvsproxy.sources.kubernetes.announcement import MOST_OF_ONE_OBJECT, REPEAT_SECONDS
from ipvsproxy.sources.kubernetes.client import ApiConnection
from ipvsproxy.sources.kubernetes.events import (
    MOST_WAITING,
    PAUSE_SECONDS,
    SPREAD_SECONDS,
    TRIES,
    Events,
)
from ipvsproxy.telemetry import Condition, ConditionType
from tests.api.fake_server import FakeApiServer, Fault
from tests.api.support import VirtualTime

WEB = "Service shop/web"


def condition(
    message: str = "spec.externalIPs[0]: 'x' is not an address; passed over", subject: str = WEB
) -> Condition:
    return Condition(
        subject=subject, type=ConditionType.IGNORED_FIELD, message=message, since=1000.0
    )


def teller(connection: ApiConnection, time: VirtualTime, node_name: str = "node-1") -> Events:
    return Events(connection, node_name, timing=time.timing, wall_clock=lambda: 1_700_000_000.5)


@asynccontextmanager
async def running(events: Events) -> AsyncIterator[None]:
    task = asyncio.create_task(events.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
async def events(connection: ApiConnection, time: VirtualTime) -> AsyncIterator[Events]:
    made = teller(connection, time)
    async with running(made):
        yield made


async def asked(server: FakeApiServer, requests: int) -> None:
    """Wait for so many Events in all to have come to the server, taken or not."""
    await server.until(lambda: len(server.asked("create", "Event")) >= requests)


async def taken(server: FakeApiServer, events: int) -> None:
    await server.until(lambda: len(server.events.told) >= events)


async def told(server: FakeApiServer, message: str) -> None:
    await server.until(
        lambda: any(event["note"] == message for event in server.events.told.values())
    )


async def test_a_condition_of_a_service_is_an_event_that_kubectl_describe_shows(
    server: FakeApiServer, events: Events
) -> None:
    events.tell(condition(), "uid-1")
    await taken(server, 1)
    assert server.events.of("uid-1") == [
        ("Warning IgnoredField ipvsproxy spec.externalIPs[0]: 'x' is not an address; passed over")
    ]


async def test_of_many_nodes_one_tells_and_no_other_complains(
    server: FakeApiServer, connection: ApiConnection
) -> None:
    with structlog.testing.capture_logs() as logs:
        for number in range(5):
            time = VirtualTime(chance=number / 5)
            events = teller(connection, time, f"node-{number}")
            async with running(events):
                events.tell(condition(), "uid-1")
                await asked(server, number + 1)
                assert time.slept[0] == number / 5 * SPREAD_SECONDS
    assert len(server.events.told) == 1
    assert logs == []


async def test_each_node_tells_of_itself(server: FakeApiServer, connection: ApiConnection) -> None:
    for name in ("node-1", "node-2"):
        events = teller(connection, VirtualTime(), name)
        async with running(events):
            events.tell(condition("no ipset", "Node"), "")
            await taken(server, 1 if name == "node-1" else 2)
        assert server.events.of(name) == ["Warning IgnoredField ipvsproxy no ipset"]


async def test_what_flaps_is_not_told_again_within_the_hour(
    server: FakeApiServer, events: Events, time: VirtualTime
) -> None:
    events.tell(condition("one"), "uid-1")
    await taken(server, 1)
    time.now += REPEAT_SECONDS / 2
    events.tell(condition("one"), "uid-1")
    events.tell(condition("two"), "uid-1")
    await taken(server, 2)
    server.events.told.clear()
    time.now += REPEAT_SECONDS
    events.tell(condition("one"), "uid-1")
    await taken(server, 1)
    assert len(server.asked("create", "Event")) == 3


async def test_conditions_of_other_things_are_not_told(
    server: FakeApiServer, events: Events
) -> None:
    for subject in ("File a.yaml", "Node node-2", "EndpointSlice shop/web-1"):
        events.tell(condition(subject=subject), "uid-1")
    events.tell(condition(), "uid-1")
    await taken(server, 1)
    assert len(server.asked("create", "Event")) == 1


async def test_a_failure_that_may_pass_is_tried_again(
    server: FakeApiServer, events: Events, time: VirtualTime
) -> None:
    server.faults += [Fault(verb="create", status=500), Fault(verb="create", status=429)]
    with structlog.testing.capture_logs() as logs:
        events.tell(condition(), "uid-1")
        await taken(server, 1)
    assert len(server.asked("create", "Event")) == TRIES
    assert time.slept.count(PAUSE_SECONDS) == TRIES
    assert logs == []


async def test_while_the_api_server_is_away_events_are_dropped_with_one_line(
    server: FakeApiServer, connection: ApiConnection, time: VirtualTime
) -> None:
    await server.stop()
    events = teller(connection, time)
    with structlog.testing.capture_logs() as logs:
        async with running(events):
            events.tell(condition("one"), "uid-1")
            events.tell(condition("two"), "uid-1")
            await time.until(lambda: time.slept.count(PAUSE_SECONDS) == 2 * TRIES)
            await server.start()
            events.tell(condition("three"), "uid-1")
            await told(server, "three")
            events.tell(condition("one"), "uid-1")
            await told(server, "one")
    assert [entry["event"] for entry in logs] == ["Event could not be told"]
    assert logs[0]["error"] == f"cannot reach {server.url}: Connection refused"
    assert logs[0]["about"] == WEB


async def test_what_the_role_does_not_allow_is_given_up_and_the_rule_is_named(
    server: FakeApiServer, events: Events
) -> None:
    server.faults.append(Fault(verb="create", status=403, body="{}", keep=True))
    with structlog.testing.capture_logs() as logs:
        events.tell(condition("one"), "uid-1")
        events.tell(condition("two"), "uid-1")
        await asked(server, 2 * TRIES)
        server.faults.clear()
        events.tell(condition("three"), "uid-1")
        await taken(server, 1)
    assert len(server.asked("create", "Event")) == 2 * TRIES + 1
    (line,) = logs
    assert line["error"].endswith(
        'needs the rule {apiGroups: ["events.k8s.io"], resources: ["events"], verbs: ["create"]}'
    )


async def test_an_api_server_that_has_not_read_the_roles_yet_is_asked_again(
    server: FakeApiServer, events: Events
) -> None:
    server.faults.append(Fault(verb="create", status=403, body="{}"))
    with structlog.testing.capture_logs() as logs:
        events.tell(condition("one"), "uid-1")
        await taken(server, 1)
    assert logs == []


async def test_too_many_at_once_are_dropped_with_one_line(
    server: FakeApiServer, connection: ApiConnection, time: VirtualTime
) -> None:
    events = teller(connection, time)
    with structlog.testing.capture_logs() as logs:
        for number in range(MOST_WAITING + 7):
            events.tell(condition(subject=f"Service shop/web-{number}"), f"uid-{number}")
        async with running(events):
            await taken(server, MOST_WAITING)
            assert server.events.of(f"uid-{MOST_WAITING}") == []
    assert [(entry["event"], entry["waiting"]) for entry in logs] == [
        ("Events dropped, too many wait", MOST_WAITING)
    ]


async def test_one_service_cannot_tell_without_end(server: FakeApiServer, events: Events) -> None:
    for number in range(2 * MOST_OF_ONE_OBJECT):
        events.tell(condition(f"message {number}"), "uid-1")
    events.tell(condition(subject="Service shop/other"), "uid-2")
    await taken(server, MOST_OF_ONE_OBJECT + 1)
    assert len(server.events.of("uid-1")) == MOST_OF_ONE_OBJECT
