"""What each kind of check finds, by pods that serve their clients all the while."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest

from testbed import namespaces, witness
from testbed.backend import PORT, Web
from testbed.client import Protocol, distribution, failures
from testbed.cluster import target
from testbed.manifests import SERVICE_PORT
from tests.e2e.test_health_checks import DETECTED_SECONDS, OPTIONS, SLACK_SECONDS, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager

    from testbed.cluster import Cluster
    from testbed.layout import Pod
    from testbed.manifests import Service

    Own = Callable[..., list[Service]]

HOST = "shop.example"
RIGHT = Web(200, host=HOST)
ASKED = f"{OPTIONS}, status=200-299, host={HOST}"


@contextlib.contextmanager
def answering(cluster: Cluster, pages: dict[str, tuple[Web, ...]]) -> Iterator[None]:
    """Have pods answer HTTP so, by name."""
    with contextlib.ExitStack() as stack:
        for name, some in pages.items():
            stack.enter_context(cluster.traffic.answering(name, *some))
        yield


def found(
    cluster: Cluster,
    service: Service,
    pods: tuple[Pod, ...],
    *,
    faults: Sequence[AbstractContextManager[None]],
    failing: tuple[Pod, ...],
) -> None:
    """Have pods fail, see them leave every node's rotation in time, and come back."""
    well = tuple(pod for pod in pods if pod not in failing)
    with contextlib.ExitStack() as stack:
        for fault in faults:
            stack.enter_context(fault)
        assert wait_for(cluster, service, well) <= DETECTED_SECONDS + SLACK_SECONDS
        protocol = Protocol[service.protocols[0]]
        where = target(service, protocol=protocol)
        replies = cluster.traffic.ask(cluster.layout.pod("c1"), where, 20)
        assert not failures(replies)
        assert set(distribution(replies)) <= {pod.name for pod in well}
    assert wait_for(cluster, service, pods) <= DETECTED_SECONDS + SLACK_SECONDS


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Web(500, host=HOST), Web(200, host=HOST, seconds=2)),
        (Web(302, host=HOST), Web(200, host="other.example")),
        (Web(0), Web(199, host=HOST)),
    ],
    ids=["error and slow", "redirect and another host", "hangs up and below the range"],
)
def test_http_goes_by_status_time_and_host(
    cluster: Cluster, own: Own, old: tuple[Pod, ...], one: Web, other: Web
) -> None:
    with answering(cluster, {pod.name: (RIGHT,) for pod in old}):
        [made] = own("rr")
        service = made.checked("http:/healthz", ASKED)
        cluster.apply(service)
        faults = (answering(cluster, {old[0].name: (one,), old[1].name: (other,)}),)
        found(cluster, service, old, faults=faults, failing=old[:2])


@contextlib.contextmanager
def unheard(cluster: Cluster, pod: Pod) -> Iterator[None]:
    """Lose what a pod says to the nodes, and nothing else: whoever connects from there hangs."""
    own = cluster.layout.node(pod.node)
    others = (node.ipv4 for node in cluster.layout.nodes if node != own)
    routes = [f"blackhole {address}/32" for address in (own.bridge_addresses[0], *others)]
    namespaces.batch((f"route add {one}" for one in routes), namespace=pod.namespace)
    try:
        yield
    finally:
        namespaces.batch((f"route del {one}" for one in routes), namespace=pod.namespace)


def test_tcp_finds_a_pod_that_does_not_answer_at_all(
    cluster: Cluster, own: Own, old: tuple[Pod, ...]
) -> None:
    [made] = own("rr")
    service = made.checked("tcp", OPTIONS)
    cluster.apply(service)
    faults = (unheard(cluster, old[0]),)
    found(cluster, service, old, faults=faults, failing=old[:1])


@contextlib.contextmanager
def closed(cluster: Cluster, pod: Pod) -> Iterator[None]:
    """Have nothing listen in a pod."""
    cluster.traffic.refuse(pod.name)
    try:
        yield
    finally:
        cluster.traffic.listen(pod.name)


def test_udp_goes_by_any_answer_to_the_datagram_that_is_asked_for(
    cluster: Cluster, own: Own, old: tuple[Pod, ...]
) -> None:
    """A pod that does not answer it, and one where nobody listens; they are removed, not at 0."""
    [made] = own("rr", protocol="UDP")
    service = made.checked("udp", f"{OPTIONS}, payload=PING")
    cluster.apply(service)
    silent, gone = old[:2]
    key = "udp", f"{service.address(4)}:{SERVICE_PORT}"

    @contextlib.contextmanager
    def removed() -> Iterator[None]:
        yield
        for node in cluster.layout.nodes:
            there = witness.table(node.namespace)[key].weights
            assert there == {f"{pod.ipv4}:{PORT}": 1 for pod in old[2:]}

    faults = (removed(), cluster.traffic.deaf(silent.name, b"PING"), closed(cluster, gone))
    found(cluster, service, old, faults=faults, failing=(silent, gone))
    assert all(cluster.traffic.seen(silent.name)[node.ipv4] for node in cluster.layout.nodes[1:])
