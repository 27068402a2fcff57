"""The agent as it is installed, on a real API server and a real kernel, through a hard life.

Everything is judged from `ipvsadm -Sn`, which is asked all the while: whether a Service is missing
that was served, and at the end whether the kernel holds what the API's objects ask for.
"""

from __future__ import annotations

import random
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import pytest

from tests.api import real_server
from tests.api.certificates import authority
from tests.api.installed import Account, endpoints_of, install, wanted
from tests.api.real_server import RealServer
from tests.api.support import service
from tests.kernel.namespace import fresh_network_namespace

pytestmark = [*real_server.marks(), pytest.mark.timeout(600)]

STEADY = {f"steady-{number}": f"10.0.5.{number}" for number in range(1, 4)}
SECONDS = 90
"""Longest wait for the kernel's tables: a guest is slow, and the agent's pauses grow to 30 s."""
LINE = re.compile(r"-a -t (\S+) -r (\S+) -m -w (\d+)")


def table() -> dict[str, dict[str, int]]:
    """Return weights by real server, by virtual server."""
    done = subprocess.run(("ipvsadm", "-Sn"), capture_output=True, text=True, check=True)
    found: dict[str, dict[str, int]] = {
        f"{virtual}/TCP": {} for virtual in re.findall(r"^-A -t (\S+)", done.stdout, re.MULTILINE)
    }
    for virtual, member, weight in LINE.findall(done.stdout):
        found[f"{virtual}/TCP"][member] = int(weight)
    return found


class Watcher(threading.Thread):
    """Looks without a pause for a moment at which a steady Service is not served."""

    def __init__(self) -> None:
        super().__init__(name="watcher")
        self.looks = 0
        self.missing: list[str] = []
        self._over = threading.Event()

    def run(self) -> None:
        while not self._over.wait(0.2):
            now = table()
            self.looks += 1
            self.missing += [
                f"{name} at look {self.looks}"
                for name, address in STEADY.items()
                if not any(now.get(f"{address}:80/TCP", {}).values())
            ]

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.join()


def until(condition: Callable[[], bool]) -> None:
    limit = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < limit, table()
        time.sleep(0.5)  # the kernel tells nobody of changes


@contextmanager
def agent(server: RealServer, account: Account) -> Iterator[Path]:
    """Run the agent until the block ends; yields its log."""
    kubeconfig, log = account.folder / "kubeconfig", account.folder / "log"
    cluster = f"{{server: '{server.url}', certificate-authority: ca.crt}}"
    kubeconfig.write_text(
        f"""apiVersion: v1
kind: Config
clusters: [{{name: c, cluster: {cluster}}}]
users: [{{name: u, user: {{tokenFile: token}}}}]
contexts: [{{name: x, context: {{cluster: c, user: u}}}}]
current-context: x
"""
    )
    with log.open("wb") as written:
        running = subprocess.Popen(
            (
                *(sys.executable, "-m", "ipvsproxy", "run"),
                *("--kubeconfig", str(kubeconfig), "--hostname-override", "node-1"),
            ),
            stderr=written,
        )
    try:
        yield log
    finally:
        running.terminate()
        assert running.wait(30) == 0, log.read_text()


@pytest.fixture
def namespace() -> Iterator[None]:
    with fresh_network_namespace():
        subprocess.run(("ip", "link", "set", "lo", "up"), check=True)
        yield


@pytest.mark.usefixtures("namespace")
def test_the_kernel_follows_a_real_api_server_and_misses_nothing(tmp_path: Path) -> None:
    chance = random.Random(0)
    with RealServer(tmp_path) as server:
        install(server)
        account = Account(server, tmp_path / "account")
        for name, address in STEADY.items():
            server.apply(service(name, address=address), endpoints_of(name, chance))

        def changed_and_followed(mark: int) -> None:
            """Have kubectl change something, and wait for the kernel to be as the API is."""
            for name in STEADY:
                server.apply(endpoints_of(name, chance))
            server.kubectl("delete", "--ignore-not-found", f"service/mark-{mark - 1}")
            server.apply(service(f"mark-{mark}", address=f"10.0.7.{mark}"))
            asked_for = wanted(server)
            until(lambda: table() == asked_for)

        with agent(server, account) as log:
            until(lambda: table() == wanted(server))
            with Watcher() as watcher:
                changed_and_followed(1)
                server.stop()
                server.compact()
                server.start()
                changed_and_followed(2)
                new = authority(tmp_path, "new-authority")
                account.trust(server.authority, new)
                account.renew_token()
                server.kill()
                server.use_certificate_of(new)
                server.start()
                changed_and_followed(3)
                account.trust(new)
                server.apply(endpoints_of("steady-1", chance))
                server.stop()
                server.compact()
                server.start()
                changed_and_followed(4)
            assert watcher.missing == []
            assert watcher.looks > 20
        assert "the role needs the rule" not in log.read_text()
        assert "Traceback" not in log.read_text()
        assert table() == wanted(server), "the tables outlive the agent"
