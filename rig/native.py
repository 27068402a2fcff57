"""The machine's own kernel, in fresh mount, network, process and host-name namespaces.

Nothing that a command does to networks or mounts survives it. Modules it needs are loaded into the
machine's kernel and stay loaded; that is the one trace. Needs root: otherwise the rig starts itself
again through sudo.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from rig import console, guest
from rig.model import Kind

if TYPE_CHECKING:
    from pathlib import Path

    from rig.model import Job


def arguments(init: Path) -> list[str]:
    """Return the command that makes the namespaces and starts the first process in them."""
    return [
        *("unshare", "--mount", "--net", "--uts", "--pid", "--fork", "--kill-child"),
        *("--mount-proc", "--propagation", "private"),
        *("bash", str(init)),
    ]


def again_as_root(environment: dict[str, str]) -> None:
    """Replace this process by the same one under sudo, which relays signals to it."""
    assignments = [f"{name}={value}" for name, value in sorted(environment.items())]
    words = ["sudo", "env", *assignments, sys.executable, "-m", "rig", *sys.argv[1:]]
    sys.stdout.flush()
    os.execvp("sudo", words)  # noqa: S606 (no shell is wanted)


def run(job: Job) -> int:
    """Run a job in fresh namespaces; return its exit status."""
    deadline = time.monotonic() + job.timeout
    with guest.work_folder() as work:
        init = work.write(job, {"RIG_MACHINE": Kind.NATIVE.value})
        process = subprocess.Popen(
            arguments(init),
            stdin=None if job.terminal else subprocess.DEVNULL,
            env={**os.environ, "RIG_WORK": str(work.path)},
            start_new_session=not job.terminal,
        )
        with console.ended_with_us(process):
            try:
                return process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                return console.timed_out(TimeoutError(console.too_long(job.timeout)), job.command)
