"""Every scenario page, played on a fake kernel.

IPVSPROXY_UPDATE_SCENARIOS=1 writes what came out into the pages; read it before it is committed.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from ipvsproxy.config import Settings
from ipvsproxy.model import Network
from tests.scenarios.pages import Page, Step, read_page, write_page
from tests.scenarios.stage import Stage, end_of, outcome, set_up

PAGES = sorted(Path(__file__).parent.glob("*.txt"))
UPDATE = bool(os.environ.get("IPVSPROXY_UPDATE_SCENARIOS"))
POLLED = 6
"""Seconds in which every draining real server has been looked at: a refusal may have delayed it."""

all_pages = pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)


@all_pages
async def test_it_goes_as_the_page_says(path: Path) -> None:
    page = read_page(path)
    stage = await set_up(page)
    for step in page.steps:
        await stage.act(step)
        found = await outcome(stage, page, step)
        if UPDATE:
            _rewrite(step, found)
        expected = {"operations": "", "conditions": "", **step.expected}
        assert {name: found[name] for name in expected} == expected, step.title
    if UPDATE:
        write_page(path, page)


@all_pages
async def test_every_step_is_complete_and_a_restart_after_it_writes_nothing(path: Path) -> None:
    page = read_page(path)
    stage = await set_up(page)
    for step in page.steps:
        await stage.act(step)
        await stage.wait(POLLED)
        before, writes = end_of(stage), stage.fake.writes
        stage.agent.reconciler.audit_soon()
        await stage.settle()
        assert stage.fake.writes == writes, f"an audit after {step.title!r} wrote"
        stage.fake.applied.clear()
        await stage.start()
        assert end_of(stage) == before, step.title
        assert stage.fake.applied == [], f"a restart after {step.title!r} wrote"


@all_pages
@pytest.mark.parametrize("seed", range(3))
async def test_with_faults_it_ends_in_the_same_state(path: Path, seed: int) -> None:
    page = read_page(path)
    plain, faulty = await set_up(page), await set_up(page, random.Random(seed))
    for step in page.steps:
        await plain.act(step)
        await faulty.act(step)
        await faulty.wait(POLLED)
        await faulty.wait_until_done()
        await plain.wait(max(POLLED, faulty.clock.now - plain.clock.now))
        assert end_of(faulty) == end_of(plain), step.title


@pytest.mark.parametrize("seed", range(3))
async def test_whatever_was_there_before_a_folder_is_served_as_if_nothing_had_been(
    seed: int,
) -> None:
    pages = {path.stem: read_page(path) for path in PAGES}
    order = sorted(pages)
    random.Random(seed).shuffle(order)
    lasting = _stage()
    await lasting.start()
    for name in order:
        lasting.files = _last_files(name, pages[name])
        await lasting.synchronise()
        await lasting.wait(120)
        fresh = _stage()
        fresh.files = lasting.files
        await fresh.start()
        assert end_of(lasting) == end_of(fresh), f"after {name}"
        assert list(lasting.agent.conditions) == _as_old(lasting, fresh), f"after {name}"


def _stage() -> Stage:
    settings = Settings(node_name="node-a", cluster_cidrs=(Network.parse("10.244.0.0/16"),))
    return Stage(settings)


def _as_old(lasting: Stage, fresh: Stage) -> list[object]:
    """Give the conditions of `fresh`, as old as those of `lasting`."""
    since = {(one.subject, one.type): one.since for one in lasting.agent.conditions}
    return [
        type(one)(
            subject=one.subject,
            type=one.type,
            message=one.message,
            since=since.get((one.subject, one.type), one.since),
        )
        for one in fresh.agent.conditions
    ]


def _last_files(name: str, page: Page) -> dict[str, str]:
    """Give the folder with which a page ends, its objects in a namespace of their own.

    But for Nodes: of its own Node an agent keeps what it knew, when the object is gone.
    """
    files: dict[str, str] = {}
    for action in (action for step in page.steps for action in step.actions):
        kind, _, file = action.heading.partition(" ")
        if file == "node.yaml":
            continue
        if kind == "file":
            files[f"{name}-{file}"] = action.text.replace(
                "namespace: default", f"namespace: {name}"
            )
        elif kind == "delete":
            del files[f"{name}-{file}"]
    return files


def _rewrite(step: Step, found: dict[str, str]) -> None:
    wanted = {"operations"} | step.expected.keys()
    if found["conditions"]:
        wanted.add("conditions")
    else:
        wanted.discard("conditions")
    step.expected = {heading: found[heading] for heading in found if heading in wanted}
