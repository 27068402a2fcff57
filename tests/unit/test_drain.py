"""What a virtual server should look like while real servers leave it."""

from __future__ import annotations

import pytest

from ipvsproxy.core.drain import refuses_at_weight_zero, settle
from ipvsproxy.core.frontends import Kind
from ipvsproxy.core.translate import Frontend
from ipvsproxy.kernel.fake import fresh_state
from ipvsproxy.model import (
    Address,
    Flags,
    Protocol,
    RealServer,
    RealServerKey,
    State,
    VirtualServer,
    VirtualServerKey,
)

A, B, C = (RealServerKey(Address.parse(f"10.1.0.{index}"), 8080) for index in (1, 2, 3))
DEADLINE = 900.0


def a_frontend(
    *serving: RealServerKey,
    scheduler: str = "rr",
    protocol: Protocol = Protocol.TCP,
    displaced: tuple[RealServerKey, ...] = (),
    retiring: tuple[RealServerKey, ...] = (),
    whole: bool = True,
) -> Frontend:
    return Frontend(
        VirtualServerKey(protocol, Address.parse("10.96.0.1"), 80),
        Kind.CLUSTER_IP,
        VirtualServer(scheduler),
        {member: RealServer(1) for member in serving},
        frozenset(displaced),
        frozenset(retiring),
        bind=True,
        members=frozenset(),
        whole=whole,
    )


def kernel(frontend: Frontend, **weights: int) -> State:
    state = fresh_state()
    state.virtual_servers[frontend.key] = frontend.server
    state.real_servers[frontend.key] = {
        {"a": A, "b": B, "c": C}[name]: RealServer(weight) for name, weight in weights.items()
    }
    return state


@pytest.mark.parametrize(
    ("frontend", "weight", "open_now", "since", "stays", "remembered"),
    [
        pytest.param(a_frontend(A), 1, None, None, 0, True, id="it has left: drains"),
        pytest.param(a_frontend(A), 1, 0, None, 0, True, id="idle, but not at weight 0 yet"),
        pytest.param(a_frontend(A), 0, None, None, 0, True, id="nobody has counted yet"),
        pytest.param(a_frontend(A), 0, 1, None, 0, True, id="one connection is open"),
        pytest.param(a_frontend(A), 0, 0, None, None, False, id="idle: goes"),
        pytest.param(a_frontend(A), 0, 5, 101.0, 0, True, id="just before the deadline"),
        pytest.param(a_frontend(A), 0, 5, 100.0, None, False, id="at the deadline: goes"),
        pytest.param(
            a_frontend(A, retiring=(B,)), 0, 5, 1.0, 0, False, id="in a slice still: no deadline"
        ),
        pytest.param(
            a_frontend(A, displaced=(B,)), 0, 5, 1.0, 0, False, id="ready, by policy: no deadline"
        ),
        pytest.param(a_frontend(A, retiring=(B,)), 0, 0, None, None, False, id="idle in a slice"),
        pytest.param(
            a_frontend(A, protocol=Protocol.UDP), 1, None, None, None, False, id="UDP at once"
        ),
        pytest.param(
            a_frontend(A, protocol=Protocol.UDP, retiring=(B,)),
            1,
            None,
            None,
            None,
            False,
            id="UDP at once, in a slice or not",
        ),
    ],
)
def test_a_server_that_is_no_longer_wanted(  # noqa: PLR0917 - a row of the table
    frontend: Frontend,
    weight: int,
    open_now: int | None,
    since: float | None,
    stays: int | None,
    remembered: bool,
) -> None:
    settled = settle(
        frontend,
        kernel(frontend, a=1, b=weight),
        connections={} if open_now is None else {B: open_now},
        departed={} if since is None else {B: since},
        now=1000.0,
        deadline=DEADLINE,
    )
    found = settled.wanted.real_servers.get(B)
    assert (found.weight if found else None) == stays
    assert settled.draining == ({B} if stays is not None else frozenset())
    assert settled.departed == ({B: 1000.0 if since is None else since} if remembered else {})


def test_a_server_that_comes_back_has_its_weight_and_no_memory() -> None:
    frontend = a_frontend(A, B)._replace(real_servers={A: RealServer(3), B: RealServer(2)})
    settled = settle(
        frontend,
        kernel(frontend, a=3, b=0),
        connections={B: 1},
        departed={B: 5.0},
        now=10.0,
        deadline=DEADLINE,
    )
    assert settled.wanted.real_servers == {A: RealServer(3), B: RealServer(2)}
    assert not settled.departed
    assert not settled.draining


def test_half_a_picture_takes_no_server_away_but_lowers_what_it_names() -> None:
    frontend = a_frontend(A, retiring=(B,), whole=False)
    settled = settle(
        frontend,
        kernel(frontend, a=1, b=1, c=7),
        connections={},
        departed={},
        now=0.0,
        deadline=0.0,
    )
    assert settled.wanted.real_servers == {A: RealServer(1), B: RealServer(0), C: RealServer(7)}
    assert settled.draining == {B}


def test_beside_a_server_that_nobody_knows_weights_stay_in_the_kernels_proportion() -> None:
    frontend = a_frontend(A, B, whole=False)
    frontend = frontend._replace(real_servers={A: RealServer(30), B: RealServer(20)})
    settled = settle(
        frontend, kernel(frontend, a=3, c=1), connections={}, departed={}, now=0.0, deadline=0.0
    )
    assert settled.wanted.real_servers == {A: RealServer(3), B: RealServer(2), C: RealServer(1)}


@pytest.mark.parametrize(
    ("scheduler", "weights", "lacking", "server"),
    [
        pytest.param("dh", {"a": 1}, "", VirtualServer("dh"), id="nobody drains"),
        pytest.param("dh", {"a": 1, "b": 1}, "", VirtualServer("fo"), id="one drains: fo"),
        pytest.param(
            "dh", {"b": 1}, "fo", VirtualServer("sh", Flags.SCHED_1), id="no fo in this kernel: sh"
        ),
        pytest.param("lc", {"b": 1}, "", VirtualServer("lc"), id="lc refuses nobody"),
    ],
)
def test_dh_refuses_nobody_while_a_server_drains(
    scheduler: str, weights: dict[str, int], lacking: str, server: VirtualServer
) -> None:
    frontend = a_frontend(A, scheduler=scheduler)
    settled = settle(
        frontend,
        kernel(frontend, **weights),
        connections={},
        departed={},
        now=0.0,
        deadline=DEADLINE,
        unavailable=frozenset(lacking.split()),
    )
    assert settled.wanted.server == server


@pytest.mark.parametrize("lacking", ["", "fo"])
def test_what_stands_in_for_dh_schedules_single_datagrams_too(lacking: str) -> None:
    frontend = a_frontend(A, protocol=Protocol.UDP, scheduler="dh")
    server = frontend.server._replace(flags=Flags.ONE_PACKET)
    weights = {A: RealServer(1), B: RealServer(0)}
    settled = settle(
        frontend._replace(server=server, real_servers=weights),
        kernel(frontend),
        connections={},
        departed={},
        now=0.0,
        deadline=DEADLINE,
        unavailable=frozenset(lacking.split()),
    )
    assert settled.wanted.server == VirtualServer(
        "sh" if lacking else "fo",
        Flags.ONE_PACKET | Flags.SCHED_1 if lacking else Flags.ONE_PACKET,
    )


def test_what_stands_in_for_dh_has_weights_that_it_can_do_with() -> None:
    frontend = a_frontend(A, scheduler="dh")
    weights = {A: RealServer(1000), B: RealServer(7), C: RealServer(0)}
    settled = settle(
        frontend._replace(real_servers=weights),
        kernel(frontend),
        connections={},
        departed={},
        now=0.0,
        deadline=DEADLINE,
        unavailable=frozenset({"fo"}),
    )
    assert settled.wanted.server.scheduler == "sh"
    assert sum(real.weight for real in settled.wanted.real_servers.values()) == 255


@pytest.mark.parametrize("weights", [{}, {"b": 1}, {"b": 0}])
def test_dh_stays_where_nobody_serves(weights: dict[str, int]) -> None:
    frontend = a_frontend(scheduler="dh")
    settled = settle(
        frontend,
        kernel(frontend, **weights),
        connections={},
        departed={},
        now=0.0,
        deadline=DEADLINE,
    )
    assert settled.wanted.server == VirtualServer("dh")


@pytest.mark.parametrize(
    ("server", "refuses"),
    [
        (VirtualServer("dh"), True),
        (VirtualServer("dh", Flags.SCHED_1), True),
        (VirtualServer("sh"), True),
        (VirtualServer("mh", Flags.SCHED_2), True),
        (VirtualServer("sh", Flags.SCHED_1), False),
        (VirtualServer("mh", Flags.SCHED_1 | Flags.SCHED_2), False),
        (VirtualServer("fo"), False),
        (VirtualServer("rr"), False),
    ],
    ids=str,
)
def test_which_schedulers_turn_clients_away_at_weight_zero(
    server: VirtualServer, refuses: bool
) -> None:
    assert refuses_at_weight_zero(server) == refuses
