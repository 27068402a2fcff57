"""The judgements of preflight; what needs a kernel is in tests/kernel."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner

from ipvsproxy import agent, http
from ipvsproxy.cli import main
from ipvsproxy.cli.preflight import neighbour_check
from ipvsproxy.config import IptablesBackend, Settings
from ipvsproxy.dataplane import DONE, Outcome, Refusal
from ipvsproxy.http import neighbours
from ipvsproxy.kernel import preflight
from ipvsproxy.kernel.process import Completed, Processes
from ipvsproxy.model import Scheduler
from ipvsproxy.telemetry import Check, Verdict

OK, WARN, FAIL = Verdict.OK, Verdict.WARN, Verdict.FAIL
LACKING = Outcome(Refusal.UNSUPPORTED, "this kernel has no scheduler mh")


@pytest.mark.parametrize(
    ("release", "expected"),
    [
        ("6.1.0-18-amd64", OK),
        ("5.9", OK),
        ("5.8.1", WARN),
        ("4.1.0", WARN),
        ("4.0.9", FAIL),
        ("3.10.0-1160.el7", FAIL),
        ("unknown", FAIL),
    ],
)
def test_old_kernels_are_warned_of_or_refused(release: str, expected: Verdict) -> None:
    check = preflight.kernel_check(release)

    assert check.verdict is expected
    assert bool(check.mend) is (expected is not OK)


@pytest.mark.parametrize(
    ("effective", "expected", "finding"),
    [
        ("000001ffffffffff", OK, "CAP_NET_ADMIN, CAP_NET_RAW"),
        ("0000000000003000", OK, "CAP_NET_ADMIN, CAP_NET_RAW"),
        ("0000000000001fff", FAIL, "CAP_NET_RAW is missing"),
        ("0000000000000fff", FAIL, "CAP_NET_ADMIN and CAP_NET_RAW are missing"),
    ],
)
def test_the_rights_are_read_from_the_process_status(
    effective: str, expected: Verdict, finding: str
) -> None:
    status = f"Name:\tx\nCapPrm:\t000001ffffffffff\nCapEff:\t{effective}\nCapBnd:\t0\n"

    check = preflight.rights_check(status)

    assert (check.verdict, check.finding) == (expected, finding)


def test_a_missing_scheduler_fails_only_where_it_is_the_default() -> None:
    for default, expected in ((Scheduler.RR, WARN), (Scheduler.MH, FAIL)):
        check = preflight.scheduler_check(Scheduler.MH, LACKING, default=default)
        assert check.verdict is expected
        assert "modprobe ip_vs_mh" in check.mend
    assert preflight.scheduler_check(Scheduler.MH, DONE, default=Scheduler.MH).verdict is OK


def test_settings_that_are_wrong_are_fine_while_they_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "right").write_text("1\n", "ascii")
    (tmp_path / "wrong").write_text("0\n", "ascii")

    right, wrong, missing = preflight.sysctl_checks(
        {"right": "1", "wrong": "1", "net/ipv4/vs/none": "1"}, root=tmp_path
    )

    assert (right.verdict, wrong.verdict, missing.verdict) == (OK, OK, WARN)
    assert wrong.finding == "0, will be set to 1"
    assert missing.name == "sysctl net.ipv4.vs.none"
    assert "modprobe ip_vs" in missing.mend
    assert (tmp_path / "wrong").read_text("ascii") == "0\n"


def test_a_wrong_setting_that_cannot_be_written_fails_with_the_mend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "wrong").write_text("0\n", "ascii")
    monkeypatch.setattr(preflight, "_is_writable", lambda _path: False)

    (check,) = preflight.sysctl_checks({"wrong": "1"}, root=tmp_path)

    assert check.verdict is FAIL
    assert check.mend == "set it on the host: sysctl -w wrong=1"


class SavedRules(Processes):
    """Prints what a test says that `iptables-save` prints."""

    def __init__(self, **saved: str) -> None:
        super().__init__()
        self._saved = saved

    def run(self, argv: Sequence[str], stdin: str = "") -> Completed:
        assert stdin == ""
        return Completed(0, self._saved.get(argv[0].replace("-", "_"), ""), "")


HINT = "*mangle\n:KUBE-IPTABLES-HINT - [0:0]\nCOMMIT\n"
OURS = "*nat\n:KUBE-SERVICES - [0:0]\n-A KUBE-SERVICES -j RETURN\nCOMMIT\n"


@pytest.mark.parametrize(
    ("saved", "expected", "reason"),
    [
        ({"iptables_legacy_save": HINT}, IptablesBackend.LEGACY, "hint"),
        ({"ip6tables_nft_save": HINT}, IptablesBackend.NFT, "hint"),
        ({"iptables_nft_save": OURS, "ip6tables_legacy_save": HINT}, "legacy", "hint"),
        ({"iptables_legacy_save": OURS}, IptablesBackend.LEGACY, "our chains"),
        ({}, IptablesBackend.AUTO, "no hint"),
    ],
)
def test_the_backend_is_chosen_by_hints_then_by_chains(
    saved: dict[str, str], expected: str, reason: str
) -> None:
    choice = preflight.choose_backend(IptablesBackend.AUTO, SavedRules(**saved))

    assert choice.backend == expected
    assert reason in choice.reason


def test_a_backend_that_is_set_is_not_looked_for() -> None:
    choice = preflight.choose_backend(IptablesBackend.NFT, SavedRules(iptables_legacy_save=HINT))

    assert choice.backend is IptablesBackend.NFT


@pytest.mark.parametrize(
    ("neighbour", "expected", "words"),
    [
        (None, OK, "none answers"),
        (http.Neighbour("ipvs", "127.0.0.1:10249", is_ours=True), WARN, "ipvsproxy runs already"),
        (
            http.Neighbour("iptables", "127.0.0.1:10249", is_ours=False),
            WARN,
            "kube-proxy runs in mode iptables",
        ),
    ],
)
def test_another_proxy_is_warned_of(
    neighbour: http.Neighbour | None, expected: Verdict, words: str
) -> None:
    check = neighbour_check(neighbour, ["127.0.0.1:10249"])

    assert check.verdict is expected
    assert words in check.finding


def test_both_places_are_named_where_no_proxy_answers() -> None:
    asked = http.neighbour_addresses("127.0.0.1:20249")
    assert asked == ("127.0.0.1:10249", "[::1]:10249", "127.0.0.1:20249")
    assert neighbour_check(None, asked).finding == (
        "none answers on 127.0.0.1:10249 or [::1]:10249 or 127.0.0.1:20249"
    )


CHECKS = (
    Check("kernel", OK, "Linux 6.1"),
    Check("scheduler mh", WARN, "none", "modprobe ip_vs_mh"),
)
FAILING = (*CHECKS, Check("IPVS", FAIL, "missing", "modprobe ip_vs"))


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> list[Check]:
    checks: list[Check] = []

    def check_node(settings: Settings) -> tuple[Check, ...]:
        assert settings.node_name == "n"
        return tuple(checks)

    async def readiness(settings: Settings) -> tuple[Check, ...]:
        assert settings.node_name == "n"
        return (Check("predecessor", OK, "none"),)

    monkeypatch.setattr(preflight, "check_node", check_node)
    monkeypatch.setattr(agent, "readiness", readiness)
    monkeypatch.setattr(neighbours, "KUBE_PROXY_ADDRESSES", ("127.0.0.1:1",))
    monkeypatch.setenv("NODE_NAME", "n")
    return checks


def test_warnings_exit_with_0_and_the_mend_stands_below(found: list[Check]) -> None:
    found.extend(CHECKS)

    result = CliRunner().invoke(main, ["preflight", "--metrics-bind-address", ""])

    assert result.exit_code == 0
    assert result.stdout == (
        "ok    kernel        Linux 6.1\n"
        "warn  scheduler mh  none\n"
        "                    → modprobe ip_vs_mh\n"
        "ok    predecessor   none\n"
        "ok    other proxy   none answers on 127.0.0.1:1\n"
    )


def test_a_failure_exits_with_1(found: list[Check]) -> None:
    found.extend(FAILING)

    result = CliRunner().invoke(
        main, ["preflight", "--metrics-bind-address", "", "--output", "json"]
    )

    assert result.exit_code == 1
    assert json.loads(result.stdout)[2] == {
        "name": "IPVS",
        "verdict": "fail",
        "finding": "missing",
        "mend": "modprobe ip_vs",
    }
