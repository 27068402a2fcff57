"""Who there is in the testbed, and at which address. Values only; nothing is made here.

Every node has a bridge with the first address of its pod network; pods follow from the second one.
Node n has 192.168.50.1n and fd00:50::1n on a network that it shares with an outside client.
"""

from __future__ import annotations

from dataclasses import dataclass, field

CLUSTER_CIDR = "10.244.0.0/16,fd00:10:244::/48"
SERVICE_NETWORKS = ("10.96.0.0/16", "fd00:10:96::/112")


@dataclass(frozen=True, slots=True)
class Host:
    """A network namespace with one address of each family, from which a client may ask."""

    name: str
    namespace: str
    ipv4: str
    ipv6: str

    @property
    def addresses(self) -> tuple[str, str]:
        """Both addresses, IPv4 first."""
        return self.ipv4, self.ipv6

    def address(self, family: int) -> str:
        """Return its address in a family, 4 or 6."""
        return {4: self.ipv4, 6: self.ipv6}[family]


@dataclass(frozen=True, slots=True)
class Pod(Host):
    """A pod; `node` is the name of its node."""

    node: str = ""
    number: int = 0
    """Its number within its node: the last part of its addresses."""


@dataclass(frozen=True, slots=True)
class Node(Host):
    """A node; it reaches its pods through its bridge, `cni0`."""

    number: int = 0

    @property
    def bridge_addresses(self) -> tuple[str, str]:
        """The addresses of its bridge: what its pods see when it asks them itself."""
        return f"10.244.{self.number}.1", f"fd00:10:244:{self.number}::1"

    @property
    def pod_networks(self) -> tuple[str, str]:
        """The blocks from which its pods have their addresses."""
        return f"10.244.{self.number}.0/24", f"fd00:10:244:{self.number}::/64"


@dataclass(frozen=True, slots=True)
class Layout:
    """Two nodes, their pods, and a client outside the cluster whose gateway is the first node."""

    nodes: tuple[Node, ...]
    pods: tuple[Pod, ...]
    outside: Host
    lan: str
    """The namespace of the bridge that connects the nodes and the outside client."""
    prefix: str = field(default="")

    @property
    def namespaces(self) -> tuple[str, ...]:
        """Every namespace of the testbed."""
        hosts: tuple[Host, ...] = (*self.nodes, *self.pods, self.outside)
        return (self.lan, *(host.namespace for host in hosts))

    def node(self, name: str) -> Node:
        """Return a node by name; KeyError for a stranger."""
        return {node.name: node for node in self.nodes}[name]

    def pod(self, name: str) -> Pod:
        """Return a pod by name; KeyError for a stranger."""
        return {pod.name: pod for pod in self.pods}[name]


def lay_out(pods: dict[str, tuple[str, ...]], *, prefix: str = "") -> Layout:
    """Give addresses to the pods of each node, by node name in order.

    `prefix` starts the name of every namespace, so that two testbeds can exist at once.
    """
    nodes = tuple(_node(name, number, prefix) for number, name in enumerate(pods, start=1))
    placed = tuple(
        _pod(name, node, number, prefix)
        for node in nodes
        for number, name in enumerate(pods[node.name], start=2)
    )
    outside = Host("outside", f"{prefix}outside", "192.168.50.100", "fd00:50::100")
    return Layout(nodes, placed, outside, f"{prefix}lan", prefix)


def _node(name: str, number: int, prefix: str) -> Node:
    return Node(name, f"{prefix}{name}", f"192.168.50.1{number}", f"fd00:50::1{number}", number)


def _pod(name: str, node: Node, number: int, prefix: str) -> Pod:
    ipv4, ipv6 = f"10.244.{node.number}.{number}", f"fd00:10:244:{node.number}::{number:x}"
    return Pod(name, f"{prefix}{name}", ipv4, ipv6, node.name, number)
