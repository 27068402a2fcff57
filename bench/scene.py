"""One node's agent, its API source and their judge, and the figures that come of them.

The parts that `bench.agent` and `bench.changing` share: who waits for what, and how a figure is
named. Whatever is waited for is asked of the kernel.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bench.cluster import Cluster
from bench.figures import Figure, Unit
from bench.judge import Rules, Table
from bench.processes import Agent, ApiSource, processors
from bench.workload import NODE_ADDRESS, Size

LONGEST = 180.0
"""Seconds that anything is waited for."""
_LONG_PAUSE = 0.2
"""Seconds between two questions at the most: how exact the time of a start is."""


class Scene:
    """A network namespace with one node's addresses, a source, and an agent when it runs."""

    def __init__(self, size: Size) -> None:
        self.size = size
        self.cluster = Cluster(size)
        self.figures: list[Figure] = []
        self.agent_cpus, self.other_cpus = processors()
        os.sched_setaffinity(0, self.other_cpus)
        _give_addresses()
        self.table = Table()
        self.rules = Rules(self.table)
        self.source = ApiSource(size, self.other_cpus)
        self._log = Path(tempfile.mkdtemp(prefix="bench.")) / "agent.log"
        self._agent: Agent | None = None

    @property
    def agent(self) -> Agent:
        """The agent that runs."""
        assert self._agent is not None, "it is started first"
        return self._agent

    def start_agent(self) -> Agent:
        """Start one."""
        self._agent = Agent(self.source.port, self._log, self.agent_cpus)
        return self._agent

    def stop_agent(self) -> None:
        """Stop the one that runs, if any."""
        if self._agent is not None:
            self._agent.stop()
            self._agent = None

    def close(self) -> None:
        """End all that was started."""
        self.stop_agent()
        self.source.stop()
        self.table.close()

    def until(
        self, condition: Callable[[], bool], *, pause: float = 0.05, share: float = 0.05
    ) -> float:
        """Wait until a condition holds; give the time at which it was last asked and held.

        Asking takes this share of the time at most, so that it does not slow down what it waits
        for, but is never put off for long: a pause is at least `pause` seconds.
        Raises RuntimeError when the time is up.
        """
        deadline = time.monotonic() + LONGEST
        while (asked := time.monotonic()) < deadline:
            if condition():
                return asked
            self.agent.check()
            time.sleep(max(pause, min((time.monotonic() - asked) * (1 / share - 1), _LONG_PAUSE)))
        raise RuntimeError(f"waited {LONGEST:.0f} s in vain")

    def seconds(self, name: str, value: float, *floors: str) -> None:
        """Write down a time."""
        self._figure(name, value, Unit.SECONDS, floors)

    def count(self, name: str, value: float) -> None:
        """Write down a count."""
        self._figure(name, value, Unit.COUNT, ())

    def mebibytes(self, name: str, value: float) -> None:
        """Write down a size."""
        self._figure(name, value, Unit.MEBIBYTES, ())

    def _figure(self, name: str, value: float, unit: Unit, floors: tuple[str, ...]) -> None:
        figure = Figure(
            stage="agent",
            services=self.size.services,
            endpoints=self.size.endpoints,
            name=name,
            value=value,
            unit=unit,
            floors=floors,
        )
        self.figures.append(figure)
        print(f"bench:   {name}: {value:.4g} {unit}", file=sys.stderr, flush=True)


def _give_addresses() -> None:
    for command in (
        "link add eth0 type dummy",
        f"addr add {NODE_ADDRESS}/24 dev eth0",
        "link set eth0 up",
        "route add default via 192.168.50.1",
    ):
        subprocess.run(["ip", *command.split()], check=True)
