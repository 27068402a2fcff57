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
from pathlib import Path
from typing import TYPE_CHECKING

from rig import boot, guest
from rig.model import Kind, RigError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rig.boot import Lines
    from rig.model import Job

PROGRAM = "linux.uml"
MODULE_TREE = Path("/usr/lib/uml/modules")


def arguments(*, init: Path, work: Path, memory: int, lines: Lines) -> list[str]:
    """Return the kernel's command line."""
    keys = "null" if lines.keys is None else f"fd:{lines.keys}"
    return [
        PROGRAM,
        f"mem={memory >> 20}M",
        *("rootfstype=hostfs", "rootflags=/", "rw", "quiet", "noreboot", "panic=1"),
        f"init={init}",
        f"RIG_WORK={work}",
        *("con=null", f"con0=null,fd:{lines.console}"),
        *("ssl=null", f"ssl0={keys},fd:{lines.output}", f"ssl1=null,fd:{lines.errors}"),
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
    memory_in = memory_directory(job.memory)
    with guest.work_folder() as work, reserved_cpu() as cpu:

        def command(init: Path, folder: Path, lines: Lines) -> list[str]:
            kernel = arguments(init=init, work=folder, memory=job.memory, lines=lines)
            return ["taskset", "--cpu-list", str(cpu), *kernel]

        return boot.run(
            job,
            boot.Guest(
                kind=Kind.UML,
                module_tree=MODULE_TREE,
                output="/dev/ttyS0",
                errors="/dev/ttyS1",
                arguments=command,
                # It reads TMPDIR for its memory, and keeps a control socket below HOME.
                environment={"TMPDIR": str(memory_in), "HOME": str(work.path)},
            ),
            work,
        )
