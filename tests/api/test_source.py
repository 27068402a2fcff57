"""The three watches as one stream of the store's events, and what an outage is to it."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from dataclasses import dataclass, field, replace

import pytest
import structlog

from ipvsproxy.config import WatchNodes
from ipvsproxy.model import Address
from ipvsproxy.objects import Node, ObjectReference, Pod, Service, ServiceCIDR, ServiceName
from ipvsproxy.sources.kubernetes.client import ApiConnection
from ipvsproxy.sources.kubernetes.errors import Unavailable
from ipvsproxy.sources.kubernetes.health import UNREACHABLE_SECONDS, SourceHealth
from ipvsproxy.sources.kubernetes.reflector import ABSENT_SECONDS
from ipvsproxy.sources.kubernetes.source import IDLE_SECONDS, KubernetesSource
from ipvsproxy.store import Event, Gone, Listed, Put, Refused, Store, Unlisted
from ipvsproxy.telemetry import Conditions, ConditionType, Metrics, Watches
from tests.api.fake_server import FakeApiServer, Fault, Streams
from tests.api.support import (
    VirtualTime,
    endpoint_slice,
    following,
    health_in,
    node,
    pod,
    service,
    service_cidr,
)

KINDS = {"Service", "EndpointSlice", "Node", "ServiceCIDR"}


@pytest.fixture
def source(connection: ApiConnection, time: VirtualTime) -> KubernetesSource:
    return KubernetesSource(connection, "node-1", timing=time.timing, health=health_in(time))


async def fill(server: FakeApiServer) -> None:
    await server.put(service("web"))
    await server.put(endpoint_slice("web-1", owner="web", addresses=("10.1.0.1", "10.1.0.2")))
    await server.put(node("node-1"))
    await server.put(node("node-2"))
    await server.put(service_cidr("kubernetes", "10.0.0.0/16"))


def all_listed(seen: list[Event], kinds: Collection[str] = KINDS) -> bool:
    return {event.kind for event in seen if isinstance(event, Listed)} == kinds


async def test_a_store_has_the_whole_picture_when_every_kind_is_listed(
    server: FakeApiServer, source: KubernetesSource
) -> None:
    await fill(server)
    store = Store("node-1")
    async with following(source.events()) as follower:
        for event in await follower.until(all_listed):
            store.apply(event)
    assert store.listed
    assert store.node == Node(name="node-1")
    inputs = store.inputs(ServiceName("default", "web"))
    assert inputs is not None
    assert [str(one.address) for one in inputs.slices[0].endpoints] == ["10.1.0.1", "10.1.0.2"]


async def test_changes_follow_and_a_kind_is_listed_only_once(
    server: FakeApiServer, source: KubernetesSource
) -> None:
    await fill(server)
    async with following(source.events()) as follower:
        await follower.until(all_listed)
        await server.until_watched(4)
        server.objects.compact()
        await server.end_watches()
        await server.until(lambda: len(server.asked("watch", "Node")) >= 3 and server.watching == 4)
        await server.delete("Service", "default", "web")
        assert await follower.take(1) == [Gone(ObjectReference("Service", "default", "web"))]


async def test_events_say_where_the_object_was_read(
    server: FakeApiServer, source: KubernetesSource
) -> None:
    await fill(server)
    async with following(source.events()) as follower:
        seen = await follower.until(all_listed)
    assert {event.origin for event in seen if isinstance(event, Put)} == {server.url}


async def test_an_object_that_is_nonsense_is_refused_and_holds_up_nothing(
    server: FakeApiServer, source: KubernetesSource
) -> None:
    await server.put(service("bad", address="10.0.0.9", port=70000))
    await fill(server)
    async with following(source.events()) as follower:
        seen = await follower.until(all_listed)
        (refused,) = [event for event in seen if isinstance(event, Refused)]
        assert refused.reference == ObjectReference("Service", "default", "bad")
        assert refused.addresses == frozenset({Address.parse("10.0.0.9")})
        assert "spec.ports[0].port" in refused.reason
        assert any(isinstance(event, Put) and isinstance(event.object, Service) for event in seen)
        await server.until_watched(4)
        await server.delete("Service", "default", "bad")
        assert await follower.take(1) == [Gone(refused.reference)]


async def test_a_slice_that_no_longer_names_a_service_counts_as_gone(
    server: FakeApiServer, source: KubernetesSource
) -> None:
    await fill(server)
    async with following(source.events()) as follower:
        await follower.until(all_listed)
        await server.until_watched(4)
        orphan = endpoint_slice("web-1", owner="", addresses=("10.1.0.1",))
        await server.put(orphan)
        reference = ObjectReference("EndpointSlice", "default", "web-1")
        assert await follower.take(1) == [Gone(reference)]


async def test_an_outage_is_no_event_but_two_log_lines(
    server: FakeApiServer, source: KubernetesSource, time: VirtualTime
) -> None:
    await fill(server)
    with structlog.testing.capture_logs() as logs:
        async with following(source.events()) as follower:
            await follower.until(all_listed)
            await server.until_watched(4)
            await server.stop()
            await lost(source, time)
            assert follower.seen == []
            await server.put(service("later"))
            await server.start()
            (put,) = await follower.take(1)
            await server.until_watched(4)
            await server.delete("Service", "default", "later")
            await follower.take(1)
    assert isinstance(put, Put)
    logs = [entry for entry in logs if entry["log_level"] != "debug"]
    assert [entry["event"] for entry in logs] == [
        "Kubernetes API is not available, the kernel's tables stay as they are",
        "Kubernetes API is back",
    ]
    assert logs[0]["error"] == f"cannot reach {server.url}: Connection refused"


async def lost(source: KubernetesSource, time: VirtualTime) -> None:
    """Wait until every watch has failed twice in a row."""
    watches = source.health.watches.by_name.values()
    await time.until(lambda: all(watch.failures >= 2 for watch in watches))


async def test_health_tells_how_each_watch_is_doing(
    server: FakeApiServer, source: KubernetesSource, time: VirtualTime
) -> None:
    await fill(server)
    async with following(source.events()) as follower:
        await follower.until(all_listed)
        await server.until_watched(4)
        time.now = 5000.0
        await server.put(service("another"))
        await follower.take(1)
        working = replace(source.health.watches.by_name["Service"])
        await server.stop()
        await lost(source, time)
        failing = replace(source.health.watches.by_name["Service"])
    assert working.connected
    assert (working.listed_at, working.objects, working.error) == (1000.0, 2, "")
    assert not failing.connected
    assert failing.failing_since is not None
    assert "Connection refused" in failing.error


async def test_a_server_that_is_not_there_yet_is_waited_for(
    server: FakeApiServer, source: KubernetesSource, time: VirtualTime
) -> None:
    await fill(server)
    await server.stop()
    with structlog.testing.capture_logs() as logs:
        async with following(source.events()) as follower:
            await lost(source, time)
            await server.start()
            await follower.until(all_listed)
    waiting = [one for one in logs if one["event"] == "waiting for the Kubernetes API"]
    assert [one["error"] for one in waiting] == [f"cannot reach {server.url}: Connection refused"]


async def test_once_gives_one_complete_list_of_each_kind(
    server: FakeApiServer, source: KubernetesSource
) -> None:
    await fill(server)
    seen = [event async for event in source.once()]
    assert [type(event) for event in seen] == [Put, Listed] * 4
    assert server.watching == 0
    assert all("resourceVersion" not in one.parameters for one in server.requests)


def nodes_told(seen: list[Event]) -> set[str]:
    return {
        event.object.name
        for event in seen
        if isinstance(event, Put) and isinstance(event.object, Node)
    }


def nodes_listed(seen: list[Event]) -> bool:
    return Listed("Nodes") in seen


async def test_other_nodes_are_told_from_when_they_are_needed(
    server: FakeApiServer, source: KubernetesSource
) -> None:
    await fill(server)
    async with following(source.events()) as follower:
        assert nodes_told(await follower.until(all_listed)) == {"node-1"}
        await server.until_watched(4)
        assert source.health.watches.by_name.keys() == KINDS
        source.need_nodes()
        source.need_nodes()
        assert nodes_told(await follower.until(nodes_listed)) == {"node-2"}
        await server.until_watched(5)
        await server.put(node("node-3"))
        assert nodes_told(await follower.take(1)) == {"node-3"}
        await server.delete("Node", "", "node-2")
        assert await follower.take(1) == [Gone(ObjectReference("Node", "", "node-2"))]
        assert source.health.watches.by_name["Nodes"].objects == 1
    assert len(server.asked("list", "Node")) == 2


@dataclass
class Patience:
    """Virtual time in which nothing is given up before it may be."""

    time: VirtualTime
    may: asyncio.Event = field(default_factory=asyncio.Event)
    began: asyncio.Event = field(default_factory=asyncio.Event)

    async def sleep(self, seconds: float) -> None:
        if seconds == IDLE_SECONDS:
            self.began.set()
            await self.may.wait()
        else:
            await self.time.timing.sleep(seconds)


async def test_what_is_needed_no_longer_is_watched_some_minutes_longer_and_then_no_more(
    server: FakeApiServer, connection: ApiConnection, time: VirtualTime
) -> None:
    patience = Patience(time)
    source = KubernetesSource(
        connection,
        "node-1",
        timing=time.timing._replace(sleep=patience.sleep),
        health=health_in(time),
        watch_pods=True,
    )
    store = Store("node-1")
    await fill(server)
    await server.put(pod("web-1", "3"))

    async def told(unlisted: str) -> list[Event]:
        seen = await follower.until(lambda seen: Unlisted(unlisted) in seen)
        for event in seen:
            store.apply(event)
        return seen

    async with following(source.events()) as follower:
        source.need_nodes()
        source.need_pods()
        everything = {*KINDS, "Nodes", "Pods"}
        for event in await follower.until(lambda seen: all_listed(seen, everything)):
            store.apply(event)
        await server.until_watched(6)
        assert (set(store.nodes), store.nodes_listed) == ({"node-1", "node-2"}, True)
        source.need_nodes(needed=False)
        await patience.began.wait()
        source.need_nodes()
        source.need_nodes(needed=False)
        source.need_nodes(needed=False)
        await server.put(node("node-3"))
        assert nodes_told(await follower.take(1)) == {"node-3"}
        patience.may.set()
        await told("Nodes")
        assert (set(store.nodes), store.nodes_listed) == ({"node-1"}, False)
        assert source.health.watches.by_name.keys() == {*KINDS, "Pods"}
        await server.put(node("node-4"))
        await server.put(service("shop"))
        (after,) = await follower.take(1)
        assert isinstance(after, Put)
        assert isinstance(after.object, Service), "nobody watches Nodes"
        source.need_pods(needed=False)
        await told("Pods")
        assert (dict(store.pod_weights.written), store.pod_weights.listed) == ({}, False)
        source.need_nodes()
        seen = await follower.until(nodes_listed)
        assert nodes_told(seen) == {"node-2", "node-3", "node-4"}


async def test_where_all_nodes_are_always_watched_that_nobody_needs_them_ends_nothing(
    server: FakeApiServer, connection: ApiConnection, time: VirtualTime
) -> None:
    source = KubernetesSource(
        connection,
        "node-1",
        timing=time.timing,
        health=health_in(time),
        watch_nodes=WatchNodes.ALWAYS,
    )
    await fill(server)
    source.need_nodes(needed=False)
    async with following(source.events()) as follower:
        await follower.until(lambda seen: all_listed(seen, {*KINDS, "Nodes"}))
        source.need_nodes(needed=False)
        await server.until_watched(5)
        await server.put(node("node-3"))
        assert nodes_told(await follower.until(lambda seen: bool(nodes_told(seen)))) == {"node-3"}


async def test_the_own_node_is_told_by_its_own_watch_only(
    server: FakeApiServer, source: KubernetesSource
) -> None:
    await fill(server)
    source.need_nodes()
    async with following(source.events()) as follower:
        await follower.until(lambda seen: all_listed(seen, {*KINDS, "Nodes"}))
        await server.until_watched(5)
        await server.delete("Node", "", "node-1")
        await server.delete("Node", "", "node-2")
        gone = await follower.take(2)
    assert {str(event) for event in gone} == {
        str(Gone(ObjectReference("Node", "", name))) for name in ("node-1", "node-2")
    }


async def test_the_settings_ask_for_all_nodes_always_or_never(
    server: FakeApiServer, connection: ApiConnection, time: VirtualTime
) -> None:
    await fill(server)
    listed: dict[WatchNodes, list[Event]] = {}
    for watch_nodes in WatchNodes:
        source = KubernetesSource(
            connection,
            "node-1",
            timing=time.timing,
            health=health_in(time),
            watch_nodes=watch_nodes,
        )
        if watch_nodes is WatchNodes.NEVER:
            source.need_nodes()
        listed[watch_nodes] = [event async for event in source.once()]
    assert nodes_told(listed[WatchNodes.ALWAYS]) == {"node-1", "node-2"}
    assert listed[WatchNodes.ALWAYS][-1] == Listed("Nodes")
    assert nodes_told(listed[WatchNodes.NEVER]) == {"node-1"}
    assert nodes_told(listed[WatchNodes.AUTO]) == {"node-1"}


async def test_once_lists_the_other_nodes_that_were_found_to_be_needed_meanwhile(
    server: FakeApiServer, source: KubernetesSource
) -> None:
    await fill(server)
    seen = []
    async for event in source.once():
        seen.append(event)
        if event == Listed("Service"):
            source.need_nodes()
    assert nodes_told(seen) == {"node-1", "node-2"}
    assert seen[-1] == Listed("Nodes")


@pytest.fixture(params=[Streams.REFUSED, Streams.OFFERED])
def listing(request: pytest.FixtureRequest, server: FakeApiServer) -> Streams:
    assert isinstance(request.param, Streams)
    server.streams = request.param
    return request.param


def watching_pods(connection: ApiConnection, time: VirtualTime) -> KubernetesSource:
    health = health_in(time)
    return KubernetesSource(
        connection, "node-1", timing=time.timing, health=health, watch_pods=True
    )


@pytest.mark.parametrize("offers_metadata", [True, False])
@pytest.mark.usefixtures("listing")
async def test_pods_that_say_what_they_weigh_are_told_from_when_they_are_needed(
    server: FakeApiServer, connection: ApiConnection, time: VirtualTime, offers_metadata: bool
) -> None:
    server.offers_metadata = offers_metadata
    source = watching_pods(connection, time)
    await fill(server)
    await server.put(pod("web-1", "3"))
    await server.put(pod("web-2"))
    async with following(source.events()) as follower:
        await follower.until(all_listed)
        await server.until_watched(4)
        assert not [one for one in server.requests if one.kind == "Pod"]
        source.need_pods()
        source.need_pods()
        seen = await follower.until(lambda seen: Listed("Pods") in seen)
        assert [one.object for one in seen if isinstance(one, Put)] == [
            Pod("default", "web-1", "3")
        ]
        await server.until_watched(5)
        await server.put(pod("web-3"))
        await server.put(pod("web-2", "5"))
        (changed,) = await follower.take(1)
        assert isinstance(changed, Put)
        assert changed.object == Pod("default", "web-2", "5")
        await server.put(pod("web-2"))
        assert await follower.take(1) == [Gone(ObjectReference("Pod", "default", "web-2"))]
        await server.delete("Pod", "default", "web-3")
        await server.delete("Pod", "default", "web-1")
        assert await follower.take(1) == [Gone(ObjectReference("Pod", "default", "web-1"))]
        assert source.health.watches.by_name["Pods"].objects == 0
    accepted = {one.accept for one in server.requests if one.kind == "Pod"}
    assert all(one.startswith("application/json;as=PartialObjectMetadata") for one in accepted)
    assert all(one.endswith(",application/json") for one in accepted)
    others = {one.accept for one in server.requests if one.kind != "Pod"}
    assert others == {"application/json"}


async def test_a_pod_that_lost_its_annotation_while_nobody_watched_is_gone(
    server: FakeApiServer, connection: ApiConnection, time: VirtualTime
) -> None:
    source = watching_pods(connection, time)
    await fill(server)
    await server.put(pod("web-1", "3"))
    source.need_pods()
    async with following(source.events()) as follower:
        await follower.until(lambda seen: all_listed(seen, {*KINDS, "Pods"}))
        await server.until_watched(5)
        server.faults.append(Fault(verb="watch", kind="Pod", error_event=410))
        await server.put(pod("web-1"))
        await follower.until(lambda seen: Gone(ObjectReference("Pod", "default", "web-1")) in seen)


async def test_without_the_setting_no_pod_is_asked_for(
    server: FakeApiServer, source: KubernetesSource
) -> None:
    await fill(server)
    source.need_pods()
    seen = [event async for event in source.once()]
    assert Listed("Pods") not in seen
    assert not server.asked("list", "Pod")


async def test_once_lists_the_pods_last_and_slices_name_theirs(
    server: FakeApiServer, connection: ApiConnection, time: VirtualTime
) -> None:
    source = watching_pods(connection, time)
    await fill(server)
    await server.put(pod("web-1", "3"))
    written = endpoint_slice("web-2", owner="web", addresses=("10.1.0.3",))
    target = {"kind": "Pod", "namespace": "default", "name": "web-1"}
    await server.put({**written, "endpoints": [{"addresses": ["10.1.0.3"], "targetRef": target}]})
    source.need_pods()
    store = Store("node-1")
    seen = [event async for event in source.once()]
    for event in seen:
        store.apply(event)
    assert seen[-1] == Listed("Pods")
    assert store.pod_weights.written == {("default", "web-1"): "3"}
    inputs = store.inputs(ServiceName("default", "web"))
    assert inputs is not None
    assert [one.pod for part in inputs.slices for one in part.endpoints] == [None, None, "web-1"]


async def test_a_missing_right_to_pods_is_told_and_holds_up_nothing_else(
    server: FakeApiServer, connection: ApiConnection, time: VirtualTime
) -> None:
    source = watching_pods(connection, time)
    await fill(server)
    server.faults.append(Fault(kind="Pod", status=403, body="forbidden", keep=True))
    source.need_pods()
    async with following(source.events()) as follower:
        await follower.until(all_listed)
        await time.until(lambda: source.health.watches.by_name["Pods"].failures > 2)
        error = source.health.watches.by_name["Pods"].error
    assert 'resources: ["pods"], verbs: ["list", "watch"]' in error


async def test_once_fails_with_what_went_wrong(
    server: FakeApiServer, source: KubernetesSource
) -> None:
    server.faults.append(Fault(kind="EndpointSlice", status=500))
    with pytest.raises(Unavailable):
        _ = [event async for event in source.once()]


async def test_a_fault_of_ours_ends_the_stream_instead_of_being_swallowed(
    server: FakeApiServer, source: KubernetesSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    await fill(server)
    monkeypatch.setattr(source.health, "listed", broken)
    with pytest.raises(ZeroDivisionError):
        async for _ in source.events():
            pass


# -------------------------------------------------------------------------- ServiceCIDRs


def networks_told(seen: list[Event]) -> set[str]:
    return {
        str(network)
        for event in seen
        if isinstance(event, Put) and isinstance(event.object, ServiceCIDR)
        for network in event.object.networks
    }


async def test_service_cidrs_are_told_as_they_come_and_go(
    server: FakeApiServer, source: KubernetesSource
) -> None:
    await fill(server)
    async with following(source.events()) as follower:
        assert networks_told(await follower.until(all_listed)) == {"10.0.0.0/16"}
        await server.until_watched(4)
        await server.put(service_cidr("more", "10.7.0.0/24"))
        assert networks_told(await follower.take(1)) == {"10.7.0.0/24"}
        await server.delete("ServiceCIDR", "", "more")
        assert await follower.take(1) == [Gone(ObjectReference("ServiceCIDR", "", "more"))]


async def test_a_server_before_1_33_has_none_and_that_is_no_failure(
    server: FakeApiServer, source: KubernetesSource, time: VirtualTime
) -> None:
    """It is asked again later: it may be upgraded."""
    await fill(server)
    cidrs = server.objects.collections.pop("ServiceCIDR")
    with structlog.testing.capture_logs() as logs:
        async with following(source.events()) as follower:
            seen = await follower.until(all_listed)
            assert networks_told(seen) == set()
            assert source.health.watches.by_name.keys() == KINDS - {"ServiceCIDR"}
            server.objects.collections["ServiceCIDR"] = cidrs
            await time.until(lambda: ABSENT_SECONDS in time.slept)
            assert networks_told(await follower.take(1)) == {"10.0.0.0/16"}
    assert [entry for entry in logs if entry["log_level"] != "debug"] == []


async def test_where_only_the_beta_is_there_it_is_used(
    server: FakeApiServer, source: KubernetesSource
) -> None:
    await fill(server)
    cidrs = server.objects.collections["ServiceCIDR"]
    cidrs.kind = cidrs.kind._replace(api_version="networking.k8s.io/v1beta1")
    assert networks_told([event async for event in source.once()]) == {"10.0.0.0/16"}
    async with following(source.events()) as follower:
        assert networks_told(await follower.until(all_listed)) == {"10.0.0.0/16"}
        await server.until_watched(4)
        # A newer server has the final version and no beta.
        cidrs.kind = cidrs.kind._replace(api_version="networking.k8s.io/v1")
        await server.put(service_cidr("more", "10.7.0.0/24"))
        await follower.take(1)
        await server.end_watches()
        await server.delete("ServiceCIDR", "", "more")
        assert await follower.take(1) == [Gone(ObjectReference("ServiceCIDR", "", "more"))]


async def test_a_role_without_the_rule_for_service_cidrs_holds_up_nothing(
    server: FakeApiServer, source: KubernetesSource, time: VirtualTime
) -> None:
    await fill(server)
    server.faults.append(Fault(kind="ServiceCIDR", status=403, keep=True))
    with structlog.testing.capture_logs() as logs:
        async with following(source.events()) as follower:
            seen = await follower.until(all_listed)
            assert networks_told(seen) == set()
            assert [event.kind for event in seen if isinstance(event, Listed)].count("Node") == 1
            began = time.now
            await time.until(lambda: time.now > began + 60)
    (warning,) = [entry for entry in logs if entry["log_level"] == "warning"]
    assert 'apiGroups: ["networking.k8s.io"], resources: ["servicecidrs"]' in warning["error"]


async def test_service_cidrs_that_were_known_are_not_lost_by_a_404(
    server: FakeApiServer, source: KubernetesSource, time: VirtualTime
) -> None:
    await fill(server)
    async with following(source.events()) as follower:
        await follower.until(all_listed)
        await server.until_watched(4)
        server.faults.append(Fault(kind="ServiceCIDR", status=404, keep=True))
        await server.end_watches()
        health = source.health.watches.of("ServiceCIDR")
        await time.until(lambda: health.failures >= 2)
        assert follower.seen == []
        server.faults.clear()
        await server.until_watched(4)
    assert health.errors["NotFound"] >= 2


# ------------------------------------------------------- what becomes known of an outage


async def test_an_outage_is_a_condition_once_it_lasts_and_shows_in_metrics(
    server: FakeApiServer, connection: ApiConnection, time: VirtualTime
) -> None:
    conditions, watches = Conditions(), Watches()
    metrics = Metrics(conditions, version="1", watches=watches)
    health = SourceHealth(watches=watches, conditions=conditions, wall_clock=time.timing.now)
    source = KubernetesSource(connection, "node-1", timing=time.timing, health=health)

    def sample(name: str, **labels: str) -> float | None:
        return metrics.registry.get_sample_value(f"ipvsproxy_watch_{name}", labels)

    await fill(server)
    async with following(source.events()) as follower:
        await follower.until(all_listed)
        await server.until_watched(4)
        await server.put(service("another"))
        await follower.take(1)
        assert sample("connected", watch="Service") == 1
        assert sample("objects", watch="Service") == 2
        assert sample("heard_timestamp_seconds", watch="Service") == time.now
        await server.stop()
        await time.until(lambda: len(conditions) > 0)
        (condition,) = conditions
        assert condition.subject == "Source Kubernetes API"
        assert condition.type is ConditionType.API_UNREACHABLE
        assert f"cannot reach {server.url}: Connection refused" in condition.message
        assert time.now - condition.since >= UNREACHABLE_SECONDS
        assert conditions.take_raised() == (), "it was logged already"
        await time.until(lambda: "Service, " in next(iter(conditions)).message)
        assert sample("connected", watch="Service") == 0
        assert (sample("errors_total", watch="Service", reason="Unreachable") or 0) > 1
        await server.start()
        await server.until_watched(4)
        await server.put(service("third"))
        await follower.take(1)
    assert list(conditions) == []
    assert sample("lists_total", watch="Service") == 1
