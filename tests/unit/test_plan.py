"""Plans as people read them: what is done for an everyday change, and in which order."""

from __future__ import annotations

from ipvsproxy.core.drain import Wanted
from ipvsproxy.core.foundation import Foundation
from ipvsproxy.core.operations import describe
from ipvsproxy.core.plan import Target, plan
from ipvsproxy.kernel.fake import fresh_state
from ipvsproxy.model import (
    Address,
    Protocol,
    RealServer,
    RealServerKey,
    State,
    VirtualServer,
    VirtualServerKey,
)

KEY = VirtualServerKey(Protocol.TCP, Address.parse("10.96.0.1"), 80)
PODS = [RealServerKey(Address.parse(f"10.1.0.{index}"), 8080) for index in (1, 2, 3)]


def kernel(scheduler: str, *weights: int) -> State:
    state = fresh_state()
    state.link = True
    state.addresses = {KEY.address}
    state.virtual_servers[KEY] = VirtualServer(scheduler)
    state.real_servers[KEY] = _servers(*weights)
    return state


def _servers(*weights: int) -> dict[RealServerKey, RealServer]:
    return {pod: RealServer(weight) for pod, weight in zip(PODS, weights, strict=False)}


def planned(state: State, scheduler: str, *weights: int) -> list[str]:
    wanted = Wanted(VirtualServer(scheduler), _servers(*weights), frozenset())
    batch = plan(Target(Foundation({}, {}, {}, 1 << 24), {KEY: wanted}), state)
    return [describe(step.operation) for step in batch.steps]


def test_a_replacement_is_added_before_its_predecessor_is_lowered() -> None:
    assert planned(kernel("rr", 1), "rr", 0, 1) == [
        "add real server 10.1.0.2:8080 weight 1 to 10.96.0.1:80/TCP",
        "set real server 10.1.0.1:8080 weight 0 of 10.96.0.1:80/TCP",
    ]


def test_dh_becomes_fo_before_a_server_is_lowered_and_comes_back_after_it_is_gone() -> None:
    assert planned(kernel("dh", 1, 1), "fo", 0, 1) == [
        "set virtual server 10.96.0.1:80/TCP scheduler fo",
        "set real server 10.1.0.1:8080 weight 0 of 10.96.0.1:80/TCP",
    ]
    assert planned(kernel("fo", 1, 0), "dh", 1) == [
        "remove real server 10.1.0.2:8080 of 10.96.0.1:80/TCP",
        "set virtual server 10.96.0.1:80/TCP scheduler dh",
    ]


def test_a_server_is_lowered_only_after_dh_was_switched_away_from() -> None:
    wanted = Wanted(VirtualServer("fo"), _servers(0, 1), frozenset())
    steps = plan(Target(Foundation({}, {}, {}, 1 << 24), {KEY: wanted}), kernel("dh", 1, 1)).steps
    assert [step.needs for step in steps] == [(), (0,)]


def test_a_server_comes_with_weight_zero_only_after_dh_was_switched_away_from() -> None:
    wanted = Wanted(VirtualServer("fo"), _servers(1, 0), frozenset())
    _, addition = plan(
        Target(Foundation({}, {}, {}, 1 << 24), {KEY: wanted}), kernel("dh", 1)
    ).steps
    assert (addition.needs, addition.follows) == ((0,), (0,))


def test_a_ready_server_on_its_way_out_waits_for_additions_and_another_does_not() -> None:
    for patient, needs in ((frozenset({PODS[0]}), (0,)), (frozenset[RealServerKey](), ())):
        wanted = Wanted(VirtualServer("rr"), _servers(0, 1, 1), patient)
        _, lowering = plan(
            Target(Foundation({}, {}, {}, 1 << 24), {KEY: wanted}), kernel("rr", 1, 1)
        ).steps
        assert (lowering.needs, lowering.needs_any) == (needs, ())


def test_a_switch_to_dh_does_not_wait_for_an_addition() -> None:
    state = kernel("rr", 1)
    wanted = Wanted(VirtualServer("dh"), _servers(1, 1), frozenset())
    addition, switch = plan(Target(Foundation({}, {}, {}, 1 << 24), {KEY: wanted}), state).steps
    assert describe(addition.operation).startswith("add real server")
    assert (switch.needs, switch.needs_any, switch.follows) == ((), (), ())


def test_the_order_of_insertion_is_the_nodes_own_but_for_hashes() -> None:
    def order(scheduler: str, seed: bytes) -> list[str]:
        wanted = Wanted(VirtualServer(scheduler), _servers(1, 1, 1), frozenset())
        steps = plan(
            Target(Foundation({}, {}, {}, 1 << 24), {KEY: wanted}), fresh_state(), seed
        ).steps
        return [text for step in steps if "real" in (text := describe(step.operation))]

    seeds = [str(number).encode() for number in range(20)]
    assert len({tuple(order("rr", seed)) for seed in seeds}) > 1
    for scheduler in ("sh", "dh", "mh"):
        assert len({tuple(order(scheduler, seed)) for seed in seeds}) == 1
        assert order(scheduler, b"") == sorted(order(scheduler, b""))


def test_the_flows_of_a_udp_virtual_server_go_with_it() -> None:
    key = KEY._replace(protocol=Protocol.UDP)
    state = fresh_state()
    state.virtual_servers[key] = VirtualServer("rr")
    state.real_servers[key] = _servers(1)
    steps = plan(Target(Foundation({}, {}, {}, 1 << 24), {key: None}), state).steps
    assert [(describe(step.operation), step.needs) for step in steps[1:]] == [
        ("remove virtual server 10.96.0.1:80/UDP", ()),
        ("forget the flows of 10.96.0.1:80/UDP to 10.1.0.1:8080", (1,)),
    ]


def test_what_the_endpoints_of_one_virtual_server_wait_for_is_kept_once() -> None:
    many = [RealServerKey(Address.parse(f"10.2.0.{index}"), 8080) for index in range(1, 100)]
    wanted = {pod: RealServer(1) for pod in many} | {pod: RealServer(0) for pod in PODS}
    aim = Wanted(VirtualServer("rr"), wanted, frozenset(PODS))
    steps = plan(Target(Foundation({}, {}, {}, 1 << 24), {KEY: aim}), kernel("rr", 1, 1, 1)).steps
    lowered = [step for step in steps if step.needs_any]
    assert len(lowered) == 3
    assert len({id(step.needs) for step in lowered}) == 1
    assert len({id(step.needs_any) for step in lowered}) == 1
