"""Complaints about the agent itself: slow, deaf, harsh to others, or silent about what is wrong."""

from __future__ import annotations

import asyncio
from typing import NoReturn

import msgspec
import pytest

from ipvsproxy.core.annotations import scheduler_flags
from ipvsproxy.core.operations import (
    AddRealServer,
    AddVirtualServer,
    BindAddress,
    CreateSet,
    GrowSet,
    Operation,
    ReplaceChains,
    describe,
)
from ipvsproxy.core.sets import set_specs
from ipvsproxy.kernel.ipset_text import line
from ipvsproxy.model import Family, Scheduler
from ipvsproxy.telemetry import ConditionType
from tests.complaints.node import (
    ELSEWHERE,
    HERE,
    SETTINGS,
    Manifest,
    change,
    endpoints,
    kernel,
    service,
    started,
    weights,
)
from tests.scenarios.kernel_lines import do_to, frontend

WEB = "10.96.0.10:80/TCP"


def many(count: int) -> list[Manifest]:
    """Write Services with an endpoint each."""
    return [
        one
        for number in range(count)
        for one in (
            service(f"web-{number}", address=f"10.96.1.{number}"),
            endpoints(f"10.244.1.{number + 1}", name=f"web-{number}"),
        )
    ]


async def test_issue_53736_a_change_costs_as_much_as_has_changed() -> None:
    """Not a read and not a write for any other Service (#73382, #84906, #88212, #138927)."""
    others = many(100)
    stage = await started(service(), endpoints(HERE), *others)
    stage.fake.applied.clear()
    dumps, reads = stage.fake.dumps, stage.fake.reads
    await change(stage, service(), endpoints(HERE, ELSEWHERE), *others)
    assert [describe(one) for one in stage.fake.applied] == [
        f"add real server {ELSEWHERE}:8080 weight 1 to {WEB}"
    ]
    assert (stage.fake.dumps, stage.fake.reads) == (dumps, reads)


async def test_issue_133773_a_new_node_reaches_the_api_server_first() -> None:
    """And no address is bound before the rules that masquerade for it."""
    api = service("kubernetes", address="10.96.0.1", ports=[{"port": 443}])
    servers = endpoints("192.168.50.100", name="kubernetes", ports=[{"port": 6443}])
    stage = await started(*many(50), api, servers)
    applied = stage.fake.applied

    def first(kind: type[Operation]) -> int:
        return next(number for number, one in enumerate(applied) if isinstance(one, kind))

    assert first(ReplaceChains) < first(AddVirtualServer) < first(BindAddress)
    bound = [one for one in applied if isinstance(one, BindAddress)]
    assert str(bound[0].address) == "10.96.0.1"
    created = [one for one in applied if isinstance(one, AddVirtualServer)]
    assert created[0].key == frontend("10.96.0.1:443/TCP")


async def test_issue_134147_what_others_change_is_repaired_within_the_sync_period() -> None:
    stage = await started(service(), endpoints(HERE))
    do_to(stage.fake.state, ["-D -t 10.96.0.10:80", "no address 10.96.0.10"])
    await stage.wait(SETTINGS.sync_period + 1)
    assert weights(stage, WEB) == {HERE: 1}
    assert "10.96.0.10" in map(str, stage.fake.state.addresses)


async def test_issue_55857_virtual_servers_of_others_are_left_alone() -> None:
    """keepalived's, say (#59507, #76267, #85799, #96034, kube-proxy #6), without excludeCIDRs."""
    foreign = [
        "-A -t 192.168.50.200:443 -s wlc",
        "-a -t 192.168.50.200:443 -r 192.168.50.30:443 -w 5",
    ]
    stage = await started(service(), endpoints(HERE), state=kernel(*foreign))
    await change(stage)
    await stage.wait(120)
    assert stage.fake.text().splitlines() == [
        "-A -t 192.168.50.200:443 -s wlc",
        "-a -t 192.168.50.200:443 -r 192.168.50.30:443 -g -w 5",
    ]


async def test_issue_71071_an_agent_that_hangs_is_found_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """/livez fails when changes wait for twice the sync period, and kubelet starts it anew.

    That no call to the kernel waits for ever: tests/unit/test_netlink.py.
    """
    stage = await started(service(), endpoints(HERE))
    asked = asyncio.Event()

    async def never(_: object) -> NoReturn:
        asked.set()
        await asyncio.get_running_loop().create_future()
        raise AssertionError

    monkeypatch.setattr(stage.fake, "apply", never)
    cycle = asyncio.create_task(change(stage, service(), endpoints(ELSEWHERE)))
    await asyncio.wait_for(asked.wait(), 10)
    stage.clock.now += 2 * SETTINGS.sync_period
    assert not stage.agent.health.is_working(stage.clock.now)
    cycle.cancel()
    await asyncio.gather(cycle, return_exceptions=True)


async def test_issue_129389_a_set_grows_before_it_is_full() -> None:
    small = msgspec.structs.replace(SETTINGS, set_capacity=8)
    stage = await started(*many(20), settings=small)
    assert len(stage.fake.state.members["KUBE-CLUSTER-IP"]) == 20
    assert GrowSet in {type(one) for one in stage.fake.applied}
    assert list(stage.agent.conditions) == []


async def test_issue_129389_a_set_that_may_not_grow_is_told_and_holds_up_nobody_else() -> None:
    full = msgspec.structs.replace(SETTINGS, set_capacity=8, set_capacity_limit=8)
    stage = await started(*many(4), settings=full)
    await change(stage, *many(20))
    assert len(stage.fake.state.members["KUBE-CLUSTER-IP"]) == 8
    assert ConditionType.SET_FULL in {one.type for one in stage.agent.conditions}
    assert weights(stage, "10.96.1.0:80/TCP") == {"10.244.1.1": 1}


async def test_issue_58329_each_service_has_its_scheduler() -> None:
    """By annotation (#75502, #94350, #118784)."""
    annotated = {"annotations": {"ipvsproxy.io/scheduler": "sh"}}
    stage = await started(
        service(metadata=annotated),
        endpoints(HERE),
        service("other", address="10.96.0.11"),
        endpoints(ELSEWHERE, name="other"),
    )
    servers = stage.fake.state.virtual_servers
    assert servers[frontend(WEB)].scheduler == Scheduler.SH
    assert servers[frontend("10.96.0.11:80/TCP")].scheduler == Scheduler.RR


async def test_issue_121591_not_all_nodes_begin_with_the_same_server() -> None:
    """Round robin begins where a virtual server was filled last."""
    firsts = set()
    for letter in "abcdefgh":
        settings = msgspec.structs.replace(SETTINGS, node_name=f"node-{letter}")
        stage = await started(service(), endpoints(HERE, ELSEWHERE), settings=settings)
        added = [one for one in stage.fake.applied if isinstance(one, AddRealServer)]
        firsts.add(str(added[0].member.address))
    assert firsts == {HERE, ELSEWHERE}


def test_issue_121590_source_hashing_does_not_refuse_who_hashes_to_one_that_drains() -> None:
    """The fallback flag, which kube-proxy has for neither of the two.

    With real packets: tests/e2e/test_schedulers.py.
    """
    assert scheduler_flags(Scheduler.SH)
    assert scheduler_flags(Scheduler.MH)


def test_issue_68974_sets_ask_nothing_of_the_kernel_that_an_old_one_lacks() -> None:
    """No comments, no counters, no timeouts (#67292, #65611)."""
    lines = [line(CreateSet(name, spec)) for name, spec in set_specs(Family, 65536).items()]
    assert lines
    for text in lines:
        assert {"comment", "counters", "timeout", "skbinfo"}.isdisjoint(text.split())
