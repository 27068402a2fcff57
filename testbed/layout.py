"""Who there is in the testbed, and at which address. Values only; nothing is made here.

Every node has a bridge with the first address of its pod network; pods follow from the second one.
Node n has 192.168.50.1n and fd00:50::1n on a network that it shares with the clients outside. Of
these there are two, because a client reaches a service address by the node that it has a route to:
`outside` by the first node, `elsewhere` by the last.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

CLUSTER_CIDR = "10.244.0.0/16,fd00:10:244::/48"
CLUSTER_NETWORKS = ("10.96.0.0/16", "fd00:10:96::/112")
INGRESS_NETWORKS = ("198.18.0.0/16", "fd00:18::/112")
EXTERNAL_NETWORKS = ("198.19.0.0/16", "fd00:19::/112")
SERVICE_NETWORKS = (CLUSTER_NETWORKS, INGRESS_NETWORKS, EXTERNAL_NETWORKS)
"""The blocks of ClusterIPs, of load balancers' addresses, of externalIPs; IPv4 first in each."""
OUTSIDE_NETWORKS = ("192.168.50.0/24", "fd00:50::/64")
"""The network that the nodes share with the clients outside."""


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
    """A pod; `node` is the name of its node. One of the host network has its node's namespace."""

    node: str = ""
    number: int = 0
    """Its number within its node: the last part of its addresses. 0: it has its node's."""

    @property
    def in_host_network(self) -> bool:
        """Whether it has no network of its own."""
        return self.number == 0


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
    """Two nodes, their pods, and two clients outside the cluster."""

    nodes: tuple[Node, ...]
    pods: tuple[Pod, ...]
    """The pods with a network of their own."""
    outside: Host
    """A client outside, whose gateway to the Services is the first node."""
    elsewhere: Host
    """Another, whose gateway is the last node."""
    lan: str
    """The namespace of the bridge that connects the nodes and the clients outside."""
    host_pods: tuple[Pod, ...] = ()
    """The pods in the network of their node, at most one a node: they have one port."""
    prefix: str = field(default="")

    @property
    def namespaces(self) -> tuple[str, ...]:
        """Every namespace of the testbed."""
        hosts: tuple[Host, ...] = (*self.nodes, *self.pods, self.outside, self.elsewhere)
        return (self.lan, *(host.namespace for host in hosts))

    def node(self, name: str) -> Node:
        """Return a node by name; KeyError for a stranger."""
        return {node.name: node for node in self.nodes}[name]

    def pod(self, name: str) -> Pod:
        """Return a pod by name; KeyError for a stranger."""
        return {pod.name: pod for pod in (*self.pods, *self.host_pods)}[name]

    def host(self, name: str) -> Host:
        """Return whoever has a name; KeyError for a stranger."""
        hosts: tuple[Host, ...] = (*self.nodes, *self.pods, *self.host_pods)
        return {host.name: host for host in (*hosts, self.outside, self.elsewhere)}[name]


def lay_out(
    pods: dict[str, tuple[str, ...]],
    *,
    host_pods: Mapping[str, str] = MappingProxyType({}),
    prefix: str = "",
) -> Layout:
    """Give addresses to the pods of each node, by node name in order.

    `host_pods` are the pods in the host network, by the name of their node. `prefix` starts the
    name of every namespace, so that two testbeds can exist at once.
    """
    nodes = tuple(_node(name, number, prefix) for number, name in enumerate(pods, start=1))
    placed = tuple(
        _pod(name, node, number, prefix)
        for node in nodes
        for number, name in enumerate(pods[node.name], start=2)
    )
    return Layout(
        nodes,
        placed,
        outside=Host("outside", f"{prefix}outside", "192.168.50.100", "fd00:50::100"),
        elsewhere=Host("elsewhere", f"{prefix}elsewhere", "192.168.50.200", "fd00:50::200"),
        lan=f"{prefix}lan",
        host_pods=tuple(
            Pod(host_pods[node.name], node.namespace, *node.addresses, node=node.name)
            for node in nodes
            if node.name in host_pods
        ),
        prefix=prefix,
    )


def _node(name: str, number: int, prefix: str) -> Node:
    return Node(name, f"{prefix}{name}", f"192.168.50.1{number}", f"fd00:50::1{number}", number)


def _pod(name: str, node: Node, number: int, prefix: str) -> Pod:
    ipv4, ipv6 = f"10.244.{node.number}.{number}", f"fd00:10:244:{node.number}::{number:x}"
    return Pod(name, f"{prefix}{name}", ipv4, ipv6, node.name, number)
