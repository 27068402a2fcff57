"""Everything changes at once, by chance: no connection is lost and no request fails.

Endpoints come, go, lose their readiness and get it back; weights, schedulers, affinity and the
external policy change; agents are killed as by kill -9 and started again, while changes are on
their way. All pods live on, so every connection must. A run is a seed: what it did is in its
failure's text. With `IPVSPROXY_TEST_FULL=1` there are more of them.
"""

from __future__ import annotations

import contextlib
import os
import random
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from testbed.client import Target, answers, failures
from testbed.cluster import Cluster
from testbed.layout import lay_out
from testbed.manifests import SERVICE_PORT, Endpoint, Exposure, Service, endpoints_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from testbed.layout import Host
    from testbed.traffic import Held

FULL = os.environ.get("IPVSPROXY_TEST_FULL") == "1"
SEEDS = range(1, 9) if FULL else (1,)
ROUNDS = 30 if FULL else 10
EDITS = 3
"""Services that change in a round."""
HELD = 150
"""Connections that are open at most: then one goes for each that comes, whichever."""
ASKED = 2
"""Short requests in a round, by each way."""
KILLS = 0.3
"""The share of rounds in which an agent is killed."""
SCHEDULERS = ("rr", "wrr", "lc", "wlc", "sh", "dh", "mh", "sed", "nq", "fo")
LAYOUT = lay_out(
    {"node1": ("a1", "b1", "n1", "c1"), "node2": ("a2", "b2", "n2", "c2")}, prefix="churn-"
)
PODS = tuple(map(LAYOUT.pod, ("a1", "b1", "n1", "a2", "b2", "n2")))
BALANCED = Exposure("LoadBalancer")


def services(first: int) -> list[Service]:
    """Return Services of two kinds, of either policy."""
    exposures = (Exposure(), BALANCED, replace(BALANCED, policy="Local"))
    return [
        Service(
            f"churn-{number}",
            number,
            endpoints_of(PODS),
            "rr",
            protocols=("TCP",),
            families=(4,),
            exposure=exposure,
        )
        for number, exposure in enumerate(exposures, start=first)
    ]


class Churn:
    """One run: what is changed, what is asked, and a record of it."""

    def __init__(self, cluster: Cluster, seed: int) -> None:
        self.cluster = cluster
        self.record: list[str] = []
        self._random = random.Random(seed)
        self._services = services(100 + 10 * seed)
        self._held: list[tuple[str, Held]] = []

    def begin(self) -> None:
        """Have the Services applied."""
        self.cluster.apply(*self._services)

    def round(self, number: int) -> None:
        """Change something, and look whether everything is served meanwhile."""
        self.record.append(f"round {number}")
        killed = self._kill() if self._random.random() < KILLS else None
        for _ in range(EDITS):
            self._edit()
        self._open()
        self._ask()
        if killed is not None:
            self.cluster.agents[killed].start()
        self._talk()

    def end(self) -> None:
        """Come to rest, and look at everything once more."""
        self.record.append("at rest")
        self.cluster.wait_applied(*self._services)
        self._ask()
        self._talk()

    def close(self) -> None:
        """Leave nothing behind, however it went."""
        for _, one in self._held:
            one.close()
        for service in self._services:
            self.cluster.folder.withdraw(service)
        for agent in self.cluster.agents.values():
            if not agent.running:
                agent.start()

    def _kill(self) -> str:
        name = self._random.choice([node.name for node in LAYOUT.nodes])
        self.record.append(f"kill {name}")
        self.cluster.agents[name].kill()
        return name

    def _edit(self) -> None:
        at = self._random.randrange(len(self._services))
        service = self._services[at]
        match self._random.randrange(6):
            case 0 | 1 | 2:
                service = service.with_endpoints(self._endpoints())
                told = ", ".join(map(_told, service.endpoints))
            case 3:
                service = service.scheduled_by(self._random.choice(SCHEDULERS))
                told = str(service.scheduler)
            case 4:
                seconds = 0 if service.affinity_seconds else 600
                service = replace(service, affinity_seconds=seconds)
                told = f"affinity {seconds}"
            case _:
                policy = self._random.choice(("Cluster", "Local"))
                service = service.exposed(replace(service.exposure, policy=policy))
                told = f"policy {policy}"
        self.record.append(f"{service.name}: {told}")
        self._services[at] = service
        self.cluster.publish(service)

    def _endpoints(self) -> tuple[Endpoint, ...]:
        """Choose endpoints; each node keeps one that is ready, or policy Local would refuse."""
        kept = {self._random.choice(PODS[:3]), self._random.choice(PODS[3:])}
        chosen = [
            Endpoint(pod, weight=self._random.choice((None, None, 1, 3)))
            if pod in kept
            else self._random.choice(
                (
                    None,
                    Endpoint(pod),
                    Endpoint(pod, weight=2),
                    Endpoint(pod, ready=False),
                    Endpoint(pod, ready=False, terminating=True),
                )
            )
            for pod in PODS
        ]
        self._random.shuffle(chosen)
        return tuple(one for one in chosen if one is not None)

    def _ways(self) -> Iterator[tuple[str, Host, Target]]:
        for service in self._services:
            cluster_ip = Target(service.address(4), SERVICE_PORT)
            yield f"c1 to {service.name}", LAYOUT.host("c1"), cluster_ip
            yield f"node2 to {service.name}", LAYOUT.host("node2"), cluster_ip
            if service.exposure.external:
                ingress = Target(service.ingress_address(4), SERVICE_PORT)
                for client in ("c2", "outside", "elsewhere"):
                    name = f"{client} to the balancer of {service.name}"
                    yield name, LAYOUT.host(client), ingress

    def _open(self) -> None:
        for name, host, target in self._ways():
            [held] = self.cluster.traffic.open(host, target, 1)
            self._held.append((name, held))
            assert answers([held.first]), self._told(name, held.first)
        while len(self._held) > HELD:
            self._held.pop(self._random.randrange(len(self._held)))[1].close()

    def _ask(self) -> None:
        for name, host, target in self._ways():
            replies = self.cluster.traffic.ask(host, target, ASKED)
            assert not failures(replies), self._told(name, replies)

    def _talk(self) -> None:
        replies = self.cluster.traffic.talk([held for _, held in self._held])
        for (name, held), reply in zip(self._held, replies, strict=True):
            assert answers([reply]), self._told(name, (held.first, reply))

    def _told(self, name: str, what: object) -> str:
        return "\n".join([*self.record, f"{name}: {what}"])


def _told(endpoint: Endpoint) -> str:
    state = "" if endpoint.ready else " terminating" if endpoint.terminating else " not ready"
    weight = "" if endpoint.weight is None else f"={endpoint.weight}"
    return f"{endpoint.pod.name}{weight}{state}"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster of this module's own, for its agents are killed."""
    with Cluster(LAYOUT, tmp_path_factory.mktemp("churn")) as cluster:
        cluster.start_agents()
        yield cluster


@pytest.mark.timeout(170)
@pytest.mark.parametrize("seed", SEEDS)
def test_no_connection_is_lost_and_no_request_fails(cluster: Cluster, seed: int) -> None:
    with contextlib.closing(Churn(cluster, seed)) as churn:
        churn.begin()
        for number in range(ROUNDS):
            churn.round(number)
        churn.end()
