"""A node as the complaints' tests see it: objects in, and what becomes of a packet out.

The agent is the real one and the kernel the fake, as in the scenarios; what becomes of a packet is
core.trace's to say. What only a kernel can show is in tests/e2e; the tests here name it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from ipvsproxy.config import Settings
from ipvsproxy.core.packet import Balanced, Fate, Kept, Masqueraded, Packet, Sender, SenderKind
from ipvsproxy.core.trace import trace
from ipvsproxy.kernel.fake import FakeDataplane, fresh_state
from ipvsproxy.model import Address, Network, NodeNetwork, State
from tests.scenarios.kernel_lines import do_to, frontend
from tests.scenarios.stage import Stage

Manifest = Mapping[str, object]

NODE_ADDRESS = "192.168.50.11"
SETTINGS = Settings(node_name="node-a", cluster_cidrs=(Network.parse("10.244.0.0/16"),))
OUTSIDE = Sender(SenderKind.OUTSIDE, Address.parse("198.51.100.77"), "eth0")
POD = Sender(SenderKind.POD, Address.parse("10.244.1.77"), "cbr0")
THE_NODE = Sender(SenderKind.NODE)
HERE, ELSEWHERE = "10.244.1.5", "10.244.2.5"
"""An endpoint of this node, and one of another."""


def service(
    name: str = "web",
    *,
    address: str = "10.96.0.10",
    ingress: tuple[str, ...] = (),
    metadata: Manifest | None = None,
    ports: Sequence[Manifest] | None = None,
    **spec: object,
) -> Manifest:
    """Write a Service with port 80; `spec` has the other fields as they are in YAML."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": "default", **(metadata or {})},
        "spec": {"clusterIP": address, "ports": ports or [{"port": 80}], **spec},
        "status": {"loadBalancer": {"ingress": [{"ip": ip} for ip in ingress]}},
    }


def endpoints(
    *addresses: str,
    name: str = "web",
    ports: Sequence[Manifest] | None = None,
    conditions: Manifest | None = None,
) -> Manifest:
    """Write a slice, its port being 8080; endpoints in 10.244.1.0/24 are this node's."""
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": f"{name}-1",
            "namespace": "default",
            "labels": {"kubernetes.io/service-name": name},
        },
        "addressType": "IPv4",
        "ports": ports or [{"port": 8080}],
        "endpoints": [
            {
                "addresses": [address],
                "nodeName": "node-a" if address.startswith("10.244.1.") else "node-b",
                "conditions": conditions or {},
            }
            for address in addresses
        ],
    }


def kernel(*lines: str) -> State:
    """Make a kernel on a node with one interface; `lines` as in scenario pages."""
    state = fresh_state()
    state.network = NodeNetwork({"eth0": frozenset({Address.parse(NODE_ADDRESS)})})
    do_to(state, lines)
    return state


async def started(
    *objects: Manifest, settings: Settings = SETTINGS, state: State | None = None
) -> Stage:
    """Start an agent that finds these objects, on a kernel."""
    stage = Stage(settings, FakeDataplane(kernel() if state is None else state))
    _write(stage, objects)
    await stage.start()
    return stage


async def change(stage: Stage, *objects: Manifest) -> None:
    """Let these be all objects that there are, and the agent act on it."""
    _write(stage, objects)
    await stage.synchronise()


def _write(stage: Stage, objects: tuple[Manifest, ...]) -> None:
    stage.files = {f"{number}.json": json.dumps(one) for number, one in enumerate(objects)}


def fate(stage: Stage, sender: Sender, place: str) -> Fate:
    """Say what becomes of the first packet to a place written as `10.96.0.10:80/TCP`."""
    key = frontend(place)
    packet = Packet(sender, key.protocol, key.address, key.port)
    return trace(stage.fake.state, packet).fate


def seen(stage: Stage, sender: Sender, place: str) -> dict[str, str]:
    """Say which servers may be chosen, each with the source that it sees; `node`: masqueraded."""
    found = fate(stage, sender, place)
    assert isinstance(found, Balanced), found
    sources: dict[str, str] = {}
    for one in found.candidates:
        match one.seen:
            case Kept(address):
                sources[str(one.member.address)] = str(address)
            case Masqueraded():
                sources[str(one.member.address)] = "node"
            case stopped:
                raise AssertionError(stopped)
    return sources


def weights(stage: Stage, place: str) -> dict[str, int]:
    """Say which real servers a virtual server has, and with which weight."""
    members = stage.fake.state.real_servers[frontend(place)]
    return {str(member.address): real.weight for member, real in members.items()}
