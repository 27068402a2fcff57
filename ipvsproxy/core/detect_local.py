"""Which packets come from pods: kube-proxy's detectLocalMode, as words of a rule.

Knows the four modes and what each needs; the rules that use the words are core.firewall's.
A packet is a pod's when any of the matches holds. Without a match nothing is known of pods.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ipvsproxy.config import DetectLocalMode, Settings
from ipvsproxy.model import Family, Network, NodeNetwork, Rule
from ipvsproxy.objects import Node


class LocalPods(NamedTuple):
    """How pods are told from others in one family."""

    matches: tuple[Rule, ...] = ()
    """Words that match a packet of a pod; one of them has to."""
    from_afar: tuple[Rule, ...] = ()
    """Words that match a packet of a pod that another node has forwarded to this one."""

    @property
    def known(self) -> bool:
        """Whether anything is known of pods."""
        return bool(self.matches)


def local_pods(
    family: Family, settings: Settings, node: Node | None, network: NodeNetwork
) -> LocalPods:
    """Say how pods are told from others.

    By networks (ClusterCIDR) other nodes' pods look alike. One of them that asks a NodePort of
    this node comes in by the interface that has this node's address.
    """
    match settings.detect_local_mode:
        case DetectLocalMode.CLUSTER_CIDR:
            networks = _of_family(settings.cluster_cidrs, family)
            return LocalPods(networks, _by(_uplinks(family, node, network), networks))
        case DetectLocalMode.NODE_CIDR:
            return LocalPods(_of_family(node.pod_cidrs if node else (), family))
        case DetectLocalMode.BRIDGE_INTERFACE:
            return LocalPods((("-i", settings.pod_bridge_interface or ""),))
        case DetectLocalMode.INTERFACE_NAME_PREFIX:
            return LocalPods((("-i", f"{settings.pod_interface_name_prefix}+"),))


def _of_family(networks: Sequence[Network], family: Family) -> tuple[Rule, ...]:
    found = sorted({network for network in networks if network.family is family})
    # iptables leaves out a network that matches everything.
    return tuple(("-s", str(one)) if one.prefix_length else () for one in found)


def _uplinks(family: Family, node: Node | None, network: NodeNetwork) -> tuple[str, ...]:
    own = {address for address in (node.addresses if node else ()) if address.family is family}
    return tuple(sorted(name for name, found in network.interfaces.items() if found & own))


def _by(interfaces: Sequence[str], networks: Sequence[Rule]) -> tuple[Rule, ...]:
    return tuple((*network, "-i", name) for network in networks for name in interfaces)
