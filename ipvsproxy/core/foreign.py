"""What is to be removed of another service proxy, and why it must not be removed yet.

For `ipvsproxy cleanup --foreign`. Knows what a node's leftovers are (`Traces`) and decides; whose a
name is says core.predecessors, and how anything is removed the kernel's adapters know. Only what is
another proxy's alone is removed. What has a name that we have too, a running agent takes over; as
long as that has not happened it may still serve, and nothing is removed (`obstacle`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias, assert_never

from ipvsproxy.core.ledger import Ownership
from ipvsproxy.core.predecessors import (
    KUBE_ROUTER_FRONTENDS,
    KUBE_ROUTER_INTERFACE,
    KUBE_ROUTER_SETS,
    NFT_TABLE,
    Predecessor,
    are_others,
    is_rule_of,
    is_their_chain,
    serves_without_ipvs,
)
from ipvsproxy.core.rule_words import parse
from ipvsproxy.core.sets import LEDGER, set_name
from ipvsproxy.model import Family, IpPortMember, Rule, Ruleset, State, VirtualServerKey


class RuleTable(NamedTuple):
    """One table of iptables."""

    backend: str
    """`nft` or `legacy`."""
    in_use: bool
    """Whether this is the backend in which ours stand."""
    family: Family
    name: str
    chains: tuple[str, ...]
    rules: tuple[tuple[str, Rule], ...]
    """The chain of each rule, and its words, in their order."""


class NftTable(NamedTuple):
    """A table of nftables."""

    family: Family
    name: str


@dataclass(frozen=True)
class Traces:
    """What there is on a node that may be another proxy's."""

    tables: tuple[RuleTable, ...] = ()
    sets: frozenset[str] = frozenset()
    interfaces: frozenset[str] = frozenset()
    nft_tables: frozenset[NftTable] = frozenset()


class RemoveRules(NamedTuple):
    """Delete rules, and chains with what is in them; the table changes as a whole or not at all."""

    backend: str
    family: Family
    table: str
    rules: tuple[tuple[str, Rule], ...]
    chains: tuple[str, ...]


class RemoveInterface(NamedTuple):
    """Remove an interface with its addresses."""

    interface: str


class RemoveSet(NamedTuple):
    """Destroy an ipset."""

    set: str


class RemoveNftTable(NamedTuple):
    """Delete a table of nftables with all that is in it."""

    table: NftTable


Removal: TypeAlias = RemoveRules | RemoveInterface | RemoveSet | RemoveNftTable


def removals(predecessor: Predecessor, traces: Traces) -> tuple[Removal, ...]:
    """Give what is to be removed, in its order: rules before the sets that they ask."""
    return tuple(_removals(predecessor, traces))


def obstacle(predecessor: Predecessor, state: State) -> str:
    """Say why nothing of a predecessor's may be removed now; empty: nothing speaks against it."""
    for family, found in sorted(state.rulesets.items()):
        if predecessor is Predecessor.KUBE_PROXY_IPTABLES and serves_without_ipvs(found):
            return f"its IPv{family} rules still serve in KUBE-SERVICES; {_START}"
        if family is Family.IPV4 and (found == Ruleset() or are_others(found)):
            return f"the IPv{family} chains of ipvsproxy do not stand; {_START}"
    if not any(state.members.get(set_name(LEDGER, family)) for family in Family):
        return f"ipvsproxy serves nothing here; {_START}"
    left = _not_taken_over(state) if predecessor is Predecessor.KUBE_ROUTER else 0
    if left:
        return f"{left} of its virtual servers have not been taken over; see ipvsproxy status"
    return ""


def describe(removal: Removal) -> str:
    """Say in one line what is removed."""
    match removal:
        case RemoveRules(backend, family, table, rules, chains):
            what = f"{len(rules)} rules and the chains {', '.join(chains)}"
            return f"remove from IPv{family} iptables-{backend} {table}: {what}"
        case RemoveInterface(name):
            return f"remove interface {name}"
        case RemoveSet(name):
            return f"destroy set {name}"
        case RemoveNftTable(NftTable(family, name)):
            return f"delete nftables table {_NFT_FAMILIES[family]} {name}"
        case _:
            assert_never(removal)


_START = "start it first: its state has to stand before theirs goes"
_NFT_FAMILIES = {Family.IPV4: "ip", Family.IPV6: "ip6"}


def _removals(predecessor: Predecessor, traces: Traces) -> Iterator[Removal]:
    for table in traces.tables:
        removal = _of_table(predecessor, table)
        if removal.rules or removal.chains:
            yield removal
    match predecessor:
        case Predecessor.KUBE_ROUTER:
            if KUBE_ROUTER_INTERFACE in traces.interfaces:
                yield RemoveInterface(KUBE_ROUTER_INTERFACE)
            yield from (RemoveSet(name) for name in sorted(traces.sets & KUBE_ROUTER_SETS))
        case Predecessor.KUBE_PROXY_NFTABLES:
            theirs = sorted(one for one in traces.nft_tables if one.name == NFT_TABLE)
            yield from map(RemoveNftTable, theirs)
        case Predecessor.KUBE_PROXY_IPTABLES | Predecessor.KUBE_PROXY_IPVS:
            pass
        case _:
            assert_never(predecessor)


def _of_table(predecessor: Predecessor, table: RuleTable) -> RemoveRules:
    theirs = tuple(
        name
        for name in table.chains
        if is_their_chain(predecessor, table.name, name, shared=not table.in_use)
    )
    rules = tuple(
        (chain, rule)
        for chain, rule in table.rules
        if chain not in theirs
        and (parse(rule).target in theirs or is_rule_of(predecessor, table.name, chain, rule))
    )
    return RemoveRules(table.backend, table.family, table.name, rules, theirs)


def _not_taken_over(state: State) -> int:
    ours = Ownership(state)
    listed = {
        VirtualServerKey(member.protocol, member.address, member.port)
        for names in KUBE_ROUTER_FRONTENDS.values()
        for name in names
        for member in state.members.get(name, ())
        if isinstance(member, IpPortMember)
    }
    return sum(key not in ours for key in listed & state.virtual_servers.keys())
