"""Several Services as one wish: who owns what is contested, and what changes with one Service."""

from __future__ import annotations

import pytest

from ipvsproxy.core.desired import Desired
from ipvsproxy.core.frontends import Kind
from ipvsproxy.core.redirect import Redirect
from ipvsproxy.core.translate import Fragment, Frontend
from ipvsproxy.model import (
    Address,
    IpMember,
    IpPortMember,
    Protocol,
    RealServer,
    RealServerKey,
    VirtualServer,
    VirtualServerKey,
)
from ipvsproxy.objects import ServiceName

IP = Address.parse("10.96.0.1")
KEY = VirtualServerKey(Protocol.TCP, IP, 80)
SECOND = VirtualServerKey(Protocol.TCP, IP, 443)
POD = RealServerKey(Address.parse("10.1.0.1"), 8080)
A, B, C = (ServiceName("shop", name) for name in "abc")


def a_frontend(key: VirtualServerKey = KEY, scheduler: str = "rr") -> Frontend:
    return Frontend(
        key,
        Kind.CLUSTER_IP,
        VirtualServer(scheduler),
        {POD: RealServer(1)},
        frozenset(),
        frozenset(),
        bind=True,
        members=frozenset(
            {
                ("KUBE-CLUSTER-IP", IpPortMember(key.address, key.protocol, key.port)),
                ("KUBE-IPVS-IPS", IpMember(key.address)),
            }
        ),
        whole=True,
    )


def fragment(
    name: ServiceName, *frontends: Frontend, created: float | None = None, scheduler: str = "rr"
) -> Fragment:
    return Fragment(name, created, frontends, (), False, scheduler, scheduler, {})


def test_a_service_touches_its_keys_and_members_and_again_nothing() -> None:
    desired = Desired()
    touched = desired.put(fragment(A, a_frontend()), 0.0)
    assert touched.keys == {KEY}
    assert touched.members == a_frontend().members
    assert desired.put(fragment(A, a_frontend()), 1.0).keys == set()
    assert desired.binds(IP)
    assert desired.binds(IP)
    assert set(desired.members()) == a_frontend().members


@pytest.mark.parametrize("count", [1, 3, 8, 9, 40])
def test_an_address_is_bound_until_the_last_one_behind_it_goes(count: int) -> None:
    desired = Desired()
    keys = [VirtualServerKey(Protocol.TCP, IP, port) for port in range(1, count + 1)]
    desired.put(fragment(A, *map(a_frontend, keys)), 0.0)
    desired.put(fragment(A, *(a_frontend(key, "wrr") for key in keys)), 0.0)
    assert sorted(desired.behind(IP)) == keys
    assert {desired.held[key].server.scheduler for key in keys} == {"wrr"}
    desired.drop(A, 0.0)
    for gone, key in enumerate(keys, 1):
        assert desired.binds(IP)
        desired.finish(key)
        assert sorted(desired.behind(IP)) == keys[gone:]
    assert not desired.binds(IP)


@pytest.mark.parametrize(
    ("ages", "owner"),
    [
        pytest.param({A: 2.0, B: 1.0}, B, id="the older"),
        pytest.param({A: None, B: 9.0}, B, id="without a creation time last"),
        pytest.param({B: None, A: None}, A, id="both without: by name"),
        pytest.param({B: 1.0, A: 1.0}, A, id="equally old: by name"),
        pytest.param({A: 0.0, B: 1.0, C: 2.0}, A, id="an age of 0 is an age"),
    ],
)
@pytest.mark.parametrize("backwards", [False, True], ids=["", "in the other order"])
def test_the_oldest_owns_what_is_contested(
    ages: dict[ServiceName, float | None], owner: ServiceName, backwards: bool
) -> None:
    desired = Desired()
    for name in sorted(ages, reverse=backwards):
        desired.put(fragment(name, a_frontend(scheduler=name.name), created=ages[name]), 0.0)
    assert desired.owner(KEY) == owner
    assert desired.held[KEY].server.scheduler == owner.name
    assert not list(desired.contests(owner))
    for loser in ages.keys() - {owner}:
        (contest,) = desired.contests(loser)
        assert contest == (KEY, owner)


def test_a_virtual_server_is_handed_over_when_its_owner_goes() -> None:
    desired = Desired()
    desired.put(fragment(A, a_frontend(scheduler="rr"), created=1.0), 0.0)
    assert not desired.put(fragment(B, a_frontend(scheduler="lc"), created=2.0), 0.0).keys
    touched = desired.drop(A, 5.0)
    assert touched.keys == {KEY}
    assert not touched.members, "members that both want do not go"
    assert desired.owner(KEY) == B
    assert not desired.departing


def test_the_last_claim_gone_a_virtual_server_departs_and_comes_back() -> None:
    desired = Desired()
    desired.put(fragment(A, a_frontend(), a_frontend(SECOND)), 0.0)
    touched = desired.put(fragment(A, a_frontend()), 5.0)
    assert touched.keys == {SECOND}
    assert desired.departing == {SECOND: 5.0}
    assert desired.held[SECOND].real_servers == {}
    assert desired.owner(SECOND) is None
    assert desired.put(fragment(A, a_frontend(), a_frontend(SECOND)), 6.0).keys == {SECOND}
    assert not desired.departing
    desired.drop(A, 7.0)
    assert not desired.drop(A, 8.0).keys
    assert desired.departing == {KEY: 7.0, SECOND: 7.0}
    assert desired.finish(KEY).keys == {KEY}
    assert not desired.finish(KEY).keys
    assert desired.binds(IP), "the other port still stands there"
    assert set(desired.behind(IP)) == {SECOND}
    assert desired.finish(SECOND).members == a_frontend(SECOND).members
    assert not desired.binds(IP)
    assert desired.behind(IP) == ()


def test_leftovers_depart_unless_somebody_holds_them() -> None:
    desired = Desired()
    desired.put(fragment(A, a_frontend()), 0.0)
    touched = desired.depart([a_frontend(), a_frontend(SECOND)], 3.0)
    assert touched.keys == {SECOND}
    assert desired.departing == {SECOND: 3.0}


def test_a_foreign_virtual_server_is_left_alone_by_a_service_that_is_new() -> None:
    desired = Desired()
    assert not desired.mark_foreign(KEY).keys
    desired.put(fragment(A, a_frontend()), 0.0)
    assert desired.foreign == {KEY}
    assert not desired.held
    assert not desired.binds(IP)
    assert desired.clear_foreign(KEY).keys == {KEY}
    assert not desired.clear_foreign(KEY).keys
    assert desired.held.keys() == {KEY}


def test_a_foreign_virtual_server_is_let_go_when_it_appears_and_forgotten_with_its_claims() -> None:
    desired = Desired()
    desired.put(fragment(A, a_frontend()), 0.0)
    assert desired.mark_foreign(KEY).members == a_frontend().members
    assert not desired.mark_foreign(KEY).keys
    assert not desired.held
    desired.drop(A, 1.0)
    assert not desired.foreign
    assert not desired.departing


EXTERNAL = VirtualServerKey(Protocol.TCP, Address.parse("192.0.2.9"), 80)
SPLIT = ("KUBE-SPLIT", IpPortMember(EXTERNAL.address, EXTERNAL.protocol, EXTERNAL.port))
NO_LOCAL = ("KUBE-NO-LOCAL", SPLIT[1])


def a_split_frontend() -> Frontend:
    plain = a_frontend(EXTERNAL)
    return plain._replace(
        kind=Kind.LOAD_BALANCER,
        redirect=Redirect(Protocol.TCP, EXTERNAL.address, EXTERNAL.port, KEY),
        members={*plain.members, SPLIT, NO_LOCAL},
    )


def is_redirected(desired: Desired) -> bool:
    """Whether the clients of `EXTERNAL` are sent to `KEY`; all signs of it must agree."""
    signs = {
        desired.redirections.target_of(EXTERNAL) == KEY,
        desired.held[EXTERNAL].redirect is not None,
        desired.needs(SPLIT),
        desired.needs(NO_LOCAL),
    }
    (found,) = signs
    return found


def test_nobody_is_redirected_to_what_another_service_holds() -> None:
    desired = Desired()
    desired.put(fragment(B, a_frontend(), a_split_frontend(), created=2.0), 0.0)
    assert is_redirected(desired)
    touched = desired.put(fragment(A, a_frontend(), created=1.0), 0.0)
    assert not is_redirected(desired)
    assert {SPLIT, NO_LOCAL} <= touched.members
    touched = desired.drop(A, 0.0)
    assert is_redirected(desired)
    assert {SPLIT, NO_LOCAL} <= touched.members


def test_nor_from_the_beginning() -> None:
    desired = Desired()
    desired.put(fragment(A, a_frontend(), created=1.0), 0.0)
    desired.put(fragment(B, a_frontend(), a_split_frontend(), created=2.0), 0.0)
    assert not is_redirected(desired)
    desired.put(fragment(A, created=1.0), 0.0)
    assert is_redirected(desired)


def test_nobody_is_redirected_to_what_is_foreign() -> None:
    desired = Desired()
    desired.mark_foreign(KEY)
    desired.put(fragment(A, a_frontend(), a_split_frontend()), 0.0)
    assert not is_redirected(desired)
    assert {SPLIT, NO_LOCAL} <= desired.clear_foreign(KEY).members
    assert is_redirected(desired)
    assert {SPLIT, NO_LOCAL} <= desired.mark_foreign(KEY).members
    assert not is_redirected(desired)
