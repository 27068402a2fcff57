"""The sections of the demonstration, one after the other."""

from __future__ import annotations

import contextlib
import os
import platform
import time
from collections import Counter
from typing import TYPE_CHECKING

from demo.scene import (
    CHECKED,
    CLIENTS,
    DRAWING,
    EXPOSED,
    NEW,
    NEW_NAMES,
    OLD,
    OLD_NAMES,
    SERVICES,
    SLOW,
    WEIGHTS,
)
from testbed import namespaces, witness
from testbed.backend import PORT
from testbed.client import Answer, Target, answers, distribution, failures
from testbed.cluster import target
from testbed.manifests import DOMAIN, SERVICE_PORT, endpoints_of
from testbed.manifests import WEIGHTS as WEIGHTS_ANNOTATION
from testbed.scenario import rolling_update

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from demo.show import Screen
    from testbed.client import Failure, Reply
    from testbed.cluster import Cluster
    from testbed.layout import Pod
    from testbed.manifests import Service
    from testbed.traffic import Held

REQUESTS = 1000
AT_ONCE = 8
TOLERANCE = 5
"""Connections more or less than exact: a repeated SYN is scheduled again."""
HELD = 4
ROLLED = ("rr", "lc", "sh", "dh")
BUSY_SECONDS = 0.3
BEGINNING = 0.5
"""A climb that is seen in its second half only has not been shown."""


class Story:
    """The demonstration of one cluster on one screen."""

    def __init__(self, cluster: Cluster, screen: Screen) -> None:
        self._cluster = cluster
        self._screen = screen
        self._traffic = cluster.traffic

    def tell(self) -> None:
        """Show everything."""
        self.begin()
        self._schedulers()
        self._tables()
        self._change()
        self._slow_start()
        self._replacement()
        self._policy()
        self._health_check()

    def begin(self) -> None:
        """Start the agents, and wait until both kernels hold the Services."""
        screen, cluster = self._screen, self._cluster
        screen.section("A cluster: two nodes, four pods, a real kernel")
        kind = os.environ.get("IPVSPROXY_RIG_GUEST", "native")
        screen.line(
            f"Linux {platform.release()} ({kind}), a network namespace for each node and pod"
        )
        for line in DRAWING.splitlines():
            screen.line(line)
        screen.line(f"Manifests: {cluster.folder.path}")
        cluster.publish(*SERVICES.values())
        cluster.start_agents()
        agent = cluster.agents["node1"]
        screen.line(f"Agents:    ipvsproxy {' '.join(agent.words[:3])}")
        screen.line(f"           {' '.join(agent.words[3:])}")
        cluster.wait_applied(*SERVICES.values())
        screen.claim(f"both kernels hold the {len(SERVICES)} Services", holds=True)

    def _schedulers(self) -> None:
        sections: dict[str, Callable[[Service], None]] = {
            "rr": self._rr,
            "wrr": self._wrr,
            "lc": self._lc,
            "sh": self._sh,
            "dh": self._dh,
        }
        for scheduler, show in sections.items():
            service = SERVICES[scheduler]
            self._screen.section(f"Service {service.name}, annotation {service.annotation}")
            show(service)

    def _ask(self, client: Pod, service: Service, *, family: int = 4) -> Counter[str]:
        where = target(service, family=family)
        replies = self._traffic.ask(client, where, REQUESTS, at_once=AT_ONCE)
        counts = distribution(replies)
        failed = len(failures(replies))
        self._screen.line(
            f"{REQUESTS} connections from {client.name} to {where.address}, {failed} failed:"
        )
        self._screen.bars(counts, tuple(pod.pod.name for pod in service.endpoints))
        if failed:
            self._screen.claim("no connection failed", holds=False)
        return counts

    def _rr(self, service: Service) -> None:
        counted = [self._ask(CLIENTS[0], service, family=family) for family in service.families]
        quarter = REQUESTS / len(OLD)
        even = all(
            abs(counts[name] - quarter) <= TOLERANCE for counts in counted for name in OLD_NAMES
        )
        self._screen.claim("round robin: each pod in turn, so a quarter each", even)

    def _wrr(self, service: Service) -> None:
        weights = " ".join(f"{name}={weight}" for name, weight in WEIGHTS.items())
        self._screen.line(f"and {WEIGHTS_ANNOTATION} on its EndpointSlice: {weights}")
        counts = self._ask(CLIENTS[0], service)
        share = REQUESTS / sum(WEIGHTS.values())
        near = all(
            abs(counts[name] - weight * share) <= TOLERANCE for name, weight in WEIGHTS.items()
        )
        self._screen.claim("weighted round robin: in proportion 1 : 2 : 3 : 4", near)

    def _lc(self, service: Service) -> None:
        self._screen.line(f"red-1 is busy: it takes {BUSY_SECONDS:g} s for each answer")
        with self._traffic.busy("red-1", seconds=BUSY_SECONDS):
            counts = self._ask(CLIENTS[0], service)
        others = min(counts[name] for name in OLD_NAMES[1:])
        avoided = 0 < counts["red-1"] < others / 4
        self._screen.claim(
            "least connections: red-1 still has its last ones open, so the others get the new ones",
            avoided,
        )

    def _sh(self, service: Service) -> None:
        counted = [self._ask(client, service) for client in CLIENTS]
        self._screen.claim(
            "source hashing: a client's address decides, so each client has one pod",
            all(len(counts) == 1 for counts in counted),
        )

    def _dh(self, service: Service) -> None:
        counted = [self._ask(client, service) for client in CLIENTS]
        self._screen.claim(
            "destination hashing: the Service's address decides, so all clients have the same pod",
            len(counted[0]) == 1 and counted[0] == counted[1],
        )

    def _tables(self) -> None:
        agent = self._cluster.agents["node1"]
        self._screen.section("What the kernel of node1 holds, and what the agent says of it")
        self._screen.program(
            "ipvsadm -Ln", namespaces.run_inside(agent.node.namespace, "ipvsadm", "-Ln")
        )
        self._screen.line()
        self._screen.program("ipvsproxy status", agent.run("status"))

    def _change(self) -> None:
        screen, service, client = self._screen, SERVICES["rr"], CLIENTS[0]
        screen.section(f"The scheduler of {service.name} changes under load: rr, sh, rr")
        where = target(service)
        with (
            self._traffic.hold(client, where, HELD) as held,
            self._traffic.load(client, where) as load,
        ):
            for scheduler in ("rr", "sh", "rr"):
                self._cluster.apply(service.scheduled_by(scheduler))
                screen.line(f"{scheduler}: 200 connections")
                counts = distribution(self._traffic.ask(client, where, 200))
                screen.bars(counts, OLD_NAMES)
                pods = {"rr": len(OLD), "sh": 1}[scheduler]
                screen.claim(f"{pods} of {len(OLD)} pods answered", len(counts) == pods)
            lost = _lost(held)
        self._served(len(load.replies), failures(load.replies), held=HELD, lost=lost)

    def _slow_start(self) -> None:
        screen, cluster, late = self._screen, self._cluster, OLD[3]
        [(annotation, seconds)] = SLOW.annotations
        screen.section(f"A slow start: {SLOW.name}, annotation {DOMAIN}{annotation}: {seconds}")
        cluster.apply(SLOW)
        screen.line(f"{late.name} comes to three others; its weight, and theirs, in the kernel:")
        node, key = cluster.layout.nodes[0], ("tcp", f"{SLOW.address(4)}:{SERVICE_PORT}")
        seen: list[tuple[int, int]] = []

        def climbing() -> str | None:
            weights = witness.table(node.namespace)[key].weights
            own = weights.get(f"{late.ipv4}:{PORT}")
            if own is not None and (own, max(weights.values())) not in seen:
                seen.append((own, max(weights.values())))
                screen.line(f"  {own} of {seen[-1][1]}")
            return None if len(seen) > 1 and seen[-1] == (1, 1) else "it has not climbed yet"

        with self._traffic.load(CLIENTS[0], target(SLOW)) as load:
            cluster.publish(SLOW.with_endpoints(endpoints_of(OLD)))
            cluster.wait_for(node, climbing)
        cluster.folder.withdraw(SLOW)
        shares = [own / full for own, full in seen]
        screen.claim("it climbs in steps to its full weight", shares == sorted(shares))
        screen.claim("it began with less than half", shares[0] < BEGINNING)
        failed = len(failures(load.replies))
        screen.claim(f"{len(load.replies)} requests meanwhile, {failed} failed", not failed)

    def _replacement(self) -> None:
        screen = self._screen
        rolled = [SERVICES[scheduler] for scheduler in ROLLED]
        screen.section("All pods are replaced under load: red by blue, one by one")
        screen.line(f"Services {', '.join(service.name for service in rolled)}; a pod that goes")
        screen.line(
            "refuses new connections once the kernels hold the step, and keeps its open ones."
        )
        with contextlib.ExitStack() as stack:
            held = [
                one
                for service in rolled
                for one in stack.enter_context(
                    self._traffic.hold(CLIENTS[0], target(service), HELD)
                )
            ]
            loads = [
                stack.enter_context(self._traffic.load(CLIENTS[0], target(service), workers=1))
                for service in rolled
            ]
            for leaving, arriving in rolling_update(self._cluster, rolled, old=OLD, new=NEW):
                screen.line(f"  {leaving.name} goes, {arriving.name} comes")
            lost = _lost(held)
            after = Counter[str]()
            for service in rolled:
                after += distribution(self._traffic.ask(CLIENTS[0], target(service), 40))
        for service, load in zip(rolled, loads, strict=True):
            failed = len(failures(load.replies))
            screen.line(f"  {service.name:<7} {len(load.replies):>5} requests, {failed} failed")
        replies = [reply for load in loads for reply in load.replies]
        screen.claim("afterwards only blue pods answer", set(after) <= set(NEW_NAMES))
        self._served(len(replies), failures(replies), held=len(held), lost=lost)

    def _policy(self) -> None:
        """Ask one address as three kinds of client, each of which is to be treated otherwise."""
        screen, layout = self._screen, self._cluster.layout
        address = EXPOSED.ingress_address(4)
        screen.section(f"One address for all: load balancer {address}, external policy Local")
        self._cluster.apply(EXPOSED)
        node = layout.nodes[0]
        here = {pod.name for pod in NEW if pod.node == node.name}
        nodes_own = {*node.addresses, *node.bridge_addresses}
        everywhere = set(NEW_NAMES)
        for host, who, pods, sources in (
            (layout.outside, "a client outside, by node1", here, {layout.outside.ipv4}),
            (CLIENTS[0], "client-1, a pod of node1", everywhere, {CLIENTS[0].ipv4}),
            (node, "node1 itself", everywhere, nodes_own),
        ):
            replies = self._traffic.ask(host, Target(address), 100, at_once=AT_ONCE)
            answered = answers(replies)
            found = {answer.pod for answer in answered}
            seen = {answer.source for answer in answered}
            screen.line(f"{who}, is served by {', '.join(sorted(found)) or 'nobody'}")
            screen.line(f"    and they see it as {', '.join(sorted(seen)) or '-'}")
            right = len(answered) == len(replies) and found == pods and seen <= sources
            where = "the pods of its node" if pods == here else "all pods"
            kept = "masqueraded" if sources is nodes_own else "with its own address"
            screen.claim(f"{where}, {kept}", right)

    def _health_check(self) -> None:
        """Have a pod take no connection although its slice says ready, and take them again."""
        screen, client, where, sick = self._screen, CLIENTS[0], target(CHECKED), NEW[1]
        screen.section(
            f"A pod that takes no connection although Kubernetes says ready: {sick.name}"
        )
        for name, value in CHECKED.annotations:
            screen.line(f"{CHECKED.name}, annotation {DOMAIN}{name}: {value}")
        self._cluster.apply(CHECKED)
        held = self._traffic.open(client, where, HELD)
        with self._traffic.load(client, where) as load:
            self._traffic.refuse(sick.name)
            began = time.monotonic()
            self._wait_serving([pod for pod in NEW if pod != sick])
            took = time.monotonic() - began
        failed = len(failures(load.replies))
        screen.line(f"after {took:.1f} s it has weight 0 on both nodes; of {len(load.replies)}")
        screen.line(f"requests until then {failed} failed")
        screen.claim("no more than those that it was given", failed <= len(load.replies) / 4 + 2)
        counts = self._ask(client, CHECKED)
        screen.claim("the three others answer everything", sick.name not in counts)
        lost = _lost(held)
        screen.claim(f"{HELD} connections open all the time, {lost} lost", lost == 0)
        self._traffic.listen(sick.name)
        self._wait_serving(NEW)
        screen.line("it takes connections again, and has its weight back")
        screen.claim("all four answer", len(self._ask(client, CHECKED)) == len(NEW))
        for one in held:
            one.close()

    def _wait_serving(self, pods: Sequence[Pod]) -> None:
        """Wait until both kernels give new connections of the checked Service to these pods."""
        expected = CHECKED.with_endpoints(endpoints_of(pods))
        self._cluster.wait_applied(expected)

    def _served(self, requests: int, failed: list[Failure], *, held: int, lost: int) -> None:
        self._screen.claim(
            f"{requests} requests meanwhile, {len(failed)} failed", requests > 0 and not failed
        )
        for reason, count in Counter(failure.reason for failure in failed).items():
            self._screen.line(f"    {count} times: {reason}")
        self._screen.claim(f"{held} connections open all the time, {lost} lost", lost == 0)


def _lost(held: list[Held]) -> int:
    """Talk once more on long connections; count those not answered by the pod they began with."""
    return sum(not _kept(one.first, one.talk()) for one in held)


def _kept(first: Reply, last: Reply) -> bool:
    return isinstance(first, Answer) and isinstance(last, Answer) and first.pod == last.pod
