"""Changes while connections come and stay: none is lost."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from testbed.client import Answer, Protocol, Reply, distribution, failures
from testbed.cluster import target
from testbed.manifests import endpoints_of
from testbed.scenario import rolling_update

if TYPE_CHECKING:
    from collections.abc import Callable

    from testbed.cluster import Cluster
    from testbed.layout import Pod
    from testbed.manifests import Service
    from testbed.traffic import Held

HELD = 4
LEAST_REPLIES = 20
"""Fewer under a load say nothing: it ran beside too little of what happened."""


def still_there(held: list[Held]) -> bool:
    """Talk on long connections; each must still be answered, by the pod that it began with."""
    replies = [one.talk() for one in held]
    assert not failures(replies)
    return [named(reply) for reply in replies] == [named(one.first) for one in held]


def named(reply: Reply) -> str:
    """Return who answered."""
    assert isinstance(reply, Answer)
    return reply.pod


def test_a_scheduler_changes_under_load(
    cluster: Cluster, own: Callable[..., list[Service]]
) -> None:
    client, [service] = cluster.layout.pod("c1"), own("rr")
    traffic, where = cluster.traffic, target(service)
    with traffic.hold(client, where, HELD) as held, traffic.load(client, where) as load:
        for scheduler in ("sh", "lc", "mh", "dh", "wrr", "fo", "rr"):
            cluster.apply(service.scheduled_by(scheduler))
        assert still_there(held)
    assert not failures(load.replies)
    assert len(load.replies) >= LEAST_REPLIES


def test_the_new_scheduler_decides_at_once(
    cluster: Cluster, own: Callable[..., list[Service]]
) -> None:
    client, [service] = cluster.layout.pod("c1"), own("rr")
    assert len(distribution(cluster.traffic.ask(client, target(service), 40))) == len(
        service.endpoints
    )
    cluster.apply(service.scheduled_by("sh"))
    assert len(distribution(cluster.traffic.ask(client, target(service), 40))) == 1


def test_all_endpoints_are_replaced_under_load(
    cluster: Cluster,
    own: Callable[..., list[Service]],
    old: tuple[Pod, ...],
    new: tuple[Pod, ...],
) -> None:
    client, traffic = cluster.layout.pod("c1"), cluster.traffic
    rolled = own("rr", "lc", "sh", "dh", "mh")
    with contextlib.ExitStack() as stack:
        held = [
            one
            for service in rolled
            for one in stack.enter_context(traffic.hold(client, target(service), HELD))
        ]
        loads = [
            stack.enter_context(traffic.load(client, target(service), workers=1))
            for service in rolled
        ]
        for _ in rolling_update(cluster, rolled, old=old, new=new):
            pass
        assert still_there(held)
        counted = {
            service.scheduler: distribution(traffic.ask(client, target(service), 8))
            for service in rolled
        }
    for service, load in zip(rolled, loads, strict=True):
        assert not failures(load.replies), service.scheduler
        assert len(load.replies) >= LEAST_REPLIES, service.scheduler
        assert set(counted[service.scheduler]) <= {pod.name for pod in new}
        assert counted[service.scheduler].total() == 8


def test_udp_follows_its_endpoints(
    cluster: Cluster, own: Callable[..., list[Service]], new: tuple[Pod, ...]
) -> None:
    client, [service] = cluster.layout.pod("c1"), own("rr", protocol="UDP")
    where = target(service, protocol=Protocol.UDP)
    assert not failures(cluster.traffic.ask(client, where, 8))
    moved = service.with_endpoints(endpoints_of(new))
    cluster.apply(moved)
    replies = cluster.traffic.ask(client, where, 8)
    assert distribution(replies) == dict.fromkeys((pod.name for pod in new), 2)
