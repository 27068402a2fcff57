"""Thousands of probes that hang at once, over real sockets into a network that swallows them."""

from __future__ import annotations

import asyncio
import os
import random
import resource
import subprocess
import time
from collections.abc import Iterator

import pytest

from ipvsproxy.core.annotations.health_check import Check, TcpProbe
from ipvsproxy.core.probing import Probing, Target, Verdict
from ipvsproxy.model import Address, Protocol, RealServerKey
from ipvsproxy.objects import ServiceName
from ipvsproxy.probe import Outcome, Prober, ask
from ipvsproxy.store import Judged

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("many_files")]

ENDPOINTS = 2000
CHECK = Check(TcpProbe(), interval=2.0, timeout=1.5, fall=1, jitter=0.0)
NEEDED = 1500
"""Probes that are under way at a time when none is answered."""
PROMISED = CHECK.interval + CHECK.timeout
SLACK_SECONDS = 2.5
"""The guest has one processor, and is slow."""
FILES = 8192


@pytest.fixture
def many_files() -> Iterator[None]:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(limits[1], FILES),) * 2)
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@pytest.fixture
def hole() -> None:
    """A network in which every packet is lost without a word: a dummy interface."""
    for words in (
        ("link", "add", "hole", "type", "dummy"),
        ("address", "add", "192.0.2.1/32", "dev", "hole"),
        ("link", "set", "hole", "up"),
        ("route", "add", "10.244.0.0/16", "dev", "hole"),
    ):
        subprocess.run(("ip", *words), check=True)


def files() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208


@pytest.mark.usefixtures("own_namespace", "hole")
async def test_all_of_thousands_that_hang_are_found_when_their_check_says() -> None:
    told: dict[Target, Judged] = {}
    prober = Prober(
        ask=ask,
        observe=lambda _: None,
        clock=time.monotonic,
        chance=random.random,
        room=FILES * 3 // 4,
    )
    prober.tell = lambda judged: told.__setitem__(judged.target, judged)
    name, start = ServiceName("default", "web"), Address.parse("10.244.0.0")
    first = int.from_bytes(start)
    targets = frozenset(
        Target(name, Protocol.TCP, RealServerKey(Address((first + number).to_bytes(4)), 80))
        for number in range(1, ENDPOINTS + 1)
    )
    before, most = files(), 0
    prober.update({name: Probing(CHECK, targets)}, stretch=1, most=10_000)
    assert prober.worst == NEEDED
    running, began = asyncio.create_task(prober.run()), time.monotonic()
    try:
        while len(told) < ENDPOINTS and time.monotonic() < began + PROMISED + SLACK_SECONDS:
            most = max(most, prober.under_way)
            await asyncio.sleep(0.05)
        took = time.monotonic() - began
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert len(told) == ENDPOINTS, f"{len(told)} are found after {took:.1f} s"
    assert {judged.verdict for judged in told.values()} == {Verdict.UNHEALTHY}
    assert set(prober.outcomes) == {Outcome.TIMEOUT}
    assert most > NEEDED * 2 / 3
    assert files() == before
