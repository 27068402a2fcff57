"""A hundred connections, long and short, by several ways at once, while something happens.

A way is a client and a target. What must hold afterwards is said by the tests; what counts as
enough to say anything is said here.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from testbed.client import Protocol, Target, answers, failures
from testbed.manifests import SERVICE_PORT

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from testbed.client import Load, Reply, Steady
    from testbed.cluster import Cluster
    from testbed.layout import Host
    from testbed.manifests import Service

LONG = 60
"""Connections that stay open and talk, over all ways."""
SHORT = 40
"""Workers that open one short connection after the other, over all ways."""
PAUSE = 1.2
"""Seconds between two short connections of a worker: the agents share the one processor."""

Way: TypeAlias = "tuple[Host, Target]"


@dataclass(frozen=True, slots=True)
class Ways:
    """The ways to a Service of one family and protocol."""

    cluster: Cluster
    service: Service
    family: int = 4
    protocol: Protocol = Protocol.TCP

    def cluster_ip(self, client: str) -> Way:
        """The way of a client to the ClusterIP."""
        return self._to(client, self.service.address(self.family), SERVICE_PORT)

    def balancer(self, client: str) -> Way:
        """The way of a client to the load balancer's address."""
        return self._to(client, self.service.ingress_address(self.family), SERVICE_PORT)

    def external_ip(self, client: str) -> Way:
        """The way of a client to an externalIP."""
        return self._to(client, self.service.external_address(self.family), SERVICE_PORT)

    def node_port(self, client: str, node: str) -> Way:
        """The way of a client to the node port of a node."""
        address = self.cluster.layout.node(node).address(self.family)
        return self._to(client, address, self.service.node_port)

    def _to(self, client: str, address: str, port: int) -> Way:
        return self.cluster.layout.host(client), Target(address, port, self.protocol)


class Observed:
    """What was seen while something happened, by the name of the way."""

    def __init__(self) -> None:
        self.long: dict[str, Steady] = {}
        self.short: dict[str, Load] = {}

    def assert_nothing_failed(self) -> None:
        """No request failed, no connection was reset, and each stayed with its pod."""
        for name, load in self.short.items():
            assert not failures(load.replies), f"{name}: {reasons(load.replies)}"
            assert len(load.replies) >= SHORT // len(self.short), f"{name}: too few"
        self.assert_nothing_reset()

    def assert_nothing_reset(self) -> None:
        """No connection that was open was reset, and each stayed with its pod."""
        for name, steady in self.long.items():
            for replies in steady.replies:
                assert not failures(replies), f"{name}: {reasons(replies)}"
                assert len(replies) > 1, name
                assert len({answer.pod for answer in answers(replies)}) == 1, name


def reasons(replies: Iterable[Reply]) -> Counter[str]:
    """Count the failures among some replies by their reasons."""
    return Counter(failure.reason for failure in failures(replies))


@contextlib.contextmanager
def under_load(
    cluster: Cluster, ways: Mapping[str, Way], *, every: float = PAUSE / SHORT
) -> Iterator[Observed]:
    """Talk on long connections and open short ones by all ways, while the block runs.

    A short one is opened `every` so many seconds, over all ways.
    """
    observed = Observed()
    traffic = cluster.traffic
    with contextlib.ExitStack() as stack:
        for name, (host, target) in ways.items():
            steady = traffic.steady(host, target, LONG // len(ways))
            observed.long[name] = stack.enter_context(steady)
            load = traffic.load(host, target, workers=SHORT // len(ways), pause=every * SHORT)
            observed.short[name] = stack.enter_context(load)
        yield observed
