"""The links, addresses and routes of a layout, made and removed.

                lan (a bridge)                        192.168.50.0/24, fd00:50::/64
       ┌──────────────┼──────────┬─────────┐
     node1          node2     outside  elsewhere      route the service networks to node1, node2
      cni0           cni0                             hairpin on every port
    ┌──┴──┐        ┌──┴──┐
   pod   pod      pod   pod                           10.244.n.0/24, fd00:10:244:n::/64

`ip -batch` once for each namespace: a process launch costs 30 ms and more in the rig.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from testbed import namespaces
from testbed.layout import SERVICE_NETWORKS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from testbed.layout import Host, Layout, Node, Pod

NODE_SYSCTLS = {
    "ipv4/ip_forward": "1",
    "ipv6/conf/all/forwarding": "1",
    "ipv4/conf/all/rp_filter": "0",
    "ipv4/conf/default/rp_filter": "0",
    "ipv4/icmp_ratelimit": "0",
    "ipv6/icmp/ratelimit": "0",
}
"""Without a limit on ICMP: each of many clients that are refused at once is to be told so."""
LAN_SYSCTLS = {
    "bridge/bridge-nf-call-iptables": "0",
    "bridge/bridge-nf-call-ip6tables": "0",
}
"""The lan stands for cables; it filters nothing. The nodes' bridges keep the kernel's default."""


def build(layout: Layout) -> None:
    """Make everything; what an earlier testbed of the same prefix left behind goes first."""
    remove(layout)
    namespaces.create(layout.namespaces)
    namespaces.batch(["link add br0 type bridge", "link set br0 up"], namespace=layout.lan)
    namespaces.write_sysctls(layout.lan, LAN_SYSCTLS)
    for node in layout.nodes:
        namespaces.write_sysctls(node.namespace, NODE_SYSCTLS)
        namespaces.batch(_bridge(node), namespace=node.namespace)
    namespaces.batch(_cables(layout))
    namespaces.batch(_ports(layout), namespace=layout.lan)
    for node in layout.nodes:
        namespaces.batch(_node_side(node, layout), namespace=node.namespace)
    for pod in layout.pods:
        namespaces.batch(_pod_side(pod, layout), namespace=pod.namespace)
    for host, gateway in _clients(layout):
        namespaces.batch(_client_side(host, gateway), namespace=host.namespace)


def remove(layout: Layout) -> None:
    """Delete every namespace of the layout; links and tables go with them."""
    namespaces.delete(layout.namespaces)


def _bridge(node: Node) -> Iterator[str]:
    ipv4, ipv6 = node.bridge_addresses
    yield "link set lo up"
    yield "link add cni0 type bridge"
    yield f"addr add {ipv4}/24 dev cni0"
    yield f"addr add {ipv6}/64 dev cni0 nodad"
    yield "link set cni0 up"


def _clients(layout: Layout) -> tuple[tuple[Host, Node], ...]:
    return (layout.outside, layout.nodes[0]), (layout.elsewhere, layout.nodes[-1])


def _cabled(layout: Layout) -> tuple[Host, ...]:
    return (*layout.nodes, *(host for host, _ in _clients(layout)))


def _ports(layout: Layout) -> Iterator[str]:
    for host in _cabled(layout):
        yield f"link set {host.name} master br0 up"


def _cables(layout: Layout) -> Iterator[str]:
    for host in _cabled(layout):
        yield (
            f"link add eth0 netns {host.namespace} type veth peer name {host.name} "
            f"netns {layout.lan}"
        )
    for pod in layout.pods:
        bridge = layout.node(pod.node).namespace
        port = f"veth{pod.number}"
        yield f"link add eth0 netns {pod.namespace} type veth peer name {port} netns {bridge}"


def _addresses(host: Host) -> Iterator[str]:
    yield "link set lo up"
    yield f"addr add {host.ipv4}/24 dev eth0"
    yield f"addr add {host.ipv6}/64 dev eth0 nodad"
    yield "link set eth0 up"


def _node_side(node: Node, layout: Layout) -> Iterator[str]:
    yield from _addresses(node)
    for pod in layout.pods:
        if pod.node == node.name:
            yield f"link set veth{pod.number} master cni0 up"
            yield f"link set veth{pod.number} type bridge_slave hairpin on"
    for other in layout.nodes:
        if other != node:
            for network, gateway in zip(other.pod_networks, other.addresses, strict=True):
                yield f"route add {network} via {gateway}"


def _pod_side(pod: Pod, layout: Layout) -> Iterator[str]:
    yield from _addresses(pod)
    for gateway in layout.node(pod.node).bridge_addresses:
        yield f"route add default via {gateway}"


def _client_side(host: Host, gateway: Node) -> Iterator[str]:
    yield from _addresses(host)
    for networks in SERVICE_NETWORKS:
        for network, address in zip(networks, gateway.addresses, strict=True):
            yield f"route add {network} via {address}"
