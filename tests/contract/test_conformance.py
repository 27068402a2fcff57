"""The fake and the kernel side by side: drawn operations, the same answers and the same tables."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from ipvsproxy.core.operations import Operation, ReplaceChains
from ipvsproxy.dataplane import Refusal
from ipvsproxy.kernel.fake import FakeDataplane
from ipvsproxy.kernel.listing import ipvsadm_text
from ipvsproxy.model import State
from tests.contract.conftest import linux_dataplane, own_network
from tests.strategies import (
    KEYS,
    SCHEDULERS,
    chain_operations,
    ipvs_operations,
    link_operations,
    set_operations,
    sysctl_operations,
    timeout_operations,
)

pytestmark = pytest.mark.kernel

table = st.one_of(ipvs_operations(), ipvs_operations(), link_operations, timeout_operations)
surroundings = st.one_of(
    set_operations(), set_operations(), set_operations(), chain_operations, sysctl_operations
)


def bounded(examples: int) -> Callable[[Callable[[], None]], Callable[[], None]]:
    """Draw the same examples every time: a kernel tier has a budget, and must not be flaky."""
    fixed = settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=[Phase.generate],  # each try costs seconds in the rig
        suppress_health_check=[*HealthCheck],
    )
    return lambda test: seed(1)(fixed(test))


@bounded(20)
@given(
    st.lists(
        st.one_of(ipvs_operations(), ipvs_operations(), link_operations, timeout_operations),
        max_size=30,
    )
)
def test_the_table_answers_as_the_fake_does(operations: list[Operation]) -> None:
    asyncio.run(compare(operations))


@bounded(6)
@given(st.lists(surroundings, min_size=5, max_size=16))
def test_sets_and_chains_answer_as_the_fake_does(operations: list[Operation]) -> None:
    asyncio.run(compare(operations))


async def compare(operations: Sequence[Operation]) -> None:
    """Apply operations to both, each in a network that nobody has touched."""
    fake = FakeDataplane(schedulers=frozenset(SCHEDULERS))
    with own_network():
        linux = linux_dataplane()
        try:
            for number, drawn in enumerate(operations):
                operation = informed(drawn, fake.state)
                (expected,), (actual,) = (
                    await fake.apply([operation]),
                    await linux.apply([operation]),
                )
                told = f"{number}: {operation}: fake {expected}, kernel {actual}"
                assert kind(actual.refusal) == kind(expected.refusal), told
                assert await linux.read(KEYS) == await fake.read(KEYS), told
            assert comparable(await linux.dump()) == comparable(await fake.dump())
        finally:
            await linux.close()


def informed(operation: Operation, state: State) -> Operation:
    """Let an operation on chains know what is there, as it always should.

    What iptables-restore makes of one that does not is in part done and in part refused, which the
    fake does not imitate; the cases that can be relied on are in test_surroundings.
    """
    if isinstance(operation, ReplaceChains):
        return msgspec.structs.replace(operation, found=state.rulesets[operation.family])
    return operation


def kind(refusal: Refusal | None) -> str:
    """Name a refusal; the text of the reason is each side's own."""
    return "done" if refusal is None else refusal.value


def comparable(state: State) -> tuple[object, ...]:
    """Give what both sides must agree on; of the settings only those that were written."""
    return (
        ipvsadm_text(state),
        state.virtual_servers,
        state.real_servers,
        state.link,
        state.timeouts,
        state.addresses,
        state.sets,
        state.members,
        state.rulesets,
        state.sysctls.get("net/ipv4/vs/conntrack"),
    )
