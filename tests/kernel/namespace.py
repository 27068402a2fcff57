"""A network namespace of a test's own, for programs that the test starts."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_CLONE_NEWNET = 0x40000000


@contextmanager
def fresh_network_namespace() -> Iterator[None]:
    """Move this thread, and the programs that it starts, into an empty network namespace.

    It goes with its last user, so nothing of a test is left behind.
    """
    library = ctypes.CDLL(None, use_errno=True)
    home = os.open(Path("/proc/thread-self/ns/net"), os.O_RDONLY | os.O_CLOEXEC)
    try:
        _check(library.unshare(_CLONE_NEWNET), "unshare")
        try:
            yield
        finally:
            _check(library.setns(home, _CLONE_NEWNET), "setns")
    finally:
        os.close(home)


def _check(result: int, call: str) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, f"{call}: {os.strerror(number)}")
