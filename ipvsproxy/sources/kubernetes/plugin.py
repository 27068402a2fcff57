"""Credential plugins: programs that a kubeconfig names (`exec`) and that print a credential.

Knows the protocol (client.authentication.k8s.io, as in client-go's plugin/pkg/client/auth/exec) and
how to end a program that hangs; knows nothing of what the credential is used for.

The library runs a plugin until its output is at its end, which it never is where something that the
plugin has started keeps it open; it waits for ever then, and whoever does not leaves its pipes
open. So the output goes into files in memory, and what counts is the end of the plugin itself. One
that does not end in time is ended with all that it has started; it has a process group of its own.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from typing import NamedTuple

import msgspec

from ipvsproxy.sources.kubernetes.errors import one_line

_LARGEST_OUTPUT = 1 << 20
"""Bytes that are read of what a plugin prints; a credential has some thousand."""


class PluginError(Exception):
    """A plugin has given no credential; the message is one line and says why."""


class Limits(NamedTuple):
    """Seconds."""

    run: float
    """How long a plugin may take."""
    ending: float
    """How long it may take to end after a polite signal, before it is killed."""


class _Credential(msgspec.Struct, rename="camel"):
    api_version: str
    status: dict[str, object]


async def ask(
    argv: Sequence[str], environment: Mapping[str, str], *, api_version: str, limits: Limits
) -> dict[str, object]:
    """Run a plugin and return its credential's `status`. Raises PluginError.

    Nobody is there to be asked for a password: it is told so, and has no standard input.
    """
    told = {"apiVersion": api_version, "kind": "ExecCredential", "spec": {"interactive": False}}
    environment = {**environment, "KUBERNETES_EXEC_INFO": json.dumps(told)}
    with _file("out") as out, _file("err") as err:
        status = await _run(argv, environment, (out, err), limits)
        if status:
            complaint = one_line(_content(err).decode(errors="replace"))
            how = f"ended with status {status}" if status > 0 else f"ended by signal {-status}"
            raise PluginError(f"its plugin {argv[0]} {how}: {complaint or 'it says nothing'}")
        printed = _content(out)
    try:
        credential = msgspec.json.decode(printed, type=_Credential)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise PluginError(f"its plugin {argv[0]}: no credential: {error}") from None
    if credential.api_version != api_version:
        spoken = one_line(credential.api_version)
        raise PluginError(f"its plugin {argv[0]} speaks {spoken}, not {api_version}")
    return credential.status


class _Program(asyncio.SubprocessProtocol):
    """Knows whether a program has ended."""

    def __init__(self) -> None:
        self.ended = asyncio.Event()

    def process_exited(self) -> None:
        self.ended.set()


async def _run(
    argv: Sequence[str], environment: Mapping[str, str], outputs: tuple[int, int], limits: Limits
) -> int:
    """Run a program to its end, or to the end of its time. Raises PluginError."""
    loop = asyncio.get_running_loop()
    try:
        transport, program = await loop.subprocess_exec(
            _Program,
            *argv,
            env=environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=outputs[0],
            stderr=outputs[1],
            start_new_session=True,
        )
    except (OSError, ValueError) as error:  # a name with a null character is a ValueError
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise PluginError(f"its plugin {argv[0]} cannot be started: {reason}") from None
    with closing(transport):  # whether or not its end is noticed in time
        by_itself = False
        try:
            async with asyncio.timeout(limits.run):
                await program.ended.wait()
            by_itself = True
        except TimeoutError:
            _signal(transport, signal.SIGTERM)
            await _end(program, limits.ending)
            message = f"no credentials within {limits.run:g}s: its plugin (exec) hangs"
            raise PluginError(message) from None
        finally:
            if not by_itself:  # what it has started may not have heeded the polite signal
                _signal(transport, signal.SIGKILL)
                await _end(program, limits.ending)
        status = transport.get_returncode()
    assert status is not None, "it has ended"
    return status


async def _end(program: _Program, seconds: float) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await program.ended.wait()


def _signal(transport: asyncio.SubprocessTransport, number: int) -> None:
    """Send a signal to a program and to what it has started."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(transport.get_pid(), number)


@contextmanager
def _file(name: str) -> Iterator[int]:
    """Give a file in memory."""
    number = os.memfd_create(name)
    try:
        yield number
    finally:
        os.close(number)


def _content(number: int) -> bytes:
    return os.pread(number, _LARGEST_OUTPUT, 0)
