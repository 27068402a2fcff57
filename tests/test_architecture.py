"""The tree as a whole: who may import whom, how long things may be, what may not be written."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MODULE_LINES = 420
FUNCTION_LINES = 55
DOCSTRING_LINES = 2
ONE_LINERS = {"__init__.py", "__main__.py"}
"""Files whose docstring may be one line: they hold next to nothing."""
TEXT_SUFFIXES = {".cfg", ".json", ".md", ".py", ".sh", ".toml", ".txt", ".yaml", ".yml", ""}
FORBIDDEN = {
    "a path of one machine": re.compile(r"(?<![\w.\-/])/work(?:space)?/(?:main|shared)\b|/home/\w"),
    "the host of a package registry": re.compile(
        r"p[y]pi\.|p[y]thonhosted|proxy\.g[o]lang|registry\.n[p]mjs|crates\.i[o]|d[e]b\.debian|artif[a]ctory"
    ),
    "something that is to be done": re.compile(r"#\s*(?:TODO|FIXME|XXX)\b"),
}
"""A letter in brackets keeps a pattern from matching itself."""


def product_modules() -> list[Path]:
    return sorted((ROOT / "ipvsproxy").rglob("*.py"))


def tracked_texts() -> Iterator[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, check=False, capture_output=True, text=True
    )
    names = listed.stdout.split("\0")[:-1]
    if listed.returncode:  # no checkout: an unpacked archive
        names = [str(path) for path in product_modules()]
    for name in names:
        path = ROOT / name
        if path.is_file() and path.suffix in TEXT_SUFFIXES and path != Path(__file__).resolve():
            yield path


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_imports_go_downward_only() -> None:
    lint = Path(sys.executable).parent / "lint-imports"
    done = subprocess.run(
        [lint, "--no-cache"], cwd=ROOT, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_clock_chance_and_environment_enter_in_agent_and_cli_only() -> None:
    """Everything else is told; a test can then say what it is told."""
    outside = re.compile(r"^(?:import|from) (?:time|random)\b|\bos\.environ\b", re.MULTILINE)
    knowing = {
        path.relative_to(ROOT / "ipvsproxy").parts[0]
        for path in product_modules()
        if outside.search(path.read_text())
    }
    assert knowing == {"agent", "cli"}


@pytest.mark.parametrize("path", product_modules(), ids=name_of)
def test_a_module_is_short_and_says_what_it_knows(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MODULE_LINES
    tree = ast.parse(text)
    docstring = ast.get_docstring(tree) or ""
    needed = 1 if path.name in ONE_LINERS else DOCSTRING_LINES
    assert len(docstring.splitlines()) >= needed, "say what it knows, and what it must not know"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            lines = node.end_lineno - node.lineno + 1
            assert lines <= FUNCTION_LINES or is_one_match(node), f"{node.name}: {lines} lines"


def is_one_match(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Say whether a function is nothing but cases; those of a closed union belong together."""
    body = [one for one in function.body if not isinstance(one, ast.Expr)]
    return len(body) == 1 and isinstance(body[0], ast.Match)


@pytest.mark.parametrize("what", FORBIDDEN)
def test_nothing_forbidden_is_written_anywhere(what: str) -> None:
    found = [
        f"{name_of(path)}:{number}: {line.strip()}"
        for path in tracked_texts()
        for number, line in enumerate(
            path.read_text(encoding="utf-8", errors="replace").splitlines(), 1
        )
        if FORBIDDEN[what].search(line)
    ]
    assert not found, f"{what}:\n" + "\n".join(found)
