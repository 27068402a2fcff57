"""What the kernel's IPVS does with our messages; ipvsadm is the witness where bytes could agree."""

import os
import resource
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import closing

import pytest

from ipvsproxy.core.operations import (
    AddRealServer,
    AddVirtualServer,
    RemoveRealServer,
    RemoveVirtualServer,
    SetRealServer,
    SetVirtualServer,
)
from ipvsproxy.dataplane import DONE, Outcome, Reading, Refusal
from ipvsproxy.kernel.ipvs import Ipvs, IpvsOperation
from ipvsproxy.kernel.ipvs_sockopt import SocketOption
from ipvsproxy.model import (
    Address,
    Connections,
    Flags,
    ForwardingMethod,
    Protocol,
    RealServer,
    RealServerKey,
    Scheduler,
    VirtualServer,
    VirtualServerKey,
)

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif("IPVSPROXY_RIG_GUEST" not in os.environ, reason="outside the rig"),
    pytest.mark.usefixtures("own_namespace"),
]

WEB = VirtualServerKey(Protocol.TCP, Address.parse("10.0.0.1"), 80)
WEB6 = VirtualServerKey(Protocol.TCP, Address.parse("fd00::1"), 80)
POD = RealServerKey(Address.parse("10.1.0.1"), 8080)
POD6 = RealServerKey(Address.parse("fd00:1::1"), 8080)
RR = VirtualServer("rr")
UNLOADABLE = "nosuch"


@pytest.fixture
def ipvs() -> Iterator[Ipvs]:
    adapter = Ipvs()
    yield adapter
    adapter.close()


def apply(ipvs: Ipvs, *operations: IpvsOperation) -> None:
    assert ipvs.apply(operations) == [DONE] * len(operations)


def refusals(ipvs: Ipvs, *operations: IpvsOperation) -> Sequence[Refusal | None]:
    return [outcome.refusal for outcome in ipvs.apply(operations)]


def ipvsadm(*words: str) -> list[str]:
    command = ["ipvsadm", *(words or ["-Sn"])]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()


def test_every_protocol_and_family_is_written_and_read_back(ipvs: Ipvs) -> None:
    keys = [
        VirtualServerKey(protocol, Address.parse(address), port)
        for port, protocol in enumerate(Protocol, 8001)
        for address in ("10.0.0.1", "fd00::1")
    ]
    pods = {4: POD, 6: POD6}
    for key in keys:
        member = pods[key.family]
        apply(ipvs, AddVirtualServer(key, RR), AddRealServer(key, member, RealServer(3)))

    assert ipvs.list_virtual_servers() == dict.fromkeys(keys, RR)
    for key in keys:
        assert ipvs.list_real_servers(key) == {pods[key.family]: RealServer(3)}
    assert sorted(ipvsadm()) == sorted(
        [
            "-A -t 10.0.0.1:8001 -s rr",
            "-A -t [fd00::1]:8001 -s rr",
            "-A -u 10.0.0.1:8002 -s rr",
            "-A -u [fd00::1]:8002 -s rr",
            "-A --sctp-service 10.0.0.1:8003 -s rr",
            "-A --sctp-service [fd00::1]:8003 -s rr",
            "-a -t 10.0.0.1:8001 -r 10.1.0.1:8080 -m -w 3",
            "-a -t [fd00::1]:8001 -r [fd00:1::1]:8080 -m -w 3",
            "-a -u 10.0.0.1:8002 -r 10.1.0.1:8080 -m -w 3",
            "-a -u [fd00::1]:8002 -r [fd00:1::1]:8080 -m -w 3",
            "-a --sctp-service 10.0.0.1:8003 -r 10.1.0.1:8080 -m -w 3",
            "-a --sctp-service [fd00::1]:8003 -r [fd00:1::1]:8080 -m -w 3",
        ]
    )


def test_the_whole_table_is_the_same_by_system_calls_and_by_netlink(
    ipvs: Ipvs, monkeypatch: pytest.MonkeyPatch
) -> None:
    methods = (ForwardingMethod.MASQUERADE, ForwardingMethod.TUNNEL, ForwardingMethod.DIRECT_ROUTE)
    wanted = {
        WEB._replace(port=1 + count, protocol=protocol): {
            RealServerKey(Address(bytes([10, 1, number >> 8, number & 255])), 80): RealServer(
                number % 5 * 13107, methods[number % 3], number * 7, number * 3
            )
            for number in range(1, count + 1)
        }
        for count, protocol in ((0, Protocol.TCP), (1, Protocol.UDP), (300, Protocol.SCTP))
    }
    wanted[WEB6] = {POD6: RealServer(1)}
    for key, members in wanted.items():
        apply(ipvs, AddVirtualServer(key, RR))
        apply(ipvs, *(AddRealServer(key, member, real) for member, real in members.items()))
    text = "-A -f 7 -s rr\n-A -t 10.0.0.9:80 -s rr\n-a -t 10.0.0.9:80 -r 10.9.0.1:80 -g -w 2\n"
    text += "-a -t 10.0.0.9:80 -r [fd00::9]:80 -i -w 1\n"
    subprocess.run(["ipvsadm", "-R"], check=True, input=text, text=True)
    mixed = VirtualServerKey(Protocol.TCP, Address.parse("10.0.0.9"), 80)
    wanted[mixed] = {
        RealServerKey(Address.parse("10.9.0.1"), 80): RealServer(2, ForwardingMethod.DIRECT_ROUTE),
        RealServerKey(Address.parse("fd00::9"), 80): RealServer(1, ForwardingMethod.TUNNEL),
    }
    found = ipvs.real_servers(wanted)
    assert found == wanted
    gone = WEB._replace(port=9)
    assert ipvs.real_servers([gone]) == {gone: {}}

    asked: list[VirtualServerKey] = []
    listed = ipvs.list_real_servers

    def list_real_servers(key: VirtualServerKey) -> dict[RealServerKey, RealServer]:
        asked.append(key)
        return listed(key)

    monkeypatch.setattr(ipvs, "list_real_servers", list_real_servers)
    assert ipvs.real_servers(wanted) == wanted
    assert asked == [WEB6, mixed], "no more than is needed"
    monkeypatch.setattr(ipvs._option, "counts", dict)
    assert ipvs.real_servers(wanted) == wanted
    assert set(asked) == set(wanted)


@pytest.mark.parametrize("before", [0, 1, 3])
def test_real_servers_that_come_between_counting_and_reading_are_not_left_out(
    ipvs: Ipvs, before: int
) -> None:
    members = [RealServerKey(Address((10, 1, 0, number)), 8080) for number in range(before + 1)]
    apply(ipvs, AddVirtualServer(WEB, RR))
    apply(ipvs, *[AddRealServer(WEB, member, RealServer(1)) for member in members[:before]])
    with closing(SocketOption()) as option:
        count = option.counts()[WEB]
        assert count == before
        assert option.read(WEB, count) == dict.fromkeys(members[:before], RealServer(1))

        apply(ipvs, AddRealServer(WEB, members[before], RealServer(1)))
        assert option.read(WEB, count) is None
        apply(ipvs, *[RemoveRealServer(WEB, member) for member in members])
        assert option.read(WEB, count) == ({} if before == 0 else None)


@pytest.mark.parametrize("count", [0, 1, 5, 1000])
def test_a_reading_is_what_netlink_lists_whatever_was_read_before(ipvs: Ipvs, count: int) -> None:
    """Of large virtual servers what was read is remembered, and recognized."""
    members = [RealServerKey(Address(bytes([10, 9, i >> 8, i & 255])), 80) for i in range(count)]
    apply(ipvs, AddVirtualServer(WEB, VirtualServer("wlc", Flags.NONE, 60, 16)))
    apply(ipvs, *(AddRealServer(WEB, member, RealServer(1)) for member in members))
    changes: list[Sequence[IpvsOperation]] = [
        [],
        [SetRealServer(WEB, member, RealServer(0)) for member in members[:2]],
        [RemoveRealServer(WEB, member) for member in members[:1]],
        [AddRealServer(WEB, POD, RealServer(7, upper_threshold=9, lower_threshold=3))],
        [SetVirtualServer(WEB, RR)],
        *[
            [SetRealServer(WEB, member, RealServer(weight)) for member in members[1:]]
            for weight in (2, 3, 4)
        ],
    ]
    for change in changes:
        apply(ipvs, *change)
        with closing(SocketOption()) as forgetful:
            assert ipvs._option.reading(WEB) == forgetful.reading(WEB)
        listed = ipvs.list_real_servers(WEB)
        expected = Reading(
            ipvs.list_virtual_servers()[WEB], listed, dict.fromkeys(listed, Connections(0, 0))
        )
        assert ipvs._option.reading(WEB) == expected
        assert ipvs.read([WEB]) == {WEB: expected}


def test_room_for_thousands_of_real_servers_is_touched_once(ipvs: Ipvs) -> None:
    """In a guest, where a new page is dear, that took ten times what reading them does."""
    members = [RealServerKey(Address(bytes([10, 9, i >> 8, i & 255])), 80) for i in range(5000)]
    apply(ipvs, AddVirtualServer(WEB, RR))
    apply(ipvs, *(AddRealServer(WEB, member, RealServer(1)) for member in members))
    with closing(SocketOption()) as option:
        first = option.reading(WEB)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(10):
            option._entries(WEB, len(members))
        assert resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before < 10
        assert option.reading(WEB) == first


def test_what_the_older_interface_does_not_tell_is_read_by_netlink(ipvs: Ipvs) -> None:
    apply(ipvs, AddVirtualServer(WEB6, RR), AddRealServer(WEB6, POD6, RealServer(1)))
    text = "-A -t 10.0.0.9:80 -s rr\n-a -t 10.0.0.9:80 -r [fd00::9]:80 -i -w 1\n"
    subprocess.run(["ipvsadm", "-R"], check=True, input=text, text=True)
    mixed = VirtualServerKey(Protocol.TCP, Address.parse("10.0.0.9"), 80)
    tunnelled = RealServerKey(Address.parse("fd00::9"), 80)
    for key in (WEB6, mixed, WEB):
        assert ipvs._option.reading(key) is None
    nothing = Connections(0, 0)
    assert ipvs.read([WEB6, mixed, WEB]) == {
        WEB6: Reading(RR, {POD6: RealServer(1)}, {POD6: nothing}),
        mixed: Reading(
            RR, {tunnelled: RealServer(1, ForwardingMethod.TUNNEL)}, {tunnelled: nothing}
        ),
        WEB: None,
    }


def test_every_scheduler_is_added_set_in_place_and_keeps_the_real_servers(ipvs: Ipvs) -> None:
    apply(ipvs, AddVirtualServer(WEB, RR), AddRealServer(WEB, POD, RealServer(3)))
    lacking = set()
    for port, scheduler in enumerate(Scheduler, 9000):
        server = VirtualServer(scheduler)
        other = WEB._replace(port=port)
        added, changed = ipvs.apply(
            [AddVirtualServer(other, server), SetVirtualServer(WEB, server)]
        )
        assert added == changed
        if added.refusal is Refusal.UNSUPPORTED:
            lacking.add(scheduler)
            continue
        reading = ipvs.read([other, WEB])
        assert reading[other] == Reading(server, {}, {})
        assert reading[WEB] == Reading(server, {POD: RealServer(3)}, {POD: Connections(0, 0)})
    assert lacking <= {Scheduler.TWOS}, "which came with 6.8 or so; all others are in 6.1"


@pytest.mark.parametrize("verb", [AddVirtualServer, SetVirtualServer])
def test_a_scheduler_that_the_kernel_lacks_is_named(
    ipvs: Ipvs, verb: type[AddVirtualServer] | type[SetVirtualServer]
) -> None:
    apply(ipvs, AddVirtualServer(WEB, RR))
    key = WEB if verb is SetVirtualServer else WEB6
    (outcome,) = ipvs.apply([verb(key, VirtualServer(UNLOADABLE))])
    assert outcome == Outcome(
        Refusal.UNSUPPORTED, "this kernel has no scheduler nosuch: load the module ip_vs_nosuch"
    )
    assert ipvs.list_virtual_servers() == {WEB: RR}


def test_what_contradicts_our_picture_is_said(ipvs: Ipvs) -> None:
    real = RealServer(1)
    assert (
        refusals(
            ipvs,
            SetVirtualServer(WEB, RR),
            SetVirtualServer(WEB, VirtualServer(UNLOADABLE)),
            AddRealServer(WEB, POD, real),
            SetRealServer(WEB, POD, real),
        )
        == [Refusal.CONTRADICTED] * 4
    )
    apply(ipvs, AddVirtualServer(WEB, RR))
    assert refusals(
        ipvs,
        AddVirtualServer(WEB, RR),
        AddVirtualServer(WEB, VirtualServer(UNLOADABLE)),
        SetRealServer(WEB, POD, real),
        AddRealServer(WEB, POD, real),
        AddRealServer(WEB, POD, real),
    ) == [Refusal.CONTRADICTED] * 3 + [None, Refusal.CONTRADICTED]


def test_removing_what_is_gone_is_success(ipvs: Ipvs) -> None:
    apply(ipvs, RemoveVirtualServer(WEB), RemoveRealServer(WEB, POD))
    apply(ipvs, AddVirtualServer(WEB, RR), RemoveRealServer(WEB, POD))


def test_wrong_arguments_are_invalid_and_hold_up_nothing(ipvs: Ipvs) -> None:
    apply(ipvs, AddVirtualServer(WEB, RR))
    assert refusals(
        ipvs,
        AddVirtualServer(WEB6, VirtualServer("rr", persistence_prefix=0)),
        AddRealServer(WEB, POD, RealServer(1, upper_threshold=1, lower_threshold=2)),
        AddRealServer(WEB, POD._replace(port=65536), RealServer(1)),
        AddRealServer(WEB, RealServerKey(Address.parse("224.0.0.1"), 80), RealServer(1)),
        AddRealServer(WEB, POD, RealServer(1)),
    ) == [Refusal.INVALID] * 4 + [None]


def test_real_servers_die_with_their_virtual_server(ipvs: Ipvs) -> None:
    apply(ipvs, AddVirtualServer(WEB, RR), AddRealServer(WEB, POD, RealServer(1)))
    apply(ipvs, RemoveVirtualServer(WEB))
    assert ipvs.list_real_servers(WEB) == {}
    apply(ipvs, AddVirtualServer(WEB, RR))
    assert ipvs.list_real_servers(WEB) == {}


def test_the_real_servers_of_nothing_are_none(ipvs: Ipvs) -> None:
    assert ipvs.list_real_servers(WEB) == {}
    assert ipvs.read([WEB]) == {WEB: None}


def test_persistence_masks_and_flags_round_trip(ipvs: Ipvs) -> None:
    wanted = {
        WEB: VirtualServer("sh", Flags.SCHED_1 | Flags.SCHED_2, 10800, 24),
        WEB6: VirtualServer("mh", Flags.SCHED_1, 86400, 64),
        WEB._replace(protocol=Protocol.UDP): VirtualServer("rr", Flags.ONE_PACKET),
        WEB6._replace(port=81): VirtualServer("rr", persistence_prefix=128),
    }
    apply(ipvs, *(AddVirtualServer(key, server) for key, server in wanted.items()))
    assert ipvs.list_virtual_servers() == wanted
    assert sorted(ipvsadm()) == [
        "-A -t 10.0.0.1:80 -s sh -p 10800 -M 255.255.255.0 -b sh-fallback,sh-port",
        "-A -t [fd00::1]:80 -s mh -p 86400 -M 64 -b mh-fallback",
        "-A -t [fd00::1]:81 -s rr",
        "-A -u 10.0.0.1:80 -s rr -o",
    ]


def test_set_takes_persistence_and_flags_away_again(ipvs: Ipvs) -> None:
    persistent = VirtualServer("sh", Flags.SCHED_1, 300, 24)
    apply(ipvs, AddVirtualServer(WEB, persistent), SetVirtualServer(WEB, RR))
    assert ipvs.list_virtual_servers() == {WEB: RR}
    assert ipvsadm() == ["-A -t 10.0.0.1:80 -s rr"]


def test_a_real_server_is_set_in_place(ipvs: Ipvs) -> None:
    wanted = RealServer(0, upper_threshold=9, lower_threshold=3)
    apply(ipvs, AddVirtualServer(WEB, RR), AddRealServer(WEB, POD, RealServer(65535)))
    assert ipvs.list_real_servers(WEB)[POD].weight == 65535
    apply(ipvs, SetRealServer(WEB, POD, wanted))
    assert ipvs.list_real_servers(WEB) == {POD: wanted}


def test_what_others_made_is_read_and_firewall_marks_are_left_out(ipvs: Ipvs) -> None:
    ipvs.open()
    text = (
        "-A -f 7 -s rr\n-A -t 10.0.0.1:80 -s wlc -p 60 -M 255.0.255.0\n"
        "-a -t 10.0.0.1:80 -r 10.9.0.1:80 -g -w 2\n-a -t 10.0.0.1:80 -r [fd00::9]:80 -i -w 1\n"
    )
    subprocess.run(["ipvsadm", "-R"], check=True, input=text, text=True)
    assert ipvs.list_virtual_servers() == {WEB: VirtualServer("wlc", Flags.NONE, 60, 16)}
    assert ipvs.list_real_servers(WEB) == {
        RealServerKey(Address.parse("10.9.0.1"), 80): RealServer(2, ForwardingMethod.DIRECT_ROUTE),
        RealServerKey(Address.parse("fd00::9"), 80): RealServer(1, ForwardingMethod.TUNNEL),
    }


def test_thousands_are_written_and_listed_in_several_messages(ipvs: Ipvs) -> None:
    members = [RealServerKey(Address(bytes([10, 9, i >> 8, i & 255])), 80) for i in range(2000)]
    others = [WEB._replace(port=port) for port in range(1000, 1300)]
    apply(ipvs, AddVirtualServer(WEB, RR), *(AddVirtualServer(key, RR) for key in others))
    apply(ipvs, *(AddRealServer(WEB, member, RealServer(1)) for member in members))
    assert set(ipvs.list_real_servers(WEB)) == set(members)
    assert set(ipvs.list_virtual_servers()) == {WEB, *others}
    assert set(ipvs.read(others)) == set(others)


def test_hundreds_are_read_at_once_with_a_small_receive_buffer(ipvs: Ipvs) -> None:
    """What is read takes more room in the receive buffer than an acknowledgement does."""
    others = [WEB._replace(port=port) for port in range(1000, 1500)]
    apply(ipvs, *(AddVirtualServer(key, RR) for key in others))
    connection = ipvs._netlink._connection()
    assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) == 2 << 20
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32768)
    assert ipvs.read(others) == dict.fromkeys(others, Reading(RR, {}, {}))
