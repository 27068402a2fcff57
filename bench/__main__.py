"""Entry point of `python -m bench`; `make bench` runs it where there is IPVS."""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec

from bench.figures import Figure, json_lines, table, with_ratios
from bench.stage import STAGES

_FEWEST_SERVICES = 100


def main() -> int:
    """Measure every stage for every size and print what was found; return the exit status."""
    options = _options()
    if os.geteuid() != 0 or not Path("/sys/module/ip_vs").exists():
        sys.stderr.write("bench: needs root and a kernel with IPVS; `make bench` sees to both\n")
        return 1
    figures: list[Figure] = []
    for services in options.services:
        for stage in STAGES:
            print(f"bench: {stage}, {services:,} Services", file=sys.stderr, flush=True)
            try:
                figures += _measured(stage, services, options.endpoints)
            except subprocess.CalledProcessError as error:
                sys.stderr.write(f"bench: {stage} has failed, exit status {error.returncode}\n")
                return 1
    figures = with_ratios(figures)
    if options.output == "json":
        for line in json_lines(figures):
            print(line)
        return 0
    print(_conditions(options.endpoints))
    print(table(figures))
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bench", description="Measures ipvsproxy, beside the floors of this machine."
    )
    parser.add_argument(
        "--services",
        type=_services,
        nargs="+",
        default=[1000, 5000],
        metavar="N",
        help=f"sizes of the cluster, each at least {_FEWEST_SERVICES} (default: 1000 5000)",
    )
    parser.add_argument(
        "--endpoints", type=_endpoints, default=5, metavar="E", help="of each Service (default 5)"
    )
    parser.add_argument("--output", choices=("table", "json"), default="table")
    return parser.parse_args()


def _services(text: str) -> int:
    number = int(text)
    if number < _FEWEST_SERVICES:
        raise argparse.ArgumentTypeError(f"{number} is less than {_FEWEST_SERVICES}")
    return number


def _endpoints(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is less than 1")
    return number


def _measured(stage: str, services: int, endpoints: int) -> Iterator[Figure]:
    """Run a stage in a new process and a new network namespace."""
    argv = ["unshare", "--net", sys.executable, "-m", "bench.stage"]
    done = subprocess.run(
        [*argv, stage, str(services), str(endpoints)], stdout=subprocess.PIPE, check=True
    )
    for line in done.stdout.splitlines():
        yield msgspec.json.decode(line, type=Figure)


def _conditions(endpoints: int) -> str:
    rig = os.environ.get("IPVSPROXY_RIG_GUEST", "the machine's own kernel")
    return (
        f"{endpoints} endpoints a Service; kernel {platform.release()} ({rig}), "
        f"{os.cpu_count()} CPU, Python {platform.python_version()}\n"
    )


if __name__ == "__main__":
    sys.exit(main())
