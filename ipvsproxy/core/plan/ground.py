"""Planning what all Services stand on: sysctls, the dummy interface, sets, chains."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

from ipvsproxy.core.firewall import redirect_rule, redirect_rules, with_present_redirects
from ipvsproxy.core.operations import (
    CreateLink,
    CreateSet,
    ForgetFlows,
    GrowSet,
    ReplaceChains,
    SetSysctl,
)
from ipvsproxy.core.plan.steps import Draft
from ipvsproxy.core.redirect import Redirect
from ipvsproxy.core.sets import SPLIT, frontend_member, set_name
from ipvsproxy.model import Family, Protocol, Ruleset, SetType, VirtualServerKey


class Ground:
    """Plans the foundation: at the start of a batch what is missing, at its end what is in excess.

    Chains change twice where a redirection goes: its rule must outlive its member in the set.
    """

    def __init__(self, draft: Draft) -> None:
        self._draft = draft
        self._bridged: dict[Family, Ruleset] = {}

    def lay(self) -> None:
        """Plan what is missing."""
        draft = self._draft
        foundation, state = draft.target.foundation, draft.state
        for name, value in foundation.sysctls.items():
            if name in state.sysctls and state.sysctls[name] != value:
                draft.add(SetSysctl(name, value))
        if not state.link:
            draft.link = (draft.add(CreateLink()),)
        self._lay_sets()
        for family, wanted in foundation.rulesets.items():
            found = state.rulesets.get(family)
            if found is not None and found != wanted:
                self._replace_chains(family, wanted, found)

    def clear(self) -> None:
        """Plan the end of redirections, after that of their members."""
        draft = self._draft
        for family, bridged in self._bridged.items():
            wanted = draft.target.foundation.rulesets[family]
            if bridged != wanted:
                draft.add(
                    ReplaceChains(family, wanted, bridged),
                    needs=(*draft.chain_of(family), *draft.unlisted[family]),
                )

    def _lay_sets(self) -> None:
        draft = self._draft
        foundation, state = draft.target.foundation, draft.state
        coming = Counter(
            name
            for (name, member), wanted in draft.target.members.items()
            if wanted and member not in state.members.get(name, ())
        )
        for name, spec in foundation.sets.items():
            found = state.sets.get(name)
            members = len(state.members.get(name, ())) + coming[name]
            least = max(spec.maxelem, found.maxelem if found is not None else 0)
            fitting = replace(spec, maxelem=capacity(least, members, foundation.capacity_limit))
            if found is None:
                draft.sets[name] = draft.add(CreateSet(name, fitting))
            elif fitting.maxelem > found.maxelem and spec.type is not SetType.BITMAP_PORT:
                draft.grown[name] = draft.add(GrowSet(name, fitting))

    def _replace_chains(self, family: Family, wanted: Ruleset, found: Ruleset) -> None:
        draft = self._draft
        bridged = self._bridged[family] = with_present_redirects(wanted, found)
        if bridged == found:
            return
        specs = draft.target.foundation.sets
        needs = [step for name, step in draft.sets.items() if specs[name].family is family]
        step = draft.add(ReplaceChains(family, bridged, found), needs=needs)
        draft.chains[family] = step
        self._forget_misled(family, found, step)

    def _forget_misled(self, family: Family, found: Ruleset, step: int) -> None:
        """Forget the flows of what is redirected already, and to somewhere else from now on."""
        draft = self._draft
        before = redirect_rules(found)
        listed = draft.state.members.get(set_name(SPLIT, family), ())
        for redirect in draft.target.redirections.all() if before else ():
            if redirect.target.family is not family or redirect.protocol is not Protocol.UDP:
                continue
            if redirect_rule(redirect) not in before:
                for key in self._sources(redirect):
                    if frontend_member(key) in listed:
                        draft.add(ForgetFlows(key, None), needs=(step,))

    def _sources(self, redirect: Redirect) -> Iterable[VirtualServerKey]:
        for key in sorted(self._draft.target.redirections.sources_of(redirect.target)):
            if key.port == redirect.port and redirect.address in (None, key.address):
                yield key


def capacity(maxelem: int, members: int, limit: int) -> int:
    """Give the size of a set that is to have so many members.

    It grows when it is to be seven eighths full, to at least twice what it is to hold, and never
    beyond `limit` (nor does one that is larger shrink).
    """
    if members <= maxelem * 7 // 8:
        return maxelem
    grown = maxelem
    while grown < 2 * members:
        grown *= 2
    return max(maxelem, min(grown, limit))
