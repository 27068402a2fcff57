"""Complaints about connections: slow, cut off, or led to somebody who is not there any more."""

from __future__ import annotations

import pytest

from ipvsproxy.core.foundation import foundation
from ipvsproxy.core.operations import (
    AddRealServer,
    ForgetFlows,
    RemoveRealServer,
    SetRealServer,
    describe,
)
from ipvsproxy.kernel.balance import Connection
from ipvsproxy.kernel.fake import fresh_state
from ipvsproxy.model import Address
from tests.complaints.node import (
    ELSEWHERE,
    HERE,
    SETTINGS,
    change,
    endpoints,
    kernel,
    service,
    started,
    weights,
)
from tests.scenarios.kernel_lines import frontend
from tests.scenarios.stage import Stage

WEB = "10.96.0.10:80/TCP"
CLIENT = Address.parse("10.244.9.9")
NOT_READY = {"ready": False, "serving": False, "terminating": False}


def sysctls(release: str) -> dict[str, str]:
    """Say which kernel settings are wanted on a kernel of a release."""
    state = fresh_state()
    state.sysctls["kernel/osrelease"] = release
    return dict(foundation(SETTINGS, state).sysctls)


def connect(stage: Stage, place: str) -> Connection:
    """Open a connection, and expect that somebody takes it."""
    taken = stage.fake.connect(frontend(place), CLIENT)
    assert taken is not None, place
    return taken


@pytest.mark.parametrize(
    ("release", "written"),
    [("4.0.9", None), ("4.1.0", "0"), ("5.8.18-generic", "0"), ("5.9.0", None), ("6.1.0", None)],
)
def test_issue_70747_reused_ports_cost_no_second_whatever_the_kernel(
    release: str, written: str | None
) -> None:
    """Mode 1 costs a second before 5.9; mode 0, only set then, leads to servers that drain."""
    assert sysctls(release).get("net/ipv4/vs/conn_reuse_mode") == written


async def test_issue_81775_a_server_that_never_gets_idle_goes_all_the_same() -> None:
    """On kernels before 5.9 clients that reuse ports keep it busy for ever (#93297, #84322)."""
    stage = await started(service(), endpoints(HERE))
    connection = connect(stage, WEB)
    await change(stage, service(), endpoints(ELSEWHERE))
    assert weights(stage, WEB) == {HERE: 0, ELSEWHERE: 1}
    await stage.wait(SETTINGS.drain_deadline + 10)
    assert weights(stage, WEB) == {ELSEWHERE: 1}
    assert connection in stage.fake.traffic.broken


async def test_issue_57841_an_endpoint_that_goes_finishes_its_connections() -> None:
    """With real packets: tests/e2e/test_changes.py."""
    stage = await started(service(), endpoints(HERE))
    connection = connect(stage, WEB)
    await change(stage, service(), endpoints(ELSEWHERE))
    assert connect(stage, WEB).member.address == Address.parse(ELSEWHERE)
    await stage.wait(60)
    assert connection not in stage.fake.traffic.broken
    stage.fake.disconnect(connection)
    await stage.wait(10)
    assert weights(stage, WEB) == {ELSEWHERE: 1}


async def test_issue_77903_nobody_waits_for_a_dead_node_longer_than_the_deadline() -> None:
    """The endpoints of a node that died leave their slices; their connections have a deadline."""
    stage = await started(service(), endpoints(HERE, ELSEWHERE))
    for _ in range(2):
        connect(stage, WEB)
    await change(stage, service(), endpoints(HERE))
    await stage.wait(SETTINGS.drain_deadline + 10)
    assert weights(stage, WEB) == {HERE: 1}


async def test_issue_71514_a_udp_server_goes_at_once_with_its_flows() -> None:
    """UDP has no connections that end (#76664)."""
    dns = service(ports=[{"port": 53, "protocol": "UDP"}])
    ports = [{"port": 5353, "protocol": "UDP"}]
    stage = await started(dns, endpoints(HERE, ELSEWHERE, ports=ports))
    for _ in range(2):
        connect(stage, "10.96.0.10:53/UDP")
    stage.fake.applied.clear()
    await change(stage, dns, endpoints(ELSEWHERE, ports=ports))
    assert weights(stage, "10.96.0.10:53/UDP") == {ELSEWHERE: 1}
    assert [type(one) for one in stage.fake.applied[:2]] == [RemoveRealServer, ForgetFlows]
    assert sysctls("6.1.0")["net/ipv4/vs/expire_nodest_conn"] == "1"


def test_issue_71809_affinity_does_not_outlive_its_server() -> None:
    """A template that leads to a server of weight 0 ends (#81587).

    With real packets: tests/e2e/test_affinity.py.
    """
    assert sysctls("6.1.0")["net/ipv4/vs/expire_quiescent_template"] == "1"


async def test_issue_92019_a_server_of_weight_0_serves_again_after_a_restart() -> None:
    """Left behind by an agent that died while it drained (#108319)."""
    state = kernel(
        "-A -t 10.96.0.10:80 -s rr",
        f"-a -t 10.96.0.10:80 -r {HERE}:8080 -m -w 0",
        "address 10.96.0.10",
        "add IPVSPROXY-OWN 10.96.0.10,tcp:80",
    )
    stage = await started(service(), endpoints(HERE), state=state)
    assert weights(stage, WEB) == {HERE: 1}


async def test_issue_117205_a_node_that_is_not_ready_for_a_moment_loses_no_connection() -> None:
    """Its servers are lowered and raised, never removed and added."""
    stage = await started(service(), endpoints(HERE, ELSEWHERE))
    connections = [connect(stage, WEB) for _ in range(2)]
    stage.fake.applied.clear()
    await change(stage, service(), endpoints(HERE, ELSEWHERE, conditions=NOT_READY))
    await stage.wait(120)
    await change(stage, service(), endpoints(HERE, ELSEWHERE))
    assert weights(stage, WEB) == {HERE: 1, ELSEWHERE: 1}
    assert not {AddRealServer, RemoveRealServer} & {type(one) for one in stage.fake.applied}
    assert [one for one in connections if one in stage.fake.traffic.broken] == []


async def test_issue_71894_a_deleted_service_lets_its_connections_finish() -> None:
    """For a minute, unless another Service wants the address."""
    stage = await started(service(), endpoints(HERE))
    connection = connect(stage, WEB)
    stage.fake.applied.clear()
    await change(stage)
    await stage.wait(SETTINGS.removed_service_drain - 5)
    assert [describe(one) for one in stage.fake.applied if isinstance(one, SetRealServer)] == [
        f"set real server {HERE}:8080 weight 0 of {WEB}"
    ]
    assert connection not in stage.fake.traffic.broken
    assert stage.fake.connect(frontend(WEB), CLIENT) is None
    stage.fake.disconnect(connection)
    await stage.wait(10)
    assert stage.fake.state.virtual_servers == {}
