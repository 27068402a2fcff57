"""Credential plugins of a kubeconfig: what they say is used, and nothing of them is left behind."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import shlex
import signal
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest
import yaml

from ipvsproxy.sources.kubernetes import session
from ipvsproxy.sources.kubernetes.access import Kubeconfig
from ipvsproxy.sources.kubernetes.errors import AccessError
from ipvsproxy.sources.kubernetes.library import library
from ipvsproxy.sources.kubernetes.session import Session, load
from tests.api.certificates import authority, needs_openssl
from tests.api.support import bearer_token

API_VERSION = "client.authentication.k8s.io/v1"
URL = "https://192.0.2.1"
WAITS = "while :; do sleep 60; done"
DEAF = "trap '' TERM; "


def answer(**status: object) -> str:
    """Return a shell command that prints a credential."""
    credential = {"apiVersion": API_VERSION, "kind": "ExecCredential", "status": status}
    return f"printf %s {shlex.quote(json.dumps(credential))}"


def exec_config(
    folder: Path, script: str, *, command: str = "sh", cluster: dict[str, str] | None = None
) -> Kubeconfig:
    """Write a kubeconfig whose plugin is a shell script."""
    plugin = {
        "apiVersion": API_VERSION,
        "command": command,
        "args": ["-c", script],
        "env": [{"name": "FOLDER", "value": str(folder)}],
    }
    content = {
        "current-context": "here",
        "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": URL, **(cluster or {})}}],
        "users": [{"name": "u", "user": {"exec": plugin}}],
    }
    path = folder / "kubeconfig"
    path.write_text(yaml.safe_dump(content))
    return Kubeconfig(path)


def open_files() -> list[str]:
    """Return what this process has open, but for the folder that is being read."""
    found = []
    for number in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):
            found.append(str(number.readlink()))
    return sorted(one for one in found if not one.startswith("/proc/"))


async def read_to_the_end(pipe: int) -> bytes:
    """Read until nobody has the other end open any more: a signal is not yet the end."""
    found = asyncio.StreamReader()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(found), os.fdopen(pipe, "rb", buffering=0)
    )
    try:
        async with asyncio.timeout(20):
            return await found.read()
    finally:
        transport.close()


async def test_its_token_is_used_and_it_is_told_what_is_asked_for(tmp_path: Path) -> None:
    script = f'printf %s "$KUBERNETES_EXEC_INFO" > "$FOLDER/asked"; {answer(token="secret")}'
    loaded = await load(exec_config(tmp_path, script))
    assert bearer_token(loaded) == "Bearer secret"
    await loaded.retire()
    asked = json.loads((tmp_path / "asked").read_text())
    assert asked == {
        "apiVersion": API_VERSION,
        "kind": "ExecCredential",
        "spec": {"interactive": False},
    }


async def test_what_it_leaves_running_is_not_waited_for(tmp_path: Path) -> None:
    script = f'({WAITS}) & echo $! > "$FOLDER/child"; {answer(token="secret")}'
    async with asyncio.timeout(20):
        loaded = await load(exec_config(tmp_path, script))
    assert bearer_token(loaded) == "Bearer secret"
    await loaded.retire()
    os.kill(int((tmp_path / "child").read_text()), 9)


@pytest.mark.parametrize(
    ("trap", "of_child"),
    [("", ""), (DEAF, ""), ("", DEAF)],
    ids=["polite", "deaf", "polite with a deaf child"],
)
async def test_one_that_hangs_is_ended_with_its_children_and_leaves_nothing_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trap: str, of_child: str
) -> None:
    monkeypatch.setattr(session, "CREDENTIALS_SECONDS", 0.3)
    monkeypatch.setattr(session, "_ENDING_SECONDS", 0.2)
    pipe = tmp_path / "alive"
    os.mkfifo(pipe)
    reading = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    script = f'{trap}exec 3> "$FOLDER/alive"; echo up >&3; ({of_child}{WAITS}) & {WAITS}'
    access = exec_config(tmp_path, script)
    library()
    before = open_files()
    for _ in range(3):
        with pytest.raises(AccessError, match=r"no credentials within 0.3s: its plugin \(exec\)"):
            await load(access)
    assert open_files() == before
    assert await read_to_the_end(reading) == b"up\n" * 3


async def test_one_that_no_signal_ends_is_waited_for_no_longer_than_one_that_is_deaf(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a program is that waits for a file system which is gone."""
    monkeypatch.setattr(session, "CREDENTIALS_SECONDS", 0.3)
    monkeypatch.setattr(session, "_ENDING_SECONDS", 0.2)
    sent: list[tuple[int, int]] = []
    with monkeypatch.context() as patch:
        patch.setattr(os, "killpg", lambda group, number: sent.append((group, number)))
        async with asyncio.timeout(20):
            with pytest.raises(AccessError, match="hangs"):
                await load(exec_config(tmp_path, WAITS))
    assert [number for _, number in sent] == [signal.SIGTERM, signal.SIGKILL]
    os.killpg(sent[0][0], signal.SIGKILL)


async def test_a_stop_ends_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "alive")
    reading = os.open(tmp_path / "alive", os.O_RDONLY | os.O_NONBLOCK)
    access = exec_config(tmp_path, f'exec 3> "$FOLDER/alive"; echo up >&3; {WAITS}')
    loading = asyncio.create_task(load(access))
    started = asyncio.Event()
    asyncio.get_running_loop().add_reader(reading, started.set)
    async with asyncio.timeout(20):
        await started.wait()
        asyncio.get_running_loop().remove_reader(reading)
        loading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await loading
    assert await read_to_the_end(reading) == b"up\n"


async def test_what_it_complains_of_is_one_short_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    script = "i=0; while [ $i -lt 500 ]; do echo 'no \xff such role' >&2; i=$((i+1)); done; exit 7"
    with caplog.at_level(logging.INFO), pytest.raises(AccessError) as raised:
        await load(exec_config(tmp_path, script))
    said = [str(raised.value), *(record.getMessage() for record in caplog.records)]
    assert len(said) > 1
    for line in said:
        assert "its plugin sh ended with status 7: no " in line
        assert len(line) < 500 + len(str(tmp_path))
        assert "\n" not in line


@pytest.mark.parametrize(
    ("script", "command", "reason"),
    [
        ("kill -9 $$", "sh", "its plugin sh ended by signal 9"),
        ("", "no-such-plugin", "its plugin no-such-plugin cannot be started: No such file"),
        ("echo nonsense", "sh", "its plugin sh: no credential: "),
        ("echo '[]'", "sh", "its plugin sh: no credential: "),
        ('echo \'{"apiVersion": "v0", "status": {}}\'', "sh", f"speaks v0, not {API_VERSION}"),
        (f'echo \'{{"apiVersion": "{API_VERSION}"}}\'', "sh", "no credential: .*status"),
        (f"{answer(token='secret', expirationTimestamp='never')}", "sh", "kubeconfig: "),
    ],
)
async def test_what_goes_wrong_is_told(
    tmp_path: Path, script: str, command: str, reason: str
) -> None:
    with pytest.raises(AccessError, match=reason) as raised:
        await load(exec_config(tmp_path, script, command=command))
    assert "secret" not in str(raised.value)


@needs_openssl
async def test_certificates_that_are_renewed_leave_neither_files_nor_handles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    signer = authority(tmp_path, "authority")
    library()
    before = open_files()
    current: Session | None = None
    for number in range(4):
        # What surrounds a PEM block is a comment: the same certificate, as another one.
        script = answer(
            clientCertificateData=f"{number}\n{signer.certificate.read_text()}",
            clientKeyData=f"{number}\n{signer.key.read_text()}",
        )
        loaded = await load(exec_config(tmp_path, script))
        assert not loaded.outdated
        if current is not None:
            await current.retire()
        current = loaded
        assert not current.outdated
        assert len(list(folder.iterdir())) == 2
        assert len(open_files()) <= len(before) + 1
    assert current is not None
    await current.retire()
    assert list(folder.iterdir()) == []
    assert open_files() == before
