"""What other service proxies leave on a node, and what of it is theirs alone.

Knows names: the chains, sets, tables and interfaces of kube-proxy's modes and of kube-router's
service proxy (sources: pkg/proxy of Kubernetes 1.20 to 1.36, pkg/controllers/proxy of kube-router
2.x). Of another part of the same program nothing is named here: kube-router's network policies and
routes go on when its service proxy does not.
"""

from __future__ import annotations

from ipvsproxy.core.firewall import SERVICES, SPLIT_CHAIN
from ipvsproxy.model import Ruleset

_SERVING = ("KUBE-SVC-", "KUBE-EXT-", "KUBE-FW-", "KUBE-XLB-", "KUBE-NODEPORTS")
"""How the names begin of the chains to which kube-proxy's iptables mode leads Services."""


def are_others(found: Ruleset) -> bool:
    """Whether the chains of our names are another proxy's; one of ours has no other a name for."""
    return bool(found.chains) and not any(
        chain[:2] == ("nat", SPLIT_CHAIN) for chain in found.chains
    )


def serves_without_ipvs(found: Ruleset) -> bool:
    """Whether rules of kube-proxy's iptables mode stand in chains of our names, and serve."""
    return any(
        word.startswith(_SERVING)
        for chain in found.chains
        if chain[:2] == ("nat", SERVICES)
        for rule in chain.rules
        for word in rule
    )
