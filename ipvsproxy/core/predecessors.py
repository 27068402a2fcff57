"""Other service proxies: the names of what they leave on a node, and what of it is theirs alone.

Knows chains, sets, tables and interfaces of kube-proxy's modes (pkg/proxy of Kubernetes 1.20 to
1.36) and of kube-router's service proxy (pkg/controllers/proxy of 1.x and 2.x). Of other parts of
the same programs nothing is named here: kube-router's network policies and routes go on when its
service proxy does not, and KUBE-FIREWALL, KUBE-MARK-DROP and the like are kubelet's.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import assert_never

from ipvsproxy.core.firewall import (
    FORWARD,
    MARK_MASQ,
    OWN_CHAINS,
    POSTROUTING,
    PROXY_FIREWALL,
    SERVICES,
)
from ipvsproxy.core.redirect_rules import SPLIT_CHAIN
from ipvsproxy.model import Family, Rule, Ruleset


class Predecessor(StrEnum):
    """Who served before us, as `ipvsproxy cleanup --foreign` names it."""

    KUBE_PROXY_IPVS = "kube-proxy-ipvs"
    KUBE_PROXY_IPTABLES = "kube-proxy-iptables"
    KUBE_PROXY_NFTABLES = "kube-proxy-nftables"
    KUBE_ROUTER = "kube-router"


NFT_TABLE = "kube-proxy"
"""Name of the tables of kube-proxy's nftables mode, one in each family."""
KUBE_ROUTER_INTERFACE = "kube-dummy-if"
"""The dummy interface on which kube-router has the service addresses."""
KUBE_ROUTER_FRONTENDS: Mapping[Family, tuple[str, ...]] = {
    Family.IPV4: ("kube-router-svip-prt", "kube-router-ipvs-services"),
    Family.IPV6: ("inet6:kube-router-svip-prt",),
}
"""kube-router's sets of which each member is a virtual server, NodePorts too; the second is that of
1.x. Its members are for `core.ledger` only: no rule of ours asks them."""
KUBE_ROUTER_SETS = frozenset(
    {
        *(name for names in KUBE_ROUTER_FRONTENDS.values() for name in names),
        *("kube-router-svip", "kube-router-local-ips", "kube-router-service-ips"),
        *("inet6:kube-router-svip", "inet6:kube-router-local-ips"),
    }
)
"""All sets of kube-router's service proxy."""

_SERVING = ("KUBE-SVC-", "KUBE-SVL-", "KUBE-EXT-", "KUBE-FW-", "KUBE-XLB-", "KUBE-NODEPORTS")
"""How the names begin of the chains to which kube-proxy's iptables mode leads Services."""
_SHARED_WITH_IPTABLES_MODE = frozenset(
    {
        ("nat", SERVICES),
        ("nat", POSTROUTING),
        ("nat", MARK_MASQ),
        ("filter", FORWARD),
        ("filter", PROXY_FIREWALL),
    }
)
"""Tables and names of chains that kube-proxy's iptables mode has, and we have too."""
_OF_IPTABLES_MODE = (*_SERVING, "KUBE-SEP-", "KUBE-EXTERNAL-SERVICES", "KUBE-PROXY-CANARY")
_KUBE_ROUTER_CHAINS = {("filter", "KUBE-ROUTER-SERVICES"), ("nat", "KUBE-ROUTER-HAIRPIN")}
_KUBE_ROUTER_MASQUERADE = ("--vdir", "ORIGINAL", "--vmethod", "MASQ")
"""Words of the rules by which kube-router masquerades what IPVS has balanced, as iptables-save
prints them: it leaves out the --ipvs that kube-router writes before."""


def are_others(found: Ruleset) -> bool:
    """Whether another proxy has written the chains of our names last.

    None leads from KUBE-SERVICES to the chain of the split, though that may stand there since our
    own time: a kube-proxy that came after us knows nothing of it.
    """
    return bool(found.chains) and not any(
        SPLIT_CHAIN in rule
        for chain in found.chains
        if chain[:2] == ("nat", SERVICES)
        for rule in chain.rules
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


def without_iptables_mode(found: Ruleset) -> Ruleset:
    """Give what kube-proxy's iptables mode does not use: all of it where that does not serve.

    What asks a set cannot be that mode's, whatever its name.
    """
    if not serves_without_ipvs(found):
        return found
    used = {
        chain[:2]
        for chain in found.chains
        if chain[:2] in _SHARED_WITH_IPTABLES_MODE
        and not any("--match-set" in rule for rule in chain.rules)
    }
    return Ruleset(
        tuple(chain for chain in found.chains if chain[:2] not in used),
        tuple(jump for jump in found.jumps if (jump.table, jump.rule[-1]) not in used),
    )


def is_their_chain(predecessor: Predecessor, table: str, name: str, *, shared: bool) -> bool:
    """Whether a chain is a predecessor's to be removed.

    `shared`: those of the names that we have too are among them. So it is in the backend that we do
    not use, where nobody takes them over.
    """
    match predecessor:
        case Predecessor.KUBE_PROXY_IPTABLES:
            own = name.startswith(_OF_IPTABLES_MODE) or (table, name) == ("filter", SERVICES)
        case Predecessor.KUBE_PROXY_IPVS:
            own = False
        case Predecessor.KUBE_ROUTER:
            return (table, name) in _KUBE_ROUTER_CHAINS
        case Predecessor.KUBE_PROXY_NFTABLES:
            return False
        case _:
            assert_never(predecessor)
    return own or (shared and name in OWN_CHAINS.get(table, ()))


def is_rule_of(predecessor: Predecessor, table: str, chain: str, rule: Rule) -> bool:
    """Whether a rule in a chain of somebody else is a predecessor's, wherever it leads."""
    width = len(_KUBE_ROUTER_MASQUERADE)
    return (
        predecessor is Predecessor.KUBE_ROUTER
        and (table, chain) == ("nat", "POSTROUTING")
        and any(
            rule[start : start + width] == _KUBE_ROUTER_MASQUERADE for start in range(len(rule))
        )
    )
