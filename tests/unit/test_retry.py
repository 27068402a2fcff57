"""Pauses of refused operations, and what has to be planned again."""

from __future__ import annotations

import pytest

from ipvsproxy.core.desired import Touched
from ipvsproxy.core.operations import (
    AddMember,
    AddRealServer,
    AddVirtualServer,
    BindAddress,
    CreateLink,
    CreateSet,
    DestroySet,
    ForgetFlows,
    Operation,
    RemoveLink,
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
from ipvsproxy.core.retry import FIRST_PAUSE, LONGEST_PAUSE, Retries, scope
from ipvsproxy.model import (
    KERNEL_TIMEOUTS,
    Address,
    Family,
    IpMember,
    Protocol,
    RealServer,
    RealServerKey,
    Ruleset,
    SetSpec,
    SetType,
    VirtualServer,
    VirtualServerKey,
)

IP = Address.parse("10.96.0.1")
KEY = VirtualServerKey(Protocol.TCP, IP, 80)
POD = RealServerKey(Address.parse("10.1.0.1"), 8080)
BIND, UNBIND = BindAddress(IP), UnbindAddress(IP)


def test_the_pause_doubles_up_to_the_longest() -> None:
    retries, now, pauses = Retries(), 0.0, []
    for _ in range(9):
        assert not retries.withheld(BIND, now)
        retries.refused(BIND, now)
        due = retries.next_due(0.0)
        assert due is not None
        assert retries.withheld(BIND, due - 0.01)
        pauses.append(due - now)
        now = due
    assert pauses[:4] == [FIRST_PAUSE, 2.0, 4.0, 8.0]
    assert pauses[-1] == LONGEST_PAUSE


def test_only_the_operation_itself_is_withheld() -> None:
    retries = Retries()
    assert not retries.withheld(BIND, 0.0)
    assert retries.next_due(0.0) is None
    retries.refused(BIND, 0.0)
    assert not retries.withheld(UNBIND, 0.0), "of equal shape, but another operation"
    retries.acknowledged([UNBIND])
    assert retries.withheld(BIND, 0.0)
    retries.acknowledged([BIND])
    assert not retries.withheld(BIND, 0.0)
    retries.acknowledged([BIND])
    assert retries.next_due(0.0) is None


def test_what_is_no_longer_wanted_is_forgotten() -> None:
    retries = Retries()
    retries.refused(BIND, 0.0)
    retries.refused(UNBIND, 5.0)
    assert retries.next_due(0.0) == FIRST_PAUSE
    retries.forget_unless({UNBIND})
    assert retries.next_due(0.0) == 5.0 + FIRST_PAUSE


@pytest.mark.parametrize(
    ("operation", "touched"),
    [
        (AddVirtualServer(KEY, VirtualServer("rr")), Touched(keys={KEY})),
        (SetVirtualServer(KEY, VirtualServer("rr")), Touched(keys={KEY})),
        (RemoveVirtualServer(KEY), Touched(keys={KEY})),
        (AddRealServer(KEY, POD, RealServer(1)), Touched(keys={KEY})),
        (SetRealServer(KEY, POD, RealServer(1)), Touched(keys={KEY})),
        (RemoveRealServer(KEY, POD), Touched(keys={KEY})),
        (BIND, Touched(addresses={IP})),
        (UNBIND, Touched(addresses={IP})),
        (AddMember("S", IpMember(IP)), Touched(members={("S", IpMember(IP))})),
        (RemoveMember("S", IpMember(IP)), Touched(members={("S", IpMember(IP))})),
        (CreateLink(), Touched()),
        (RemoveLink(), Touched()),
        (CreateSet("S", SetSpec(SetType.HASH_IP, Family.IPV4)), Touched()),
        (DestroySet("S"), Touched()),
        (ReplaceChains(Family.IPV4, Ruleset(), Ruleset()), Touched()),
        (SetSysctl("a", "1"), Touched()),
        (SetTimeouts(KERNEL_TIMEOUTS), Touched()),
        (ForgetFlows(KEY, POD), Touched()),
    ],
    ids=lambda one: type(one).__name__,
)
def test_what_is_planned_again(operation: Operation, touched: Touched) -> None:
    assert scope(operation) == touched
