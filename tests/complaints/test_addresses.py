"""Complaints about addresses: taken from others, answered for, missing, or too many."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

import msgspec
import pytest
import yaml

from ipvsproxy.config import NodePortAddresses, load
from ipvsproxy.core.foundation import foundation
from ipvsproxy.core.packet import Local, Packet, Refused
from ipvsproxy.core.trace import trace
from ipvsproxy.dataplane import DataplaneError
from ipvsproxy.kernel.fake import fresh_state
from ipvsproxy.model import Address
from ipvsproxy.telemetry import ConditionType
from tests.complaints.node import (
    ELSEWHERE,
    HERE,
    NODE_ADDRESS,
    OUTSIDE,
    POD,
    SETTINGS,
    change,
    endpoints,
    fate,
    kernel,
    seen,
    service,
    started,
)
from tests.scenarios.kernel_lines import frontend
from tests.scenarios.stage import Stage

CONFIG = Path(__file__).parents[2] / "manifests" / "base" / "configmap.yaml"
NODE_PORT = [{"port": 80, "nodePort": 30080}]


def node(name: str, *addresses: str) -> dict[str, object]:
    """Write a Node with its InternalIPs."""
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name},
        "status": {"addresses": [{"type": "InternalIP", "address": one} for one in addresses]},
    }


def served(stage: Stage) -> set[str]:
    """Say at which addresses there is a virtual server."""
    return {str(key.address) for key in stage.fake.state.virtual_servers}


def bound(stage: Stage) -> set[str]:
    return set(map(str, stage.fake.state.addresses))


async def test_issue_72236_the_node_s_own_ports_do_not_answer_on_service_addresses() -> None:
    """ssh on a ClusterIP is refused, but a ping is answered (website #41002)."""
    state = kernel("listener tcp 0.0.0.0:22")
    stage = await started(service(), endpoints(HERE), state=state)
    assert isinstance(fate(stage, POD, "10.96.0.10:22/TCP"), Refused)
    ping = Packet(POD, None, Address.parse("10.96.0.10"))
    assert isinstance(trace(stage.fake.state, ping).fate, Local)


async def test_issue_7183_an_address_of_the_node_keeps_its_other_ports() -> None:
    """k3s: a load balancer's address that is the node's own took ssh and the API server with it."""
    state = kernel("listener tcp 0.0.0.0:22")
    stage = await started(
        service(type="LoadBalancer", ingress=(NODE_ADDRESS,)), endpoints(HERE), state=state
    )
    assert seen(stage, OUTSIDE, f"{NODE_ADDRESS}:80/TCP") == {HERE: "node"}
    ssh = fate(stage, OUTSIDE, f"{NODE_ADDRESS}:22/TCP")
    assert isinstance(ssh, Local)
    assert ssh.listeners
    assert NODE_ADDRESS not in bound(stage)


def test_issue_59976_no_node_need_answer_arp_for_service_addresses() -> None:
    """strictARP, off as in kube-proxy since other tools depend on it (metallb #153)."""
    strict = msgspec.structs.replace(SETTINGS, strict_arp=True)
    wanted = {"net/ipv4/conf/all/arp_ignore": "1", "net/ipv4/conf/all/arp_announce": "2"}
    assert wanted.items() <= foundation(strict, fresh_state()).sysctls.items()
    assert not wanted.keys() & foundation(SETTINGS, fresh_state()).sysctls.keys()


@pytest.mark.parametrize("taken", ["192.168.50.12", "192.168.50.1", "192.168.50.100"])
async def test_issue_66966_nobody_s_address_is_taken_from_him(taken: str) -> None:
    """Another node's, a gateway's, the API server's (#75290, #93175), by an externalIP."""
    api = service("kubernetes", address="10.96.0.1", ports=[{"port": 443}])
    stage = await started(
        node("node-a", NODE_ADDRESS),
        node("node-b", "192.168.50.12"),
        api,
        endpoints("192.168.50.100", name="kubernetes", ports=[{"port": 6443}]),
        service(externalIPs=[taken, "198.51.100.10"]),
        endpoints(HERE),
        state=kernel("gateway 192.168.50.1"),
    )
    assert served(stage) == {"10.96.0.1", "10.96.0.10", "198.51.100.10"}
    assert taken not in bound(stage)
    (condition,) = stage.agent.conditions.of("Service default/web")
    assert condition.type is ConditionType.RESERVED_ADDRESS
    assert taken in condition.message


async def test_issue_114815_an_address_of_a_load_balancer_has_its_node_ports_too() -> None:
    """Each interface is asked which addresses are the node's (#112185); none is left out."""
    stage = await started(
        service(type="LoadBalancer", ingress=(NODE_ADDRESS, "203.0.113.10"), ports=NODE_PORT),
        endpoints(HERE),
    )
    assert seen(stage, OUTSIDE, f"{NODE_ADDRESS}:30080/TCP") == {HERE: "node"}
    assert frontend("203.0.113.10:30080/TCP") not in stage.fake.state.virtual_servers


async def test_issue_59156_node_ports_are_served_on_the_node_s_own_address_only() -> None:
    """Where our manifests are used as they are; kube-proxy's default is every interface."""
    text = yaml.safe_load(CONFIG.read_text())["data"]["config.yaml"]
    settings = load({}, {"NODE_NAME": "node-a"}, text).settings
    assert settings.node_port_addresses == NodePortAddresses(primary=True)
    stage = await started(
        node("node-a", NODE_ADDRESS),
        service(type="NodePort", ports=NODE_PORT),
        endpoints(HERE),
        settings=msgspec.structs.replace(
            SETTINGS, node_port_addresses=settings.node_port_addresses
        ),
        state=kernel(f"network eth0 {NODE_ADDRESS} 192.168.50.111", "network docker0 172.17.0.1"),
    )
    assert served(stage) == {"10.96.0.10", NODE_ADDRESS}


async def test_issue_129146_an_address_that_cannot_be_read_takes_no_node_port_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The last list of addresses stays, and what was served on them is."""
    stage = await started(service(type="NodePort", ports=NODE_PORT), endpoints(HERE))
    writes = stage.fake.writes

    async def unreadable() -> NoReturn:
        raise DataplaneError("an interface was removed during the dump")

    monkeypatch.setattr(stage.fake, "network", unreadable)
    monkeypatch.setattr(stage.fake, "dump", unreadable)
    stage.agent.reconciler.network_changed()
    await stage.wait(120)
    assert stage.fake.writes == writes
    assert ConditionType.KERNEL_UNREADABLE in {one.type for one in stage.agent.conditions}
    await change(stage, service(type="NodePort", ports=NODE_PORT), endpoints(ELSEWHERE))
    assert seen(stage, OUTSIDE, f"{NODE_ADDRESS}:30080/TCP") == {ELSEWHERE: "node"}


async def test_kep_1860_a_load_balancer_of_mode_proxy_keeps_its_address() -> None:
    """It ends connections itself: TLS, PROXY protocol, its own health checks."""
    balancer = {
        **service(type="LoadBalancer"),
        "status": {"loadBalancer": {"ingress": [{"ip": "203.0.113.10", "ipMode": "Proxy"}]}},
    }
    stage = await started(balancer, endpoints(HERE))
    assert served(stage) == {"10.96.0.10"}
    assert bound(stage) == {"10.96.0.10"}
