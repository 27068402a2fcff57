"""Starting system programs: ipset, iptables and conntrack, and how many were started.

Knows how to run a program with a text on its standard input and a time limit; knows no program's
language. Every program of this package is started here, so that what they have in common is said
once: C locale, a fixed PATH, no shell, no inherited standard input, a count.

There is one time limit, for one program, and it is an outer one: nothing that works comes near it,
and what a program waits for itself (iptables' lock) takes less. One whose time is up is killed, and
its end is waited for, but not that of what it has started. A program that was ended by a signal,
ours or another's (lack of memory), has said nothing of what it did; it has failed for now, whatever
it was. Whoever starts one program after another stops at the first that fails so.
"""

from __future__ import annotations

import errno
import shutil
import signal
import subprocess
from collections.abc import Sequence
from typing import NamedTuple

from ipvsproxy.dataplane import Outcome, Refusal

SECONDS = 30.0
"""Time limit of one program, in seconds. A restore of 100,000 members takes about one."""

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""Where programs are looked for: fixed, as a service's own PATH often lacks the sbin folders."""

PACKAGES = {"ipset": "ipset", "conntrack": "conntrack"}
"""The Debian package of a program; that of all others is iptables."""


_PASSING = frozenset({errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE})
"""Why a program cannot be started now, and can be later."""


class Completed(NamedTuple):
    """How a program ended, and what it said."""

    returncode: int
    """Its exit status, from 0 to 255."""
    stdout: str
    """Bytes that are not UTF-8 are as in file names (PEP 383), and go out again as they came."""
    stderr: str

    @property
    def complaint(self) -> str:
        """What it said on standard error, in one line; its exit status if it said nothing."""
        return " ".join(self.stderr.split()) or f"exit status {self.returncode}"


class ProcessError(Exception):
    """A program could not be run to its end; the message says why and what to do."""

    def __init__(self, refusal: Refusal, message: str) -> None:
        super().__init__(message)
        self.refusal = refusal

    @property
    def outcome(self) -> Outcome:
        """The same as the outcome of an operation."""
        return Outcome(self.refusal, str(self))


class Processes:
    """Runs programs, one at a time, and counts them.

    Blocks; the caller is a worker thread. `launched` may be read from any thread.
    """

    def __init__(self, path: str = PATH, seconds: float = SECONDS) -> None:
        self.launched = 0
        """Programs started since the beginning."""
        self._environment = {"LC_ALL": "C", "PATH": path}
        self._seconds = seconds

    def has(self, program: str) -> bool:
        """Say whether a program is there and may be run, without running it."""
        return shutil.which(program, path=self._environment["PATH"]) is not None

    def run(self, argv: Sequence[str], stdin: str = "") -> Completed:
        """Run a program to its end and return what it said, whatever its exit status.

        Raises ProcessError: UNSUPPORTED where the program is missing, FORBIDDEN where it may not
        be run, BUSY when it was ended because its time was up, or by a signal of somebody else, or
        could not be started for lack of memory, processes or files; FAILED where it cannot be
        started for any other reason.
        """
        program = argv[0]
        try:
            done = subprocess.run(
                argv,
                input=stdin.encode(errors="surrogateescape"),
                capture_output=True,
                env=self._environment,
                timeout=self._seconds,
                check=False,
            )
        except FileNotFoundError:
            package = PACKAGES.get(program, "iptables")
            message = f"{program} is not installed: install the package {package}"
            raise ProcessError(Refusal.UNSUPPORTED, message) from None
        except PermissionError as error:
            raise ProcessError(Refusal.FORBIDDEN, f"{program} may not be run: {error}") from None
        except subprocess.TimeoutExpired:
            self.launched += 1
            message = f"{program} gave no answer within {self._seconds:g} s and was ended"
            raise ProcessError(Refusal.BUSY, message) from None
        except OSError as error:
            refusal = Refusal.BUSY if error.errno in _PASSING else Refusal.FAILED
            raise ProcessError(refusal, f"{program} cannot be started: {error}") from None
        self.launched += 1
        if done.returncode < 0:
            number = -done.returncode
            message = f"{program} was ended by signal {number} ({signal.strsignal(number)})"
            raise ProcessError(Refusal.BUSY, message)
        output = done.stdout.decode(errors="surrogateescape")
        return Completed(done.returncode, output, done.stderr.decode(errors="replace"))
