"""Changes while the agent runs: one after the other, many a second, and in a very large Service.

How long a change takes is from when the API source had handed it to the agent's watch until every
virtual server of the Service has the new real server and gives no new connections to the old one.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from typing import NamedTuple

from bench import floors
from bench.cluster import GIANT_ENDPOINTS, Cluster, Replaced
from bench.judge import Pending
from bench.processes import forks
from bench.scene import LONGEST, Scene
from bench.workload import TARGET_PORT

_CHANGES = 24
_GAP = 0.5
"""Seconds between single changes: each comes after quiet."""
_GIANT_CHANGES = 10
_POLL = 0.002
_TICK = 0.01
"""Seconds between the batches of a storm, and between looks at what came of them."""
_TRACKED_A_SECOND = 20
_LAG = 0.02


class _Sent(NamedTuple):
    """A change that is on its way."""

    change: Replaced
    at: float


def single_changes(scene: Scene) -> None:
    """Replace one endpoint of one Service after another."""
    title, agent = "one endpoint replaced", scene.agent
    agent.until_quiet(LONGEST)
    lag, cpu, made = agent.lag(), agent.cpu(), forks()
    latencies = [_one_change(scene, scene.cluster.choose()) for _ in range(_CHANGES)]
    cpu, made = agent.cpu() - cpu, forks() - made
    _spread(scene, title, latencies)
    scene.seconds(f"{title}: CPU for each", cpu / _CHANGES)
    scene.count(f"{title}: processes and threads", made)
    scene.count(f"{title}: turns above 20 ms", agent.lag().longer_than(_LAG, lag))


def giant(scene: Scene) -> None:
    """Replace endpoints of a Service that has 5,000, each time beside one of a usual Service."""
    title, cluster = f"{GIANT_ENDPOINTS:,} endpoints in one Service", scene.cluster
    index, written = cluster.add(GIANT_ENDPOINTS)
    sent = scene.source.write(written)
    pending = Pending(scene.table, cluster.expected_of(index))
    scene.seconds(f"{title}: all there", scene.until(pending.look) - sent)
    scene.agent.until_quiet(LONGEST)
    latencies: list[float] = []
    usual: list[float] = []
    cpu = 0.0
    for _ in range(_GIANT_CHANGES):
        usual.append(_one_change(scene, cluster.choose()))
        before = scene.agent.cpu()
        latencies.append(_one_change(scene, index))
        cpu += scene.agent.cpu() - before
    _spread(scene, f"{title}: one replaced", latencies)
    scene.seconds(f"{title}: one replaced in a usual one, p50", statistics.median(usual))
    scene.seconds(f"{title}: one replaced, CPU for each", cpu / _GIANT_CHANGES)
    sent = scene.source.write(cluster.delete(index))
    servers = len(cluster.expected())
    scene.until(lambda: scene.table.count() == servers)
    scene.agent.until_quiet(LONGEST)


def churn(scene: Scene, rate: int, seconds: float) -> None:
    """Replace endpoints so many times a second, then wait until the kernel has all of it."""
    title, agent = f"churn {rate:,}/s", scene.agent
    agent.until_quiet(LONGEST)
    lag, cpu, served = agent.lag(), agent.cpu(), scene.source.cpu()
    storm = _Storm(scene, rate)
    start = time.monotonic()
    while (now := time.monotonic()) < start + seconds:
        storm.go_on(now - start)
        time.sleep(max(_TICK - (time.monotonic() - now), 0.001))
    end = time.monotonic()
    cpu = (agent.cpu() - cpu) * 60 / (end - start)
    served = (scene.source.cpu() - served) * 60 / (end - start)
    changed = {index: scene.cluster.expected_of(index) for index in storm.touched}
    expected = {key: one for some in changed.values() for key, one in some.items()}
    pending = Pending(scene.table, expected)
    converged = scene.until(lambda: storm.have_all_arrived(pending), pause=0.01) - end
    _spread(scene, title, storm.latencies)
    scene.seconds(f"{title}: CPU a minute", cpu)
    scene.seconds(f"{title}: of the API source, a minute", served)
    scene.seconds(f"{title}: converged after the last change", max(converged, 0.0))
    scene.count(f"{title}: changes a second that were made", storm.sent / (end - start))
    later = agent.lag()
    bound = later.quantile_bound(0.999, lag)
    scene.seconds(f"{title}: event loop lag, 99.9 % of turns below", bound)
    scene.count(f"{title}: turns above 20 ms", later.longer_than(_LAG, lag))


class _Storm:
    """Changes at a rate; some of them are watched until the kernel has them."""

    def __init__(self, scene: Scene, rate: int) -> None:
        self.sent = 0
        self.touched: set[int] = set()
        self.latencies: list[float] = []
        self._scene = scene
        self._rate = rate
        self._every = max(rate // _TRACKED_A_SECOND, 1)
        self._tracked: dict[int, _Sent] = {}

    def go_on(self, passed: float) -> None:
        """Make those changes that are due after so many seconds, and look after earlier ones."""
        due = int(passed * self._rate) + 1 - self.sent
        changes = [self._change() for _ in range(due)]
        if changes:
            at = self._scene.source.write([one.written for one in changes])
            for number, change in enumerate(changes, self.sent):
                if number % self._every == 0:
                    self._tracked[change.service] = _Sent(change, at)
            self.sent += len(changes)
        self.look()

    def look(self) -> None:
        """See which of the tracked changes have arrived."""
        for index, one in tuple(self._tracked.items()):
            if _shown(self._scene, one.change):
                self.latencies.append(time.monotonic() - one.at)
                del self._tracked[index]

    def have_all_arrived(self, pending: Pending) -> bool:
        """See the same, and whether all that was changed is as it is to be."""
        self.look()
        return pending.look()

    def _change(self) -> Replaced:
        index = self._scene.cluster.choose(self._tracked)
        self.touched.add(index)
        return self._scene.cluster.replace(index)


def _one_change(scene: Scene, index: int) -> float:
    time.sleep(_GAP)
    change = scene.cluster.replace(index)
    sent = scene.source.write([change.written])
    return scene.until(lambda: _shown(scene, change), pause=_POLL, share=0.5) - sent


def _shown(scene: Scene, change: Replaced) -> bool:
    room = len(scene.cluster.endpoints[change.service])
    new, old = (change.new, TARGET_PORT), (change.old, TARGET_PORT)
    return all(
        scene.table.is_replaced(frontend, room, old, new)
        for frontend in Cluster.frontends(change.service)
    )


def _spread(scene: Scene, title: str, latencies: Sequence[float]) -> None:
    against = (floors.ONE_MESSAGE,)
    ordered = sorted(latencies)
    if not ordered:
        raise RuntimeError(f"{title}: no change has arrived")
    scene.seconds(f"{title}: p50", statistics.median(ordered), *against)
    scene.seconds(f"{title}: p99", ordered[min(int(0.99 * len(ordered)), len(ordered) - 1)])
    scene.seconds(f"{title}: longest", ordered[-1])
