"""The agent's process on one node: start, kill, ask.

Only its command line, its HTTP endpoints and its exit are known here; what it did is asked of the
kernel (see `witness`).
"""

from __future__ import annotations

import signal
import subprocess
import sys
from typing import TYPE_CHECKING

from testbed import namespaces, web
from testbed.layout import CLUSTER_CIDR

if TYPE_CHECKING:
    from pathlib import Path

    from testbed.layout import Node

PROGRAM = (sys.executable, "-m", "ipvsproxy")
METRICS_PORT = 10249
STOP_SECONDS = 20.0


class AgentError(Exception):
    """The agent ended although it should run; the text has the last lines of its log."""


class Agent:
    """The agent of one node, and the processes it has been, one after the other."""

    def __init__(self, node: Node, manifests: Path, log: Path) -> None:
        self.node = node
        self.manifests = manifests
        self.log = log
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def words(self) -> tuple[str, ...]:
        """Its command line, after the program's name."""
        options = {
            "--manifests": str(self.manifests),
            "--hostname-override": self.node.name,
            "--cluster-cidr": CLUSTER_CIDR,
        }
        return ("run", *(word for pair in options.items() for word in pair))

    @property
    def running(self) -> bool:
        """Whether its process is there."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it; it appends to its log."""
        assert not self.running
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                ("ip", "netns", "exec", self.node.namespace, *PROGRAM, *self.words),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def ensure_running(self) -> None:
        """Raise AgentError where it has ended by itself."""
        if self._process is not None and not self.running:
            lines = self.log.read_text().splitlines()[-10:]
            status = self._process.returncode
            said = "\n  ".join(lines)
            raise AgentError(f"the agent of {self.node.name} ended with {status}:\n  {said}")

    def kill(self) -> None:
        """End it as `kill -9` does: it can do nothing more."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """Ask it to end, and end it where it does not."""
        try:
            self._end(signal.SIGTERM)
        except subprocess.TimeoutExpired:
            self._end(signal.SIGKILL)

    def _end(self, number: signal.Signals) -> None:
        if self._process is not None and self.running:
            self._process.send_signal(number)
            self._process.wait(STOP_SECONDS)
        self._process = None

    def run(self, *words: str) -> str:
        """Run another of its commands on its node, as in `ipvsproxy status`; return the output."""
        return namespaces.run_inside(self.node.namespace, *PROGRAM, *words)

    def run_anyway(self, *words: str) -> str:
        """Return the output of another of its commands, whatever its exit status says."""
        return namespaces.run_inside(
            self.node.namespace, "sh", "-c", '"$@" || :', "sh", *PROGRAM, *words
        )

    def metrics(self) -> dict[str, float]:
        """Return its metrics, by name with labels, as in `name{label="value"}`."""
        found = {}
        for line in self._get("/metrics").splitlines():
            if line and not line.startswith("#"):
                name, _, value = line.rpartition(" ")
                found[name] = float(value)
        return found

    def _get(self, path: str) -> str:
        page = web.get(self.node, ("127.0.0.1", METRICS_PORT), path)
        if page.status != web.OK:
            raise OSError(f"{path} on {self.node.name}: status {page.status}")
        return page.body
