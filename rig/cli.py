"""The command line of the rig (first form)."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from rig import guest, uml
from rig.model import Job, Kind


def main() -> int:
    parser = argparse.ArgumentParser(prog="rig")
    sub = parser.add_subparsers(dest="what", required=True)
    run = sub.add_parser("run")
    run.add_argument("--tty", action="store_true")
    run.add_argument("--memory", default="2G")
    run.add_argument("--timeout", type=float, default=300)
    run.add_argument("--env", action="append", default=[])
    run.add_argument("command", nargs="+")
    options = parser.parse_args()
    environment = guest.guest_environment(os.environ, Kind.UML)
    environment |= dict(pair.split("=", 1) for pair in options.env)
    job = Job(tuple(options.command), Path.cwd(), environment, timeout=options.timeout, terminal=options.tty)
    return uml.run(job)
