"""What a guest is told, and what is passed on of what it says."""

import argparse
import os
import subprocess
from pathlib import Path

import pytest

from rig import guest, qemu, uml
from rig.boot import Lines
from rig.cli import assignment, memory_size
from rig.console import Console
from rig.model import Job, Kind, RigError


def test_the_command_survives_quoting(tmp_path: Path) -> None:
    words = ("printf", "%s|", "a b", "it's", "$HOME", '"', "*", "", "line\nbreak")
    job = Job(words, directory=tmp_path, environment={"PATH": os.environ["PATH"], "X": "a 'b"})
    result = subprocess.run(
        ["bash", "-c", guest.command_text(job)], capture_output=True, text=True, check=True
    )
    assert result.stdout == "a b|it's|$HOME|\"|*||line\nbreak|"


def test_the_command_sees_only_its_environment(tmp_path: Path) -> None:
    job = Job(("env",), directory=tmp_path, environment={"PATH": "/usr/bin:/bin", "CI": "true"})
    result = subprocess.run(
        ["bash", "-c", guest.command_text(job)], capture_output=True, text=True, check=True
    )
    assert sorted(result.stdout.split()) == ["CI=true", "PATH=/usr/bin:/bin"]


def test_environment_passes_what_is_meant_for_the_tests() -> None:
    outer = {"PATH": "/opt/bin:/usr/bin", "CI": "true", "PYTEST_ADDOPTS": "-x", "SECRET": "s"}
    inner = guest.guest_environment(outer, Kind.UML)
    assert inner["CI"] == "true"
    assert inner["PYTEST_ADDOPTS"] == "-x"
    assert inner["IPVSPROXY_RIG_GUEST"] == "uml"
    assert "SECRET" not in inner
    assert inner["PATH"].startswith("/opt/bin:/usr/bin:")
    assert "/usr/sbin" in inner["PATH"].split(":")
    assert inner["PATH"].split(":").count("/usr/bin") == 1


@pytest.mark.parametrize("hidden", ["/run/user/0/x", "/dev/shm/checkout", "/proc/self"])
def test_a_folder_that_the_guest_cannot_see_is_refused(hidden: str) -> None:
    with pytest.raises(RigError, match="not visible"):
        guest.refuse_hidden(Path(hidden))


def test_work_folder_is_gone_afterwards_and_status_is_read() -> None:
    with guest.work_folder() as work:
        assert work.status() is None
        (work.path / "status").write_text("7\n")
        assert work.status() == 7
    assert not work.path.exists()


def test_memory_that_fits_nowhere_is_refused_in_one_line() -> None:
    with pytest.raises(RigError, match="set TMPDIR") as refused:
        uml.memory_directory(1 << 60)
    assert "\n" not in str(refused.value)


def test_kernel_arguments_name_memory_init_and_lines() -> None:
    words = uml.arguments(
        init=Path("/w/init"),
        work=Path("/w"),
        memory=512 << 20,
        lines=Lines(3, 4, 5, keys=6),
    )
    assert words[0] == "linux.uml"
    assert {"mem=512M", "init=/w/init", "RIG_WORK=/w", "con0=null,fd:3", "ssl0=fd:6,fd:4"} <= {
        *words
    }


def test_two_guests_get_different_processors() -> None:
    with uml.reserved_cpu() as one, uml.reserved_cpu() as other:
        assert one != other or len(os.sched_getaffinity(0)) == 1 or one is not None


@pytest.mark.parametrize(
    ("text", "size"), [("2G", 2 << 30), ("512M", 512 << 20), ("64", 64 << 20), ("1g", 1 << 30)]
)
def test_sizes(text: str, size: int) -> None:
    assert memory_size(text) == size


@pytest.mark.parametrize("text", ["", "x", "2T", "-1G"])
def test_sizes_that_are_none(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        memory_size(text)


def test_assignments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HERE", "there")
    assert assignment("A=b=c") == ("A", "b=c")
    assert assignment("HERE") == ("HERE", "there")
    with pytest.raises(argparse.ArgumentTypeError):
        assignment("=x")


def test_console_is_silent_while_all_is_well() -> None:
    console = Console()
    assert console.feed("SELinux: x\r\nsome driver\nrig: hello\nhalf a ") == ["rig: hello"]
    assert console.feed("line\n") == []
    assert console.last_words() == [
        "kernel: some driver",
        "kernel: rig: hello",
        "kernel: half a line",
    ]


def test_console_shows_a_crash_to_its_end() -> None:
    console = Console()
    assert console.feed("fine\nKernel panic - not syncing: x\nRIP: 0\n") == [
        "kernel: Kernel panic - not syncing: x",
        "kernel: RIP: 0",
    ]
    assert console.last_words() == []


@pytest.mark.parametrize(("keys", "output"), [(None, "file,"), (6, "pipe,")])
def test_emulator_has_a_serial_port_for_each_line(keys: int | None, output: str) -> None:
    words = qemu.arguments(
        init=Path("/w/init"),
        work=Path("/w"),
        memory=1 << 30,
        lines=Lines(3, 4, 5, keys=keys),
        kernel=Path("/k"),
    )
    assert words[words.index("-m") + 1] == "1024"
    assert words.count("-serial") == 3
    assert any(word.startswith(f"{output}id=output") for word in words)
    assert "RIG_WORK=/w" in words[words.index("-append") + 1]
