"""The systemd unit: hardened as the container is, sound, and in step with the program."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from ipvsproxy.cli import main
from ipvsproxy.config import load
from ipvsproxy.model import Network
from tests.deployment.rendered import MANIFESTS, ROOT, base, container

UNIT = MANIFESTS / "systemd" / "ipvsproxy.service"
TEXT = UNIT.read_text()
PROGRAM = "/opt/ipvsproxy"
EXPOSURE = "30"
"""Most that `systemd-analyze security` may find, of 100; it found 25."""


def values(name: str) -> list[str]:
    """Return the values of a directive, in order."""
    return re.findall(rf"^{name}=(.*)$", TEXT, re.MULTILINE)


def test_the_rights_are_those_of_the_container() -> None:
    security = container(base())["securityContext"]
    (capabilities,) = values("CapabilityBoundingSet")
    assert capabilities.split() == [f"CAP_{one}" for one in security["capabilities"]["add"]]
    assert values("NoNewPrivileges") == ["yes"]
    assert values("ProtectSystem") == ["strict"]
    writable = [
        one["mountPath"] for one in container(base())["volumeMounts"] if not one.get("readOnly")
    ]
    assert values("PrivateTmp") == ["yes"]
    assert values("ReadWritePaths") == [f"-{one}" for one in writable if one != "/tmp"]


def test_what_is_started_is_a_command_line_of_the_program() -> None:
    (start,) = values("ExecStart")
    program, name, *arguments = start.split()
    assert program == f"{PROGRAM}/bin/ipvsproxy"
    assert name in main.commands
    main.commands[name].make_context(name, arguments)


def test_what_needs_all_rights_is_done_first_by_the_same_settings() -> None:
    (start,) = values("ExecStart")
    first, lock = values("ExecStartPre")
    assert first == f"+{start.replace(' run ', ' run --init-only ')}"
    assert lock == "+/usr/bin/touch /run/xtables.lock"


def test_the_readme_puts_the_program_and_the_services_where_the_unit_looks() -> None:
    readme = (ROOT / "README.md").read_text()
    assert f"python3 -m venv {PROGRAM}" in readme
    assert str(UNIT.relative_to(ROOT)) in readme
    (start,) = values("ExecStart")
    assert start.split()[-1] in readme
    (file,) = values("EnvironmentFile")
    assert file.removeprefix("-") in readme
    (setting,) = re.findall(r"`(IPVSPROXY_\w+)=(\S+)`", readme)
    loaded = load({}, {"NODE_NAME": "a", setting[0]: setting[1]}, None).settings
    assert loaded.cluster_cidrs == (Network.parse(setting[1]),)


def analyze(unit: Path, *words: str) -> str:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("no systemd here")
    done = subprocess.run((program, *words, unit), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stderr


def test_systemd_finds_nothing_wrong(tmp_path: Path) -> None:
    """With the program in another place, as it has to be there."""
    program = tmp_path / "bin" / "ipvsproxy"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    unit = tmp_path / UNIT.name
    unit.write_text(TEXT.replace(PROGRAM, str(tmp_path)))
    assert analyze(unit, "verify") == ""


def test_little_of_the_host_is_exposed() -> None:
    analyze(UNIT, "security", "--offline=true", f"--threshold={EXPOSURE}")
