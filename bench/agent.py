"""The agent as it is run: a process that follows an API server, judged by the kernel's tables.

A cold start, then changes (`bench.changing`), a restart with things to repair and one with none, in
one network namespace and in this order. The API source is on loopback and, in a guest with one
processor, on the agent's own: what it takes is a figure too, as is what judging takes.
"""

from __future__ import annotations

import resource
import subprocess
import time
from collections.abc import Iterator

import msgspec

from bench import changing, floors
from bench.cluster import Frontend
from bench.figures import Figure
from bench.judge import Pending, bound_addresses, everything, has_link, is_local, set_members
from bench.processes import Agent, Lag, forks
from bench.scene import LONGEST, Scene
from bench.workload import FIRST_SERVICES, PORT, TARGET_PORT, Size, service_address

_COLD = (
    floors.PYTHON_ASYNCIO,
    *(floors.SEND_TABLE, floors.SEND_ADDRESSES, floors.RESTORE_SETS),
    *[floors.RESTORE_RULES] * 2,
)
_WARM = (floors.PYTHON_ASYNCIO, floors.LIST_TABLE, floors.SAVE_SETS)
_QUICK_SERVICES = 1000
"""The most of which a quick run measures everything."""
_LAG = 0.02
"""Seconds that nothing should keep the event loop busy for."""


class Extent(msgspec.Struct, frozen=True):
    """How much is measured."""

    churns: tuple[int, ...] = ()
    """Changes a second."""
    churn_seconds: float = 5.0
    idle_seconds: float = 0.0
    """0: not at all."""
    giant: bool = False
    """Whether a Service with thousands of endpoints is tried."""


def extent(size: Size, *, full: bool) -> Extent:
    """Say how much is measured for one size: the most where most has been compared."""
    if full and size == Size(5000, 5):
        return Extent((1, 10, 100, 200, 1000), 60.0, 120.0, giant=True)
    if full:
        return Extent((10, 200), 20.0, 60.0)
    if size.services <= _QUICK_SERVICES:
        return Extent((10, 100, 1000), 5.0, 30.0, giant=True)
    return Extent()


def measure(size: Size, how_much: Extent) -> Iterator[Figure]:
    """Give the figures for one size of the cluster; the namespace must be empty, `lo` up."""
    scene = Scene(size)
    failure: RuntimeError | None = None
    try:
        _all(scene, how_much)
    except RuntimeError as error:
        failure = error
    finally:
        scene.close()
    yield from scene.figures
    if failure is not None:
        raise failure


def _all(scene: Scene, how_much: Extent) -> None:
    _cold_start(scene)
    if how_much.idle_seconds:
        _idle(scene, how_much.idle_seconds)
    changing.single_changes(scene)
    for rate in how_much.churns:
        changing.churn(scene, rate, how_much.churn_seconds)
    if how_much.churns:
        _after_churn(scene)
    if how_much.giant:
        changing.giant(scene)
    _repair(scene)
    _restart(scene)


def measure_start(size: Size) -> Iterator[Figure]:
    """Give the time from the start of a process to its first write, of a cluster without Services.

    Nothing is there but the two Services that all others wait for.
    """
    scene = Scene(Size(0, size.endpoints))
    scene.size = size
    try:
        agent = scene.start_agent()
        first = scene.until(has_link) - agent.started
        scene.seconds("empty cluster: until the first write", first, floors.PYTHON_ASYNCIO)
        agent.until_quiet(LONGEST)
        scene.mebibytes("empty cluster: resident", agent.memory()["VmRSS"])
    finally:
        scene.close()
    yield from scene.figures


def _judging() -> float:
    """Give the processor seconds that this process and its programs have used."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def _cold_start(scene: Scene) -> None:
    title, cluster = "cold start", scene.cluster
    judged, served = _judging(), scene.source.cpu()
    agent = scene.start_agent()

    def took(what: str, until: float, *against: str) -> None:
        scene.seconds(f"{title}: {what}", until - agent.started, *against)

    took("until the first write", scene.until(has_link), floors.PYTHON_ASYNCIO)
    first = Pending(scene.table, cluster.first_expected())
    addresses = [address for address, _ in FIRST_SERVICES.values()]
    at = scene.until(lambda: first.look() and is_local(addresses))
    took("until default/kubernetes and DNS have servers and addresses", at)
    rest = _Rest(scene)
    at = scene.until(rest.look)
    took("until all servers and addresses", at, *_COLD[:3])
    cpu, launched = agent.cpu(), forks() - agent.forks_before
    members = cluster.cluster_members()
    at = max(at, scene.until(lambda: set_members() >= members))
    at = max(at, scene.until(scene.rules.look))
    took("until sets and rules as well", at, *_COLD)
    scene.seconds(f"{title}: CPU to the servers and addresses", cpu)
    scene.seconds(f"{title}: of the API source", scene.source.cpu() - served)
    scene.seconds(f"{title}: of the judge", _judging() - judged)
    scene.seconds(f"{title}: CPU until quiet", agent.until_quiet(LONGEST))
    scene.count(f"{title}: processes and threads", launched)
    memory = agent.memory()
    scene.mebibytes(f"{title}: resident at the most", memory["VmHWM"])
    scene.mebibytes(f"{title}: resident when quiet", memory["VmRSS"])
    _lag(scene, title, agent.lag())
    _confirm(scene)


class _Rest:
    """All servers and addresses; what can only rise is asked first, and the dear question last."""

    def __init__(self, scene: Scene) -> None:
        expected = scene.cluster.expected()
        self._scene = scene
        self._servers = len(expected)
        self._pending = Pending(scene.table, expected)
        self._addresses = len(scene.cluster.addresses())

    def look(self) -> bool:
        table = self._scene.table
        return (
            self._pending.look()
            and table.count() == self._servers
            and bound_addresses() == self._addresses
        )


def _confirm(scene: Scene) -> None:
    """Look at the whole table once more: each part was looked at until it was right, and no more.

    Raises RuntimeError.
    """
    if not _Rest(scene).look():
        raise RuntimeError("the table is not as it should be when all is over")


def _lag(scene: Scene, title: str, lag: Lag, before: Lag | None = None) -> None:
    if before is None:
        scene.seconds(f"{title}: event loop lag, longest", lag.longest)
    scene.count(f"{title}: turns above 20 ms", lag.longer_than(_LAG, before))


def _idle(scene: Scene, seconds: float) -> None:
    agent = scene.agent
    agent.until_quiet(LONGEST)
    cpu, made = agent.cpu(), forks()
    time.sleep(seconds)
    per_minute = 60 / seconds
    scene.seconds("idle: CPU a minute", (agent.cpu() - cpu) * per_minute)
    scene.count("idle: processes and threads a minute", (forks() - made) * per_minute)


def _after_churn(scene: Scene) -> None:
    scene.agent.until_quiet(LONGEST)
    memory = scene.agent.memory()
    scene.mebibytes("after churn: resident", memory["VmRSS"])
    scene.mebibytes("after churn: resident at the most so far", memory["VmHWM"])


def _repair(scene: Scene) -> None:
    """Restart it on a kernel that has been changed meanwhile, as has the cluster, in 20 places."""
    title, cluster = "restart, 20 to repair", scene.cluster
    scene.stop_agent()
    chosen: list[int] = []
    while len(chosen) < 18:  # noqa: PLR2004 - and two are added
        chosen.append(cluster.choose(chosen))
    changed, deleted, hurt, lowered = chosen[:10], chosen[10:12], chosen[12:15], chosen[15:]
    batch = [cluster.replace(index).written for index in changed]
    batch += [one for index in deleted for one in cluster.delete(index)]
    batch += [one for _ in range(2) for one in cluster.add(scene.size.endpoints)[1]]
    scene.source.write(batch)
    for index in hurt:
        _ipvsadm("-d", *_server(scene, index))
    for index in lowered:
        _ipvsadm("-e", *_server(scene, index), "-m", "-w", "0")
    agent = scene.start_agent()
    at = scene.until(_Rest(scene).look)
    scene.seconds(f"{title}: until all is right", at - agent.started, *_WARM)
    scene.seconds(f"{title}: CPU until quiet", agent.until_quiet(LONGEST))
    _confirm(scene)


def _restart(scene: Scene) -> None:
    title = "restart, nothing to repair"
    scene.stop_agent()
    before, launched = everything(), forks()
    agent = scene.start_agent()
    cpu = _until_it_is_listed(agent)
    scene.seconds(f"{title}: CPU until quiet", cpu)
    scene.count(f"{title}: processes and threads", forks() - launched)
    scene.mebibytes(f"{title}: resident at the most", agent.memory()["VmHWM"])
    scene.count(f"{title}: operations that it tells of", agent.operations())
    after = everything()
    scene.count(f"{title}: tables that differ", sum(before[one] != after[one] for one in before))


def _until_it_is_listed(agent: Agent) -> float:
    """Wait until a start is over of which the kernel shows nothing: until it is quiet again."""
    time.sleep(1.0)
    return agent.until_quiet(LONGEST)


def _server(scene: Scene, index: int) -> tuple[str, ...]:
    frontend = Frontend(service_address(index), PORT)
    backend = scene.cluster.endpoints[index][0]
    return ("-t", f"{frontend.address}:{frontend.port}", "-r", f"{backend}:{TARGET_PORT}")


def _ipvsadm(*words: str) -> None:
    subprocess.run(["ipvsadm", *words], check=True)
