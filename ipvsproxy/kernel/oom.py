"""This process's place in the kernel's choice of a victim when memory runs out (proc(5)).

Knows the file; whether a refusal matters is for others to say.
"""

from __future__ import annotations

from pathlib import Path

_FILE = Path("/proc/self/oom_score_adj")


def adjust(value: int, *, file: Path = _FILE) -> str:
    """Take a place, -1000 (never) to 1000; give why it could not be taken, empty where it was.

    Going below the place that the process was started with takes CAP_SYS_RESOURCE.
    """
    try:
        if file.read_text(encoding="ascii").strip() != str(value):
            file.write_text(str(value), encoding="ascii")
    except OSError as error:
        return error.strerror or str(error)
    return ""
