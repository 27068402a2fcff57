"""One stage for one size, here: `python -m bench.stage agent 1000 5 '{"churns":[10]}'`.

Prints its figures as JSON lines; the namespace has to be empty. A process for each, so that none
inherits the heap of another.
"""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Callable, Iterator

import msgspec
import structlog

from bench import agent, floors, inner, whole
from bench.figures import Figure, json_lines
from bench.workload import Size

STAGES: dict[str, Callable[[Size, agent.Extent], Iterator[Figure]]] = {
    "inner": lambda size, _: inner.measure(size),
    "floors": lambda size, _: floors.measure(size),
    "whole": lambda size, _: whole.measure(size),
    "start": lambda size, _: agent.measure_start(size),
    "agent": agent.measure,
}


def main() -> None:
    """Measure what the arguments name."""
    stage, services, endpoints, extent = sys.argv[1:]
    how_much = msgspec.json.decode(extent, type=agent.Extent)
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    # Where `lo` was never up, IPVS takes no real server.
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    for line in json_lines(STAGES[stage](Size(int(services), int(endpoints)), how_much)):
        print(line, flush=True)


if __name__ == "__main__":
    main()
