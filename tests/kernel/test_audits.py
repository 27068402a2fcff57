"""What other programs do to the real kernel's tables is found in the promised time, and undone.

The agent's clock is turned by the test, so nobody waits; how the promises are worded:
docs/operations.md, "What others change".
"""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator, Sequence

import msgspec
import pytest

from ipvsproxy.config import Settings
from ipvsproxy.core.foundation import WATCHED_SYSCTLS
from ipvsproxy.core.operations import Operation
from ipvsproxy.dataplane import NodeNetworkChanged, Outcome
from ipvsproxy.kernel.linux import LinuxDataplane
from ipvsproxy.model import Address, Family, State
from tests.unit.builders import Agent, part, service

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif("IPVSPROXY_RIG_GUEST" not in os.environ, reason="outside the rig"),
    pytest.mark.usefixtures("own_namespace"),
]

PERIOD = Settings(node_name="a").sync_period
GLANCE = PERIOD / 12
SERVICES = 4


class Watched(LinuxDataplane):
    """The kernel, with the times that all of it was read and that something was written."""

    def __init__(self) -> None:
        super().__init__(WATCHED_SYSCTLS)
        self.dumps = 0
        self.written = 0

    async def dump(self) -> State:
        self.dumps += 1
        return await super().dump()

    async def apply(self, operations: Sequence[Operation]) -> Sequence[Outcome]:
        self.written += len(operations)
        return await super().apply(operations)


@pytest.fixture
async def kernel() -> AsyncIterator[Watched]:
    watched = Watched()
    try:
        yield watched
    finally:
        await watched.close()


async def settled(kernel: Watched) -> Agent:
    settings = Settings(node_name="node-a", ipvs_tcp_timeout=900)
    agent = Agent(kernel, settings=settings)
    for index in range(1, SERVICES + 1):
        addresses = (Address.parse(f"10.96.0.{index}"), Address.parse(f"fd00:96::{index}"))
        six = msgspec.structs.replace(
            part(f"s{index}", f"fd00:1::{index}", name=f"s{index}-6"), family=Family.IPV6
        )
        agent.put(
            msgspec.structs.replace(service(f"s{index}"), cluster_ips=addresses),
            part(f"s{index}", f"10.244.1.{index}", f"10.244.2.{index}"),
            six,
        )
    agent.list_all()
    await agent.settle()
    return agent


async def pass_time(agent: Agent, seconds: float) -> None:
    """Let time pass from glance to glance, and the agent do what is due."""
    end = agent.clock.now + seconds
    while agent.clock.now < end:
        agent.clock.now = min(end, agent.clock.now + GLANCE)
        for _ in range(200):
            if not agent.reconciler.busy:
                break
            await agent.reconciler.cycle()


def do(command: str) -> str:
    """Run a program; give what it prints."""
    return subprocess.run(command.split(), check=True, capture_output=True, text=True).stdout


async def test_with_nobody_meddling_nothing_is_written_and_two_programs_are_launched(
    kernel: Watched,
) -> None:
    agent = await settled(kernel)
    await pass_time(agent, PERIOD)
    before = (kernel.dumps, kernel.written, kernel.counts["processes"])
    await pass_time(agent, PERIOD)
    after = (kernel.dumps, kernel.written, kernel.counts["processes"])
    assert [new - old for new, old in zip(after, before, strict=True)] == [0, 0, 2]
    assert agent.reconciler.looks["rounds"] >= 1


@pytest.mark.parametrize(
    ("command", "seconds"),
    [
        ("ipvsadm -C", GLANCE),
        ("ipvsadm -D -t 10.96.0.2:80", GLANCE),
        ("ip address del 10.96.0.3/32 dev kube-ipvs0", GLANCE),
        ("ip address add 10.97.0.3/32 dev kube-ipvs0", GLANCE),
        ("ip link del kube-ipvs0", GLANCE),
        ("iptables-legacy -t nat -F KUBE-SERVICES", PERIOD),
        ("iptables-legacy -t nat -D PREROUTING 1", PERIOD),
        ("ip6tables-legacy -t nat -F KUBE-POSTROUTING", PERIOD),
        ("ipvsadm --set 7 0 0", PERIOD),
        ("sysctl -w net.ipv4.vs.conntrack=0", PERIOD),
        ("ipvsadm -D -t [fd00:96::2]:80", PERIOD + GLANCE),
        ("ipvsadm -E -t 10.96.0.1:80 -s wlc", PERIOD + GLANCE),
        ("ipvsadm -E -t [fd00:96::1]:80 -s wlc", PERIOD + GLANCE),
        ("ipvsadm -d -t 10.96.0.4:80 -r 10.244.1.4:8080", PERIOD + GLANCE),
        ("ipvsadm -e -t 10.96.0.4:80 -r 10.244.1.4:8080 -m -w 9", PERIOD + GLANCE),
        ("ipvsadm -a -t 10.96.0.4:80 -r 10.244.9.9:8080 -m", PERIOD + GLANCE),
        ("ipvsadm -d -t [fd00:96::4]:80 -r [fd00:1::4]:8080", PERIOD + GLANCE),
        ("ip address del fd00:96::3/128 dev kube-ipvs0", PERIOD + GLANCE),
        ("ipset flush KUBE-CLUSTER-IP", PERIOD + GLANCE),
        ("ipset del IPVSPROXY-OWN-6 fd00:96::1,tcp:80", PERIOD + GLANCE),
        ("ipset add KUBE-IPVS-IPS 192.0.2.1", PERIOD + GLANCE),
    ],
)
async def test_what_others_do_is_found_in_time_and_undone(
    kernel: Watched, command: str, seconds: float
) -> None:
    agent = await settled(kernel)
    await pass_time(agent, GLANCE)
    right = await kernel.dump()
    dumps = kernel.dumps
    do(command)
    assert await kernel.dump() != right
    await pass_time(agent, seconds)
    assert kernel.dumps == dumps + 2, "one of them is the test's"
    assert await kernel.dump() == right
    written = kernel.written
    await pass_time(agent, PERIOD)
    assert (kernel.dumps, kernel.written) == (dumps + 3, written), "no more is to be done"


async def test_a_set_of_ours_that_is_gone_is_made_again(kernel: Watched) -> None:
    agent = await settled(kernel)
    right = await kernel.dump()
    do("ipset destroy IPVSPROXY-OWN")  # no rule uses it
    await pass_time(agent, GLANCE)
    assert await kernel.dump() == right


async def test_virtual_servers_of_others_are_counted_and_left_alone(kernel: Watched) -> None:
    agent = await settled(kernel)
    dumps = kernel.dumps
    do("ipvsadm -A -f 7 -s rr")
    do("ipvsadm -A -t 192.0.2.7:80 -s rr")
    await pass_time(agent, PERIOD)
    assert kernel.dumps == dumps + 1
    shown = do("ipvsadm -Sn")
    assert "-A -f 7 -s rr" in shown
    assert "-A -t 192.0.2.7:80 -s rr" in shown


async def test_the_kernel_tells_of_the_interface_that_is_gone(kernel: Watched) -> None:
    agent = await settled(kernel)
    right = await kernel.dump()
    changes = kernel.changes()
    news = asyncio.ensure_future(anext(changes))
    await asyncio.sleep(0)
    do("ip link del kube-ipvs0")
    assert await asyncio.wait_for(news, 5) == NodeNetworkChanged()
    await changes.aclose()  # type: ignore[attr-defined] # an asynchronous generator
    agent.reconciler.network_changed()
    agent.clock.now += 0.2
    await agent.settle()
    assert await kernel.dump() == right
