"""Entry point of `python -m demo`."""

from __future__ import annotations

import argparse
import io
import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from demo import shell
from demo.scene import LAYOUT
from demo.show import Screen
from demo.story import Story
from testbed.agent import AgentError
from testbed.cluster import Cluster, NotAppliedError
from testbed.namespaces import CommandError

if TYPE_CHECKING:
    from types import FrameType


def main() -> int:
    """Show the demonstration or leave a shell; return the exit status."""
    parser = argparse.ArgumentParser(prog="demo", description="Shows what ipvsproxy does.")
    parser.add_argument("--shell", action="store_true", help="leave a shell in the cluster")
    options = parser.parse_args()
    if os.geteuid() != 0 or not Path("/sys/module/ip_vs").exists():
        sys.stderr.write("demo: needs root and a kernel with IPVS; `make demo` sees to both\n")
        return 1
    signal.signal(signal.SIGTERM, _end)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # drawings, on a terminal that has no such letters
    try:
        with tempfile.TemporaryDirectory(prefix="ipvsproxy-demo-") as folder:
            return _run(Path(folder), interactive=options.shell)
    except (AgentError, CommandError, NotAppliedError) as error:
        sys.stderr.write(f"demo: {error}\n")
        return 1
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


def _run(folder: Path, *, interactive: bool) -> int:
    screen = Screen()
    with Cluster(LAYOUT, folder) as cluster:
        story = Story(cluster, screen)
        if interactive:
            story.begin()
            return shell.run(cluster, folder)
        story.tell()
    return screen.finish()


def _end(number: int, _frame: FrameType | None) -> None:
    sys.exit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
