"""Every client against every frontend, under every policy: who answers, and whom the pod sees.

All Services are applied in one go and the cells are asked many at once; each cell is a test. With
`IPVSPROXY_TEST_FULL=1` there are all of them, else a sample that is always the same.
"""

from __future__ import annotations

import itertools
import os
import random
from typing import TYPE_CHECKING

import pytest

from testbed import namespaces
from testbed.cluster import Cluster
from testbed.layout import lay_out
from testbed.manifests import Exposure, Service, endpoints_of
from testbed.survey import Survey
from tests.e2e.judge import judge, question
from tests.e2e.matrix import Answered, Cell, Dropped, Refused, Unserved, cells_of, expected

if TYPE_CHECKING:
    from collections.abc import Iterator

    from testbed.client import Reply

FULL = os.environ.get("IPVSPROXY_TEST_FULL") == "1"
SAMPLE = 1000
"""Cells that are asked when not all are."""
pytestmark = pytest.mark.timeout(600 if FULL else 300)
SEED = 4
AT_ONCE = 24
IN_ONE_GO = 1000
"""Cells: the testbed gives up a call that takes two minutes."""
AFFINITY_SECONDS = 600
SYSCTLS = {"netfilter/nf_conntrack_sctp_timeout_closed": "1"}
"""By default conntrack remembers an SCTP connection for 10 s after its end, some thousands of this
matrix; the kernel then lost one new masqueraded one in a thousand, with 1 s none of 20,000."""

LAYOUT = lay_out(
    {"node1": ("a1", "c1"), "node2": ("a2", "c2")},
    host_pods={"node1": "h1", "node2": "h2"},
    prefix="matrix-",
)
EVERYWHERE, FAR, NOWHERE = ("a1", "a2"), ("a2",), ()
"""Endpoints: on both nodes, on node2 only, none."""
NUMBERS = itertools.count(400)
RANGES = {
    "outside": ("192.168.50.100/28", "fd00:50::100/124"),  # with host bits; not `elsewhere`
    "pods": ("10.244.0.0/16", "fd00:10:244::/48"),
    "node1": ("192.168.50.11/32", "fd00:50::11/128"),
    "all": ("0.0.0.0/0", "::/0"),
}
"""Source ranges by whom they let in."""


def service(
    name: str,
    pods: tuple[str, ...],
    exposure: Exposure,
    *,
    internal: str = "Cluster",
    affinity_seconds: int = 0,
) -> Service:
    return Service(
        name,
        next(NUMBERS),
        endpoints_of(map(LAYOUT.pod, pods)),
        affinity_seconds=affinity_seconds,
        exposure=exposure,
        internal_policy=internal,
    )


def balanced(policy: str, *, ranges: str = "") -> Exposure:
    """Everything that a Service can have."""
    return Exposure(
        "LoadBalancer",
        external_ips=True,
        policy=policy,
        source_ranges=RANGES[ranges] if ranges else (),
    )


def of_policies() -> Iterator[Service]:
    """Yield a Service for every combination of policies and places of endpoints."""
    places = {"everywhere": EVERYWHERE, "far": FAR, "nowhere": NOWHERE}
    for external, internal in itertools.product(("Cluster", "Local"), repeat=2):
        for place, pods in places.items():
            name = f"external-{external}-internal-{internal}-{place}".lower()
            yield service(name, pods, balanced(external), internal=internal)


def of_ranges() -> Iterator[Service]:
    """Yield Services with source ranges."""
    for policy, ranges in itertools.product(("Cluster", "Local"), RANGES):
        name = f"ranges-{ranges}-{policy}".lower()
        yield service(name, EVERYWHERE, balanced(policy, ranges=ranges))
    yield service("ranges-outside-local-far", FAR, balanced("Local", ranges="outside"))
    yield service("ranges-pods-local-far", FAR, balanced("Local", ranges="pods"))


def others() -> Iterator[Service]:
    """Yield Services that differ in something else."""
    for policy in ("Cluster", "Local"):
        name = f"affinity-{policy}".lower()
        yield service(name, EVERYWHERE, balanced(policy), affinity_seconds=AFFINITY_SECONDS)
        yield service(f"host-{policy}".lower(), ("h1", "h2"), balanced(policy))
        yield service(f"host-{policy}-far".lower(), ("h2",), balanced(policy))
        by_port = Exposure("NodePort", policy=policy)
        yield service(f"node-port-{policy}".lower(), EVERYWHERE, by_port)
        by_address = Exposure(external_ips=True, policy=policy)
        yield service(f"external-ip-{policy}".lower(), EVERYWHERE, by_address)
        proxied = Exposure("LoadBalancer", policy=policy, ip_mode="Proxy")
        yield service(f"proxied-{policy}".lower(), EVERYWHERE, proxied)
        without = Exposure("LoadBalancer", policy=policy, node_ports=False)
        yield service(f"no-node-ports-{policy}".lower(), EVERYWHERE, without)
    yield service("inside", EVERYWHERE, Exposure())
    yield service("inside-local-far", FAR, Exposure(), internal="Local")


SERVICES = (*of_policies(), *of_ranges(), *others())


def selected() -> list[Cell]:
    """Return the cells to ask, in an order that is always the same."""
    cells = [cell for one in SERVICES for cell in cells_of(LAYOUT, one)]
    if FULL:
        return cells
    chosen = random.Random(SEED).sample(range(len(cells)), SAMPLE)
    return [cells[number] for number in sorted(chosen)]


CELLS = selected()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster of this module's own, with all Services of the matrix applied."""
    with Cluster(LAYOUT, tmp_path_factory.mktemp("matrix")) as cluster:
        cluster.publish(*SERVICES)
        cluster.start_agents()
        cluster.wait_applied(*SERVICES)
        for node in LAYOUT.nodes:
            namespaces.write_sysctls(node.namespace, SYSCTLS)
        yield cluster


@pytest.fixture(scope="module")
def replies(cluster: Cluster) -> dict[str, list[Reply]]:
    """The replies to every cell, by the cell's name.

    What nodes ask each other comes last. Its connections are remembered for minutes by the IPVS of
    the pod's node, which takes for theirs whatever else the first node sends to that pod from the
    same port, masqueraded (as in kubernetes/kubernetes#90042): one in ten thousand, by chance.
    """
    replies: dict[str, list[Reply]] = {}
    for last in (False, True):
        cells = [cell for cell in CELLS if cell.between_nodes is last]
        for first in range(0, len(cells), IN_ONE_GO):
            some = cells[first : first + IN_ONE_GO]
            got = cluster.traffic.call(Survey(at_once=AT_ONCE).ask(list(map(question, some))))
            replies.update(zip(map(str, some), got, strict=True))
    return replies


@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_cell(replies: dict[str, list[Reply]], cell: Cell) -> None:
    judge(cell, replies[str(cell)])


def test_the_matrix_has_cells_of_every_outcome() -> None:
    assert len(CELLS) >= 400
    assert len(set(map(str, CELLS))) == len(CELLS)
    outcomes = {type(expected(cell)) for cell in CELLS}
    assert outcomes == {Answered, Refused, Dropped, Unserved}
