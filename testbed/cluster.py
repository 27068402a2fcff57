"""The whole testbed in one context manager: network, backends, clients, manifests, agents.

    with Cluster(lay_out({"node1": ("a", "b"), "node2": ("c",)}), folder) as cluster:
        cluster.start_agents()
        cluster.publish(service)
        cluster.wait_applied(service)

*Applied* is read from the kernel of every node, never from the agent (see `applied`).
"""

from __future__ import annotations

import contextlib
import time
from functools import partial
from typing import TYPE_CHECKING, Self

from testbed import network
from testbed.agent import Agent
from testbed.applied import missing
from testbed.client import Protocol, Target
from testbed.manifests import SERVICE_PORT, Folder, node_document
from testbed.traffic import Traffic

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import TracebackType

    from testbed.layout import Layout, Node
    from testbed.manifests import Service

APPLY_SECONDS = 120.0
"""How long an agent in the rig may take, its start included, before the testbed gives up."""
POLL_SECONDS = 0.15


class NotAppliedError(Exception):
    """The kernel did not come to hold what was asked for; the text says what is missing."""


class Cluster:
    """Two nodes with pods, an outside client, and an agent for each node."""

    def __init__(self, layout: Layout, folder: Path) -> None:
        self.layout = layout
        self.folder = Folder(folder / "manifests")
        self.traffic = Traffic((*layout.pods, *layout.host_pods))
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
            self.wait_for(node, partial(missing, node, services))

    def wait_for(self, node: Node, lacking: Callable[[], str | None]) -> None:
        """Wait until `lacking` returns None; NotAppliedError with its last text after too long."""
        end = time.monotonic() + APPLY_SECONDS
        while (text := lacking()) is not None:
            self.agents[node.name].ensure_running()
            if time.monotonic() > end:
                raise NotAppliedError(f"{node.name}: {text} (log: {self.agents[node.name].log})")
            time.sleep(POLL_SECONDS)


def target(service: Service, *, protocol: Protocol = Protocol.TCP, family: int = 4) -> Target:
    """Return where a client asks a Service, in a family (4 or 6)."""
    return Target(service.address(family), SERVICE_PORT, protocol)
