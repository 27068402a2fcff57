"""Starting a guest, and staying with it to its end: what user-mode Linux and QEMU have in common.

A guest has three lines out, each a pipe that we read: the kernel's console, what the command
prints, and what it prints as errors. With a terminal there is a fourth, the keys, into the guest.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rig import console
from rig.model import GUEST_DIED, Kind, RigError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from rig.guest import WorkFolder
    from rig.model import Job


@dataclass(frozen=True, slots=True)
class Lines:
    """The guest's ends of its lines, as file descriptors that it inherits."""

    console: int
    output: int
    errors: int
    keys: int | None = None

    def descriptors(self) -> tuple[int, ...]:
        """Return all of them."""
        lines = (self.console, self.output, self.errors)
        return lines if self.keys is None else (*lines, self.keys)


@dataclass(frozen=True, slots=True)
class Guest:
    """How a kind of guest is started."""

    kind: Kind
    module_tree: Path
    output: str
    """The device through which the command's output leaves the guest."""
    errors: str
    arguments: Callable[[Path, Path, Lines], list[str]]
    """The command to start, given the first process, the work folder and the lines."""
    environment: Mapping[str, str]


def run(job: Job, guest: Guest, work: WorkFolder) -> int:
    """Run a job in a guest; return its exit status."""
    deadline = time.monotonic() + job.timeout
    init = work.write(
        job,
        {
            "RIG_MACHINE": guest.kind.value,
            "RIG_MODULE_TREE": str(guest.module_tree),
            "RIG_OUT": guest.output,
            "RIG_ERR": guest.errors,
            "RIG_TERMINAL": console.terminal_size() if job.terminal else "",
        },
    )
    pipes = [os.pipe() for _ in range(3)]
    keys = os.pipe() if job.terminal else None
    ends = [write for _, write in pipes]
    lines = Lines(ends[0], ends[1], ends[2], keys=keys[0] if keys else None)
    process = _start(guest, guest.arguments(init, work.path, lines), lines)
    with contextlib.ExitStack() as stack:
        stack.enter_context(console.ended_with_us(process))
        if keys is not None:
            stack.enter_context(console.raw_terminal(sys.stdin.fileno()))
        relay = console.Relay(deadline, job.timeout)
        try:
            relay.run(
                console=pipes[0][0],
                copies={pipes[1][0]: sys.stdout.fileno(), pipes[2][0]: sys.stderr.fileno()},
                keys=(sys.stdin.fileno(), keys[1]) if keys else None,
            )
        except TimeoutError as error:
            return console.timed_out(error, job.command)
    status = work.status()
    if status is None:
        console.mourn(relay.console)
        return GUEST_DIED
    return status


def _start(guest: Guest, words: list[str], lines: Lines) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", *words],
            stdin=subprocess.DEVNULL,
            stdout=lines.console,
            stderr=lines.console,
            pass_fds=lines.descriptors(),
            start_new_session=True,
            env={**os.environ, **guest.environment},
        )
    except OSError as error:
        raise RigError(f"{guest.kind} does not start: {error}") from None
    finally:
        for descriptor in lines.descriptors():
            os.close(descriptor)
