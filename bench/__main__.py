"""Entry point of `python -m bench`; `make bench` runs it where there is IPVS."""

from __future__ import annotations

import argparse
import compileall
import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

import bench
import ipvsproxy
from bench.agent import Extent, extent
from bench.figures import Figure, json_lines, table, with_ratios
from bench.stage import STAGES
from bench.workload import Size

_FEWEST_SERVICES = 100
_QUICK = (Size(1000, 5), Size(5000, 5))
_FULL = (Size(1000, 5), Size(5000, 5), Size(10000, 5), Size(20000, 5), Size(5000, 50))


def main() -> int:
    """Measure every stage for every size and print what was found; return the exit status."""
    options = _options()
    if os.geteuid() != 0 or not Path("/sys/module/ip_vs").exists():
        sys.stderr.write("bench: needs root and a kernel with IPVS; `make bench` sees to both\n")
        return 1
    _compile()
    figures: list[Figure] = []
    failed = False
    for size in options.sizes or (_FULL if options.full else _QUICK):
        for stage in options.stages or _stages(size, options):
            started = time.monotonic()
            _tell(f"{stage}, {size.services:,} Services x {size.endpoints}")
            found, status = _measured(stage, size, _extent(size, options))
            figures = with_ratios([*figures, *found])
            failed |= status != 0
            if options.output == "json":  # at once: what a run that is stopped has measured counts
                print(*json_lines(figures[-len(found) :] if found else ()), sep="\n", flush=True)
            took = f"took {time.monotonic() - started:.0f} s"
            _tell(f"{stage} {took}" if not status else f"{stage} has failed, status {status}")
    if options.output == "table":
        print(_conditions())
        print(table(figures))
    return int(failed)


def _compile() -> None:
    """Compile the agent once, as its image does: else each of its starts compiles every module."""
    for package in (ipvsproxy, bench):
        assert package.__file__ is not None
        compileall.compile_dir(Path(package.__file__).parent, quiet=2)


def _tell(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bench", description="Measures ipvsproxy, beside the floors of this machine."
    )
    parser.add_argument(
        "--sizes",
        type=_size,
        nargs="+",
        metavar="NxE",
        help=f"Services and endpoints of each, as in 5000x5; {_FEWEST_SERVICES} Services at least",
    )
    parser.add_argument("--stages", nargs="+", choices=tuple(STAGES), help="some of them")
    parser.add_argument(
        "--rates", type=int, nargs="*", metavar="N", help="storms of so many changes a second"
    )
    parser.add_argument("--churn-seconds", type=float, metavar="S", help="length of a storm")
    parser.add_argument("--idle-seconds", type=float, metavar="S", help="0: idle is not measured")
    parser.add_argument("--full", action="store_true", help="more sizes, and long churns")
    parser.add_argument("--output", choices=("table", "json"), default="table")
    return parser.parse_args()


def _size(text: str) -> Size:
    services, _, endpoints = text.partition("x")
    size = Size(int(services), int(endpoints or 5))
    if size.services < _FEWEST_SERVICES or size.endpoints < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than {_FEWEST_SERVICES}x1")
    return size


def _stages(size: Size, options: argparse.Namespace) -> Sequence[str]:
    """Name the stages of a size where none are asked for."""
    thorough = options.full or options.sizes or size == _QUICK[0]
    return tuple(STAGES) if thorough else ("floors", "agent")


def _extent(size: Size, options: argparse.Namespace) -> Extent:
    asked = {
        "churns": options.rates if options.rates is None else tuple(options.rates),
        "churn_seconds": options.churn_seconds,
        "idle_seconds": options.idle_seconds,
    }
    usual = extent(size, full=options.full)
    return msgspec.structs.replace(usual, **{k: v for k, v in asked.items() if v is not None})


def _measured(stage: str, size: Size, how_much: Extent) -> tuple[list[Figure], int]:
    """Run a stage in a new process and a new network namespace; give its exit status as well."""
    argv = ["unshare", "--net", sys.executable, "-m", "bench.stage", stage]
    argv += [str(size.services), str(size.endpoints)]
    argv.append(msgspec.json.encode(how_much).decode())
    done = subprocess.run(argv, stdout=subprocess.PIPE, check=False)
    lines = done.stdout.splitlines()
    return [msgspec.json.decode(line, type=Figure) for line in lines], done.returncode


def _conditions() -> str:
    rig = os.environ.get("IPVSPROXY_RIG_GUEST", "the machine's own kernel")
    return (
        f"kernel {platform.release()} ({rig}), {os.cpu_count()} CPU, "
        f"Python {platform.python_version()}\n"
    )


if __name__ == "__main__":
    sys.exit(main())
