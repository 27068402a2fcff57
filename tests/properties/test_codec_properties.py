"""The codec on anything: what is written is what is read, and garbage is refused in one way."""

import contextlib
import struct

from hypothesis import given
from hypothesis import strategies as st

from ipvsproxy.kernel import codec, message
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
    Scheduler,
    VirtualServer,
    VirtualServerKey,
)

ports = st.integers(0, 65535)
numbers = st.integers(0, 2**32 - 1)
ipv4 = st.binary(min_size=4, max_size=4).map(Address)
ipv6 = st.binary(min_size=16, max_size=16).map(Address)
addresses = ipv4 | ipv6
flags = st.sets(st.sampled_from([f for f in Flags if f])).map(lambda chosen: Flags(sum(chosen)))
keys = st.builds(VirtualServerKey, st.sampled_from(Protocol), addresses, ports)
members = st.builds(RealServerKey, addresses, ports)
real_servers = st.builds(RealServer, numbers, st.sampled_from(ForwardingMethod), numbers, numbers)


@st.composite
def virtual_servers(draw: st.DrawFn) -> tuple[VirtualServerKey, VirtualServer]:
    key = draw(keys)
    longest = key.family.host_prefix
    names = st.sampled_from(list(Scheduler)).map(str)
    scheduler = draw(names | st.from_regex(r"[a-z_]{1,15}", alphabet="_abcxyz", fullmatch=True))
    return key, VirtualServer(scheduler, draw(flags), draw(numbers), draw(st.integers(1, longest)))


def reported(request: bytes, connections: Connections) -> bytes:
    """Make the request for a real server the kernel's report of it."""
    dest = attributes(request, 4)[2]
    for kind, count in enumerate(connections, 7):
        dest += attribute(kind, struct.pack("=I", count))
    return request[:4] + attribute(1, b"") + attribute(2, dest + attribute(13, b"\0"))


@given(virtual_servers())
def test_a_virtual_server_is_read_as_it_was_written(
    virtual: tuple[VirtualServerKey, VirtualServer],
) -> None:
    key, server = virtual
    assert codec.decode_virtual_server(codec.encode_add_virtual_server(key, server)) == virtual
    assert codec.decode_virtual_server(codec.encode_set_virtual_server(key, server)) == virtual


@given(keys, members, real_servers, st.builds(Connections, numbers, numbers, numbers))
def test_a_real_server_is_read_as_it_was_written(
    key: VirtualServerKey, member: RealServerKey, server: RealServer, connections: Connections
) -> None:
    for encode in (codec.encode_add_real_server, codec.encode_set_real_server):
        report = reported(encode(key, member, server), connections)
        assert codec.decode_real_server(report, key.family) == (member, server, connections)


@given(keys, members, real_servers)
def test_every_request_is_whole_attributes(
    key: VirtualServerKey, member: RealServerKey, server: RealServer
) -> None:
    requests = [
        codec.encode_remove_virtual_server(key),
        codec.encode_read_virtual_server(key),
        codec.encode_list_real_servers(key),
        codec.encode_remove_real_server(key, member),
        codec.encode_add_real_server(key, member, server),
        codec.encode_add_virtual_server(key, VirtualServer("rr")),
    ]
    for request in requests:
        assert len(request) % 4 == 0
        assert attributes(attributes(request, 4)[1])[3][: len(key.address)] == key.address


@given(st.binary(max_size=400))
def test_garbage_is_a_codec_error_or_a_value(garbage: bytes) -> None:
    with contextlib.suppress(CodecError):
        for one in message.messages(garbage):
            message.failure(one)
    with contextlib.suppress(CodecError):
        codec.decode_virtual_server(garbage)
    with contextlib.suppress(CodecError):
        codec.decode_real_server(garbage, Family.IPV4)
    with contextlib.suppress(CodecError):
        codec.decode_virtual_server_counters(garbage)
    with contextlib.suppress(CodecError):
        codec.decode_real_server_counters(garbage, Family.IPV4)
    with contextlib.suppress(CodecError):
        codec.decode_family(garbage)


@given(virtual_servers(), members, st.data())
def test_a_damaged_report_is_a_codec_error_or_a_value(
    virtual: tuple[VirtualServerKey, VirtualServer], member: RealServerKey, data: st.DataObject
) -> None:
    key, server = virtual
    report = bytearray(codec.encode_add_virtual_server(key, server))
    real = bytearray(
        reported(codec.encode_add_real_server(key, member, RealServer(1)), Connections(1, 2, 3))
    )
    for whole in (report, real):
        for _ in range(data.draw(st.integers(1, 3))):
            whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
        del whole[data.draw(st.integers(len(whole) // 2, len(whole))) :]
    with contextlib.suppress(CodecError):
        codec.decode_virtual_server(bytes(report))
    with contextlib.suppress(CodecError):
        codec.decode_real_server(bytes(real), key.family)
