"""One stage for one size, in this process and namespace: `python -m bench.stage whole 1000 5`.

Prints its figures as JSON lines. A process for each, so that none inherits the heap of another.
"""

from __future__ import annotations

import logging
import subprocess
import sys

import structlog

from bench import floors, inner, whole
from bench.figures import json_lines
from bench.workload import Size

STAGES = {"inner": inner.measure, "floors": floors.measure, "whole": whole.measure}


def main() -> None:
    """Measure what the arguments name."""
    stage, services, endpoints = sys.argv[1:]
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    # Where `lo` was never up, IPVS takes no real server.
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    for line in json_lines(STAGES[stage](Size(int(services), int(endpoints)))):
        print(line, flush=True)


if __name__ == "__main__":
    main()
