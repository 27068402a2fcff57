"""One Service becomes a fragment: frontends, members, and what outlives a wrong annotation."""

from __future__ import annotations

import msgspec
import pytest

from ipvsproxy.config import Settings
from ipvsproxy.core.problem import ProblemKind
from ipvsproxy.core.sets import frontend_member, loop_back_member
from ipvsproxy.core.surroundings import Surroundings
from ipvsproxy.core.translate import Fragment, Inputs, translate
from ipvsproxy.kernel.fake import fresh_state
from ipvsproxy.model import (
    Address,
    Family,
    Flags,
    IpMember,
    Network,
    NodeNetwork,
    Protocol,
    RealServer,
    RealServerKey,
    Scheduler,
    State,
    VirtualServer,
    VirtualServerKey,
)
from ipvsproxy.objects import (
    Endpoint,
    EndpointSlice,
    Service,
    ServiceName,
    ServicePort,
    SlicePort,
)

NAME = ServiceName("shop", "web")
IP4, IP6 = Address.parse("10.96.0.1"), Address.parse("fd00:96::1")
POD, OTHER = Address.parse("10.1.0.1"), Address.parse("10.1.0.2")
KEY = VirtualServerKey(Protocol.TCP, IP4, 80)
SETTINGS = Settings(node_name="here", default_scheduler=Scheduler.RR)


def service(
    *,
    ips: tuple[Address, ...] = (IP4,),
    scheduler: str | None = None,
    affinity: int = 0,
    proxy: str | None = None,
    local: bool = False,
) -> Service:
    annotations = (("ipvsproxy.io/scheduler", scheduler),) if scheduler is not None else ()
    return Service(
        NAME,
        cluster_ips=ips,
        ports=(ServicePort("http", Protocol.TCP, 80),),
        affinity_seconds=affinity,
        internal_traffic_local=local,
        proxy_name=proxy,
        annotations=annotations,
    )


def a_slice(weights: str | None = None, *, name: str = "s1") -> EndpointSlice:
    return EndpointSlice(
        NAME.namespace,
        name,
        NAME,
        Family.IPV4,
        (Endpoint(POD, node_name="here"), Endpoint(OTHER, node_name="far")),
        (SlicePort("http", Protocol.TCP, 8080),),
        weights,
    )


def translated(
    what: Service,
    *slices: EndpointSlice,
    previous: Fragment | None = None,
    kernel: State | None = None,
    unavailable: frozenset[str] = frozenset(),
) -> Fragment:
    around = Surroundings(SETTINGS, kernel or fresh_state(), unavailable)
    return translate(Inputs(what, slices, whole=True), around, previous)


def served(scheduler: str, *weights: int) -> State:
    state = fresh_state()
    state.virtual_servers[KEY] = VirtualServer(scheduler)
    state.real_servers[KEY] = {
        RealServerKey(pod, 8080): RealServer(weight)
        for pod, weight in zip((POD, OTHER), weights, strict=False)
    }
    return state


def weights_of(fragment: Fragment) -> list[int]:
    (frontend,) = fragment.frontends
    return [real.weight for _, real in sorted(frontend.real_servers.items())]


def test_a_frontend_has_its_servers_its_members_and_its_address() -> None:
    fragment = translated(service(affinity=60, scheduler="sh"), a_slice())
    (frontend,) = fragment.frontends
    assert frontend.key == KEY
    assert frontend.server == VirtualServer("sh", Flags.SCHED_1, 60, 32)
    assert frontend.real_servers == {
        RealServerKey(POD, 8080): RealServer(1),
        RealServerKey(OTHER, 8080): RealServer(1),
    }
    assert frontend.bind
    assert set(frontend.members) == {
        ("IPVSPROXY-OWN", frontend_member(KEY)),
        ("KUBE-CLUSTER-IP", frontend_member(KEY)),
        ("KUBE-IPVS-IPS", IpMember(IP4)),
    }
    hairpin = loop_back_member(Protocol.TCP, RealServerKey(POD, 8080))
    assert fragment.members == {("KUBE-LOOP-BACK", hairpin)}, "the endpoint of this node only"


@pytest.mark.parametrize(
    ("what", "families", "keys"),
    [
        pytest.param(service(ips=(IP4, IP6)), {4, 6}, 2, id="dual stack"),
        pytest.param(service(ips=(IP4, IP6)), {4}, 1, id="a family that the kernel lacks"),
        pytest.param(service(ips=()), {4, 6}, 0, id="headless"),
        pytest.param(service(proxy="cilium"), {4, 6}, 0, id="another proxy's"),
    ],
)
def test_which_frontends_there_are(what: Service, families: set[int], keys: int) -> None:
    kernel = fresh_state(frozenset(map(Family, families)))
    fragment = translated(what, kernel=kernel)
    assert len(fragment.frontends) == keys
    assert all(
        frontend.server.persistence_prefix == frontend.key.family.host_prefix
        for frontend in fragment.frontends
    )


def test_a_local_policy_keeps_to_this_node() -> None:
    (frontend,) = translated(service(local=True), a_slice()).frontends
    assert frontend.real_servers.keys() == {RealServerKey(POD, 8080)}
    assert frontend.displaced == {RealServerKey(OTHER, 8080)}


def test_equal_inputs_give_an_equal_fragment() -> None:
    first = translated(service(scheduler="x"), a_slice("{"))
    assert translated(service(scheduler="x"), a_slice("{"), previous=first) == first


@pytest.mark.parametrize(
    ("previous", "kernel", "unavailable", "scheduler"),
    [
        pytest.param(None, None, "", "rr", id="new: the default"),
        pytest.param("wlc", served("lc"), "", "wlc", id="the one in memory"),
        pytest.param(None, served("lc"), "", "lc", id="after a restart: the kernel's"),
        pytest.param("wlc", served("lc"), "wlc", "lc", id="the remembered one was refused"),
        pytest.param("wlc", None, "wlc", "rr", id="refused, and nothing in the kernel"),
    ],
)
def test_the_last_good_scheduler_stays(
    previous: str | None, kernel: State | None, unavailable: str, scheduler: str
) -> None:
    before = translated(service(scheduler=previous)) if previous else None
    fragment = translated(
        service(scheduler="bogus"),
        previous=before,
        kernel=kernel,
        unavailable=frozenset(unavailable.split()),
    )
    assert fragment.scheduler == scheduler
    assert fragment.asked == "bogus"
    assert [problem.kind for problem in fragment.problems] == [ProblemKind.INVALID_ANNOTATION]


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        pytest.param(None, [1, 1], id="none"),
        pytest.param('{"10.1.0.1": 3}', [3, 1], id="one named"),
        pytest.param('{"10.1.0.1": 0, "10.1.0.2": 9}', [0, 9], id="zero is a choice"),
    ],
)
def test_weights_of_a_slice(weights: str | None, expected: list[int]) -> None:
    assert weights_of(translated(service(), a_slice(weights))) == expected


def test_an_annotation_that_means_nothing_on_a_slice_is_answered() -> None:
    stray = msgspec.structs.replace(a_slice(), strays=("ipvsproxy.io/x",))
    (problem,) = translated(service(), stray).problems
    assert problem.kind is ProblemKind.INVALID_ANNOTATION
    assert "annotation ipvsproxy.io/x of EndpointSlice s1: not known on an" in problem.message


def test_the_last_good_weights_stay() -> None:
    good = translated(service(), a_slice('{"10.1.0.1": 3}'))
    wrong = translated(service(), a_slice("{"), previous=good)
    assert weights_of(wrong) == [3, 1]
    assert [problem.kind for problem in wrong.problems] == [ProblemKind.INVALID_ANNOTATION]
    assert "EndpointSlice s1" in wrong.problems[0].message
    assert weights_of(translated(service(), a_slice("["), previous=wrong)) == [3, 1]
    assert weights_of(translated(service(), a_slice(), previous=wrong)) == [1, 1]


def test_wrong_weights_of_a_new_slice_are_the_default() -> None:
    before = translated(service())
    assert weights_of(translated(service(), a_slice("{"), previous=before)) == [1, 1]


def test_after_a_restart_wrong_weights_leave_those_of_the_kernel_for_good() -> None:
    first = translated(service(), a_slice("{"), kernel=served("rr", 5, 0))
    assert weights_of(first) == [5, 0], "0 may be what was asked for"
    again = translated(service(), a_slice("{"), previous=first, kernel=served("rr", 5, 1))
    assert weights_of(again) == [5, 0]


def test_an_address_of_the_nodes_own_is_served_where_it_is() -> None:
    kernel = fresh_state()
    kernel.network = NodeNetwork({"eth0": frozenset({IP4})})
    inputs = Inputs(service(ips=(IP4, IP6)), (a_slice(),), whole=True)
    own, other = translate(inputs, Surroundings(SETTINGS, kernel), None).frontends
    assert (own.bind, other.bind) == (False, True)
    assert "KUBE-IPVS-IPS" not in {name for name, _ in own.members}
    assert "KUBE-6-IPVS-IPS" in {name for name, _ in other.members}


def test_fo_in_the_kernel_beside_a_draining_server_stands_in_for_dh() -> None:
    wrong = service(scheduler="dhh")
    assert translated(wrong, a_slice(), kernel=served("fo", 1, 0)).scheduler == "dh"
    assert translated(wrong, a_slice(), kernel=served("fo", 1, 1)).scheduler == "fo"


def test_an_external_address_is_not_taken_from_where_cluster_ips_come_from() -> None:
    """kubernetes #66966: it is another Service's, or will be. Its own ClusterIP it may name."""
    own, others, outside = (Address.parse(one) for one in ("10.96.0.1", "10.96.0.9", "192.0.2.1"))
    written = msgspec.structs.replace(
        service(ips=(own,)), external_ips=(own, others, outside), ingress_ips=(others,)
    )
    around = Surroundings(
        SETTINGS, fresh_state(), service_networks=frozenset({Network.parse("10.96.0.0/12")})
    )
    fragment = translate(Inputs(written, (), whole=True), around, None)
    assert {frontend.key.address for frontend in fragment.frontends} == {own, outside}
    (problem,) = fragment.problems
    assert problem.kind is ProblemKind.RESERVED_ADDRESS
    assert "10.96.0.9:80/TCP is within 10.96.0.0/12, where ClusterIPs are taken from" in (
        problem.message
    )
