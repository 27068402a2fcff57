"""One network namespace: enter it with this thread, open a socket in it, run a program in it.

setns(2) moves the calling thread only, and a socket stays where it was created; so `inside` is
entered, something is created, and it is left at once. Never await inside it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

FOLDER = Path("/run/netns")
COMMAND_SECONDS = 60.0
"""Limit for any program that the testbed starts and waits for."""

_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


class CommandError(Exception):
    """A program of the testbed failed; the text says which, and its last words."""


def _enter(descriptor: int) -> None:
    if _libc.setns(descriptor, _CLONE_NEWNET) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"setns: {os.strerror(code)}")


@contextlib.contextmanager
def inside(namespace: str) -> Iterator[None]:
    """Have this thread's new sockets, and its view of /proc/sys/net, in a namespace."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        there = os.open(FOLDER / namespace, os.O_RDONLY | os.O_CLOEXEC)
        try:
            _enter(there)
        finally:
            os.close(there)
        try:
            yield
        finally:
            _enter(home)
    finally:
        os.close(home)


def open_socket(namespace: str, family: int, kind: int, protocol: int = 0) -> socket.socket:
    """Create a socket in a namespace, non-blocking."""
    with inside(namespace):
        return socket.socket(family, kind | socket.SOCK_NONBLOCK, protocol)


def write_sysctls(namespace: str, values: dict[str, str]) -> None:
    """Write sysctls, by path below /proc/sys/net, as in `ipv4/ip_forward`."""
    with inside(namespace):
        for path, value in values.items():
            (Path("/proc/sys/net") / path).write_text(value)


def run(*command: str, text: str = "") -> str:
    """Run a program with `text` as its input; return its output, CommandError if it fails."""
    done = subprocess.run(
        command, input=text, capture_output=True, text=True, timeout=COMMAND_SECONDS, check=False
    )
    if done.returncode != 0:
        words = (done.stderr.strip() or done.stdout.strip()).splitlines()[-3:]
        raise CommandError(f"{' '.join(command)}: status {done.returncode}: {' / '.join(words)}")
    return done.stdout


def run_inside(namespace: str, *command: str, text: str = "") -> str:
    """Run a program in a namespace; return its output, CommandError if it fails."""
    return run("ip", "netns", "exec", namespace, *command, text=text)


def batch(lines: Iterable[str], *, namespace: str = "") -> None:
    """Run many `ip` commands in one process, in the order given; the first failure ends them."""
    where = ("-n", namespace) if namespace else ()
    run("ip", *where, "-batch", "-", text="".join(f"{line}\n" for line in lines))


def create(names: Iterable[str]) -> None:
    """Create namespaces."""
    batch(f"netns add {name}" for name in names)


def delete(names: Iterable[str]) -> None:
    """Delete those of the namespaces that exist, with all that is in them."""
    existing = [name for name in names if (FOLDER / name).exists()]
    if existing:
        batch(f"netns del {name}" for name in existing)
