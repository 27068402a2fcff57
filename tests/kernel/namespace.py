"""A network namespace of a test's own, for programs that the test starts; and fewer rights."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_CLONE_NEWNET = 0x40000000
_CAPABILITY_VERSION = 0x20080522  # _LINUX_CAPABILITY_VERSION_3


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


def give_up_capability(number: int) -> None:
    """Take a capability from the calling thread for good; other threads keep theirs (capset(2))."""
    library = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION, 0)  # of this thread
    # Effective, permitted and inheritable ones: 32 of each, then the rest.
    held = (ctypes.c_uint32 * 6)()
    _check(library.capget(header, held), "capget")
    word, bit = divmod(number, 32)
    for kind in range(3):
        held[3 * word + kind] &= ~(1 << bit)
    _check(library.capset(header, held), "capset")


def _check(result: int, call: str) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, f"{call}: {os.strerror(number)}")
