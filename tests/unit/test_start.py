"""What `ipvsproxy run` imports, and what it does not."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys

import pytest

from ipvsproxy.agent import memory

UNUSED = (
    *("rich", "watchfiles", "kubernetes_asyncio", "urllib3", "dateutil", "multiprocessing"),
    *("yaml", "difflib", "email.message", "html", "idna", "tempfile", "urllib.request"),
    *("aiohttp.web_app", "argparse", "http.server", "prometheus_client.exposition", "wsgiref"),
    *("ipvsproxy.cli.render", "ipvsproxy.sources.directory", "ipvsproxy.kernel.fake"),
    *("ipvsproxy.config.files", "ipvsproxy.core.question", "ipvsproxy.core.trace"),
)
"""None of it is needed to follow an API server."""
MOST_MODULES = 550
"""534 with Python 3.11; 1,800 before anybody counted."""
START = """
import sys
from ipvsproxy import agent, cli

async def connect(settings, file=None):
    from ipvsproxy.agent import running
    async with running.open_source(settings):
        print(len(sys.modules), *sys.modules)
    return 0

agent.run = connect
cli.main(["run", "--master=http://127.0.0.1:1", "--hostname-override=node-a"])
"""


def test_following_an_api_server_imports_what_is_used() -> None:
    command = [sys.executable, "-c", START]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=50)
    assert done.returncode == 0, done.stderr
    count, *names = done.stdout.split()
    imported = {name for name in names if name.startswith(UNUSED)}
    assert not imported
    assert int(count) <= MOST_MODULES


async def test_memory_is_tidied_up_once_a_start_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    for name in ("freeze", "set_threshold"):
        monkeypatch.setattr(gc, name, lambda *_, name=name: done.append(name))
    memory.begin()
    memory.pass_over_imports()
    assert done == ["set_threshold", "freeze"]
    over = asyncio.Event()

    async def start() -> None:
        await over.wait()

    tidying = asyncio.create_task(memory.tidy_up(after=start()))
    await asyncio.sleep(0)
    assert len(done) == 2
    over.set()
    await tidying
    assert done[2:] == ["freeze", "set_threshold"]


async def test_a_start_that_waits_long_collects_at_the_later_pace(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    paces: list[tuple[int, ...]] = []
    slower = asyncio.Event()

    def set_pace(*pace: int) -> None:
        paces.append(pace)
        slower.set()

    monkeypatch.setattr(gc, "set_threshold", set_pace)
    monkeypatch.setattr(memory, "_START_SECONDS", 0.0)
    tidying = asyncio.create_task(memory.tidy_up(after=asyncio.Event().wait()))
    await asyncio.wait_for(slower.wait(), 10)
    tidying.cancel()
    await asyncio.gather(tidying, return_exceptions=True)
    assert paces == [(2_000, 10, 10)]


async def test_a_start_that_has_much_to_do_goes_on_without_the_collector(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    done: list[str] = []
    over = asyncio.Event()

    def note(name: str) -> None:
        done.append(name)
        if done.count("freeze") > 1:
            over.set()

    for name in ("freeze", "set_threshold"):
        monkeypatch.setattr(gc, name, lambda *_, name=name: note(name))
    monkeypatch.setattr(gc, "get_count", lambda: (1_000_000, 0, 0))
    monkeypatch.setattr(memory, "_START_SECONDS", 0.0)
    await asyncio.wait_for(memory.tidy_up(after=over.wait()), 10)
    assert done.count("set_threshold") == 1
    assert done[-1] == "set_threshold"
