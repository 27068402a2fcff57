"""The three streams of a guest: what the command prints, what it prints as errors, the console.

The command's own two go through unchanged. The console is a kernel's, so it is silent unless
something is wrong: it shows lines of the guest's first process that start with `rig:`, and
everything from the first line that looks like a crash. The last lines are kept, for when the guest
dies.
"""

from __future__ import annotations

import contextlib
import os
import re
import selectors
import signal
import sys
import termios
import time
import tty
from collections import deque
from typing import TYPE_CHECKING

from rig.model import TIMED_OUT, RigError

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator, Mapping
    from types import FrameType

CRASH = re.compile(
    r"panic|BUG:|Oops|\bOOPS\b|general protection|Unable to handle|Call Trace|Out of memory"
    r"|oom-kill|Killed process|hung_task|blocked for more than|No space left|Failed to allocate",
    re.IGNORECASE,
)
NOISE = re.compile(r"SELinux|mmapper_init|ubd device 0|reboot: |Halting|^\s*$")
KEPT_LINES = 60
CHUNK = 65536


class Console:
    """Decides which lines of a guest's console a person should see."""

    def __init__(self) -> None:
        self.crashed = False
        self.recent: deque[str] = deque(maxlen=KEPT_LINES)
        self._rest = ""

    def feed(self, text: str) -> list[str]:
        """Take what the console printed; return the lines to show."""
        *lines, self._rest = (self._rest + text).replace("\r", "").split("\n")
        return [shown for line in lines if (shown := self._line(line)) is not None]

    def _line(self, line: str) -> str | None:
        if NOISE.search(line):
            return None
        self.recent.append(line)
        if line.startswith("rig:"):
            return line
        self.crashed = self.crashed or CRASH.search(line) is not None
        return f"kernel: {line}" if self.crashed else None

    def last_words(self) -> list[str]:
        """Return the lines that were kept and not shown."""
        return [] if self.crashed else [f"kernel: {line}" for line in self.recent]


@contextlib.contextmanager
def raw_terminal(descriptor: int) -> Iterator[None]:
    """Hand every key to the guest, whose own terminal makes sense of them."""
    before = termios.tcgetattr(descriptor)
    tty.setraw(descriptor)
    try:
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def kill_all(process: subprocess.Popen[bytes]) -> None:
    """End a process, and its group where it leads one."""
    if process.poll() is None and os.getpgid(process.pid) != process.pid:
        process.kill()
    else:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@contextlib.contextmanager
def ended_with_us(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Make sure that nothing of a process survives this block, nor a signal that ends us."""

    def stop(number: int, _frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    previous = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    except KeyboardInterrupt:
        raise SystemExit(128 + signal.SIGINT) from None
    except BrokenPipeError:
        raise SystemExit(128 + signal.SIGPIPE) from None
    finally:
        kill_all(process)
        for number, handler in previous.items():
            signal.signal(number, handler)


class Relay:
    """Passes the streams of a guest on until it ends or its time is up."""

    def __init__(self, deadline: float, timeout: float) -> None:
        self.console = Console()
        self._deadline = deadline
        self._timeout = timeout
        self._selector = selectors.DefaultSelector()

    def run(self, *, console: int, copies: Mapping[int, int], keys: tuple[int, int] | None) -> None:
        """Relay: console text to our judgement, copies from → to, keys (from, to) or none."""
        self._selector.register(console, selectors.EVENT_READ, self._show)
        for source, target in copies.items():
            self._selector.register(source, selectors.EVENT_READ, _writer(target))
        if keys is not None:
            self._selector.register(keys[0], selectors.EVENT_READ, _writer(keys[1]))
        waiting_for = {console, *copies}
        while waiting_for:
            for key, _ in self._selector.select(self._seconds_left()):
                data = os.read(key.fd, CHUNK)
                if data:
                    key.data(data)
                else:
                    self._selector.unregister(key.fd)
                    waiting_for.discard(key.fd)

    def _seconds_left(self) -> float:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError(too_long(self._timeout))
        return left

    def _show(self, data: bytes) -> None:
        for line in self.console.feed(data.decode(errors="replace")):
            sys.stderr.write(f"{line}\n")
        sys.stderr.flush()


def _writer(target: int) -> Callable[[bytes], None]:
    def write(data: bytes) -> None:
        while data:
            data = data[os.write(target, data) :]

    return write


def mourn(console: Console) -> None:
    """Say what is known of a guest that ended before its command had a status."""
    for line in console.last_words():
        sys.stderr.write(f"{line}\n")
    sys.stderr.write("rig: the guest ended without a status of the command (see above)\n")


def too_long(timeout: float) -> str:
    """Return what to say of a command that used up its time."""
    return f"ran longer than {timeout:g} s and was stopped"


def timed_out(error: TimeoutError, command: tuple[str, ...]) -> int:
    """Say that the time was up; return the exit status for it."""
    sys.stderr.write(f"rig: {' '.join(command)[:80]}: {error}; raise --timeout to allow more\n")
    return TIMED_OUT


def terminal_size() -> str:
    """Return "ROWS COLUMNS" of the terminal we are on."""
    if not sys.stdin.isatty() or not sys.stdout.isatty():
        raise RigError("--tty needs a terminal; leave it out in scripts")
    size = os.get_terminal_size()
    return f"{size.lines} {size.columns}"
