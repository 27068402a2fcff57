"""What the benchmark of the whole agent stands on: the cluster that changes, and its API source."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import pytest
from aiohttp import ClientResponse, ClientSession, web
from aiohttp.test_utils import TestServer

from bench.agent import extent
from bench.cluster import FIRST_VERSION, GIANT_ENDPOINTS, SLICE, Cluster, Frontend, Written
from bench.processes import Lag
from bench.source import Source
from bench.workload import FIRST_SERVICES, NODE_ADDRESS, TARGET_PORT, Size, service_address
from ipvsproxy.objects import Service, read_endpoint_slice, read_service

SIZE = Size(100, 3)
SLICES = "/apis/discovery.k8s.io/v1/endpointslices"


def backends(cluster: Cluster, index: int) -> frozenset[tuple[str, int]]:
    return cluster.expected()[Frontend(service_address(index), 80)]


class TestCluster:
    def test_what_it_expects_is_what_its_objects_ask_for(self) -> None:
        cluster = Cluster(SIZE)
        kinds: dict[str, list[Written]] = {"services": [], "endpointslices": [], "nodes": []}
        for one in cluster.objects():
            kinds[one.kind].append(one)
        asked: dict[Frontend, set[str]] = {}
        services = {one.name: one for one in map(_service, kinds["services"])}
        for part in (read_endpoint_slice(bytes(one.body)) for one in kinds["endpointslices"]):
            assert part is not None
            pods = {str(one.address) for one in part.endpoints}
            for port in services[part.service].ports:
                address = str(services[part.service].cluster_ips[0])
                asked[Frontend(address, port.port, int(port.protocol))] = pods
                if port.node_port:
                    asked[Frontend(NODE_ADDRESS, port.node_port)] = pods
        expected = cluster.expected()
        assert asked == {key: {address for address, _ in one} for key, one in expected.items()}
        assert len(expected) == 100 + 10 + 3
        assert len(cluster.addresses()) == 100 + len(FIRST_SERVICES)

    def test_a_replaced_endpoint_is_told_by_the_slice_that_has_it(self) -> None:
        cluster = Cluster(SIZE)
        before = backends(cluster, 7)
        change = cluster.replace(7)
        assert backends(cluster, 7) == before - {(change.old, TARGET_PORT)} | {
            (change.new, TARGET_PORT)
        }
        assert change.written.version == FIRST_VERSION + 1
        part = read_endpoint_slice(bytes(change.written.body))
        assert part is not None
        assert change.new in {str(one.address) for one in part.endpoints}

    def test_changes_go_all_over_the_cluster_and_pass_over_what_is_under_way(self) -> None:
        cluster = Cluster(SIZE)
        assert len({cluster.choose() for _ in range(100)}) == 100
        assert all(cluster.choose(range(99)) == 99 for _ in range(3))

    def test_a_large_service_has_many_slices_and_its_change_is_one_of_them(self) -> None:
        cluster = Cluster(SIZE)
        index, written = cluster.add(GIANT_ENDPOINTS)
        assert [one.kind for one in written].count(SLICE) == GIANT_ENDPOINTS // 100
        change = cluster.replace(index)
        assert len(json.loads(bytes(change.written.body))["endpoints"]) == 100
        gone = cluster.delete(index)
        assert all(one.deleted for one in gone)
        assert cluster.expected() == Cluster(SIZE).expected()


def test_only_the_size_that_most_is_compared_at_is_measured_for_long() -> None:
    assert extent(Size(5000, 5), full=True).churns == (1, 10, 100, 200, 1000)
    assert extent(Size(20000, 5), full=True).churns == (10, 200)
    assert extent(Size(1000, 5), full=False).churn_seconds < 10
    assert not extent(Size(5000, 5), full=False).churns


def test_turns_of_the_loop_are_counted_since_an_earlier_reading() -> None:
    infinite = float("inf")
    before = Lag(0.1, {0.01: 5, 0.02: 6, infinite: 8})
    after = Lag(0.1, {0.01: 100, 0.02: 106, infinite: 109})
    assert after.longer_than(0.02, before) == 1
    assert after.quantile_bound(0.9, before) == 0.01
    assert after.quantile_bound(1.0, before) == infinite


@asynccontextmanager
async def serving(source: Source) -> AsyncIterator[ClientSession]:
    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        return await source.handle(request)

    application = web.Application()
    application.router.add_route("*", "/{path:.*}", handle)
    async with TestServer(application) as server, ClientSession(server.make_url("/")) as session:
        yield session


async def next_event(response: ClientResponse) -> tuple[str, str]:
    """Give the type of the next event, and the version of its object."""
    line = await asyncio.wait_for(response.content.readline(), 10)
    event = msgspec.json.decode(line)
    return event["type"], event["object"]["metadata"]["resourceVersion"]


class TestSource:
    async def test_a_list_has_all_objects_and_the_version_a_watch_goes_on_from(self) -> None:
        cluster = Cluster(SIZE)
        async with serving(Source(cluster)) as session, session.get(SLICES) as response:
            found = await response.json()
        assert found["kind"] == "EndpointSliceList"
        assert len(found["items"]) == 100 + len(FIRST_SERVICES)
        assert found["metadata"]["resourceVersion"] == str(FIRST_VERSION)

    async def test_a_streamed_list_ends_with_a_bookmark_and_changes_follow(self) -> None:
        cluster = Cluster(SIZE)
        source = Source(cluster)
        query = {"watch": "1", "sendInitialEvents": "true"}
        async with serving(source) as session, session.get(SLICES, params=query) as response:
            for _ in range(100 + len(FIRST_SERVICES)):
                assert (await next_event(response))[0] == "ADDED"
            assert await next_event(response) == ("BOOKMARK", str(FIRST_VERSION))
            await source.publish([cluster.replace(3).written])
            assert await next_event(response) == ("MODIFIED", str(FIRST_VERSION + 1))
            await source.publish(cluster.delete(3))
            assert await next_event(response) == ("DELETED", str(FIRST_VERSION + 2))

    async def test_a_watch_begins_where_it_is_told_to(self) -> None:
        cluster = Cluster(SIZE)
        source = Source(cluster)
        await source.publish([cluster.replace(1).written])
        await source.publish([cluster.replace(2).written])
        query = {"watch": "1", "resourceVersion": str(FIRST_VERSION + 1)}
        async with serving(source) as session, session.get(SLICES, params=query) as response:
            assert await next_event(response) == ("MODIFIED", str(FIRST_VERSION + 2))

    @pytest.mark.parametrize(
        ("selector", "count"), [("metadata.name=node-a", 1), ("metadata.name!=node-a", 0)]
    )
    async def test_there_is_one_node(self, selector: str, count: int) -> None:
        query = {"fieldSelector": selector}
        async with (
            serving(Source(Cluster(SIZE))) as session,
            session.get("/api/v1/nodes", params=query) as response,
        ):
            assert len((await response.json())["items"]) == count


def _service(written: Written) -> Service:
    return read_service(bytes(written.body))
