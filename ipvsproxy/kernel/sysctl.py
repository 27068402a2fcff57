"""Kernel settings below /proc/sys, by path.

Knows files; which settings matter and what they should be is decided elsewhere. A setting that has
the wanted value already is not written: some are counted, logged or take effect on every write.
"""

from __future__ import annotations

import errno
from pathlib import Path
from typing import TYPE_CHECKING

from ipvsproxy.dataplane import DONE, Outcome, Refusal
from ipvsproxy.kernel.refusals import refused

if TYPE_CHECKING:
    from collections.abc import Collection

    from ipvsproxy.core.operations import SetSysctl

__all__ = ["apply", "read"]

_ROOT = Path("/proc/sys")


def read(names: Collection[str], *, root: Path = _ROOT) -> dict[str, str]:
    """Return the values of the settings that this kernel has and lets us read.

    Names are paths below /proc/sys; values are without the newline at the end.
    """
    found = {}
    for name in names:
        try:
            found[name] = _value(root / name)
        except OSError:
            continue  # unknown, which is what its absence says
    return found


def apply(operation: SetSysctl, *, root: Path = _ROOT) -> Outcome:
    """Write one setting unless it has the value already."""
    path = root / operation.name
    try:
        if _value(path) != operation.value:
            with path.open("r+") as file:  # never creates one, wherever `root` is
                file.write(operation.value)
    except FileNotFoundError:
        return Outcome(Refusal.UNSUPPORTED, f"this kernel has no {path}")
    except PermissionError:
        return Outcome(Refusal.FORBIDDEN, f"{path} cannot be written: run privileged")
    except OSError as error:
        refusal, reason = refused(error.errno or 0)
        if error.errno == errno.EROFS:  # as in a container without privileges
            reason = (
                "read-only here; set it on the host, or start the pod anew (its init container may)"
            )
        return Outcome(refusal, f"{path} cannot be written: {reason}")
    return DONE


def _value(path: Path) -> str:
    return path.read_text(encoding="ascii", errors="replace").strip()
