"""Planning what all Services stand on: sysctls, the dummy interface, sets, chains.

Knows how large a set has to be and in how many steps chains change; what is wanted of them is in
the target's foundation, and set members are `members`' affair.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from ipvsproxy.core.foundation import Foundation
from ipvsproxy.core.operations import (
    CreateLink,
    CreateSet,
    ForgetFlows,
    GrowSet,
    ReplaceChains,
    SetSysctl,
    SetTimeouts,
)
from ipvsproxy.core.plan.steps import Draft
from ipvsproxy.core.predecessors import serves_without_ipvs
from ipvsproxy.core.redirect import Redirect
from ipvsproxy.core.redirect_rules import (
    redirect_match,
    redirect_rule,
    redirect_rules,
    redirect_target,
    with_present_redirects,
    without_split,
)
from ipvsproxy.core.sets import SPLIT, frontend_member, set_name
from ipvsproxy.model import (
    Family,
    IpPortMember,
    Protocol,
    Rule,
    Ruleset,
    SetType,
    State,
    VirtualServerKey,
)

GROUND = (CreateLink, CreateSet, GrowSet, SetSysctl, SetTimeouts)
"""What is planned of the foundation whatever was touched; chains apart."""


class Ground:
    """Plans the foundation: what is missing first, and what is in excess at the end.

    Where others stand, ours come after the members that admit, for which they ask. Where those of
    another mode serve without IPVS, they come after all else that is made: that is the switch.

    Chains change up to three times where redirections do: new ones come before their members in
    the set; one that leads elsewhere from now on when that stands; old ones go after their members.
    """

    def __init__(self, draft: Draft) -> None:
        self._draft = draft
        self._standing: dict[Family, Ruleset] = {}
        """The chains as they are when all steps so far are done."""
        self._last: dict[Family, int] = {}
        """The latest step that replaces a family's chains: the next one is written for what it
        leaves."""

    def lay(self, coming: Mapping[str, int]) -> None:
        """Plan what is missing; `coming`: how many members each set gets, by its name."""
        draft = self._draft
        foundation, state = draft.target.foundation, draft.state
        for operation in settings_operations(foundation, state):
            draft.add(operation)
        if not state.link:
            draft.link = (draft.add(CreateLink()),)
        self._lay_sets(coming)
        for family, wanted in foundation.rulesets.items():
            found = state.rulesets.get(family)
            if found is not None and found != wanted:
                self._standing[family] = found
                if not found.chains or without_split(wanted) == without_split(found):
                    self._lead_in(family)

    def lead_in(self) -> None:
        """Plan our chains in the place of others', which ask for other members."""
        so_far = tuple(range(len(self._draft.steps)))
        for family, standing in tuple(self._standing.items()):
            if family not in self._draft.chains and not serves_without_ipvs(standing):
                self._lead_in(family, so_far)

    def switch(self) -> None:
        """Plan our chains in the place of rules that serve, when all that ours lead to is there."""
        so_far = tuple(range(len(self._draft.steps)))
        for family, standing in tuple(self._standing.items()):
            if serves_without_ipvs(standing):
                self._lead_in(family, so_far)

    def _lead_in(self, family: Family, follows: Iterable[int] = ()) -> None:
        draft, standing = self._draft, self._standing[family]
        foundation = draft.target.foundation
        wanted = foundation.rulesets[family]
        bridged = with_present_redirects(wanted, standing, led_elsewhere=True)
        specs = foundation.sets
        made = (step for name, step in draft.sets.items() if specs[name].family is family)
        step = self._replace_chains(family, bridged, made, follows)
        if step is not None:
            draft.chains[family] = step

    def lead_elsewhere(self) -> None:
        """Plan that redirections lead to their new targets, which are bound by now."""
        draft = self._draft
        for family, standing in self._standing.items():
            wanted = draft.target.foundation.rulesets[family]
            bridged = with_present_redirects(wanted, standing, led_elsewhere=False)
            coming = redirect_rules(bridged) - redirect_rules(standing)
            going = redirect_rules(standing) - redirect_rules(bridged)
            targets = {redirect_target(rule) for rule in coming}
            needs = [draft.created[key] for key in targets if key in draft.created]
            needs += [draft.bound[key.address] for key in targets if key.address in draft.bound]
            follows = (step for key in targets for step in draft.raised.get(key, ()))
            step = self._replace_chains(family, bridged, needs, follows)
            if step is None:
                continue
            for key in map(redirect_target, going):
                draft.rerouted[key].append(step)
            self._forget_flows(family, redirect_rules(standing), step)

    def clear(self) -> None:
        """Plan the end of redirections, after that of their members."""
        draft = self._draft
        for family, standing in tuple(self._standing.items()):
            wanted = draft.target.foundation.rulesets[family]
            if wanted == standing:
                continue
            held = self._held(family)
            wanted = with_present_redirects(wanted, standing, led_elsewhere=False, only=held)
            self._replace_chains(family, wanted, draft.unlisted[family])

    def _held(self, family: Family) -> frozenset[Rule]:
        """Give what is redirected for members that nobody asks for, and that stay for all that.

        They may belong to a Service that could not be read: without their rule its clients inside
        the cluster would meet what is meant for the outside.
        """
        draft, name = self._draft, set_name(SPLIT, family)
        target = draft.target
        held = (
            VirtualServerKey(member.protocol, member.address, member.port)
            for member in draft.state.members.get(name, ())
            if isinstance(member, IpPortMember) and target.members.get((name, member), True)
        )
        return frozenset(
            redirect_match(key.protocol, address, key.port)
            for key in held
            if target.redirections.target_of(key) is None
            for address in (key.address, *((None,) if draft.is_own(key.address) else ()))
        )

    def _lay_sets(self, coming: Mapping[str, int]) -> None:
        draft = self._draft
        foundation, state = draft.target.foundation, draft.state
        for name, spec in foundation.sets.items():
            found = state.sets.get(name)
            members = len(state.members.get(name, ())) + coming.get(name, 0)
            least = max(spec.maxelem, found.maxelem if found is not None else 0)
            fitting = capacity(least, members, foundation.capacity_limit)
            if found is None:
                create = CreateSet(name, replace(spec, maxelem=fitting))
                draft.sets[name] = draft.add(create)
            elif fitting > found.maxelem and spec.type is not SetType.BITMAP_PORT:
                grow = GrowSet(name, replace(spec, maxelem=fitting))
                draft.grown[name] = draft.add(grow)

    def _replace_chains(
        self,
        family: Family,
        wanted: Ruleset,
        needs: Iterable[int],
        follows: Iterable[int] = (),
    ) -> int | None:
        """Plan the next state of the chains; None where they are like that already."""
        standing = self._standing[family]
        if wanted == standing:
            return None
        self._standing[family] = wanted
        last = (self._last[family],) if family in self._last else ()
        self._last[family] = self._draft.add(
            ReplaceChains(family, wanted, standing), needs=(*last, *needs), follows=follows
        )
        return self._last[family]

    def _forget_flows(self, family: Family, before: frozenset[Rule], step: int) -> None:
        """Forget the flows of what is redirected already, and to somewhere else from now on."""
        draft = self._draft
        listed = draft.state.members.get(set_name(SPLIT, family), ())
        for redirect in draft.target.redirections.all():
            if redirect.target.family is not family or redirect.protocol is not Protocol.UDP:
                continue
            if redirect_rule(redirect) not in before:
                for key in self._sources(redirect):
                    if frontend_member(key) in listed:
                        draft.add(ForgetFlows(key, None), needs=(step,))

    def _sources(self, redirect: Redirect) -> Iterator[VirtualServerKey]:
        for key in sorted(self._draft.target.redirections.sources_of(redirect.target)):
            if key.port == redirect.port and redirect.address in (None, key.address):
                yield key


def settings_operations(foundation: Foundation, state: State) -> Iterator[SetSysctl | SetTimeouts]:
    """Give what brings kernel settings and IPVS's timeouts to what they should be.

    A setting that the kernel lacks is passed over: it is a shortcoming (core.foundation).
    """
    for name, value in foundation.sysctls.items():
        if name in state.sysctls and state.sysctls[name] != value:
            yield SetSysctl(name, value)
    if foundation.timeouts != state.timeouts:
        yield SetTimeouts(foundation.timeouts)


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
