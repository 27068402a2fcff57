"""Whatever operations are drawn: the shadow follows the kernel, and refusals change nothing."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from ipvsproxy.core.operations import Operation, ReplaceChains, advance, describe
from ipvsproxy.dataplane import Refusal
from ipvsproxy.kernel.fake import copy_state, fresh_state
from ipvsproxy.kernel.rules import carry_out, judge, sets_of
from ipvsproxy.model import State
from tests.strategies import SCHEDULERS, operations, states

KNOWN = frozenset(SCHEDULERS)


@given(states(), operations)
def test_what_is_refused_changes_nothing(state: State, operation: Operation) -> None:
    before = copy_state(state)
    outcome = carry_out(state, operation, KNOWN)
    assert (outcome.refusal is None) == (outcome.reason == "")
    if outcome.refusal is not None:
        assert state == before


@given(states(), operations)
def test_judging_changes_nothing_and_foretells(state: State, operation: Operation) -> None:
    before = copy_state(state)
    foretold = judge(state, operation, KNOWN)
    assert state == before
    assert carry_out(state, operation, KNOWN) == foretold


@given(st.lists(operations, max_size=40))
def test_a_shadow_that_advances_by_outcomes_is_the_kernel(drawn: list[Operation]) -> None:
    kernel, shadow = fresh_state(), fresh_state()
    for one in drawn:
        operation = one
        if isinstance(operation, ReplaceChains):
            operation = msgspec.structs.replace(operation, found=shadow.rulesets[operation.family])
        existed = copy_state(shadow)
        if carry_out(kernel, operation, KNOWN).refusal is None and kernel != existed:
            advance(shadow, operation)
        assert shadow == kernel


@given(states())
def test_every_state_is_whole(state: State) -> None:
    assert state.real_servers.keys() == state.virtual_servers.keys()
    assert state.members.keys() == state.sets.keys()
    assert state.link or not state.addresses
    for ruleset in state.rulesets.values():
        assert {*sets_of(ruleset)} <= state.sets.keys()
    for name, members in state.members.items():
        assert len(members) <= state.sets[name].maxelem


@given(states(), operations)
def test_a_repeated_operation_is_done_or_contradicted(state: State, operation: Operation) -> None:
    if isinstance(operation, ReplaceChains):
        return
    if carry_out(state, operation, KNOWN).refusal is None:
        after = copy_state(state)
        assert carry_out(state, operation, KNOWN).refusal in {None, Refusal.CONTRADICTED}
        assert state == after


@given(operations)
def test_every_operation_is_described_in_one_line(operation: Operation) -> None:
    text = describe(operation)
    assert text
    assert "\n" not in text
