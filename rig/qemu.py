"""QEMU without KVM (not written yet)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rig.model import RigError

if TYPE_CHECKING:
    from rig.model import Job


def prepare() -> None:
    """Fetch and unpack the kernel."""
    raise RigError("qemu is not supported yet; use --rig uml")


def run(job: Job) -> int:
    """Run a job in an emulated machine; return its exit status."""
    raise RigError(f"qemu is not supported yet; use --rig uml for {job.command[0]}")
