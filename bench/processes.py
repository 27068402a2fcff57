"""The agent and its API source as processes: start, stop, what they use, what the agent tells.

Times are of CLOCK_MONOTONIC, which all processes of a machine share.
"""

from __future__ import annotations

import http.client
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from bench.cluster import Written
from bench.workload import NODE, Size

METRICS_PORT = 10249
_TICK = os.sysconf("SC_CLK_TCK")
_STOP_SECONDS = 30.0
_QUIET_SHARE = 0.05
_QUIET_SECONDS = 2.0
_FAULTY = "the agent has ended; the end of its log:\n"


class Lag(NamedTuple):
    """Of the agent's event loop."""

    longest: float
    """Seconds, of this minute and the one before."""
    turns: dict[float, int]
    """Turns since the start that took at most so many seconds."""

    def longer_than(self, seconds: float, before: Lag | None = None) -> int:
        """Count the turns that took longer, since an earlier reading."""
        late = self.turns[float("inf")] - self.turns[seconds]
        return late if before is None else late - before.longer_than(seconds)

    def quantile_bound(self, share: float, before: Lag | None = None) -> float:
        """Give the bound below which this share of the turns lies, since an earlier reading."""
        earlier = before.turns if before is not None else dict.fromkeys(self.turns, 0)
        all_turns = self.turns[float("inf")] - earlier[float("inf")]
        for bound, count in sorted(self.turns.items()):
            if count - earlier[bound] >= share * all_turns:
                return bound
        return float("inf")


class Agent:
    """`ipvsproxy run` in this network namespace."""

    def __init__(self, port: int, log: Path, cpus: set[int]) -> None:
        """Start it, on these processors, for an API server on a port of loopback."""
        self._log = log
        argv = [sys.executable, "-m", "ipvsproxy", "run", "--master", f"http://127.0.0.1:{port}"]
        argv += ["--hostname-override", NODE, "--cluster-cidr", "10.128.0.0/9"]
        argv += ["--metrics-bind-address", f"127.0.0.1:{METRICS_PORT}"]
        with log.open("ab") as written:
            self.forks_before = forks()
            self.started = time.monotonic()
            self._process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=written, stderr=written
            )
        os.sched_setaffinity(self._process.pid, cpus)

    def stop(self) -> None:
        """End it as a kubelet does."""
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def check(self) -> None:
        """Raise RuntimeError where it has ended."""
        if self._process.poll() is not None:
            raise RuntimeError(_FAULTY + "\n".join(self._log.read_text().splitlines()[-10:]))

    def cpu(self) -> float:
        """Give the seconds of processor that it and the programs it has started have used."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return sum(map(int, fields[11:15])) / _TICK

    def memory(self) -> dict[str, float]:
        """Give what is resident, now (VmRSS) and at the most (VmHWM), in MiB."""
        text = Path(f"/proc/{self._process.pid}/status").read_text()
        found = re.findall(r"^(VmRSS|VmHWM):\s+(\d+) kB", text, re.MULTILINE)
        return {name: int(kib) / 1024 for name, kib in found}

    def until_quiet(self, longest: float) -> float:
        """Wait until it uses next to nothing; give the processor seconds of its life so far."""
        deadline, before = time.monotonic() + longest, self.cpu()
        while time.monotonic() < deadline:
            self.check()
            time.sleep(_QUIET_SECONDS)
            now = self.cpu()
            if now - before < _QUIET_SHARE * _QUIET_SECONDS:
                return now
            before = now
        raise RuntimeError(f"the agent is not quiet after {longest} s")

    def metrics(self) -> dict[str, float]:
        """Scrape it, which costs it something: never while something is measured."""
        connection = http.client.HTTPConnection("127.0.0.1", METRICS_PORT, timeout=60)
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
        connection.close()
        lines = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
        return {name: float(value) for name, _, value in lines}

    def lag(self) -> Lag:
        """Ask how long its event loop kept things waiting."""
        found = self.metrics()
        bucket = re.compile(r'ipvsproxy_event_loop_lag_seconds_bucket\{le="([^"]+)"\}')
        matches = ((bucket.fullmatch(name), value) for name, value in found.items())
        turns = {float(match[1]): int(value) for match, value in matches if match}
        return Lag(found["ipvsproxy_event_loop_lag_max_seconds"], turns)

    def operations(self) -> int:
        """Ask how many operations it has carried out."""
        name = "ipvsproxy_operations_total{"
        return int(sum(value for one, value in self.metrics().items() if one.startswith(name)))


class ApiSource:
    """`bench.source`, and changes of what it serves."""

    def __init__(self, size: Size, cpus: set[int]) -> None:
        argv = [sys.executable, "-m", "bench.source", str(size.services), str(size.endpoints)]
        self._process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        os.sched_setaffinity(self._process.pid, cpus)
        self.port = int(self._answer())

    def write(self, batch: Sequence[Written]) -> float:
        """Write objects; give the time at which all watches had been told."""
        assert self._process.stdin is not None
        self._process.stdin.write(msgspec.json.encode(batch) + b"\n")
        self._process.stdin.flush()
        return float(self._answer())

    def cpu(self) -> float:
        """Give the seconds of processor that it has used."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return sum(map(int, fields[11:13])) / _TICK

    def stop(self) -> None:
        """End it."""
        self._process.kill()
        self._process.communicate()

    def _answer(self) -> bytes:
        assert self._process.stdout is not None
        line: bytes = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the API source has ended")
        return line


def forks() -> int:
    """Count the processes and threads that this machine has ever made."""
    text = Path("/proc/stat").read_text()
    match = re.search(r"^processes (\d+)$", text, re.MULTILINE)
    assert match is not None, "every kernel counts them"
    return int(match[1])


def processors() -> tuple[set[int], set[int]]:
    """Choose processors for the agent, and for who looks at it: others, where there are two."""
    usable = sorted(os.sched_getaffinity(0))
    return {usable[0]}, {usable[-1]}
