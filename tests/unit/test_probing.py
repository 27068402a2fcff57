"""Which endpoints are probed, and what follows from what the probes say."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipvsproxy.config import Settings, WatchNodes
from ipvsproxy.core.annotations.health_check import Check, TcpProbe
from ipvsproxy.core.probed_addresses import Guard, why_not_probed
from ipvsproxy.core.probing import (
    NODES_GIVEN_UP,
    NODES_MISSED,
    Standing,
    Target,
    Verdict,
    stretch,
)
from ipvsproxy.core.problem import ProblemKind
from ipvsproxy.core.surroundings import Surroundings
from ipvsproxy.core.translate import Fragment, Inputs, translate
from ipvsproxy.kernel.fake import fresh_state
from ipvsproxy.model import (
    Address,
    Network,
    NodeNetwork,
    Protocol,
    RealServer,
    RealServerKey,
    State,
    VirtualServer,
)
from ipvsproxy.objects import Node, Service, ServicePort, SlicePort
from tests.unit.builders import frontend, member, named, part, service

PODS = Network.parse("10.244.0.0/16")
SETTINGS = Settings(node_name="node-a", cluster_cidrs=(PODS,))
WEB = frontend()
FOUR = ("10.244.1.1", "10.244.1.2", "10.244.1.3", "10.244.1.4")


def checked(kind: str = "tcp", options: str = "", *ports: int) -> Service:
    made = service("web", "10.96.0.10", *ports)
    written = (("ipvsproxy.io/health-check", kind), ("ipvsproxy.io/health-check-options", options))
    return Service(
        made.name,
        cluster_ips=made.cluster_ips,
        ports=made.ports,
        annotations=tuple(one for one in written if one[1]),
    )


def target(address: str, protocol: Protocol = Protocol.TCP) -> Target:
    return Target(named(), protocol, member(address))


def unhealthy(*addresses: str) -> Mapping[Target, Verdict]:
    return {target(one): Verdict.UNHEALTHY for one in addresses}


def around(
    kernel: State | None = None, *, starting: bool = False, settings: Settings = SETTINGS
) -> Surroundings:
    return Surroundings(settings, kernel or fresh_state(), starting=starting)


def translated(
    *addresses: str,
    what: Service | None = None,
    verdicts: Mapping[Target, Verdict] | None = None,
    where: Surroundings | None = None,
    previous: Fragment | None = None,
) -> Fragment:
    inputs = Inputs(
        what or checked(), [part("web", *addresses)], whole=True, verdicts=verdicts or {}
    )
    return translate(inputs, where or around(), previous)


def weights(fragment: Fragment) -> dict[str, int]:
    (one,) = fragment.frontends
    return {str(key.address): real.weight for key, real in one.real_servers.items()}


def problems(fragment: Fragment) -> dict[ProblemKind, str]:
    return {one.kind: one.message for one in fragment.problems}


def kernel_with(weighing: Mapping[str, int]) -> State:
    state = fresh_state()
    state.virtual_servers[WEB] = VirtualServer("rr")
    state.real_servers[WEB] = {member(one): RealServer(weight) for one, weight in weighing.items()}
    return state


# ------------------------------------------------------------------------- the state machine


def standing_after(results: str, check: Check) -> Standing:
    """Feed results, `+` and `-`."""
    standing = Standing()
    for one in results:
        standing = standing.after(success=one == "+", check=check)
    return standing


@pytest.mark.parametrize(
    ("results", "healthy"),
    [
        ("", True),
        ("--", True),
        ("---", False),
        ("--+--", True),
        ("--+---", False),
        ("---+", False),
        ("---+-+", False),
        ("---++", True),
        ("---++--", True),
        ("-+-+-+-+-+", True),
        ("---+-+-+-+", False),
    ],
)
def test_rise_and_fall(results: str, healthy: bool) -> None:
    assert standing_after(results, Check(TcpProbe(), rise=2, fall=3)).healthy is healthy


@given(st.text("+-", max_size=60), st.integers(1, 6), st.integers(1, 6))
def test_a_verdict_changes_only_after_as_many_in_a_row(results: str, rise: int, fall: int) -> None:
    check, standing, row = Check(TcpProbe(), rise=rise, fall=fall), Standing(), 0
    for one in results:
        success = one == "+"
        before = standing
        standing = standing.after(success=success, check=check)
        row = 0 if success == before.healthy else row + 1
        changed = standing.healthy != before.healthy
        assert changed == (row == (fall if before.healthy else rise))
        row = 0 if changed else row


def test_in_a_large_cluster_intervals_are_stretched() -> None:
    assert stretch(100, 100) == 1.0
    assert stretch(1000, 100) == 10.0
    assert stretch(5, 100) == 1.0
    assert stretch(5000, 0) == 1.0


# ------------------------------------------------------------------------- what becomes of it


def test_an_endpoint_that_nobody_has_judged_is_healthy() -> None:
    fragment = translated(*FOUR)
    assert weights(fragment) == dict.fromkeys(FOUR, 1)
    assert fragment.probing is not None
    assert fragment.probing.targets == {target(one) for one in FOUR}
    assert fragment.probing.unhealthy == frozenset()
    assert fragment.problems == ()


def test_an_unhealthy_endpoint_has_weight_0_and_returns() -> None:
    fragment = translated(*FOUR, verdicts=unhealthy(FOUR[0]))
    assert weights(fragment) == {FOUR[0]: 0, FOUR[1]: 1, FOUR[2]: 1, FOUR[3]: 1}
    assert fragment.frontends[0].cut == frozenset()
    again = translated(*FOUR, verdicts={target(FOUR[0]): Verdict.HEALTHY}, previous=fragment)
    assert weights(again) == dict.fromkeys(FOUR, 1)


def test_its_connections_are_cut_where_that_is_asked_for() -> None:
    fragment = translated(
        *FOUR, what=checked(options="on-failure=cut"), verdicts=unhealthy(FOUR[0])
    )
    assert set(weights(fragment)) == set(FOUR[1:])
    assert fragment.frontends[0].cut == {member(FOUR[0])}


def test_without_the_annotation_all_is_as_before_at_once() -> None:
    before = translated(*FOUR, verdicts=unhealthy(FOUR[0]))
    fragment = translated(*FOUR, what=service(), verdicts=unhealthy(FOUR[0]), previous=before)
    assert weights(fragment) == dict.fromkeys(FOUR, 1)
    assert fragment.probing is None


def test_a_node_may_be_set_not_to_probe() -> None:
    settings = Settings(node_name="node-a", cluster_cidrs=(PODS,), health_checks=False)
    fragment = translated(*FOUR, verdicts=unhealthy(FOUR[0]), where=around(settings=settings))
    assert weights(fragment) == dict.fromkeys(FOUR, 1)
    assert fragment.probing is None


@pytest.mark.parametrize("failing", range(5))
def test_more_than_half_of_them_failing_says_more_of_the_check_than_of_them(failing: int) -> None:
    fragment = translated(*FOUR, verdicts=unhealthy(*FOUR[:failing]))
    panics = failing > 2
    assert sum(weights(fragment).values()) == (4 if panics else 4 - failing)
    assert (ProblemKind.HEALTH_CHECKS_IGNORED in problems(fragment)) is panics
    assert fragment.probing is not None
    assert len(fragment.probing.unhealthy) == failing


def test_the_condition_says_how_many_and_where() -> None:
    message = problems(translated(*FOUR, verdicts=unhealthy(*FOUR)))[
        ProblemKind.HEALTH_CHECKS_IGNORED
    ]
    assert message.startswith("4 of 4 endpoints of port 80 (IPv4) fail their health check")


@pytest.mark.parametrize(("percent", "most"), [(0, 0), (25, 1), (74, 2), (75, 3), (99, 3)])
def test_the_share_is_a_setting_and_all_failing_always_panics(percent: int, most: int) -> None:
    settings = Settings(
        node_name="node-a", cluster_cidrs=(PODS,), health_check_panic_percent=percent
    )
    for failing in range(5):
        fragment = translated(
            *FOUR, verdicts=unhealthy(*FOUR[:failing]), where=around(settings=settings)
        )
        taken_out = list(weights(fragment).values()).count(0)
        assert taken_out == (failing if failing <= most else 0)


def test_a_single_endpoint_is_never_taken_out() -> None:
    assert weights(translated(FOUR[0], verdicts=unhealthy(FOUR[0]))) == {FOUR[0]: 1}


def test_only_ports_of_the_checks_protocol_are_probed() -> None:
    web = checked()
    both = Service(
        web.name,
        cluster_ips=web.cluster_ips,
        ports=(ServicePort("t", Protocol.TCP, 53), ServicePort("u", Protocol.UDP, 53)),
        annotations=web.annotations,
    )
    slices = part("web", FOUR[0])
    ports = (SlicePort("t", Protocol.TCP, 8080), SlicePort("u", Protocol.UDP, 8080))
    inputs = Inputs(
        both,
        [
            type(slices)(
                slices.namespace,
                slices.name,
                slices.service,
                slices.family,
                slices.endpoints,
                ports,
            )
        ],
        whole=True,
    )
    fragment = translate(inputs, around(), None)
    assert fragment.probing is not None
    assert fragment.probing.targets == {target(FOUR[0])}
    assert fragment.problems == ()


def test_a_check_for_which_there_is_no_port_is_without_effect() -> None:
    fragment = translated(*FOUR, what=checked("udp", "payload=x"))
    assert "the Service has no UDP port" in problems(fragment)[ProblemKind.NO_EFFECT]


# ------------------------------------------------------------------------- after a restart


def test_what_a_restart_finds_at_weight_0_was_unhealthy_until_it_has_risen() -> None:
    kernel = kernel_with({FOUR[0]: 0, FOUR[1]: 1, FOUR[2]: 1, FOUR[3]: 1})
    first = translated(*FOUR, where=around(kernel, starting=True))
    assert weights(first)[FOUR[0]] == 0
    assert first.probing is not None
    assert first.probing.suspects == {target(FOUR[0])}
    later = translated(*FOUR, where=around(kernel), previous=first)
    assert weights(later)[FOUR[0]] == 0
    risen = translated(
        *FOUR,
        where=around(kernel),
        previous=later,
        verdicts={target(FOUR[0]): Verdict.HEALTHY},
    )
    assert weights(risen)[FOUR[0]] == 1
    assert risen.probing is not None
    assert risen.probing.suspects == frozenset()


WEIGHTS = '{"10.244.1.1": 0, "10.244.1.2": 0}'


def weighed(*addresses: str, where: Surroundings, bad: tuple[str, ...] = ()) -> Fragment:
    """Translate with the first two endpoints taken out of rotation."""
    slices = [msgspec.structs.replace(part("web", *addresses), weights=WEIGHTS)]
    inputs = Inputs(checked(), slices, whole=True, verdicts=unhealthy(*bad))
    return translate(inputs, where, None)


def test_who_is_out_of_rotation_does_not_count_among_those_that_fail() -> None:
    """One of two fails, which is not more than half; three of two would be."""
    fragment = weighed(*FOUR, where=around(), bad=FOUR[:3])
    assert weights(fragment) == {FOUR[0]: 0, FOUR[1]: 0, FOUR[2]: 0, FOUR[3]: 1}
    assert ProblemKind.HEALTH_CHECKS_IGNORED not in problems(fragment)


def test_a_weight_0_that_is_asked_for_is_no_sign_of_having_failed() -> None:
    kernel = kernel_with({FOUR[0]: 0, FOUR[1]: 0, FOUR[2]: 0, FOUR[3]: 1})
    fragment = weighed(*FOUR, where=around(kernel, starting=True))
    assert fragment.probing is not None
    assert fragment.probing.suspects == {target(FOUR[2])}


def test_while_the_agent_runs_weight_0_is_that_of_a_server_that_drained() -> None:
    kernel = kernel_with({FOUR[0]: 0, FOUR[1]: 1})
    assert weights(translated(*FOUR[:2], where=around(kernel))) == {FOUR[0]: 1, FOUR[1]: 1}


def test_a_server_that_drains_is_no_target_and_not_unhealthy() -> None:
    kernel = kernel_with({FOUR[0]: 0, FOUR[1]: 1})
    fragment = translated(FOUR[1], where=around(kernel, starting=True))
    assert fragment.probing is not None
    assert fragment.probing.targets == {target(FOUR[1])}
    assert fragment.probing.unhealthy == frozenset()


def test_where_failing_servers_are_removed_absence_is_what_a_restart_goes_by() -> None:
    kernel = kernel_with({FOUR[1]: 1, FOUR[2]: 1})
    cut = checked(options="on-failure=cut")
    fragment = translated(*FOUR[:3], what=cut, where=around(kernel, starting=True))
    assert set(weights(fragment)) == {FOUR[1], FOUR[2]}
    new = translated(*FOUR[:3], what=cut, where=around(starting=True))
    assert set(weights(new)) == set(FOUR[:3])


def test_if_the_kernel_has_all_at_weight_0_all_are_used() -> None:
    kernel = kernel_with(dict.fromkeys(FOUR, 0))
    assert weights(translated(*FOUR, where=around(kernel, starting=True))) == dict.fromkeys(FOUR, 1)


@pytest.mark.parametrize(
    "wrong", [checked("https"), checked("tcp", "intervall=5s"), checked("tcp", "timeout=20s")]
)
def test_a_check_that_was_never_right_leaves_out_who_was_out_and_probes_nobody(
    wrong: Service,
) -> None:
    kernel = kernel_with({FOUR[0]: 0, FOUR[1]: 1})
    first = translated(*FOUR[:2], what=wrong, where=around(kernel, starting=True))
    again = translated(*FOUR[:2], what=wrong, where=around(kernel), previous=first)
    for fragment in (first, again):
        assert weights(fragment) == {FOUR[0]: 0, FOUR[1]: 1}
        assert fragment.probing is not None
        assert not fragment.probing.targets
        assert FOUR[0] in problems(fragment)[ProblemKind.ENDPOINTS_NOT_PROBED]
    right = translated(*FOUR[:2], where=around(kernel), previous=again)
    assert right.probing is not None
    assert right.probing.suspects == {target(FOUR[0])}
    assert right.probing.targets == {target(one) for one in FOUR[:2]}
    none = translated(*FOUR[:2], what=service(), where=around(kernel), previous=again)
    assert weights(none) == {FOUR[0]: 1, FOUR[1]: 1}


def test_who_would_all_be_out_by_a_check_that_was_never_right_is_used() -> None:
    kernel = kernel_with(dict.fromkeys(FOUR, 0))
    where = around(kernel, starting=True)
    fragment = translated(*FOUR, what=checked("https"), where=where)
    assert weights(fragment) == dict.fromkeys(FOUR, 1)


def test_before_all_nodes_are_known_nobody_is_probed_and_nobody_returns() -> None:
    kernel = kernel_with({FOUR[0]: 0, FOUR[1]: 1})
    where = Surroundings(SETTINGS, kernel, starting=True, nodes_known=False)
    fragment = translated(*FOUR[:2], where=where)
    assert weights(fragment) == {FOUR[0]: 0, FOUR[1]: 1}
    assert fragment.probing is not None
    assert fragment.probing.targets == frozenset()
    assert ProblemKind.NODES_UNKNOWN not in problems(fragment)
    running = Surroundings(SETTINGS, kernel, nodes_known=False, nodes_awaited=NODES_MISSED)
    again = translated(*FOUR[:2], where=running, previous=fragment)
    assert problems(again)[ProblemKind.NODES_UNKNOWN].endswith(f"out until then: {FOUR[0]}")
    assert weights(again) == {FOUR[0]: 0, FOUR[1]: 1}
    late = Surroundings(SETTINGS, kernel, nodes_known=False, nodes_awaited=NODES_GIVEN_UP)
    given_up = translated(*FOUR[:2], where=late, previous=again)
    assert weights(given_up) == {FOUR[0]: 1, FOUR[1]: 1}
    assert problems(given_up)[ProblemKind.NODES_UNKNOWN].endswith("could be a node")
    known = translated(*FOUR[:2], where=around(kernel), previous=fragment)
    assert weights(known) == {FOUR[0]: 0, FOUR[1]: 1}
    assert known.probing is not None
    assert target(FOUR[0]) in known.probing.targets


# ------------------------------------------------------------------------- who is never probed

NODE = Node(
    "node-a",
    pod_cidrs=(Network.parse("10.9.0.0/24"), Network.parse("fd00:9::/64")),
    addresses=(Address.parse("192.168.50.11"), Address.parse("fd00:50::11")),
)


def surrounded(*networks: str, watch: WatchNodes = WatchNodes.AUTO) -> Surroundings:
    kernel = fresh_state()
    own = map(Address.parse, ("10.244.1.254", "fd00:10:244:1::fe"))
    kernel.network = NodeNetwork({"cni0": frozenset(own)})
    kernel.addresses = {Address.parse("10.96.0.10"), Address.parse("fd00:10:244:6::6")}
    settings = Settings(
        node_name="node-a",
        cluster_cidrs=(PODS, Network.parse("fd00:10:244::/48")),
        health_check_networks=tuple(map(Network.parse, networks)),
        watch_nodes=watch,
    )
    return Surroundings(
        settings,
        kernel,
        node=NODE,
        taken={
            Address.parse("192.168.50.12"): "the address of node node-b",
            Address.parse("10.244.7.7"): "the address of an API server",
            Address.parse("fd00:50::12"): "the address of node node-b",
            Address.parse("fd00:10:244:7::7"): "the address of an API server",
            Address.parse("fd00:10:244:1::1"): "the address of a gateway of this node",
        },
        service_networks=frozenset(
            {Network.parse("10.96.0.0/16"), Network.parse("fd00:10:96::/112")}
        ),
    )


EVERYTHING = ("0.0.0.0/0", "::/0")


@pytest.mark.parametrize("networks", [(), EVERYTHING], ids=["pods only", "everything allowed"])
@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("127.0.0.1", "loopback"),
        ("127.9.9.9", "loopback"),
        ("::1", "loopback"),
        ("169.254.169.254", "link-local"),
        ("fe80::1", "link-local"),
        ("febf::1", "link-local"),
        ("224.0.0.1", "multicast"),
        ("ff02::1", "multicast"),
        ("0.0.0.0", "no address of a host"),
        ("0.1.2.3", "no address of a host"),
        ("255.255.255.255", "no address of a host"),
        ("::", "no address of a host"),
        ("192.168.50.11", "an address of this node"),
        ("10.244.1.254", "an address of this node"),
        ("192.168.50.12", "the address of node node-b"),
        ("10.244.7.7", "the address of an API server"),
        ("10.96.0.10", "a Service's address"),
        ("10.96.3.4", "where ClusterIPs are taken from"),
        ("fd00:50::11", "an address of this node"),
        ("fd00:10:244:1::fe", "an address of this node"),
        ("fd00:50::12", "the address of node node-b"),
        ("fd00:10:244:7::7", "the address of an API server"),
        ("fd00:10:244:1::1", "the address of a gateway"),
        ("fd00:10:244:6::6", "a Service's address"),
        ("fd00:10:96::99", "where ClusterIPs are taken from"),
        ("::ffff:127.0.0.1", "loopback"),
        ("::ffff:169.254.169.254", "link-local"),
        ("::ffff:192.168.50.12", "the address of node node-b"),
        ("::ffff:10.244.7.7", "the address of an API server"),
    ],
)
def test_what_is_no_pods_is_not_probed_whatever_is_allowed(
    address: str, reason: str, networks: tuple[str, ...]
) -> None:
    assert reason in (why_not_probed(Address.parse(address), surrounded(*networks)) or "probed")


def test_pods_are_probed_and_others_where_a_setting_allows_it() -> None:
    for one in ("10.244.3.4", "10.9.0.7", "fd00:9::7", "fd00:10:244:3::4", "::ffff:10.244.3.4"):
        assert why_not_probed(Address.parse(one), surrounded()) is None
    outside = Address.parse("203.0.113.9")
    assert "healthCheckNetworks" in (why_not_probed(outside, surrounded()) or "")
    assert why_not_probed(outside, surrounded("203.0.113.0/24")) is None
    outside = Address.parse("2001:db8::9")
    assert "healthCheckNetworks" in (why_not_probed(outside, surrounded()) or "")
    assert why_not_probed(outside, surrounded("2001:db8::/64")) is None


def test_where_nodes_are_never_watched_only_the_own_pods_and_named_networks_are_probed() -> None:
    elsewhere = Address.parse("10.244.3.4")
    assert "never" in (why_not_probed(elsewhere, surrounded(watch=WatchNodes.NEVER)) or "")
    named_too = surrounded("10.244.3.0/24", watch=WatchNodes.NEVER)
    for one in (Address.parse("10.9.0.7"), elsewhere):
        assert why_not_probed(one, named_too) is None


def test_an_endpoint_that_is_not_probed_is_used_and_said() -> None:
    fragment = translated("10.244.1.1", "192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4")
    assert set(weights(fragment).values()) == {1}
    message = problems(fragment)[ProblemKind.ENDPOINTS_NOT_PROBED]
    assert "192.0.2.1 (outside of the pod networks" in message
    assert message.endswith("and 1 more")
    assert fragment.probing is not None
    assert fragment.probing.targets == {
        Target(named(), Protocol.TCP, RealServerKey(Address.parse("10.244.1.1"), 8080))
    }


def test_where_only_traffic_counts_it_is_told_behind_what_a_target_stands() -> None:
    probing = translated(*FOUR, what=checked("tcp", "only=traffic")).probing
    assert probing is not None
    assert probing.fronts == {WEB: probing.targets}
    every = translated(*FOUR).probing
    assert every is not None
    assert not every.fronts


def test_an_endpoint_at_weight_0_has_the_traffic_of_its_virtual_server() -> None:
    what = checked("tcp", "only=traffic")
    found = translated(*FOUR, what=what, verdicts=unhealthy(FOUR[0]))
    assert found.frontends[0].real_servers[member(FOUR[0])].weight == 0
    assert found.probing is not None
    assert target(FOUR[0]) in found.probing.with_traffic({WEB})


def test_blocks_that_networks_decide_for_are_not_larger_than_the_networks() -> None:
    around = surrounded("203.0.113.64/26", "fd00:7::40/122")
    guard = Guard(around)
    texts = [f"203.0.113.{last}" for last in (1, 63, 64, 127, 128, 200)]
    texts += [f"fd00:7::{last:x}" for last in (1, 0x3F, 0x40, 0x7F, 0x80)]
    texts += ["10.244.3.7", "10.244.3.8", "10.245.3.8"]
    for address in map(Address.parse, [*texts, *texts]):
        assert guard.why_not(address) == why_not_probed(address, around), address
