"""The work folder through which the host tells a guest what to do, and learns how it went.

Everything here is a file below one fresh folder; `guest.sh` is the other end. The guest's root
is the machine's own file system, so a path means the same thing on both sides, except below the
folders that a guest mounts anew.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from rig.model import MODULES, RigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from rig.model import Job, Kind

HIDDEN = tuple(Path(name) for name in ("/run", "/var/run", "/proc", "/sys", "/dev"))
"""Folders of which a guest has its own."""

SYSTEM_PATH = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")
PASSED = {"CI", "COLORTERM", "FORCE_COLOR", "HOME", "LANG", "NO_COLOR", "TERM", "TZ", "VIRTUAL_ENV"}
PASSED_PREFIXES = ("COVERAGE_", "HYPOTHESIS_", "IPVSPROXY_", "LC_", "PYTEST_", "PYTHON")


def guest_environment(outer: Mapping[str, str], kind: Kind) -> dict[str, str]:
    """Return what a command gets to see of the caller's environment.

    Temporary files go to the guest's own memory: its `/tmp` is the machine's, and slow.
    """
    passed = {
        name: value
        for name, value in outer.items()
        if name in PASSED or name.startswith(PASSED_PREFIXES)
    }
    path = [entry for entry in outer.get("PATH", "").split(":") if entry]
    path += [entry for entry in SYSTEM_PATH if entry not in path]
    return {
        "HOME": "/root",
        **passed,
        "PATH": ":".join(path),
        "TMPDIR": "/run/tmp",
        "IPVSPROXY_RIG_GUEST": kind.value,
    }


def command_text(job: Job) -> str:
    """Return the shell script that runs the command of a job."""
    assignments = [f"{name}={value}" for name, value in sorted(job.environment.items())]
    words = shlex.join(["env", "-i", *assignments, *job.command])
    return f"cd {shlex.quote(str(job.directory))} || exit 125\nexec {words}\n"


def settings_text(settings: Mapping[str, str]) -> str:
    """Return assignments that a shell can source."""
    return "".join(f"{name}={shlex.quote(value)}\n" for name, value in sorted(settings.items()))


def refuse_hidden(directory: Path) -> None:
    """Refuse a folder that the guest cannot see."""
    for hidden in HIDDEN:
        if directory.is_relative_to(hidden):
            raise RigError(f"{directory} is not visible inside the guest; move it out of {hidden}")


def scratch_directory() -> Path:
    """Return a folder for work folders: visible to the guest, and writable by us."""
    candidates = [os.environ.get("TMPDIR"), "/tmp", "/var/tmp"]  # noqa: S108 (mkdtemp follows)
    for candidate in candidates:
        if candidate is None or any(character.isspace() for character in candidate):
            continue  # the kernel's command line cannot quote
        path = Path(candidate).resolve()
        if os.access(path, os.W_OK) and not any(path.is_relative_to(hidden) for hidden in HIDDEN):
            return path
    raise RigError("no writable folder for temporary files; set TMPDIR to one")


class WorkFolder:
    """One run's folder: the job on the way in, the status on the way out."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, job: Job, settings: Mapping[str, str]) -> Path:
        """Write everything a guest reads; return the program that is its first process."""
        refuse_hidden(job.directory)
        (self.path / "command").write_text(command_text(job))
        (self.path / "settings").write_text(
            settings_text({"RIG_MODULES": " ".join(MODULES), "RIG_TERMINAL": "", **settings})
        )
        return Path(shutil.copy(Path(__file__).with_name("guest.sh"), self.path / "init"))

    def status(self) -> int | None:
        """Return the status of the command, or None where the guest did not get that far."""
        try:
            return int((self.path / "status").read_text())
        except (FileNotFoundError, ValueError):
            return None


@contextlib.contextmanager
def work_folder() -> Iterator[WorkFolder]:
    """Make a fresh work folder, and remove it afterwards."""
    path = Path(tempfile.mkdtemp(prefix="ipvsproxy-rig-", dir=scratch_directory()))
    try:
        yield WorkFolder(path)
    finally:
        shutil.rmtree(path, ignore_errors=True)
