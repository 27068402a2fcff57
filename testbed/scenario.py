"""What happens to a cluster over time, for the demonstration and for the tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

from testbed.manifests import Endpoint

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from testbed.cluster import Cluster
    from testbed.layout import Pod
    from testbed.manifests import Service


def rolling_update(
    cluster: Cluster, services: Sequence[Service], *, old: Sequence[Pod], new: Sequence[Pod]
) -> Iterator[tuple[Pod, Pod]]:
    """Replace the pods of Services one by one, as a Deployment does; yield after each pair.

    At each step a new pod becomes ready and an old one terminating; at the next the old one has
    left the slices. A pod refuses new connections as soon as every node's kernel holds the step:
    a connection that is still sent to it would be seen to fail. Its open ones it keeps.
    """
    for step, (leaving, arriving) in enumerate(zip(old, new, strict=True)):
        endpoints = [Endpoint(pod) for pod in (*old[step + 1 :], *new[: step + 1])]
        _endpoints(
            cluster, services, [Endpoint(leaving, ready=False, terminating=True), *endpoints]
        )
        cluster.traffic.refuse(leaving.name)
        yield leaving, arriving
    _endpoints(cluster, services, [Endpoint(pod) for pod in new])


def _endpoints(
    cluster: Cluster, services: Sequence[Service], endpoints: Sequence[Endpoint]
) -> None:
    cluster.apply(*(service.with_endpoints(endpoints) for service in services))
