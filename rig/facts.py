"""What there is to know about this machine before a kernel is chosen. Only reads."""

from __future__ import annotations

import gzip
import importlib.util
import os
import platform
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rig.guest import SYSTEM_PATH
from rig.model import MODULES

if TYPE_CHECKING:
    from collections.abc import Iterable

PROGRAMS = {
    "ip": "iproute2",
    "ipset": "ipset",
    "iptables": "iptables",
    "modprobe": "kmod",
    "ipvsadm": "ipvsadm",
    "conntrack": "conntrack",
    "sysctl": "procps",
    "unshare": "util-linux",
    "setpriv": "util-linux",
    "taskset": "util-linux",
}
"""Programs that the project's tests and demonstration use, and Debian's package of each."""

UML_PROGRAMS = {"linux.uml": "user-mode-linux"}
QEMU_PROGRAMS = {
    "qemu-system-x86_64": "qemu-system-x86",
    "busybox": "busybox-static",
    "cpio": "cpio",
    "depmod": "kmod",
}


@dataclass(frozen=True, slots=True)
class Facts:
    """This machine, as far as the choice of a kernel depends on it."""

    architecture: str
    release: str
    root: bool
    sudo: bool
    apt: bool
    programs: frozenset[str]
    venv: bool
    kernel_modules: frozenset[str]
    """Those of `MODULES` that the machine's own kernel has, loaded, built in or on disk."""
    namespaces: str | None
    """Why we may not make namespaces; None where we may."""
    module_mount_point: bool
    """Whether /lib/modules exists, over which a guest mounts its own."""


def find_program(name: str) -> str | None:
    """Find a program where root would find it, whatever PATH says."""
    path = os.pathsep.join([os.environ.get("PATH", ""), *SYSTEM_PATH])
    return shutil.which(name, path=path)


def gather() -> Facts:
    """Look at this machine."""
    wanted = {*PROGRAMS, *UML_PROGRAMS, *QEMU_PROGRAMS}
    return Facts(
        architecture=platform.machine(),
        release=platform.release(),
        root=os.geteuid() == 0,
        sudo=find_program("sudo") is not None,
        apt=find_program("apt-get") is not None,
        programs=frozenset(name for name in wanted if find_program(name)),
        venv=importlib.util.find_spec("ensurepip") is not None,
        kernel_modules=own_kernel_modules(platform.release()),
        namespaces=_namespaces_refused(),
        module_mount_point=Path("/lib/modules").is_dir(),
    )


def module_names(lines: Iterable[str]) -> frozenset[str]:
    """Return the module names in the text of modules.builtin or modules.dep."""
    paths = (line.split(":")[0].strip() for line in lines)
    names = (re.sub(r"\.ko(\.\w+)?$", "", path.rsplit("/", 1)[-1]) for path in paths)
    return frozenset(name.replace("-", "_") for name in names if name)


def config_names(text: str) -> frozenset[str]:
    """Return those of our modules that a kernel configuration builds in."""
    built_in = frozenset(re.findall(r"^CONFIG_(\w+)=y$", text, re.MULTILINE))
    return frozenset(name for name in MODULES if name.upper() in built_in)


def own_kernel_modules(release: str) -> frozenset[str]:
    """Return those of our modules that the running kernel has or can load."""
    known = {path.name for path in Path("/sys/module").glob("*")}
    for name in ("modules.builtin", "modules.dep"):
        path = Path("/lib/modules") / release / name
        if path.is_file():
            known |= module_names(path.read_text().splitlines())
    configuration = Path("/proc/config.gz")
    if configuration.is_file():
        known |= config_names(gzip.decompress(configuration.read_bytes()).decode())
    if Path("/proc/net/ip_vs").exists():
        known.add("ip_vs")
    return frozenset(MODULES) & known


def _namespaces_refused() -> str | None:
    """Try to make the namespaces that a native run needs; return why not."""
    if os.geteuid() != 0:
        return None if find_program("sudo") else "not root, and there is no sudo"
    attempt = subprocess.run(
        ["unshare", "--mount", "--net", "--pid", "--fork", "true"],
        capture_output=True,
        text=True,
        check=False,
    )
    return None if attempt.returncode == 0 else attempt.stderr.strip() or "unshare failed"
