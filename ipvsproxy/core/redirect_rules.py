"""Redirections as rules: how one is written, read, and kept for as long as it is needed.

Knows the rules of the chain KUBE-SPLIT that redirect, and nothing of the others: what leads packets
into that chain is core.firewall's, which redirections there are core.redirect's. Rules stand as
iptables-save prints them.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence

from ipvsproxy.core.redirect import Redirect
from ipvsproxy.model import (
    Address,
    Chain,
    Family,
    Protocol,
    Rule,
    Ruleset,
    VirtualServerKey,
)

SPLIT_CHAIN = "KUBE-SPLIT"
"""The chain, of the table nat, whose rules redirect."""


def redirect_target(rule: Rule) -> VirtualServerKey:
    """Read where a rule that redirects leads to."""
    host, _, port = rule[rule.index("--to-destination") + 1].rpartition(":")
    protocol = Protocol[rule[rule.index("-p") + 1].upper()]
    return VirtualServerKey(protocol, Address.parse(host.strip("[]")), int(port))


def redirect_targets(ruleset: Ruleset) -> dict[Rule, VirtualServerKey]:
    """Give where clients are sent, by what `redirect_match` gives."""
    return {_redirected(rule): redirect_target(rule) for rule in redirect_rules(ruleset)}


def led_to(
    targets: Mapping[Rule, VirtualServerKey], key: VirtualServerKey
) -> Iterator[VirtualServerKey]:
    """Give where the clients of a virtual server are sent, by what `redirect_targets` gives.

    The first one counts: its own address goes before a NodePort's number, at any address.
    """
    for address in (key.address, None):
        target = targets.get(redirect_match(key.protocol, address, key.port))
        if target is not None:
            yield target


def with_present_redirects(
    wanted: Ruleset,
    found: Ruleset,
    *,
    led_elsewhere: bool,
    only: Container[Rule] | None = None,
) -> Ruleset:
    """Give `wanted` with the redirections that stand in `found` and are not wanted.

    A rule is only reached by members of SPLIT, so one that is there too long does no harm, but one
    that goes before its member lets clients inside the cluster through to the outside's frontend.
    With `led_elsewhere` those too stay as they are that are wanted with another target. `only` are
    those that stay, by what `redirect_match` gives; None: all.
    """
    standing = {_redirected(rule): rule for rule in redirect_rules(found)}
    new = {_redirected(rule) for rule in redirect_rules(wanted)}
    extra = [
        standing[match] for match in sorted(standing.keys() - new) if only is None or match in only
    ]

    def bridged(rules: Iterable[Rule]) -> tuple[Rule, ...]:
        kept = (standing.get(_redirected(rule), rule) if led_elsewhere else rule for rule in rules)
        return _in_place(tuple(kept), extra, found) if extra else tuple(kept)

    return wanted._replace(
        chains=tuple(
            chain._replace(rules=bridged(chain.rules)) if _is_split(chain) else chain
            for chain in wanted.chains
        )
    )


def without_split(ruleset: Ruleset) -> Ruleset:
    """Give a ruleset without the chain of the redirections."""
    return ruleset._replace(chains=tuple(one for one in ruleset.chains if not _is_split(one)))


def redirect_rules(ruleset: Ruleset) -> frozenset[Rule]:
    """Give the rules of a ruleset that redirect."""
    chains = (chain for chain in ruleset.chains if _is_split(chain))
    return frozenset(rule for chain in chains for rule in chain.rules if "DNAT" in rule)


def redirect_rule(redirect: Redirect) -> Rule:
    """Write a redirection as a rule."""
    target = redirect.target
    match = redirect_match(redirect.protocol, redirect.address, redirect.port)
    host = str(target.address) if target.family is Family.IPV4 else f"[{target.address}]"
    return (*match, "-j", "DNAT", "--to-destination", f"{host}:{target.port}")


def redirect_match(protocol: Protocol, address: Address | None, port: int) -> Rule:
    """Write what a redirection matches; `address` None: a NodePort's number, at any address."""
    name = protocol.name.lower()
    where = () if address is None else ("-d", f"{address}/{address.family.host_prefix}")
    return (*where, "-p", name, "-m", name, "--dport", str(port))


def _is_split(chain: Chain) -> bool:
    return chain[:2] == ("nat", SPLIT_CHAIN)


def _in_place(rules: Sequence[Rule], extra: Sequence[Rule], found: Ruleset) -> tuple[Rule, ...]:
    """Give the rules of KUBE-SPLIT with others among them: as in core.firewall, else as found.

    So nothing is written where all that is wanted is there already, and more.
    """
    places = {
        _redirected(rule): place
        for chain in found.chains
        if _is_split(chain)
        for place, rule in enumerate(chain.rules)
    }

    def rank(rule: Rule) -> tuple[bool, bool, int]:
        of_any_address = rule[0] == "-p"
        return "DNAT" in rule, of_any_address, places.get(_redirected(rule), len(places))

    return tuple(sorted((*rules, *extra), key=rank))


def _redirected(rule: Rule) -> Rule:
    """Give the words of a redirection that say what is redirected."""
    return rule[: rule.index("-j")] if "-j" in rule else rule
