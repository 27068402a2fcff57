"""The Dockerfile: what it installs is pinned, is there, and is what the agent needs."""

from __future__ import annotations

import re
import shlex
import tomllib

from ipvsproxy.kernel import process
from tests.deployment.dockerfile import DOCKERFILE, ROOT, instructions, packages, stages
from tests.deployment.rendered import base, container

TEXT = DOCKERFILE.read_text()
BUILDER, IMAGE = stages(TEXT)


def test_both_stages_are_of_one_base_that_can_be_chosen() -> None:
    found = instructions(TEXT)
    assert ("ARG", "BASE=debian:13-slim") in found
    assert [words.split()[0] for name, words in found if name == "FROM"] == ["${BASE}", "${BASE}"]


def test_the_image_has_every_program_that_the_agent_starts() -> None:
    assert packages(IMAGE) >= {"iptables", "kmod", "python3", *process.PACKAGES.values()}


def test_dependencies_are_installed_with_their_hashes_only() -> None:
    installs = [
        part
        for part in BUILDER.commands.split("&&")
        if "pip install" in part and "--no-index" not in part
    ]
    (install,) = installs
    assert "--require-hashes -r requirements/run.txt" in install
    assert "pip" not in IMAGE.commands


def test_every_pinned_dependency_has_hashes_and_every_dependency_is_pinned() -> None:
    text = (ROOT / "requirements" / "run.txt").read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert all("--hash=sha256:" in line for line in lines)
    pinned = {_canonical(line.partition("==")[0]) for line in lines}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = {_canonical(re.split(r"[<>=~! ]", one)[0]) for one in project["dependencies"]}
    assert wanted <= pinned


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_what_is_copied_is_there_and_not_ignored() -> None:
    allowed = [
        line[1:]
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line.startswith("!")
    ]
    copied = {
        source
        for name, arguments in instructions(TEXT)
        if name == "COPY" and "--from" not in arguments
        for source in shlex.split(arguments)[:-1]
    }
    assert copied == set(allowed)
    assert all((ROOT / one).exists() for one in copied)


def test_the_image_starts_the_program() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert ("ENTRYPOINT", '["ipvsproxy"]') in IMAGE.instructions
    assert "ipvsproxy" in project["scripts"]
    assert "command" not in container(base()), "the image's entry point"


def test_make_builds_the_image() -> None:
    make = (ROOT / "Makefile").read_text()
    assert re.search(r"^image:.*\n(?:\t.*\n)*?\t.*build -t \$\(IMAGE\) \.$", make, re.MULTILINE)
