"""What the source relies on, shown on the fake server and, where there is one, on a real one.

The same tests run on both, so that the fake does not only repeat our own assumptions.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple, Protocol

import aiohttp
import msgspec
import pytest

from ipvsproxy.objects import EndpointSlice, Service
from ipvsproxy.sources.kubernetes.access import Access, Kubeconfig, Server
from ipvsproxy.sources.kubernetes.announcement import announce
from ipvsproxy.sources.kubernetes.client import ApiConnection, connect
from ipvsproxy.sources.kubernetes.errors import BadRequest, Conflict, Expired, Rejected
from ipvsproxy.sources.kubernetes.messages import Head, read_event, read_head
from ipvsproxy.sources.kubernetes.source import KubernetesSource
from ipvsproxy.store import Event, Gone, Listed, Put
from ipvsproxy.telemetry import Condition, ConditionType
from tests.api import real_server
from tests.api.fake_objects import KINDS, Object
from tests.api.fake_server import FakeApiServer, Streams
from tests.api.real_server import RealServer
from tests.api.support import VirtualTime, endpoint_slice, following, health_in, service

SERVICES = "/api/v1/services"


class Cluster(Protocol):
    """A server that objects can be written to."""

    @property
    def access(self) -> Access: ...

    async def put(self, written: Object) -> object: ...

    async def delete(self, kind: str, namespace: str, name: str) -> None: ...


class FakeCluster(NamedTuple):
    server: FakeApiServer

    @property
    def access(self) -> Access:
        return Server((self.server.url,))

    async def put(self, written: Object) -> object:
        return await self.server.put(written)

    async def delete(self, kind: str, namespace: str, name: str) -> None:
        await self.server.delete(kind, namespace, name)


class RealCluster(NamedTuple):
    server: RealServer
    http: aiohttp.ClientSession

    @property
    def access(self) -> Access:
        return Kubeconfig(self.server.kubeconfig)

    async def put(self, written: Object) -> object:
        metadata = written["metadata"]
        assert isinstance(metadata, dict)
        path = self._path(str(written["kind"]), str(metadata["namespace"]), str(metadata["name"]))
        async with self.http.patch(
            path,
            params={"fieldManager": "test", "force": "true"},
            data=json.dumps(written),
            headers={"Content-Type": "application/apply-patch+yaml"},
        ) as answer:
            assert answer.status in (200, 201), await answer.text()
            return await answer.json()

    async def delete(self, kind: str, namespace: str, name: str) -> None:
        async with self.http.delete(self._path(kind, namespace, name)) as answer:
            assert answer.status == 200, await answer.text()

    def _path(self, kind: str, namespace: str, name: str) -> str:
        (found,) = [one for one in KINDS if one.name == kind]
        return f"{self.server.url}{found.prefix}/namespaces/{namespace}/{found.plural}/{name}"


@pytest.fixture(params=["fake", pytest.param("real", marks=real_server.marks())])
async def cluster(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Cluster]:
    if request.param == "fake":
        async with FakeApiServer() as server:
            server.streams = Streams.OFFERED
            yield FakeCluster(server)
        return
    with RealServer(tmp_path) as real:
        async with real.session() as http:
            yield RealCluster(real, http)


@pytest.fixture
async def reached(cluster: Cluster) -> AsyncIterator[ApiConnection]:
    connection = await connect(cluster.access)
    yield connection
    await connection.close()


@pytest.fixture
def source(reached: ApiConnection) -> KubernetesSource:
    time = VirtualTime()
    return KubernetesSource(reached, "node-1", timing=time.timing, health=health_in(time))


def about(seen: list[Event], name: str) -> list[Event]:
    """The events about one object; a real server has some of its own."""
    return [
        event
        for event in seen
        if (isinstance(event, Gone) and event.reference.name == name)
        or (isinstance(event, Put) and _name(event) == name)
    ]


def _name(event: Put) -> str:
    match event.object:
        case Service(name=name):
            return name.name
        case found:
            return found.name


async def test_objects_reach_the_store_as_they_are_and_as_they_change(
    cluster: Cluster, source: KubernetesSource
) -> None:
    await cluster.put(service("web", address="10.0.5.1"))
    await cluster.put(endpoint_slice("web-1", owner="web", addresses=("10.1.0.1",)))
    async with following(source.events()) as follower:
        seen = await follower.until(
            lambda events: sum(isinstance(event, Listed) for event in events) == 4
        )
        (listed,) = about(seen, "web")
        assert isinstance(listed, Put)
        assert isinstance(listed.object, Service)
        assert [str(address) for address in listed.object.cluster_ips] == ["10.0.5.1"]
        await cluster.put(endpoint_slice("web-1", owner="web", addresses=("10.1.0.1", "10.1.0.2")))
        seen = await follower.until(lambda events: bool(about(events, "web-1")))
        (changed,) = about(seen, "web-1")
        assert isinstance(changed, Put)
        assert isinstance(changed.object, EndpointSlice)
        assert len(changed.object.endpoints) == 2
        await cluster.delete("EndpointSlice", "default", "web-1")
        seen = await follower.until(lambda events: bool(about(events, "web-1")))
        assert isinstance(about(seen, "web-1")[0], Gone)


async def test_a_service_that_leaves_the_selector_is_gone(
    cluster: Cluster, source: KubernetesSource
) -> None:
    await cluster.put(service("web", address="10.0.5.1"))
    async with following(source.events()) as follower:
        await follower.until(lambda events: bool(about(events, "web")))
        labels = {"service.kubernetes.io/service-proxy-name": "another"}
        await cluster.put(service("web", address="10.0.5.1", labels=labels))
        seen = await follower.until(lambda events: bool(about(events, "web")))
        assert isinstance(about(seen, "web")[0], Gone)


async def test_a_headless_service_is_not_sent(cluster: Cluster, source: KubernetesSource) -> None:
    await cluster.put(service("headless", address="None"))
    await cluster.put(service("web", address="10.0.5.1"))
    seen = [event async for event in source.once()]
    assert len(about(seen, "web")) == 1
    assert about(seen, "headless") == []


async def test_a_list_comes_in_pages(cluster: Cluster, reached: ApiConnection) -> None:
    for number in range(1, 6):
        await cluster.put(service(f"s{number}", address=f"10.0.5.{number}"))
    found: list[str] = []
    parameters = {"limit": "2"}
    for _ in range(10):
        page = json.loads(await reached.get(SERVICES, parameters))
        assert len(page["items"]) <= 2
        found += [item["metadata"]["name"] for item in page["items"]]
        if not page["metadata"].get("continue"):
            break
        parameters["continue"] = page["metadata"]["continue"]
    assert [name for name in found if name != "kubernetes"] == ["s1", "s2", "s3", "s4", "s5"]


async def test_a_list_comes_as_a_stream_with_an_end_or_is_refused_as_such(
    cluster: Cluster, reached: ApiConnection
) -> None:
    """Offered by default from 1.34 on (KEP-3157); the fake one does."""
    await cluster.put(service("web", address="10.0.5.1"))
    parameters = {
        "watch": "1",
        "sendInitialEvents": "true",
        "resourceVersionMatch": "NotOlderThan",
        "allowWatchBookmarks": "true",
        "timeoutSeconds": "1",
    }
    heads: list[Head] = []
    try:
        async with reached.stream(SERVICES, parameters, silence=20) as lines:
            heads += [read_head(read_event(line).object) async for line in lines]
    except Rejected as error:
        assert "sendInitialEvents" in str(error)  # noqa: PT017 - of an older server
    else:
        named = [head.name for head in heads]
        ends = [number for number, head in enumerate(heads) if head.ends_initial_events]
        assert len(ends) == 1
        assert named.index("web") < ends[0]


async def test_items_of_a_list_have_names_and_versions(
    cluster: Cluster, reached: ApiConnection
) -> None:
    await cluster.put(service("web", address="10.0.5.1"))
    page = json.loads(await reached.get(SERVICES, {"resourceVersion": "0"}))
    assert page["metadata"]["resourceVersion"]
    assert all(item["metadata"]["resourceVersion"] for item in page["items"])


async def test_a_version_from_the_future_is_answered_so_that_it_is_listed_again(
    cluster: Cluster, reached: ApiConnection
) -> None:
    await cluster.put(service("web", address="10.0.5.1"))
    with pytest.raises(Expired, match="Too large resource version"):
        await reached.get(SERVICES, {"resourceVersion": "999999999"})


async def test_a_field_that_is_not_known_is_a_bad_request(reached: ApiConnection) -> None:
    with pytest.raises(BadRequest, match="field label not supported"):
        await reached.get(SERVICES, {"fieldSelector": "spec.nothing=1"})


async def test_a_watch_ends_in_good_order_at_its_time_limit(
    cluster: Cluster, reached: ApiConnection
) -> None:
    await cluster.put(service("web", address="10.0.5.1"))
    parameters = {"watch": "1", "resourceVersion": "0", "timeoutSeconds": "1"}
    async with reached.stream(SERVICES, parameters, silence=20) as lines:
        events = [json.loads(line) async for line in lines]
    assert {event["type"] for event in events} == {"ADDED"}


async def test_an_event_is_taken_once_and_only_if_it_is_sound(reached: ApiConnection) -> None:
    condition = Condition(
        subject="Service default/web",
        type=ConditionType.CONTESTED_ADDRESS,
        message="ä" * 2000,
        since=0.0,
    )
    for subject in (condition, msgspec.structs.replace(condition, subject="Node")):
        found = announce(subject, uid="uid-1", node_name="node-1", now=1_700_000_000.0)
        assert found is not None
        path = f"/apis/events.k8s.io/v1/namespaces/{found.namespace}/events"
        await reached.create(path, found.body)
        with pytest.raises(Conflict):
            await reached.create(path, found.body)
        with pytest.raises(Rejected, match="eventTime"):
            await reached.create(path, {**found.body, "eventTime": None})
