"""The IPVS codec, against what a 6.1 kernel (x86_64) sent after ipvsadm had filled its table."""

import struct
import sys

import pytest

from ipvsproxy.dataplane import Counters
from ipvsproxy.kernel import codec
from ipvsproxy.kernel.message import CodecError, attribute, attributes
from ipvsproxy.model import (
    Address,
    Connections,
    Family,
    Flags,
    ForwardingMethod,
    Protocol,
    RealServer,
    RealServerKey,
    Timeouts,
    VirtualServer,
    VirtualServerKey,
)

little_endian = pytest.mark.skipif(
    sys.byteorder != "little", reason="the bytes were recorded on a little-endian machine"
)

WEB = VirtualServerKey(Protocol.TCP, Address.parse("10.0.0.1"), 80)
WEB6 = VirtualServerKey(Protocol.SCTP, Address.parse("fd00::1"), 80)

COUNTERS = bytes.fromhex(
    "0800010000000000080002000000000008000300000000000c000400000000000000000004000b00"
    "0c0005000000000000000000080006000000000008000700000000000800080000000000"
    "080009000000000008000a0000000000a0000c000c000100000000000000000004000b00"
    "0c000200000000000000000004000b000c000300000000000000000004000b00"
    "0c000400000000000000000004000b000c000500000000000000000004000b00"
    "0c000600000000000000000004000b000c000700000000000000000004000b00"
    "0c000800000000000000000004000b000c000900000000000000000004000b00"
    "0c000a000000000000000000"
)
WEB_REPORT = (
    bytes.fromhex(
        "010100005401010006000100020000000600020006000000140003000a0000010000000000000000"
        "000000000600040000500000080006007772720"
        "00c00070002000000ffffffff080008000000000008000900ffffffff60000a00"
    )
    + COUNTERS
)
WEB6_REPORT = (
    bytes.fromhex(
        "0101000054010100060001000a000000060002008400000014000300fd0000000000000000000000"
        "0000000106000400005000000700060"
        "06d6800000c0007001b000000ffffffff080008002c010000080009004000000060000a00"
    )
    + COUNTERS
)
MARK_REPORT = bytes.fromhex(
    "01010000380001000600010002000000080005000700000007000600727200000c00070002000000"
    "ffffffff080008000000000008000900ffffffff"
)
REAL_COUNTERS = COUNTERS[:24] + bytes.fromhex("04000b00") + COUNTERS[24:]  # other padding
REAL_REPORT = (
    bytes.fromhex(
        "050100007c010200140001000a010001000000000000000000000000060002001f90000008000300"
        "00000000080004000700000005000d000000000006000e000000000006000f000000000008000500"
        "00000000080006000000000008000700000000000800080000000000080009000000000006000b00"
        "0200000064000a00"
    )
    + REAL_COUNTERS
)
TUNNEL_REPORT = (
    bytes.fromhex(
        "050100007c01020014000100fd000000000000000000000000000012060002000050000008000300"
        "02000000080004000300000005000d000000000006000e000000000006000f000000000008000500"
        "00000000080006000000000008000700000000000800080000000000080009000000000006000b00"
        "0a00000064000a00"
    )
    + REAL_COUNTERS
)


def service_attributes(body: bytes) -> dict[int, bytes]:
    return attributes(attributes(body, 4)[1])


@little_endian
@pytest.mark.parametrize(
    ("report", "key", "server"),
    [
        (WEB_REPORT, WEB, VirtualServer("wrr")),
        (WEB6_REPORT, WEB6, VirtualServer("mh", Flags.SCHED_1 | Flags.SCHED_2, 300, 64)),
    ],
    ids=["IPv4", "IPv6, persistent, with flags"],
)
def test_a_virtual_server_is_read(
    report: bytes, key: VirtualServerKey, server: VirtualServer
) -> None:
    assert codec.decode_virtual_server(report) == (key, server)


@little_endian
def test_a_virtual_server_by_firewall_mark_is_left_out() -> None:
    assert codec.decode_virtual_server(MARK_REPORT) is None


@little_endian
def test_a_real_server_is_read() -> None:
    assert codec.decode_real_server(REAL_REPORT, Family.IPV4) == (
        RealServerKey(Address.parse("10.1.0.1"), 8080),
        RealServer(7),
        Connections(0, 0),
    )


@little_endian
def test_a_foreign_real_server_of_the_other_family_is_read() -> None:
    assert codec.decode_real_server(TUNNEL_REPORT, Family.IPV4) == (
        RealServerKey(Address.parse("fd00::12"), 80),
        RealServer(3, ForwardingMethod.TUNNEL),
        Connections(0, 0),
    )


def test_a_real_server_without_a_family_has_that_of_its_virtual_server() -> None:
    member = RealServerKey(Address.parse("fd00::2"), 53)
    dest = attribute(1, member.address) + attribute(2, b"\0\x35")
    dest += b"".join(attribute(kind, struct.pack("=I", kind)) for kind in range(4, 10))
    dest += attribute(3, struct.pack("=I", 0))

    reported = codec.decode_real_server(b"\5\1\0\0" + attribute(2, dest), Family.IPV6)

    assert reported == (member, RealServer(4, upper_threshold=5, lower_threshold=6), (7, 8, 9))


@pytest.mark.parametrize(
    ("persistence", "flags", "expected"),
    [
        (0, Flags.NONE, 0),
        (1, Flags.NONE, 0x1),
        (0, Flags.SCHED_1, 0x8),
        (10800, Flags.SCHED_1 | Flags.ONE_PACKET, 0xD),
    ],
)
def test_the_persistent_flag_follows_the_timeout_and_all_flags_are_set(
    persistence: int, flags: Flags, expected: int
) -> None:
    body = codec.encode_set_virtual_server(WEB, VirtualServer("sh", flags, persistence))
    assert service_attributes(body)[7] == struct.pack("=II", expected, 0xFFFFFFFF)


@pytest.mark.parametrize(
    ("key", "prefix_length", "expected"),
    [
        (WEB, 32, b"\xff\xff\xff\xff"),
        (WEB, 20, b"\xff\xff\xf0\x00"),
        (WEB, 1, b"\x80\x00\x00\x00"),
        (WEB6, 128, struct.pack("=I", 128)),
        (WEB6, 1, struct.pack("=I", 1)),
    ],
)
def test_the_netmask_is_a_mask_for_ipv4_and_a_number_for_ipv6(
    key: VirtualServerKey, prefix_length: int, expected: bytes
) -> None:
    server = VirtualServer("rr", persistence_prefix=prefix_length)
    assert service_attributes(codec.encode_add_virtual_server(key, server))[9] == expected


def test_a_foreign_mask_with_holes_counts_its_bits() -> None:
    body = codec.encode_add_virtual_server(WEB, VirtualServer("rr"))
    holed = body.replace(attribute(9, b"\xff" * 4), attribute(9, b"\xff\x00\xff\x00"))
    reported = codec.decode_virtual_server(holed)
    assert reported is not None
    assert reported.server.persistence_prefix == 16


def test_flags_that_are_not_ours_to_choose_are_not_read() -> None:
    body = codec.encode_add_virtual_server(WEB, VirtualServer("sh", Flags.SCHED_1))
    flagged = body.replace(struct.pack("=II", 0x8, 0xFFFFFFFF), struct.pack("=II", 0x4A, 0))
    reported = codec.decode_virtual_server(flagged)
    assert reported is not None
    assert reported.server == VirtualServer("sh", Flags.SCHED_1)


@pytest.mark.parametrize(
    "server",
    [
        VirtualServer("rr", persistence=1 << 32),
        VirtualServer("rr", persistence=-1),
        VirtualServer("rr", persistence_prefix=33),
        VirtualServer("rør"),
    ],
)
def test_a_virtual_server_out_of_range_is_refused(server: VirtualServer) -> None:
    with pytest.raises(CodecError, match=r"10\.0\.0\.1:80/TCP"):
        codec.encode_add_virtual_server(WEB, server)


@pytest.mark.parametrize("prefix_length", [-1, -33, 33])
def test_an_ipv4_netmask_of_impossible_length_is_refused_in_words(prefix_length: int) -> None:
    server = VirtualServer("rr", persistence_prefix=prefix_length)
    with pytest.raises(CodecError, match=f"no netmask of {prefix_length} bits$"):
        codec.encode_set_virtual_server(WEB, server)


@pytest.mark.parametrize(
    ("member", "server"),
    [
        (RealServerKey(WEB.address, 65536), RealServer(1)),
        (RealServerKey(WEB.address, -1), RealServer(1)),
        (RealServerKey(WEB.address, 80), RealServer(-1)),
    ],
)
def test_a_real_server_out_of_range_is_refused(member: RealServerKey, server: RealServer) -> None:
    with pytest.raises(CodecError, match="cannot be encoded"):
        codec.encode_add_real_server(WEB, member, server)


def test_the_virtual_server_of_a_real_server_must_be_in_range_too() -> None:
    with pytest.raises(CodecError, match="virtual server"):
        codec.encode_remove_real_server(WEB._replace(port=-1), RealServerKey(WEB.address, 80))


def test_the_family_number_is_read() -> None:
    answer = b"\1\2\0\0" + attribute(2, b"IPVS\0") + attribute(1, struct.pack("=H", 28))
    assert codec.decode_family(answer) == 28


def test_an_answer_without_a_family_number_is_an_error() -> None:
    with pytest.raises(CodecError, match="no family number"):
        codec.decode_family(b"\1\2\0\0" + attribute(2, b"IPVS\0"))


def test_the_timeouts_are_written_and_read_back() -> None:
    timeouts = Timeouts(7200, 60, 10)
    request = codec.encode_set_timeouts(timeouts)
    assert request[0] == 12  # IPVS_CMD_SET_CONFIG
    assert codec.decode_timeouts(request) == timeouts
    assert codec.encode_read_timeouts()[0] == 13  # IPVS_CMD_GET_CONFIG


def test_a_protocol_that_ipvs_was_built_without_has_no_timeout() -> None:
    assert codec.decode_timeouts(b"\14\1\0\0" + attribute(6, b"\12\0\0\0")) == (0, 0, 10)


def test_timeouts_out_of_range_or_cut_short_are_refused() -> None:
    with pytest.raises(CodecError, match="cannot be encoded"):
        codec.encode_set_timeouts(Timeouts(-1, 0, 0))
    with pytest.raises(CodecError, match="cannot be read"):
        codec.decode_timeouts(b"\14\1\0\0" + attribute(4, b"\1\0"))


@little_endian
class TestCounters:
    def test_all_64_bits_of_a_virtual_server_are_read_whatever_lies_between(self) -> None:
        report = WEB_REPORT
        for number, count in enumerate((3, 1 << 33, 5, 1 << 40, 7), 1):
            empty = struct.pack("=HHQ", 12, number, 0)
            place = report.rindex(empty)
            report = report[:place] + struct.pack("=HHQ", 12, number, count) + report[place + 12 :]

        found = codec.decode_virtual_server_counters(report)

        assert found == (WEB, Counters(3, 1 << 33, 5, 1 << 40, 7))

    def test_a_virtual_server_of_ipv6_and_one_by_mark(self) -> None:
        assert codec.decode_virtual_server_counters(WEB6_REPORT) == (WEB6, Counters())
        assert codec.decode_virtual_server_counters(MARK_REPORT) is None

    def test_a_real_server(self) -> None:
        counted = b"".join(attribute(one, struct.pack("=Q", one)) for one in range(1, 6))
        report = struct.pack("=BBH", 5, 1, 0) + attribute(
            2,
            attribute(1, bytes((10, 1, 0, 1)) + bytes(12))
            + attribute(2, (8080).to_bytes(2))
            + attribute(12, counted),
        )
        member = RealServerKey(Address.parse("10.1.0.1"), 8080)
        found = codec.decode_real_server_counters(report, Family.IPV4)
        assert found == (member, Counters(1, 2, 3, 4, 5))

    def test_a_kernel_that_counts_in_32_bits_is_an_error_that_says_so(self) -> None:
        report = codec.encode_add_virtual_server(WEB, VirtualServer("rr"))
        with pytest.raises(CodecError, match=r"no 64-bit counters; they came with Linux 4\.1"):
            codec.decode_virtual_server_counters(report)
