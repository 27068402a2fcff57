"""`run --init-only` on a kernel: modules, settings, timeouts; a second time none is written."""

from __future__ import annotations

import pytest

from ipvsproxy.config import Settings
from ipvsproxy.kernel import initial
from ipvsproxy.kernel.ipvs import Ipvs
from ipvsproxy.model import Timeouts
from ipvsproxy.telemetry import Verdict
from tests.kernel.namespace import fresh_network_namespace

pytestmark = pytest.mark.kernel

SETTINGS = Settings(
    node_name="n",
    strict_arp=True,
    ipvs_tcp_timeout=7200,
    conntrack_tcp_established_timeout=7200,
)


def test_a_node_is_prepared_and_a_second_time_all_is_as_it_should_be() -> None:
    with fresh_network_namespace():
        first = initial.prepare(SETTINGS)
        again = initial.prepare(SETTINGS)
        ipvs = Ipvs()
        assert ipvs.timeouts() == Timeouts(7200, 120, 300)
        ipvs.close()
    assert [check for check in first if check.verdict is not Verdict.OK] == []
    found = {check.name: check.finding for check in first}
    assert found["module ip_vs"] == "loaded, or built in"
    assert found["sysctl net.ipv4.vs.conntrack"] == "set to 1, was 0"
    assert found["sysctl net.ipv4.conf.all.arp_ignore"] == "set to 1, was 0"
    assert "TCP 7200s" in found["IPVS timeouts"]
    settings = [check for check in again if not check.name.startswith("module")]
    assert all(check.finding.endswith("already") for check in settings)
