"""Kernel settings, in a folder that stands for /proc/sys."""

import errno
import os
from pathlib import Path

import pytest

from ipvsproxy.core.operations import SetSysctl
from ipvsproxy.dataplane import DONE, Refusal
from ipvsproxy.kernel import sysctl


def test_what_is_there_is_read_and_the_rest_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "one").write_text("1\n")
    assert sysctl.read(["one", "two"], root=tmp_path) == {"one": "1"}


def test_a_setting_is_written(tmp_path: Path) -> None:
    (tmp_path / "one").write_text("0\n")
    assert sysctl.apply(SetSysctl("one", "1"), root=tmp_path) == DONE
    assert sysctl.read(["one"], root=tmp_path) == {"one": "1"}


def test_an_equal_value_is_not_written(tmp_path: Path) -> None:
    setting = tmp_path / "one"
    setting.write_text("1\n")
    before = setting.stat().st_mtime_ns
    assert sysctl.apply(SetSysctl("one", "1"), root=tmp_path) == DONE
    assert (setting.read_text(), setting.stat().st_mtime_ns) == ("1\n", before)


def test_a_setting_that_the_kernel_lacks_is_unsupported_and_not_created(tmp_path: Path) -> None:
    outcome = sysctl.apply(SetSysctl("none", "1"), root=tmp_path)
    assert outcome.refusal is Refusal.UNSUPPORTED
    assert not (tmp_path / "none").exists()


def test_what_is_read_only_is_refused_with_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As /proc/sys is in a container that is not privileged."""
    (tmp_path / "one").write_text("0\n")

    def refuse(path: Path, mode: str) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path), mode)

    monkeypatch.setattr(sysctl, "_value", lambda _: "0")
    monkeypatch.setattr(Path, "open", refuse)
    outcome = sysctl.apply(SetSysctl("one", "1"), root=tmp_path)
    assert outcome.refusal is Refusal.FORBIDDEN
    assert "read-only here; set it on the host" in outcome.reason
