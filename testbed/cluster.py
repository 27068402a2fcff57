"""The whole testbed in one context manager: network, backends, clients, manifests, agents.

    with Cluster(lay_out({"node1": ("a", "b"), "node2": ("c",)}), folder) as cluster:
        cluster.start_agents()
        cluster.publish(service)
        cluster.wait_applied(service)

*Applied* is read from the kernel of every node, never from the agent: the virtual servers have the
scheduler, the real servers of the ready endpoints and no others take new connections, and the
addresses are bound.
"""

from __future__ import annotations

import contextlib
import time
from functools import partial
from typing import TYPE_CHECKING, Self

from testbed import network, witness
from testbed.agent import Agent
from testbed.backend import PORT
from testbed.client import Protocol, Target
from testbed.manifests import SERVICE_PORT, Folder, node_document
from testbed.traffic import Traffic

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import TracebackType

    from testbed.layout import Layout, Node
    from testbed.manifests import Service

APPLY_SECONDS = 60.0
"""How long an agent in the rig may take, its start included, before the testbed gives up."""
POLL_SECONDS = 0.15
DEFAULT_SCHEDULER = "rr"
DRAINING_SCHEDULERS = {"dh": frozenset({"dh", "fo"})}
"""What a virtual server may have in the kernel for a scheduler that was asked for: a dh virtual
server is set to fo while a real server of it drains."""


class NotAppliedError(Exception):
    """The kernel did not come to hold what was asked for; the text says what is missing."""


class Cluster:
    """Two nodes with pods, an outside client, and an agent for each node."""

    def __init__(self, layout: Layout, folder: Path) -> None:
        self.layout = layout
        self.folder = Folder(folder / "manifests")
        self.traffic = Traffic(layout.pods)
        self.agents = {
            node.name: Agent(node, self.folder.path, folder / f"{node.name}.log")
            for node in layout.nodes
        }
        self._ending = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            stack.callback(network.remove, self.layout)
            network.build(self.layout)
            stack.enter_context(self.traffic)
            self.folder.path.mkdir(parents=True)
            self.folder.write("nodes", map(node_document, self.layout.nodes))
            stack.callback(self.stop_agents)
            self._ending = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ending.close()

    def start_agents(self) -> None:
        """Start an agent on every node."""
        for agent in self.agents.values():
            agent.start()

    def stop_agents(self) -> None:
        """Stop every agent that runs; what it programmed stays."""
        for agent in self.agents.values():
            agent.stop()

    def publish(self, *services: Service) -> None:
        """Write Services into the folder that the agents follow."""
        for service in services:
            self.folder.publish(service)

    def apply(self, *services: Service) -> None:
        """Write Services and wait until every node's kernel holds them."""
        self.publish(*services)
        self.wait_applied(*services)

    def wait_applied(self, *services: Service) -> None:
        """Wait until the kernel of every node holds what the Services ask for."""
        for node in self.layout.nodes:
            self.wait_for(node, partial(_missing, node, services))

    def wait_for(self, node: Node, missing: Callable[[], str | None]) -> None:
        """Wait until `missing` returns None; NotAppliedError with its last text after too long."""
        end = time.monotonic() + APPLY_SECONDS
        while (text := missing()) is not None:
            self.agents[node.name].ensure_running()
            if time.monotonic() > end:
                raise NotAppliedError(f"{node.name}: {text} (log: {self.agents[node.name].log})")
            time.sleep(POLL_SECONDS)


def target(service: Service, *, protocol: Protocol = Protocol.TCP, family: int = 4) -> Target:
    """Return where a client asks a Service, in a family (4 or 6)."""
    return Target(service.address(family), SERVICE_PORT, protocol)


def _missing(node: Node, services: tuple[Service, ...]) -> str | None:
    """Say what the kernel of a node does not hold yet; None where it holds everything."""
    table = witness.table(node.namespace)
    for service in services:
        text = _missing_from(table, service)
        if text is not None:
            return f"Service {service.name}: {text}"
    lines = witness.addresses(node.namespace).splitlines()
    bound = {line.split()[3].partition("/")[0] for line in lines}
    unbound = {address for service in services for address in service.addresses} - bound
    return f"not bound: {', '.join(sorted(unbound))}" if unbound else None


def _missing_from(table: witness.Table, service: Service) -> str | None:
    wanted = service.scheduler or DEFAULT_SCHEDULER
    for family in service.families:
        serving = {_host(endpoint.pod.address(family), PORT) for endpoint in service.ready}
        for protocol in service.protocols:
            key = protocol.lower(), _host(service.address(family), SERVICE_PORT)
            found = table.get(key)
            if found is None:
                return f"no virtual server {key}"
            if found.scheduler not in DRAINING_SCHEDULERS.get(wanted, {wanted}):
                return f"{key} has scheduler {found.scheduler}, not {wanted}"
            if found.serving != serving:
                return f"{key} is served by {sorted(found.serving)}, not {sorted(serving)}"
    return None


def _host(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
