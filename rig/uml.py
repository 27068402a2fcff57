"""User-mode Linux: Debian's `user-mode-linux` package, a kernel that is an ordinary process.

It boots in about two seconds over the machine's own files. One CPU, a 100 Hz clock, x86 only.

- The command's two streams are serial lines (`ssl0`, `ssl1`), so that the kernel's messages, which
  go to `con0`, never mix with them. Each line is a pipe that we read.
- Its memory is a sparse file, which it deletes at once; the file system must have room and must
  allow programs to be executed from it.
- It is bound to one CPU: its processes take turns anyway, and moving between CPUs makes it two to
  three times slower. An abstract socket per CPU keeps two guests off the same one.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from rig import console, guest
from rig.model import Kind, RigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rig.model import Job

PROGRAM = "linux.uml"
MODULE_TREE = Path("/usr/lib/uml/modules")


def arguments(*, init: Path, work: Path, memory: int, lines: Sequence[str]) -> list[str]:
    """Return the kernel's command line; lines are channels: the console, two serial lines."""
    con0, ssl0, ssl1 = lines
    return [
        PROGRAM,
        f"mem={memory >> 20}M",
        *("rootfstype=hostfs", "rootflags=/", "rw", "quiet", "noreboot", "panic=1"),
        f"init={init}",
        f"RIG_WORK={work}",
        *("con=null", f"con0={con0}", "ssl=null", f"ssl0={ssl0}", f"ssl1={ssl1}"),
    ]


def memory_directory(needed: int) -> Path:
    """Return a folder whose file system has room for the guest's memory, a fast one first."""
    seen = []
    for name in ("/dev/shm", os.environ.get("TMPDIR"), "/tmp", "/var/tmp"):  # noqa: S108
        if name is None or not os.access(name, os.W_OK):
            continue
        facts = os.statvfs(name)
        free = facts.f_bavail * facts.f_frsize
        if free >= needed and not facts.f_flag & os.ST_NOEXEC:
            return Path(name)
        seen.append(f"{name} has {free >> 20} MB")
    raise RigError(
        f"no room for {needed >> 20} MB of guest memory ({', '.join(seen)}); "
        "set TMPDIR to a folder with room, or lower --memory"
    )


@contextlib.contextmanager
def reserved_cpu() -> Iterator[int]:
    """Reserve one CPU among other guests; when each has one already, share."""
    cpus = sorted(os.sched_getaffinity(0), reverse=True)
    with socket.socket(socket.AF_UNIX) as lock:
        for cpu in cpus:
            try:
                lock.bind(f"\0ipvsproxy-rig-cpu-{cpu}")
            except OSError:
                continue
            yield cpu
            return
        yield cpus[os.getpid() % len(cpus)]


def run(job: Job) -> int:
    """Run a job in user-mode Linux; return its exit status."""
    deadline = time.monotonic() + job.timeout
    memory_in = memory_directory(job.memory)
    with guest.work_folder() as work, reserved_cpu() as cpu, contextlib.ExitStack() as stack:
        init = work.write(
            job,
            {
                "RIG_MACHINE": Kind.UML.value,
                "RIG_MODULE_TREE": str(MODULE_TREE),
                "RIG_OUT": "/dev/ttyS0",
                "RIG_ERR": "/dev/ttyS1",
                "RIG_TERMINAL": console.terminal_size() if job.terminal else "",
            },
        )
        # Each output is a pipe; only a terminal has an input, and it must be a pipe of its own.
        outputs = [os.pipe() for _ in range(3)]
        key_pipe = os.pipe() if job.terminal else None
        channels = [f"null,fd:{write}" for _, write in outputs]
        if key_pipe is not None:
            channels[1] = f"fd:{key_pipe[0]},fd:{outputs[1][1]}"
        inherited = [write for _, write in outputs] + ([key_pipe[0]] if key_pipe else [])
        process = subprocess.Popen(
            [
                *("setpriv", "--pdeathsig", "KILL", "taskset", "--cpu-list", str(cpu)),
                *arguments(init=init, work=work.path, memory=job.memory, lines=channels),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=inherited,
            start_new_session=True,
            env={**os.environ, "TMPDIR": str(memory_in), "HOME": str(work.path)},
        )
        for descriptor in inherited:
            os.close(descriptor)
        stack.enter_context(console.ended_with_us(process))
        if key_pipe is not None:
            stack.enter_context(console.raw_terminal(sys.stdin.fileno()))
        relay = console.Relay(process, deadline, job.timeout)
        try:
            relay.run(
                console=outputs[0][0],
                copies={outputs[1][0]: sys.stdout.fileno(), outputs[2][0]: sys.stderr.fileno()},
                keys=(sys.stdin.fileno(), key_pipe[1]) if key_pipe else None,
            )
        except TimeoutError as error:
            return console.timed_out(error, job.command)
        return console.outcome(work.status(), relay.console)
