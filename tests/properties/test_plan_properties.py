"""What every batch must be: it converges, is minimal, serves at every moment, and never blocks.

Each property holds for *any* order in which steps may be sent: an operation is drawn from those
that `Execution` has given out and is carried out alone, so that every moment between two answers is
looked at, whichever way the kernel may have got there.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from ipvsproxy.core.drain import refuses_at_weight_zero
from ipvsproxy.core.execution import Execution
from ipvsproxy.core.operations import (
    AddMember,
    AddRealServer,
    AddVirtualServer,
    BindAddress,
    CreateLink,
    CreateSet,
    ForgetFlows,
    Operation,
    RemoveMember,
    RemoveRealServer,
    RemoveVirtualServer,
    ReplaceChains,
    SetRealServer,
    SetSysctl,
    SetTimeouts,
    SetVirtualServer,
    UnbindAddress,
)
from ipvsproxy.core.plan import Batch, Target, plan
from ipvsproxy.core.sets import IPVS_IPS, LEDGER, frontend_member, set_name
from ipvsproxy.kernel.fake import ALL_SCHEDULERS, copy_state
from ipvsproxy.kernel.rules import carry_out
from ipvsproxy.model import IpMember, IpPortMember, State, VirtualServerKey
from tests.properties.strategies_core import (
    FOREIGN,
    KEYS,
    Situation,
    Wish,
    edited,
    fulfilled,
    members_of,
    serves,
    situations,
    target_of,
    turns_away,
    wishes,
)

EXAMPLES = 5000 if os.environ.get("IPVSPROXY_TEST_FULL") else 100
often = settings(max_examples=EXAMPLES)
seeds = st.integers(0, 2**32 - 1)


@dataclass
class Run:
    """A batch being carried out on a kernel, one operation at a time, in a random order."""

    target: Target
    state: State
    seed: int
    refuse: Callable[[Operation], bool] = lambda _: False
    done: list[Operation] = field(default_factory=list)
    refused: list[Operation] = field(default_factory=list)
    undone: list[Operation] = field(default_factory=list)

    def __iter__(self) -> Iterator[tuple[Operation, State]]:
        """Give each operation that was carried out, with the kernel before it."""
        batch = plan(self.target, self.state)
        _no_step_waits_for_a_later_one(batch)
        execution, source = Execution(batch, lambda _: False), random.Random(self.seed)
        sent: list[int] = []
        while sent := [*sent, *execution.ready()]:
            position = sent.pop(source.randrange(len(sent)))
            operation = execution.operation(position)
            if self.refuse(operation):
                self.refused.append(operation)
                execution.answer(position, acknowledged=False)
                continue
            before = copy_state(self.state)
            outcome = carry_out(self.state, operation, ALL_SCHEDULERS)
            assert outcome.refusal is None, f"{operation}: {outcome.reason}"
            execution.answer(position, acknowledged=True)
            self.done.append(operation)
            yield operation, before
        self.undone = list(execution.unfinished())

    def finish(self) -> Run:
        """Carry everything out."""
        for _ in self:
            pass
        return self


def _no_step_waits_for_a_later_one(batch: Batch) -> None:
    for position, step in enumerate(batch.steps):
        waits = (*step.needs, *step.needs_any, *step.follows)
        assert all(0 <= other < position for other in waits)


def _run(situation: Situation, seed: int) -> Run:
    return Run(situation.target, copy_state(situation.state), seed)


def _equals(state: State, target: Target) -> bool:
    servers = all(
        key not in state.virtual_servers
        if wanted is None
        else state.virtual_servers.get(key) == wanted.server
        and state.real_servers[key] == wanted.real_servers
        for key, wanted in target.virtual_servers.items()
    )
    members = all(
        (member in state.members[name]) == wanted
        for (name, member), wanted in target.members.items()
    )
    addresses = all((one in state.addresses) == wanted for one, wanted in target.addresses.items())
    foundation = (
        state.link
        and all(state.sysctls[name] == value for name, value in target.foundation.sysctls.items())
        and state.timeouts == target.foundation.timeouts
        and state.sets.keys() >= target.foundation.sets.keys()
        and state.rulesets == target.foundation.rulesets
    )
    return servers and members and addresses and foundation


@often
@given(situation=situations(), seed=seeds)
def test_the_kernel_becomes_what_is_wanted_and_the_next_plan_is_empty(
    situation: Situation, seed: int
) -> None:
    run = _run(situation, seed).finish()
    assert not run.undone
    assert _equals(run.state, situation.target)
    assert plan(situation.target, run.state) == Batch()
    foreign = situation.state.virtual_servers[FOREIGN]
    assert run.state.virtual_servers[FOREIGN] == foreign
    assert run.state.real_servers[FOREIGN] == situation.state.real_servers[FOREIGN]


def _thing(operation: Operation) -> tuple[object, ...]:  # noqa: PLR0911 - one case for each kind
    """Say what an operation is about, so that two about the same thing can be told."""
    match operation:
        case AddVirtualServer(key) | SetVirtualServer(key) | RemoveVirtualServer(key):
            return "virtual server", key
        case (
            AddRealServer(key, member) | SetRealServer(key, member) | RemoveRealServer(key, member)
        ):
            return "real server", key, member
        case BindAddress(address) | UnbindAddress(address):
            return "address", address
        case AddMember(name, member) | RemoveMember(name, member):
            return "member", name, type(member), member
        case CreateSet(name):
            return "set", name
        case ReplaceChains(family):
            return "chains", family
        case SetSysctl(name):
            return "sysctl", name
        case ForgetFlows(key, member):
            return "flows", key, member
        case _:
            return (type(operation).__name__,)


@often
@given(situation=situations(), seed=seeds)
def test_each_operation_changes_something_and_nothing_is_touched_twice(
    situation: Situation, seed: int
) -> None:
    run = _run(situation, seed)
    for operation, before in run:
        assert before != run.state or isinstance(operation, ForgetFlows)
    things = [_thing(operation) for operation in run.done]
    assert len(things) == len(set(things))
    going = {key for key in KEYS if situation.target.virtual_servers[key] is None}
    assert not {one.key for one in run.done if isinstance(one, RemoveRealServer)} & going
    flows = {(one.key, one.member) for one in run.done if isinstance(one, ForgetFlows)}
    left = {(one.key, one.member) for one in run.done if isinstance(one, RemoveRealServer)}
    left |= {(key, member) for key in going for member in situation.state.real_servers.get(key, ())}
    assert flows == {(key, member) for key, member in left if key.protocol.name == "UDP"}


def _wants_service(target: Target, key: VirtualServerKey) -> bool:
    wanted = target.virtual_servers[key]
    return wanted is not None and any(real.weight for real in wanted.real_servers.values())


def _refusals(situation: Situation, seed: int, size: int) -> Callable[[Operation], bool]:
    """Refuse some operations of the plan; `size` is how many at most."""
    steps = plan(situation.target, situation.state).steps
    source = random.Random(seed)
    chosen = source.sample(steps, min(len(steps), size)) if steps else []
    refused = {(type(step.operation), step.operation) for step in chosen}
    return lambda operation: (type(operation), operation) in refused


@often
@given(situation=situations(), seed=seeds, refused=st.sampled_from((0, 0, 1, 3, 8)))
def test_who_is_served_stays_served_after_every_single_operation(
    situation: Situation, seed: int, refused: int
) -> None:
    run = _run(situation, seed)
    run.refuse = _refusals(situation, seed, refused)
    for operation, before in run:
        for key in KEYS:
            if serves(before, key) and _wants_service(situation.target, key):
                assert serves(run.state, key), operation


@often
@given(situation=situations(), seed=seeds, refused=st.sampled_from((0, 0, 1, 3)))
def test_no_operation_lets_a_hash_turn_clients_away(
    situation: Situation, seed: int, refused: int
) -> None:
    run = _run(situation, seed)
    run.refuse = _refusals(situation, seed, refused)
    for operation, before in run:
        for key in KEYS:
            wanted = _wants_service(situation.target, key)
            if wanted and turns_away(run.state, key) and serves(before, key):
                assert turns_away(before, key), operation


@often
@given(situation=situations(), seed=seeds, refused=st.sampled_from((0, 0, 1, 3)))
def test_an_address_is_bound_last_and_unbound_first(
    situation: Situation, seed: int, refused: int
) -> None:
    run = _run(situation, seed)
    run.refuse = _refusals(situation, seed, refused)
    target = situation.target
    for operation, before in run:
        match operation:
            case BindAddress(address):
                wanted = [
                    (key, one)
                    for key, one in target.virtual_servers.items()
                    if one is not None and key.address == address
                ]
                assert any(key in before.virtual_servers for key, _ in wanted)
                assert before.rulesets[address.family] == target.foundation.rulesets[address.family]
                assert IpMember(address) in before.members[set_name(IPVS_IPS, address.family)]
                if not refused:
                    for key, one in wanted:
                        found = before.real_servers[key]
                        assert one.real_servers.items() <= found.items() or all(
                            found.get(member) == real
                            for member, real in one.real_servers.items()
                            if real.weight
                        )
            case RemoveVirtualServer(key):
                assert key.address not in before.addresses or target.addresses[key.address]
            case RemoveMember(name, IpMember(address)) if name == set_name(
                IPVS_IPS, address.family
            ):
                assert address not in before.addresses
            case _:
                pass


@often
@given(situation=situations(), seed=seeds, refused=st.sampled_from((0, 0, 1, 3, 8)))
def test_the_ledger_names_every_virtual_server_of_ours_at_every_moment(
    situation: Situation, seed: int, refused: int
) -> None:
    run = _run(situation, seed)
    run.refuse = _refusals(situation, seed, refused)
    for operation, before in run:
        match operation:
            case AddVirtualServer(key):
                for name, member in members_of(key):
                    if not isinstance(member, IpMember):
                        assert member in before.members[name]
                wanted = situation.target.foundation.rulesets[key.family]
                assert before.rulesets[key.family] == wanted
            case RemoveMember(name, IpPortMember(address, protocol, port)) if LEDGER in name:
                assert VirtualServerKey(protocol, address, port) not in before.virtual_servers
            case _:
                pass
        for key in KEYS:
            member = frontend_member(key)
            ledger = set_name(LEDGER, key.family)
            known = key not in before.virtual_servers or member in before.members.get(ledger, ())
            if key in run.state.virtual_servers and known:
                assert member in run.state.members[ledger], operation


@often
@given(situation=situations(), seed=seeds)
def test_ready_servers_on_their_way_out_wait_for_every_addition(
    situation: Situation, seed: int
) -> None:
    run = _run(situation, seed)
    for operation, before in run:
        match operation:
            case SetRealServer(key, member, real) if not real.weight:
                pass
            case RemoveRealServer(key, member):
                pass
            case _:
                continue
        wanted = situation.target.virtual_servers[key]
        assert wanted is not None
        if member in wanted.patient and before.real_servers[key][member].weight:
            assert all(
                before.real_servers[key].get(other) == real
                for other, real in wanted.real_servers.items()
                if real.weight
            )


@often
@given(situation=situations(), seed=seeds, size=st.sampled_from((1, 1, 2, 5, 20)))
def test_after_refusals_the_next_plan_does_the_rest(
    situation: Situation, seed: int, size: int
) -> None:
    run = _run(situation, seed)
    run.refuse = _refusals(situation, seed, size)
    run.finish()
    assert {type(one) for one in run.refused} <= {type(one) for one in run.undone}
    again = Run(situation.target, run.state, seed).finish()
    assert not again.undone
    assert _equals(run.state, situation.target)


_OF_SERVERS = (AddRealServer, SetRealServer, RemoveRealServer, SetVirtualServer)


@often
@given(situation=situations(), seed=seeds, data=st.data())
def test_a_refusal_holds_up_only_what_depends_on_it(
    situation: Situation, seed: int, data: st.DataObject
) -> None:
    """What may depend on a refused operation is said here anew, apart from the planner's steps."""
    steps = plan(situation.target, situation.state).steps
    if not steps:
        return
    refused = data.draw(st.sampled_from([step.operation for step in steps]))
    run = _run(situation, seed)
    run.refuse = lambda operation: (type(operation), operation) == (type(refused), refused)
    run.finish()
    found = situation.state.virtual_servers
    for undone in run.undone:
        if (type(undone), undone) != (type(refused), refused):
            assert _may_wait(undone, refused, situation), (undone, refused)
    existing = {key for key in KEYS if key in found}
    if not isinstance(refused, _OF_SERVERS):
        assert not [
            one for one in run.undone if isinstance(one, _OF_SERVERS) and one.key in existing
        ]


def _may_wait(  # noqa: C901, PLR0911, PLR0912 - one case for each kind
    undone: Operation, refused: Operation, situation: Situation
) -> bool:
    new = {key for key in KEYS if key not in situation.state.virtual_servers}
    match undone:
        case AddRealServer(key) | SetRealServer(key) | SetVirtualServer(key) if key in new:
            return _may_wait(
                AddVirtualServer(key, situation.wish.aims[key].server), refused, situation
            ) or (isinstance(refused, AddVirtualServer) and refused.key == key)
        case AddRealServer(key, _, real) | SetRealServer(key, _, real) if not real.weight:
            return isinstance(refused, _OF_SERVERS) and refused.key == key
        case SetRealServer(key, member, real):
            # Where the scheduler changes, a weight may be the same share in another's numbers.
            scheduler = situation.state.virtual_servers[key].scheduler
            found = situation.state.real_servers[key][member]
            return (
                isinstance(refused, SetVirtualServer)
                and refused.key == key
                and refused.server.scheduler != scheduler
                and found._replace(weight=real.weight) == real
            )
        case AddRealServer():
            return False
        case SetVirtualServer(key) | RemoveRealServer(key):
            # A switch back to dh waits for a lowering, and that for the additions before it.
            return isinstance(refused, _OF_SERVERS) and refused.key == key
        case ForgetFlows(key):
            gone = (RemoveVirtualServer, *_OF_SERVERS)
            return (isinstance(refused, gone) and refused.key == key) or (
                refused == UnbindAddress(key.address)
            )
        case AddVirtualServer(key):
            return _lets_work(refused, key)
        case BindAddress(address):
            return _lets_bind(refused, address, situation)
        case RemoveVirtualServer(key):
            return refused == UnbindAddress(key.address)
        case AddMember(name, _):
            return isinstance(refused, CreateSet) and refused.name == name
        case ReplaceChains(family):
            return isinstance(refused, CreateSet) and refused.spec.family is family
        case RemoveMember():
            return isinstance(
                refused,
                (UnbindAddress, RemoveVirtualServer, *_OF_SERVERS),
            )
        case _:
            return False


def _lets_work(refused: Operation, key: VirtualServerKey) -> bool:
    match refused:
        case AddMember(_, member):
            return member == frontend_member(key)
        case CreateSet(_, spec):
            return spec.family is key.family
        case ReplaceChains(family):
            return family is key.family
        case _:
            return False


def _lets_bind(refused: Operation, address: object, situation: Situation) -> bool:
    behind = [key for key in situation.wish.aims if key.address == address]
    match refused:
        case CreateLink():
            return True
        case AddMember(_, IpMember(other)):
            return other == address
        case AddVirtualServer(key):
            return behind == [key]
        case _:
            return all(_lets_work(refused, key) for key in behind)


@often
@given(before=wishes(), data=st.data())
def test_a_plan_for_what_changed_is_the_plan_for_everything(
    before: Wish, data: st.DataObject
) -> None:
    state, wish = fulfilled(before), data.draw(edited(before))
    wish = wish._replace(loop_backs=before.loop_backs)
    changed = frozenset(key for key in KEYS if before.aims.get(key) != wish.aims.get(key))
    keyed = plan(target_of(wish, state, changed), state, b"seed")
    everything = plan(target_of(wish, state), state, b"seed")
    assert _dependences(keyed) == _dependences(everything)


@often
@given(situation=situations(), data=st.data())
def test_a_plan_for_some_keys_is_the_part_of_the_whole_plan_that_concerns_them(
    situation: Situation, data: st.DataObject
) -> None:
    only = data.draw(st.frozensets(st.sampled_from(KEYS)))
    target = target_of(situation.wish, situation.state, only)
    keyed = plan(target, situation.state, b"seed")
    everything = plan(situation.target, situation.state, b"seed")
    operations = {_thing(step.operation): step.operation for step in everything.steps}
    named = {_thing(step.operation) for step in keyed.steps}
    assert all(operations[_thing(step.operation)] == step.operation for step in keyed.steps)
    for thing, operation in operations.items():
        assert (thing in named) == _concerns(operation, target)


def _concerns(operation: Operation, target: Target) -> bool:
    match operation:
        case BindAddress(address) | UnbindAddress(address):
            return address in target.addresses
        case AddMember(name, member) | RemoveMember(name, member):
            return (name, member) in target.members
        case CreateLink() | CreateSet() | ReplaceChains() | SetSysctl() | SetTimeouts():
            return True
        case AddVirtualServer(key) | SetVirtualServer(key) | RemoveVirtualServer(key):
            return key in target.virtual_servers
        case AddRealServer(key) | SetRealServer(key) | RemoveRealServer(key) | ForgetFlows(key):
            return key in target.virtual_servers
        case _:
            return False


def _dependences(batch: Batch) -> dict[tuple[object, ...], tuple[object, ...]]:
    """Give each operation with those that it waits for, whatever their positions are."""

    def names(positions: tuple[int, ...]) -> frozenset[tuple[object, ...]]:
        return frozenset(_thing(batch.steps[position].operation) for position in positions)

    return {
        _thing(step.operation): (
            step.operation,
            names(step.needs),
            names(step.needs_any),
            names(step.follows),
        )
        for step in batch.steps
    }


@often
@given(situation=situations())
def test_hashes_that_fall_back_are_never_left_without_their_flag(situation: Situation) -> None:
    run = _run(situation, 0).finish()
    for key in situation.wish.aims:
        server = run.state.virtual_servers[key]
        assert server.scheduler == "dh" or not refuses_at_weight_zero(server)
