"""The testbed itself, with tables programmed by hand: what it reports, the kernel did."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from testbed import namespaces, witness
from testbed.client import Protocol, Target, answers, distribution, failures
from testbed.cluster import Cluster
from testbed.layout import lay_out
from testbed.manifests import Service, documents, endpoints_of

if TYPE_CHECKING:
    from collections.abc import Iterator

VIRTUAL = ("10.96.9.9", "fd00:10:96::909")
OPTIONS = ("-t", "-u", "--sctp-service")


@pytest.fixture(scope="module")
def hand_made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two nodes; the first balances by rr over two pods, without any agent."""
    layout = lay_out({"node1": ("a", "c"), "node2": ("b",)}, prefix="hand-")
    with Cluster(layout, tmp_path_factory.mktemp("hand")) as cluster:
        node = layout.node("node1").namespace
        bound = [f"addr add {address} dev kube-ipvs0" for address in VIRTUAL]
        namespaces.batch(["link add kube-ipvs0 type dummy", *bound], namespace=node)
        namespaces.write_sysctls(node, {"ipv4/vs/conntrack": "1"})
        lines = []
        for family, shape in enumerate(("{}", "[{}]")):
            virtual = f"{shape.format(VIRTUAL[family])}:80"
            for option in OPTIONS:
                lines.append(f"-A {option} {virtual} -s rr\n")
                for pod in ("a", "b"):
                    real = f"{shape.format(layout.pod(pod).addresses[family])}:8080"
                    lines.append(f"-a {option} {virtual} -r {real} -m -w 1\n")
        namespaces.run_inside(node, "ipvsadm", "-R", text="".join(lines))
        yield cluster


@pytest.mark.parametrize("protocol", Protocol, ids=lambda protocol: protocol.name)
@pytest.mark.parametrize("address", VIRTUAL, ids=("IPv4", "IPv6"))
def test_a_pod_reaches_both_backends_and_they_see_its_address(
    hand_made: Cluster, protocol: Protocol, address: str
) -> None:
    client = hand_made.layout.pod("c")
    replies = hand_made.traffic.ask(client, Target(address, protocol=protocol), 10)
    assert distribution(replies) == {"a": 5, "b": 5}
    assert {answer.source for answer in answers(replies)} <= set(client.addresses)


def test_a_refusing_pod_is_counted_as_failures_and_keeps_its_open_connections(
    hand_made: Cluster,
) -> None:
    traffic, client, target = hand_made.traffic, hand_made.layout.pod("c"), Target(VIRTUAL[0])
    with traffic.hold(client, target, 2) as held:
        traffic.refuse("a")
        replies = traffic.ask(client, target, 10)
        traffic.listen("a")
        assert distribution(replies) == {"b": 5}
        assert [failure.reason for failure in failures(replies)] == ["Connection refused"] * 5
        assert distribution(one.talk() for one in held) == {"a": 1, "b": 1}


def test_load_runs_until_its_block_ends(hand_made: Cluster) -> None:
    traffic, client = hand_made.traffic, hand_made.layout.pod("c")
    with traffic.load(client, Target(VIRTUAL[0])) as load:
        traffic.ask(client, Target(VIRTUAL[1]), 50)
    counted = distribution(load.replies)
    assert not failures(load.replies)
    assert abs(counted["a"] - counted["b"]) <= 1
    assert counted.total() > 0


def test_ipvsadm_is_read_back(hand_made: Cluster) -> None:
    table = witness.table(hand_made.layout.node("node1").namespace)
    assert len(table) == len(OPTIONS) * len(VIRTUAL)
    assert table["sctp", "[fd00:10:96::909]:80"].weights == {
        "[fd00:10:244:1::2]:8080": 1,
        "[fd00:10:244:2::2]:8080": 1,
    }
    assert witness.table(hand_made.layout.node("node2").namespace) == {}


def test_a_manifest_is_replaced_whole(hand_made: Cluster) -> None:
    service = Service("replaced", 5, endpoints_of(hand_made.layout.pods), "rr")
    path = hand_made.folder.publish(service)
    assert hand_made.folder.publish(service.scheduled_by("sh")) == path
    assert "ipvsproxy.io/scheduler: sh" in path.read_text()
    assert [document["kind"] for document in documents(service)] == [
        "Service",
        "EndpointSlice",
        "EndpointSlice",
    ]
    assert list(hand_made.folder.path.glob(".*")) == []
    hand_made.folder.withdraw(service)
