"""What an init container does: kernel settings in a folder that stands for /proc/sys."""

from __future__ import annotations

from pathlib import Path

import pytest

from ipvsproxy.config import Settings
from ipvsproxy.dataplane import DataplaneError
from ipvsproxy.kernel import initial, oom
from ipvsproxy.kernel.ipvs import Ipvs
from ipvsproxy.model import Scheduler
from ipvsproxy.telemetry import Verdict


def test_what_differs_is_written_and_what_cannot_be_is_told(tmp_path: Path) -> None:
    (tmp_path / "right").write_text("1\n")
    (tmp_path / "wrong").write_text("0\n")
    conntrack = "net/netfilter/nf_conntrack_max"
    wanted = {"right": "1", "wrong": "1", "missing/one": "1", conntrack: "5"}

    right, wrong, missing, table = initial.write_settings(
        wanted, {"right": "1", "wrong": "0"}, root=tmp_path
    )

    assert (right.verdict, right.finding) == (Verdict.OK, "1 already")
    assert (wrong.verdict, wrong.finding) == (Verdict.OK, "set to 1, was 0")
    assert (tmp_path / "wrong").read_text().strip() == "1"
    assert missing.verdict is Verdict.FAIL
    assert missing.mend == "on the host: sysctl -w missing.one=1"
    assert table.verdict is Verdict.WARN


def test_modules_are_those_of_the_default_scheduler_and_of_our_sets() -> None:
    names = initial.module_names(Scheduler.MH)
    assert {"ip_vs", "ip_vs_mh", "nf_conntrack", "ip_set", "ip_set_hash_ipport"} <= set(names)
    assert len(names) == len(set(names))


def test_without_ipvs_it_fails_and_without_module_files_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: Ipvs) -> None:
        raise DataplaneError("the kernel's IPVS cannot be used: load the module ip_vs")

    monkeypatch.setattr(Ipvs, "timeouts", refuse)
    modules, ipvs = initial.prepare(Settings(node_name="n"), modules=tmp_path, sysctls=tmp_path)
    assert (modules.name, modules.verdict) == ("modules", Verdict.WARN)
    assert (ipvs.name, ipvs.verdict) == ("IPVS", Verdict.FAIL)


def test_the_place_among_victims_is_taken_or_the_reason_is_told(tmp_path: Path) -> None:
    file = tmp_path / "oom_score_adj"
    file.write_text("0\n")
    assert oom.adjust(-999, file=file) == ""
    assert file.read_text() == "-999"
    assert oom.adjust(0, file=tmp_path / "none") == "No such file or directory"
