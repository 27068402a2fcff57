"""Flags, single datagrams, prefix, limit and deadline: what may be written, and what not."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import msgspec
import pytest

from ipvsproxy.config import Settings
from ipvsproxy.core.annotations import (
    AFFINITY_PREFIX,
    CONNECTION_LIMIT,
    DRAIN_DEADLINE,
    KNOWN,
    ONE_PACKET,
    SCHEDULER,
    SCHEDULER_FLAGS,
    Reader,
    Steering,
    kept_by,
    steer,
)
from ipvsproxy.core.annotations.one_packet import OnePacket
from ipvsproxy.core.frontends import Kind, Place
from ipvsproxy.core.problem import ProblemKind
from ipvsproxy.core.surroundings import Surroundings
from ipvsproxy.core.translate import Fragment, Inputs, translate
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
from ipvsproxy.objects import Service, ServicePort
from tests.unit.builders import part, service

BOTH = (Address.parse("10.96.0.10"), Address.parse("fd00::10"))
WEB = VirtualServerKey(Protocol.TCP, BOTH[0], 80)
WEB6 = WEB._replace(address=BOTH[1])
DNS = WEB._replace(protocol=Protocol.UDP)
TCP, UDP, SCTP = (ServicePort(one.name.lower(), one, 80) for one in Protocol)
NOTHING: Mapping[str, str] = MappingProxyType({})
NO_EFFECT, INVALID = ProblemKind.NO_EFFECT, ProblemKind.INVALID_ANNOTATION


def steered(
    *ports: ServicePort,
    scheduler: str = "rr",
    sticky: bool = False,
    addresses: tuple[Address, ...] = BOTH,
    written: Mapping[str, str] = NOTHING,
    good: Mapping[str, str] = NOTHING,
) -> tuple[Steering, Reader]:
    """Steer a Service on port 80."""
    reader = Reader(written, good)
    web = msgspec.structs.replace(
        service(),
        ports=ports or (TCP,),
        cluster_ips=addresses,
        affinity_seconds=600 if sticky else 0,
    )
    return steer(reader, web, scheduler, masquerade_all=False), reader


def server_at(
    steering: Steering, key: VirtualServerKey, kind: Kind = Kind.CLUSTER_IP
) -> VirtualServer:
    port = ServicePort("", key.protocol, key.port)
    return steering.virtual_server(Place(key, port, (kind,), True, key))


def said(reader: Reader) -> list[ProblemKind]:
    for problem in reader.problems:
        assert "\n" not in problem.message
        assert problem.message.startswith("annotation ipvsproxy.io/")
    return [problem.kind for problem in reader.problems]


def test_without_annotations_nothing_but_the_fallback_of_hashes_is_chosen() -> None:
    for scheduler, flags in (("rr", Flags.NONE), ("sh", Flags.SCHED_1), ("mh", Flags.SCHED_1)):
        steering, reader = steered(UDP, scheduler=scheduler)
        assert server_at(steering, DNS) == VirtualServer(scheduler, flags)
        assert server_at(steering, WEB6) == VirtualServer(scheduler, flags, 0, 128)
        assert steering.real_server(3) == RealServer(3)
        assert steering.drain_deadline is None
        assert not said(reader)


@pytest.mark.parametrize(
    ("scheduler", "text", "flags", "problems"),
    [
        ("sh", "sh-port", Flags.SCHED_1 | Flags.SCHED_2, []),
        ("mh", " mh-fallback , mh-port ", Flags.SCHED_1 | Flags.SCHED_2, []),
        ("sh", "sh-fallback", Flags.SCHED_1, []),
        ("mh", "mh-port,mh-port", Flags.SCHED_1 | Flags.SCHED_2, []),
        ("mh", "sh-port", Flags.SCHED_1, [NO_EFFECT]),
        ("mh", "sh-port,mh-port", Flags.SCHED_1 | Flags.SCHED_2, [NO_EFFECT]),
        ("wlc", "sh-port,mh-port,sh-fallback", Flags.NONE, [NO_EFFECT]),
        ("dh", "sh-fallback", Flags.NONE, [NO_EFFECT]),
    ],
)
def test_flags_are_those_of_the_scheduler_in_force(
    scheduler: str, text: str, flags: Flags, problems: list[ProblemKind]
) -> None:
    steering, reader = steered(scheduler=scheduler, written={SCHEDULER_FLAGS: text})
    assert steering.flags == flags
    assert said(reader) == problems


def test_a_flag_of_another_scheduler_is_told_with_both_names() -> None:
    _, reader = steered(scheduler="wlc", written={SCHEDULER_FLAGS: "sh-port,mh-port"})
    (problem,) = reader.problems
    assert "sh-port, mh-port means something to sh and mh only" in problem.message
    assert "the scheduler is wlc" in problem.message


def test_a_port_hash_beside_session_affinity_is_told() -> None:
    steering, reader = steered(scheduler="sh", written={SCHEDULER_FLAGS: "sh-port"}, sticky=True)
    assert steering.flags == Flags.SCHED_1 | Flags.SCHED_2
    assert said(reader) == [NO_EFFECT]


@pytest.mark.parametrize("scheduler", ["rr", "wrr", "sh", "mh", "dh", "fo", "twos"])
def test_single_datagrams_are_of_udp_ports_only(scheduler: str) -> None:
    steering, reader = steered(UDP, scheduler=scheduler, written={ONE_PACKET: "one-way"})
    assert server_at(steering, DNS).flags & Flags.ONE_PACKET
    assert not said(reader)
    steering, reader = steered(UDP, TCP, SCTP, scheduler=scheduler, written={ONE_PACKET: "one-way"})
    assert server_at(steering, DNS).flags & Flags.ONE_PACKET
    assert not server_at(steering, WEB).flags & Flags.ONE_PACKET
    assert said(reader) == [NO_EFFECT]
    assert "80/TCP, 80/SCTP is served as without it" in reader.problems[0].message


@pytest.mark.parametrize("scheduler", ["lc", "wlc", "sed", "nq", "ovf", "lblc", "lblcr"])
def test_single_datagrams_are_refused_where_connections_are_counted(scheduler: str) -> None:
    steering, reader = steered(UDP, scheduler=scheduler, written={ONE_PACKET: "one-way"})
    assert not server_at(steering, DNS).flags
    assert said(reader) == [INVALID]
    assert scheduler in reader.problems[0].message


def test_single_datagrams_are_refused_beside_session_affinity() -> None:
    steering, reader = steered(UDP, written={ONE_PACKET: "one-way"}, sticky=True)
    assert not server_at(steering, DNS).flags
    assert said(reader) == [INVALID]


OUTSIDE = (
    {"external_ips": (Address.parse("203.0.113.1"),)},
    {"ingress_ips": (Address.parse("203.0.113.2"),)},
    {"ports": (ServicePort("udp", Protocol.UDP, 80, node_port=30080),)},
)


@pytest.mark.parametrize("fields", OUTSIDE, ids=str)
@pytest.mark.parametrize("local", [False, True], ids=["Cluster", "Local"])
def test_single_datagrams_are_not_for_frontends_at_which_senders_are_masqueraded(
    fields: dict[str, object], local: bool
) -> None:
    web = msgspec.structs.replace(service(), ports=(UDP,))
    web = msgspec.structs.replace(web, external_traffic_local=local, **fields)
    reader = Reader({ONE_PACKET: "one-way"}, {})
    steering = steer(reader, web, "rr", masquerade_all=False)
    assert server_at(steering, DNS).flags & Flags.ONE_PACKET
    for kind in (Kind.EXTERNAL_IP, Kind.LOAD_BALANCER, Kind.NODE_PORT):
        assert bool(server_at(steering, DNS, kind).flags & Flags.ONE_PACKET) == local
    assert said(reader) == ([] if local else [NO_EFFECT])


def test_single_datagrams_are_refused_where_everybody_is_masqueraded() -> None:
    reader = Reader({ONE_PACKET: "one-way"}, {})
    web = msgspec.structs.replace(service(), ports=(UDP,))
    steering = steer(reader, web, "rr", masquerade_all=True)
    assert not server_at(steering, DNS).flags
    assert said(reader) == [INVALID]


def test_single_datagrams_do_nothing_without_udp() -> None:
    steering, reader = steered(TCP, SCTP, written={ONE_PACKET: "one-way"})
    assert steering.one_packet is OnePacket.NONE
    assert said(reader) == [NO_EFFECT]


@pytest.mark.parametrize(
    ("text", "ipv4", "ipv6"),
    [("24", 24, 128), ("24,64", 24, 64), (" 16 , 48 ", 16, 48), ("32,1", 32, 1), ("1", 1, 128)],
)
def test_a_prefix_is_for_each_family(text: str, ipv4: int, ipv6: int) -> None:
    steering, reader = steered(written={AFFINITY_PREFIX: text}, sticky=True)
    assert server_at(steering, WEB) == VirtualServer("rr", Flags.NONE, 600, ipv4)
    assert server_at(steering, WEB6) == VirtualServer("rr", Flags.NONE, 600, ipv6)
    assert not said(reader)


def test_a_prefix_does_nothing_without_affinity_or_for_the_other_family() -> None:
    steering, reader = steered(written={AFFINITY_PREFIX: "24,64"})
    assert server_at(steering, WEB) == VirtualServer("rr")
    assert said(reader) == [NO_EFFECT]
    _, reader = steered(written={AFFINITY_PREFIX: "24"}, sticky=True, addresses=BOTH[1:])
    assert said(reader) == [NO_EFFECT]
    assert "write the prefix length for IPv6 after a comma: 32,48" in reader.problems[0].message
    _, reader = steered(written={AFFINITY_PREFIX: "32,64"}, sticky=True, addresses=BOTH[1:])
    assert not said(reader)


@pytest.mark.parametrize(
    ("text", "upper", "lower"),
    [("100", 100, 0), ("100,75", 100, 75), ("1", 1, 0), ("5, 5", 5, 5), ("1000000,1", 1000000, 1)],
)
def test_a_limit_has_an_upper_and_perhaps_a_lower_threshold(
    text: str, upper: int, lower: int
) -> None:
    steering, reader = steered(written={CONNECTION_LIMIT: text})
    assert steering.real_server(7) == RealServer(7, upper_threshold=upper, lower_threshold=lower)
    assert not said(reader)


@pytest.mark.parametrize(
    ("ports", "scheduler", "sticky", "written", "says"),
    [
        pytest.param((TCP,), "lblc", False, {}, "the scheduler lblc", id="lblc"),
        pytest.param((TCP,), "rr", True, {}, "for new clients only", id="session affinity"),
        pytest.param(
            (UDP,), "rr", False, {ONE_PACKET: "one-way"}, "are not counted", id="single datagrams"
        ),
    ],
)
def test_where_a_limit_does_nothing_it_is_told(
    ports: tuple[ServicePort, ...],
    scheduler: str,
    sticky: bool,
    written: dict[str, str],
    says: str,
) -> None:
    steering, reader = steered(
        *ports, scheduler=scheduler, sticky=sticky, written={CONNECTION_LIMIT: "9", **written}
    )
    assert steering.limit.upper == 9
    assert said(reader) == [NO_EFFECT]
    assert says in reader.problems[0].message


@pytest.mark.parametrize(
    ("text", "deadline"),
    [("15m", 900.0), ("0", 0.0), ("0s", 0.0), ("1h30m", 5400.0), ("90", 90.0), (" 1.5s ", 1.5)],
)
def test_a_deadline_is_a_duration(text: str, deadline: float) -> None:
    steering, reader = steered(written={DRAIN_DEADLINE: text})
    assert steering.drain_deadline == deadline
    assert not said(reader)


def test_a_deadline_does_nothing_for_udp_alone() -> None:
    assert said(steered(UDP, written={DRAIN_DEADLINE: "1m"})[1]) == [NO_EFFECT]
    assert not said(steered(UDP, TCP, written={DRAIN_DEADLINE: "1m"})[1])


WRONG = {
    SCHEDULER_FLAGS: (
        *("", " ", "sh_port", "SH-PORT", "sh-port;mh-port", "sh-port mh-port", "sh-port,"),
        *(",", "flag-2", "port", "true", "sh-port=true", '["sh-port"]', "--sh-port", "sh"),
    ),
    ONE_PACKET: (
        *("", "true", "yes", "on", "1", "oneway", "one way", "One-Way", "one_way", "udp"),
        *("one-way,one-way", "false", "off", "ops"),
    ),
    AFFINITY_PREFIX: (
        *("", "/24", "24/64", "0", "33", "24,0", "24,129", "24,", ",64", "24,64,1", "-24"),
        *("255.255.255.0", "twenty-four", "24.0", "0x18", "24 64", "24;64", "10.0.0.0/24", "99999"),
    ),
    CONNECTION_LIMIT: (
        *("", "0", "-1", "100,", ",75", "75,100", "100,0", "100,75,50", "100/75", "100-75", "1e3"),
        *("1.5", "1k", "unlimited", "1000001", "9999999999", "100 75", "upper=100", "100%", "0,0"),
    ),
    DRAIN_DEADLINE: (
        *(
            "",
            "-5m",
            "15min",
            "15 m",
            "fifteen",
            "1d",
            "15m!",
            "PT15M",
            "00:15:00",
            "never",
            "1,5m",
        ),
        *("m", "15M", "infinity", "nan", "inf", "1e3"),
    ),
}


@pytest.mark.parametrize(("name", "text"), [(one, text) for one in WRONG for text in WRONG[one]])
def test_what_is_typed_wrong_is_answered_and_the_last_good_value_stays(
    name: str, text: str
) -> None:
    good = {
        SCHEDULER_FLAGS: "sh-port",
        ONE_PACKET: "one-way",
        AFFINITY_PREFIX: "24,64",
        CONNECTION_LIMIT: "100,75",
        DRAIN_DEADLINE: "1m",
    }
    sticky = name == AFFINITY_PREFIX
    for before in ({}, {name: good[name]}):
        wrong, reader = steered(
            UDP, TCP, scheduler="sh", sticky=sticky, written={name: text}, good=before
        )
        right, _ = steered(UDP, TCP, scheduler="sh", sticky=sticky, written=before)
        assert wrong == right
        (problem, *_) = reader.problems
        assert problem.kind is INVALID
        assert problem.message.startswith(f"annotation {name}: ")
        assert "write " in problem.message
        assert "\n" not in problem.message
        stays = f"{good[name]!r} stays" if before else "it counts as not written"
        assert problem.message.endswith(f"; {stays}")
        assert reader.good == before


def translated(
    web: Service, kernel: State | None = None, previous: Fragment | None = None
) -> Fragment:
    around = Surroundings(Settings(node_name="here"), kernel or State())
    return translate(Inputs(web, [part("web", "10.1.0.1")], whole=True), around, previous)


def annotated(**written: str) -> Service:
    names = {name.rpartition("/")[2].replace("-", "_"): name for name in KNOWN}
    pairs = sorted((names[name], text) for name, text in written.items())
    return msgspec.structs.replace(service(), annotations=tuple(pairs), affinity_seconds=600)


POD = RealServerKey(Address.parse("10.1.0.1"), 8080)


def test_a_service_has_in_every_frontend_what_its_annotations_say() -> None:
    web = annotated(
        scheduler="mh",
        scheduler_flags="mh-port",
        affinity_prefix="24",
        connection_limit="9,3",
        drain_deadline="5s",
    )
    (frontend,) = translated(web).frontends
    assert frontend.server == VirtualServer("mh", Flags.SCHED_1 | Flags.SCHED_2, 600, 24)
    assert frontend.real_servers == {POD: RealServer(1, upper_threshold=9, lower_threshold=3)}
    assert frontend.drain_deadline == 5.0


def test_wrong_after_a_restart_the_kernel_knows_what_was_good() -> None:
    web = annotated(
        scheduler="mh", scheduler_flags="mh-prot", affinity_prefix="/24", connection_limit="9/3"
    )
    server = VirtualServer("mh", Flags.SCHED_1 | Flags.SCHED_2, 600, 24)
    real = RealServer(1, upper_threshold=9, lower_threshold=3)
    kernel = State(virtual_servers={WEB: server}, real_servers={WEB: {POD: real}})
    first = translated(web, kernel)
    assert first.frontends[0].server == server
    assert first.frontends[0].real_servers == {POD: real}
    assert [one.message.rpartition("; ")[2] for one in first.problems if one.kind is INVALID] == [
        "'mh-port' stays",
        "'24,128' stays",
        "'9,3' stays",
    ]
    # As it is remembered from now on, the kernel need not be asked again.
    assert translated(web, previous=first).frontends == first.frontends


@pytest.mark.parametrize(
    "server",
    [
        VirtualServer("rr", Flags.SCHED_2),
        VirtualServer("rr", Flags.NONE, 600, 0),
    ],
    ids=str,
)
def test_what_nobody_could_have_written_is_not_taken_from_the_kernel(server: VirtualServer) -> None:
    real = RealServer(1, upper_threshold=2_000_000)
    kernel = State(virtual_servers={WEB: server}, real_servers={WEB: {POD: real}})
    assert not kept_by(kernel, [WEB, WEB6])


@pytest.mark.parametrize(
    ("key", "server", "name", "text"),
    [
        (DNS, VirtualServer("rr", Flags.ONE_PACKET), ONE_PACKET, "one-way"),
        (WEB6, VirtualServer("rr", Flags.NONE, 600, 64), AFFINITY_PREFIX, "32,64"),
        (WEB, VirtualServer("sh", Flags.SCHED_2), SCHEDULER_FLAGS, "sh-port"),
    ],
)
def test_the_kernel_is_read_as_annotations(
    key: VirtualServerKey, server: VirtualServer, name: str, text: str
) -> None:
    assert kept_by(State(virtual_servers={key: server}), [key]) == {name: text}


def test_the_scheduler_in_force_counts_and_not_the_one_that_is_asked_for() -> None:
    web = annotated(scheduler="sh ip", scheduler_flags="sh-port")
    kinds = [problem.kind for problem in translated(web).problems]
    assert kinds == [INVALID, NO_EFFECT]
    assert SCHEDULER in translated(web).problems[0].message
