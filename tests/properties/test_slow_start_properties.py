"""Whatever climbs, and whenever the agent is started again: it writes nothing, and goes on."""

from __future__ import annotations

from fractions import Fraction
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipvsproxy.core.drain import settle
from ipvsproxy.core.frontends import Kind
from ipvsproxy.core.translate import Frontend
from ipvsproxy.core.weights.climbing import Climbing
from ipvsproxy.core.weights.keeping import KeptWeights, compared, whole
from ipvsproxy.core.weights.normal import WEIGHTLESS
from ipvsproxy.core.weights.shaping import Shaping, shaped
from ipvsproxy.core.weights.slow_start import steps
from ipvsproxy.kernel.fake import fresh_state
from ipvsproxy.model import (
    Address,
    Flags,
    Protocol,
    RealServer,
    RealServerKey,
    Scheduler,
    VirtualServer,
    VirtualServerKey,
)

KEY = VirtualServerKey(Protocol.TCP, Address.parse("10.96.0.1"), 80)
SCHEDULERS = sorted(set(Scheduler) - WEIGHTLESS)
"""Those under which anybody climbs."""


class Case(NamedTuple):
    """A virtual server at some moment of its climbs."""

    weights: dict[RealServerKey, int]
    climbing: dict[RealServerKey, int]
    shaping: Shaping
    scheduler: str


@st.composite
def cases(draw: st.DrawFn) -> Case:
    count = draw(st.integers(1, 12))
    members = [RealServerKey(Address(number.to_bytes(4)), 80) for number in range(count)]
    weight = draw(
        st.sampled_from(
            [st.just(1), st.integers(0, 10), st.integers(0, 1000), st.integers(0, 65535)]
        )
    )
    weights = {member: draw(weight) for member in members}
    own = frozenset(draw(st.sets(st.sampled_from(members))))
    duration = draw(st.sampled_from([2, 5, 10, 60, 3600]))
    at = st.integers(1, steps(duration) - 1)
    climbers = draw(st.sets(st.sampled_from(members)))
    together = draw(st.one_of(st.none(), at))
    climbing = {
        member: together if together is not None else draw(at)
        for member in sorted(climbers)
        if weights[member]
    }
    shaping = Shaping(duration, draw(st.sampled_from([0, 0, 50, 90])), own, draw(st.integers(1, 3)))
    return Case(weights, climbing, shaping, draw(st.sampled_from(SCHEDULERS)))


def restarted(
    case: Case, kernel: dict[RealServerKey, int], memory: Climbing
) -> dict[RealServerKey, int]:
    """Give what an agent wants of the kernel that has just been started."""
    found = {member: RealServer(weight) for member, weight in kernel.items()}
    frontend = Frontend(
        key=KEY,
        kind=Kind.CLUSTER_IP,
        server=VirtualServer(case.scheduler, Flags.NONE),
        real_servers={member: RealServer(weight) for member, weight in case.weights.items()},
        displaced=frozenset(),
        retiring=frozenset(),
        bind=True,
        members=frozenset(),
        whole=True,
        shaping=case.shaping,
    )
    state = fresh_state()
    state.real_servers[KEY] = found
    climb = memory.steps(
        KEY, case.weights, found, shaping=case.shaping, scheduler=case.scheduler, now=1000.0
    )
    settled = settle(
        frontend, state, connections={}, departed={}, now=1000.0, deadline=9, climb=climb
    )
    return {member: real.weight for member, real in settled.wanted.real_servers.items()}


@settings(max_examples=400)
@given(cases())
def test_a_restart_at_any_moment_of_a_climb_writes_nothing(case: Case) -> None:
    kernel = shaped(case.weights, case.shaping, case.scheduler, case.climbing)
    memory = Climbing()
    assert restarted(case, kernel, memory) == kernel


@given(cases())
def test_a_restart_where_nobody_climbs_finds_nobody(case: Case) -> None:
    kernel = shaped(case.weights, case.shaping, case.scheduler, {})
    memory = Climbing()
    restarted(case, kernel, memory)
    assert memory.next_due is None


@given(cases(), st.sets(st.integers(0, 11), min_size=1))
def test_a_restart_with_weights_that_nobody_remembers_writes_nothing(
    case: Case, forgotten: set[int]
) -> None:
    """Without a preference: with one, what rounding has taken from a zone cannot be told."""
    shaping = Shaping()
    kernel = shaped(case.weights, shaping, case.scheduler, {})
    unknown = {one for number, one in enumerate(case.weights) if number in forgotten}
    known = {one: weight for one, weight in case.weights.items() if one not in unknown}
    found = KeptWeights({one: Fraction(weight) for one, weight in kernel.items()})
    kept = compared(found, known, unknown, shaping=shaping, scheduler=case.scheduler)
    if kept.compared:
        wanted = {**{one: Fraction(weight) for one, weight in known.items()}, **kept.weights}
        case = case._replace(weights=whole(wanted), shaping=Shaping(deduced=True))
        assert restarted(case, kernel, Climbing()) == kernel


@pytest.mark.parametrize(
    ("scheduler", "preference", "zones", "own", "known", "others"),
    [
        ("wlc", 50, 3, {7: True, 309: False}, (596, 384), (386, 405, 792, 531)),
        ("wrr", 90, 2, {21160: True}, (2096,), (41806, 45847)),
        ("sed", 90, 2, {99: True, 867: False}, (15,), (449, 418, 611, 435)),
        ("sh", 50, 1, {64437: True, 31005: False}, (2213,), (60003, 19815, 29371)),
    ],
)
def test_nor_with_a_preference_where_the_ratio_is_known_within_rounding_only(  # noqa: PLR0917
    scheduler: str,
    preference: int,
    zones: int,
    own: dict[int, bool],
    known: tuple[int, ...],
    others: tuple[int, ...],
) -> None:
    """`own`: the weights in the own zone, and whether each is known."""
    weights = [*own, *known, *others]
    members = [RealServerKey(Address(number.to_bytes(4)), 80) for number in range(len(weights))]
    wanted = dict(zip(members, weights, strict=True))
    remembered = {m: weight for m, weight in wanted.items() if own.get(weight, weight in known)}
    shaping = Shaping(preference=preference, own_zone=frozenset(members[: len(own)]), zones=zones)
    kernel = shaped(wanted, shaping, scheduler, {})
    kept = compared(
        KeptWeights({one: Fraction(weight) for one, weight in kernel.items()}),
        remembered,
        wanted.keys() - remembered.keys(),
        shaping=shaping,
        scheduler=scheduler,
    )
    assert kept.compared
    known_now = {one: Fraction(weight) for one, weight in remembered.items()}
    deduced = whole({**known_now, **kept.weights})
    shaping = shaping._replace(deduced=True, doubt=kept.doubt)
    assert shaped(deduced, shaping, scheduler, {}) != kernel, "else it shows nothing"
    assert restarted(Case(deduced, {}, shaping, scheduler), kernel, Climbing()) == kernel
