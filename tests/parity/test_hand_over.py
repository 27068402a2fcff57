"""The way back: what the agent had made is handed over, and kube-proxy could go on from it.

Every case is set up by the agent on its own, handed over, and compared with what kube-proxy had
made of the same objects.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ipvsproxy.core.hand_over import hand_over
from ipvsproxy.core.ledger import adopt
from ipvsproxy.core.sets import frontend_member
from ipvsproxy.kernel.fake import copy_state
from ipvsproxy.model import State, VirtualServerKey
from ipvsproxy.reconciler.writer import Writer
from tests.parity.comparison import compare
from tests.parity.differences import meant
from tests.parity.facts import Facts, facts_of
from tests.parity.recording import Case, read_case
from tests.parity.test_take_over import CASES, Witnessed, empty, interruptions, taken_over


async def handed_over(state: State) -> Witnessed:
    """Hand over what the agent has made."""
    kernel = Witnessed(state)
    writer = Writer(kernel, time.monotonic)
    await writer.dump()
    written = await writer.carry_out([hand_over(writer.state)])
    assert not written.undone
    return kernel


async def set_up(case: Case) -> State:
    """Give what the agent makes of the objects that there are at the end of a case."""
    return (await taken_over(case, empty())).state


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.name)
async def test_nothing_that_serves_stops_serving(path: Path) -> None:
    case = read_case(path)
    before = await set_up(case)
    kernel = await handed_over(copy_state(before))
    assert list(interruptions(before, kernel, facts_of(case.final))) == []


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.name)
async def test_it_ends_as_what_kube_proxy_had_made(path: Path) -> None:
    case = read_case(path)
    state = await (await handed_over(await set_up(case))).dump()
    facts = facts_of(case.final)
    mistakes = [
        str(one) for one in compare(case.theirs, state, facts) if not list(meant(one, facts))
    ]
    assert not mistakes, "\n".join(mistakes)
    as_wide = set(_not_narrowed_otherwise(case, facts))
    assert {key: set(state.real_servers[key]) for key in as_wide} == {
        key: set(case.theirs.real_servers[key]) for key in as_wide
    }
    assert state.sets.keys() == case.theirs.sets.keys()
    for family, found in state.rulesets.items():
        theirs = {chain[:2] for chain in case.theirs.rulesets[family].chains}
        assert {chain[:2] for chain in found.chains} <= theirs


def _not_narrowed_otherwise(case: Case, facts: Facts) -> Iterator[VirtualServerKey]:
    """Give those for which nothing but traffic policies says who serves."""
    for key in case.theirs.virtual_servers:
        owner = facts.owner(key)
        if owner is not None and not facts.contested(key) and not facts.hinted(owner):
            yield key


async def test_a_hand_over_that_was_interrupted_goes_on_where_it_was() -> None:
    case = read_case(CASES[0].parent / "external-local-none")
    before = await set_up(case)
    whole = await handed_over(copy_state(before))
    for done in range(len(whole.pictures)):
        again = await handed_over(copy_state(whole.pictures[done][1]))
        assert again.state.real_servers == whole.state.real_servers
        assert again.state.sets == whole.state.sets
        assert again.state.rulesets == whole.state.rulesets


async def test_an_agent_that_starts_again_adopts_what_was_handed_over() -> None:
    case = read_case(CASES[0].parent / "external-local")
    before = await set_up(case)
    kernel = await handed_over(copy_state(before))
    adopted = {member for _, member in adopt(kernel.state)}
    assert adopted == {frontend_member(key) for key in before.virtual_servers}
    back = await taken_over(case, kernel.state)
    assert (await back.dump()).rulesets == before.rulesets
    assert back.state.members == before.members
