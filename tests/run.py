"""Runs the tiers of tests: `python tests/run.py all`, or some tiers by name.

Two lanes run beside each other, because the guest of the rig keeps one processor busy and leaves
the other idle: lint, types and the tests that need nothing, then those that need a kernel with
nftables; and the tiers that need a kernel with IPVS. Each tier in the rig is one boot. Every line
is shown as it comes, with the name of its tier in front. At the end there is a line for each tier,
and a last one with the counts of all pytest runs, alone.

The results are in .cache/tests, a JUnit file for each tier.
"""

# ruff: noqa: T201 (this one is a program, and prints)

from __future__ import annotations

import argparse
import dataclasses
import os
import subprocess
import sys
import threading
import time
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / ".cache" / "tests"
PYTHON = sys.executable
BIN = Path(PYTHON).parent  # the virtual environment's, whatever PATH says
NOT_CODE = {"build", "dist"}
NO_KERNEL = 98
NO_TESTS_COLLECTED = 5


@dataclasses.dataclass(frozen=True)
class Tier:
    """A part of the tests: programs to run one after the other, or paths for one pytest run."""

    name: str
    programs: tuple[tuple[str, ...], ...] = ()
    paths: tuple[str, ...] = ()
    """Folders and files of tests."""
    rig: tuple[str, ...] | None = None
    """Options of `rig run`; None where the tests need no rig."""
    seconds: int = 600
    options: tuple[str, ...] = ()

    def present(self) -> list[str]:
        """Return those of the paths that exist and hold tests."""
        return [
            path
            for path in self.paths
            if (ROOT / path).is_file() or any((ROOT / path).rglob("test_*.py"))
        ]


@dataclasses.dataclass
class Result:
    """How a tier went."""

    tier: Tier
    status: int = 0
    seconds: float = 0.0
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    note: str = ""

    @property
    def verdict(self) -> str:
        if self.status:
            return "FAILED"
        return "skipped" if self.note else "passed"


def code() -> list[str]:
    """Return the folders at the top that hold Python."""
    folders = (path for path in ROOT.iterdir() if path.is_dir() and path.name[0] != ".")
    return sorted(
        path.name for path in folders if path.name not in NOT_CODE and any(path.rglob("*.py"))
    )


IN_RIG = ("-v", "--timeout=180", "-p", "no:cacheprovider")
UNIT = (
    *("unit", "properties", "scenarios", "complaints", "parity", "deployment", "rig"),
    "test_architecture.py",
)
NATIVE = ("ipset", "iptables", "foreign", "conntrack", "service_address")
"""What needs no IPVS, so that it runs on most machines, with both backends of iptables."""

LANES = (
    (
        Tier(
            "lint",
            programs=(
                (str(BIN / "ruff"), "check", "--quiet", "."),
                (str(BIN / "ruff"), "format", "--quiet", "--check", "."),
                (str(BIN / "lint-imports"), "--no-cache"),
            ),
        ),
        Tier("type", programs=((str(BIN / "mypy"), *code()),)),
        Tier("unit", paths=tuple(f"tests/{name}" for name in UNIT)),
        Tier("api", paths=("tests/api",)),
        # The same files as in the kernel tier, on this machine's own kernel as far as that goes.
        Tier("native", paths=tuple(f"tests/kernel/test_{name}.py" for name in NATIVE)),
        Tier("nft", paths=("tests/nft",), rig=("--nftables",), options=IN_RIG),
    ),
    (
        Tier("kernel", paths=("tests/contract", "tests/kernel"), rig=(), options=IN_RIG),
        Tier("e2e", paths=("tests/e2e",), rig=(), seconds=900, options=IN_RIG),
    ),
)
TIERS = {tier.name: tier for lane in LANES for tier in lane}


class Output:
    """The terminal, shared by both lanes a line at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def line(self, tier: Tier, text: str) -> None:
        with self._lock:
            sys.stdout.write(f"{tier.name:>6} | {text.rstrip()}\n")
            sys.stdout.flush()


class Runner:
    """Runs tiers, and keeps their results."""

    def __init__(self, *, full: bool, options: Sequence[str]) -> None:
        self.results: list[Result] = []
        self._full = full
        self._options = tuple(options)
        self._output = Output()
        self._running: set[subprocess.Popen[str]] = set()
        self._stopped = False

    def lane(self, tiers: Iterable[Tier]) -> None:
        """Run tiers one after the other; a failure does not keep the next from running."""
        for tier in tiers:
            if not self._stopped:
                self.results.append(self._tier(tier))

    def stop(self) -> None:
        """End what is running, and start nothing more."""
        self._stopped = True
        for process in list(self._running):
            process.terminate()

    def _tier(self, tier: Tier) -> Result:
        result = Result(tier)
        start = time.monotonic()
        if tier.paths:
            self._pytest(tier, result)
        else:
            # Each of them, also after a failure: one run should show everything.
            result.status = max(self._program(tier, words) for words in tier.programs)
            result.failed = 1 if result.status else 0
        result.seconds = time.monotonic() - start
        return result

    def _pytest(self, tier: Tier, result: Result) -> None:
        paths = tier.present()
        if not paths:
            result.note = f"there are no tests in {', '.join(tier.paths)}"
            return
        report = RESULTS / f"{tier.name}.xml"
        report.unlink(missing_ok=True)
        words = [PYTHON, "-m", "pytest", *paths, f"--junitxml={report}", *tier.options]
        words += self._options
        if tier.rig is not None:
            limit = tier.seconds * (6 if self._full else 1)
            rig = [PYTHON, "-m", "rig", "run", *tier.rig, "--timeout", str(limit)]
            words = [*rig, "--", *words]
        status = self._program(tier, words)
        if tier.rig is not None and status == NO_KERNEL and os.environ.get("CI") != "true":
            check = " ".join(("python3 -m rig check", *tier.rig))
            result.skipped, result.note = 1, f"no kernel for it here ({check})"
            return
        result.status = 0 if status == NO_TESTS_COLLECTED else status
        read_counts(report, result)

    def _program(self, tier: Tier, words: Sequence[str]) -> int:
        environment = dict(os.environ)
        if self._full:
            environment["IPVSPROXY_TEST_FULL"] = "1"
        process = subprocess.Popen(
            words,
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        self._running.add(process)
        assert process.stdout is not None
        for line in process.stdout:
            self._output.line(tier, line)
        status = process.wait()
        self._running.discard(process)
        if status and status != NO_KERNEL:  # the rig has said why
            program = Path(words[0]).name if not tier.paths else "pytest"
            self._output.line(tier, f"FAILED: {program} ended with status {status}")
        return status


def read_counts(report: Path, result: Result) -> None:
    """Take the counts of a pytest run from its JUnit file; one failure where there is none."""
    try:
        suites = list(ET.parse(report).iter("testsuite"))
    except (FileNotFoundError, ET.ParseError):
        suites = []
    for suite in suites:
        number = {name: int(suite.get(name, 0)) for name in ("tests", "failures", "errors")}
        skipped = int(suite.get("skipped", 0))
        failed = number["failures"] + number["errors"]
        result.failed += failed
        result.skipped += skipped
        result.passed += max(0, number["tests"] - failed - skipped)
    if result.status and not result.failed:
        result.failed = 1


def report(results: list[Result]) -> int:
    """Print how it went; return the exit status."""
    order = list(TIERS)
    print()
    for result in sorted(results, key=lambda one: order.index(one.tier.name)):
        counts = f"{result.passed} passed, {result.failed} failed, {result.skipped} skipped"
        detail = result.note or (counts if result.tier.paths else "")
        line = f"{result.tier.name:>6}   {result.verdict:<8} {result.seconds:6.1f} s   {detail}"
        print(line.rstrip())
    passed, failed, skipped = (
        sum(getattr(result, name) for result in results) for name in ("passed", "failed", "skipped")
    )
    print(f"{passed} passed, {failed} failed, {skipped} skipped")
    return 1 if any(result.status for result in results) else 0


def main() -> int:
    """Run the tiers that were asked for."""
    arguments = sys.argv[1:]
    options: list[str] = []
    if "--" in arguments:
        at = arguments.index("--")
        arguments, options = arguments[:at], arguments[at + 1 :]
    parser = argparse.ArgumentParser(
        description="Runs tiers of tests. What follows -- goes to pytest.",
        epilog="Exit status: 0 all passed; 1 something failed; 130 interrupted.",
    )
    parser.add_argument("--full", action="store_true", help="sets IPVSPROXY_TEST_FULL=1: long")
    parser.add_argument(
        "tiers",
        nargs="+",
        choices=[*TIERS, "all"],
        metavar="TIER",
        help="all, or some of: " + " ".join(TIERS),
    )
    chosen = parser.parse_args(arguments)
    RESULTS.mkdir(parents=True, exist_ok=True)
    runner = Runner(full=chosen.full, options=options)
    lanes = [
        threading.Thread(target=runner.lane, args=(wanted,))
        for lane in LANES
        if (wanted := [t for t in lane if t.name in chosen.tiers or "all" in chosen.tiers])
    ]
    try:
        for thread in lanes:
            thread.start()
        for thread in lanes:
            thread.join()
    except KeyboardInterrupt:
        runner.stop()
        for thread in lanes:
            thread.join()
        report(runner.results)
        return 130
    return report(runner.results)


if __name__ == "__main__":
    sys.exit(main())
