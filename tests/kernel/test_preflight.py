"""Preflight on a real kernel: it finds what is there, and leaves nothing behind."""

from __future__ import annotations

import subprocess

import pytest

from ipvsproxy.config import Settings
from ipvsproxy.kernel.preflight import check_node
from ipvsproxy.model import Scheduler
from ipvsproxy.telemetry import Check, Verdict

pytestmark = pytest.mark.kernel


def check() -> dict[str, Check]:
    return {one.name: one for one in check_node(Settings(node_name="n"))}


def saved(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.mark.usefixtures("own_namespace")
def test_a_kernel_with_ipvs_passes_with_every_scheduler_named() -> None:
    checks = check()

    assert [one for one in checks.values() if one.verdict is Verdict.FAIL] == []
    for scheduler in (Scheduler.RR, Scheduler.WRR, Scheduler.LC, Scheduler.SH, Scheduler.DH):
        assert checks[f"scheduler {scheduler}"].verdict is Verdict.OK
    assert {f"scheduler {scheduler}" for scheduler in Scheduler} <= checks.keys()
    assert checks["ipset hash:ip,port,net"].verdict is Verdict.OK
    assert checks["iptables IPv4"].verdict is Verdict.OK
    assert checks["dummy interface"].verdict is Verdict.OK


@pytest.mark.usefixtures("own_namespace")
def test_nothing_of_the_namespace_that_is_checked_changes() -> None:
    looks = (
        ("ipvsadm", "-Sn"),
        ("ipset", "save"),
        ("ip", "-o", "address"),
        ("sysctl", "net.ipv4.vs.conntrack", "net.ipv4.ip_forward"),
    )
    saved("ipvsadm", "-Sn")  # loads the module, so that its settings are there before
    before = [saved(*look) for look in looks]

    check()

    assert [saved(*look) for look in looks] == before


@pytest.mark.usefixtures("own_namespace")
def test_a_default_scheduler_that_the_kernel_lacks_fails() -> None:
    checks = check()
    lacking = [one for one in Scheduler if checks[f"scheduler {one}"].verdict is Verdict.WARN]
    if not lacking:
        pytest.skip("this kernel has every scheduler")

    settings = Settings(node_name="n", default_scheduler=lacking[0])
    failed = [one.name for one in check_node(settings) if one.verdict is Verdict.FAIL]

    assert f"scheduler {lacking[0]}" in failed
