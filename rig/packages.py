"""Setting up: Debian packages for the chosen kernel and for the project, and nothing twice.

What is there is found by looking for programs, not by asking apt, so that a machine that has
everything is left alone and costs no time.
"""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

from rig.choose import missing_programs
from rig.facts import PROGRAMS, QEMU_PROGRAMS, UML_PROGRAMS, find_program
from rig.model import Finding, Kind, SetupError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rig.facts import Facts

EXTRA: dict[Kind, dict[str, str]] = {
    Kind.NATIVE: {},
    Kind.UML: UML_PROGRAMS,
    Kind.QEMU: QEMU_PROGRAMS,
}
APT = ("apt-get", "-qq", "-o", "DPkg::Lock::Timeout=300", "-o", "Dpkg::Use-Pty=0")


def needed(facts: Facts, kind: Kind, further: Mapping[str, str]) -> list[str]:
    """Return the packages that are missing for the project and one kind of machine."""
    packages = list(missing_programs(facts, {**PROGRAMS, **EXTRA[kind]}))
    packages += [package for name, package in further.items() if find_program(name) is None]
    if not facts.venv:
        packages.append("python3-venv")
    return packages


def install(facts: Facts, finding: Finding, further: Mapping[str, str]) -> None:
    """Install what is missing; do nothing at all where nothing is.

    Where no kernel is possible, what the rest of the project needs is installed all the same.
    """
    packages = needed(facts, finding.kind if finding.possible else Kind.NATIVE, further)
    guest = finding.possible and finding.kind is not Kind.NATIVE
    if packages:
        _say(f"installing {' '.join(packages)}")
        _apt(facts, packages)
    if guest and not facts.module_mount_point:
        _say("making the empty folder /lib/modules, over which a guest mounts its modules")
        _as_root(facts, ["mkdir", "-p", "/lib/modules"])


def _apt(facts: Facts, packages: Sequence[str]) -> None:
    if not facts.apt:
        raise SetupError(f"there is no apt-get here; install by hand: {' '.join(packages)}")
    try:
        _as_root(facts, [*APT, "update"])
    except SetupError as error:
        _say(f"{error}; going on with the package lists that are there")
    _as_root(facts, [*APT, "install", "-y", "--no-install-recommends", *packages])


def _as_root(facts: Facts, command: Sequence[str]) -> None:
    """Run a command as root; show what it said only when it fails."""
    if not facts.root and not facts.sudo:
        raise SetupError(f"not root, and there is no sudo; as root, run: {' '.join(command)}")
    words = [*([] if facts.root else ["sudo"]), "env", "DEBIAN_FRONTEND=noninteractive", *command]
    result = subprocess.run(
        words,
        stdin=None if sys.stdin.isatty() else subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT if os.geteuid() == 0 else None,  # sudo asks on stderr
        text=True,
        check=False,
    )
    if result.returncode != 0:
        sys.stderr.write(result.stdout)
        raise SetupError(f"failed with status {result.returncode}: {' '.join(command)}")


def _say(text: str) -> None:
    print(f"rig: {text}", flush=True)
