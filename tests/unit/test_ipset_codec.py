"""ipset's messages: what is written is what is read, and bytes that are not what they should be."""

from __future__ import annotations

import struct
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipvsproxy.kernel import ipset_codec
from ipvsproxy.kernel.ipset_codec import OddError, decode_names, decode_set
from ipvsproxy.kernel.message import CodecError, attribute
from ipvsproxy.model import (
    Address,
    Family,
    IpMember,
    IpPortIpMember,
    IpPortMember,
    IpPortNetMember,
    Member,
    Network,
    PortMember,
    Protocol,
    SetSpec,
    SetType,
)

V4, V6 = Address.parse("10.96.0.10"), Address.parse("fd00:96::a")
NAME, TYPE, FAMILY, DATA = 2, 3, 5, 7
HASHSIZE, MAXELEM, TIMEOUT, PORT, PORT_TO = 18, 19, 6, 4, 5
MEMBERS: list[tuple[SetType, Member]] = [
    (SetType.HASH_IP, IpMember(V4)),
    (SetType.HASH_IP, IpMember(V6)),
    (SetType.HASH_IP_PORT, IpPortMember(V4, Protocol.SCTP, 65535)),
    (SetType.HASH_IP_PORT_IP, IpPortIpMember(V6, Protocol.UDP, 53, V6)),
    (SetType.HASH_IP_PORT_NET, IpPortNetMember(V4, Protocol.TCP, 80, Network.parse("10.0.0.0/9"))),
    (SetType.BITMAP_PORT, PortMember(30080)),
]


def listed(kind: SetType, *requests: bytes, options: bytes | None = None) -> list[bytes]:
    """What the kernel lists of a set whose members came with these requests."""
    if options is None:
        options = attribute(HASHSIZE, struct.pack(">I", 1024)) + attribute(
            MAXELEM, struct.pack(">I", 9)
        )
    head = (
        bytes(4)
        + attribute(NAME, b"KUBE-A\0")
        + attribute(TYPE, kind.encode() + b"\0")
        + attribute(FAMILY, bytes([2]))
        + attribute(DATA, options)
    )
    return [head, *requests]


@pytest.mark.parametrize(("kind", "member"), MEMBERS, ids=str)
def test_what_is_added_is_what_is_listed(kind: SetType, member: Member) -> None:
    ports = attribute(PORT, bytes(2)) + attribute(PORT_TO, b"\xff\xff")
    bitmap = kind is SetType.BITMAP_PORT
    request = ipset_codec.additions("KUBE-A", [member])
    payloads = listed(kind, request.payload, options=ports if bitmap else None)
    spec = SetSpec(kind, Family.IPV4) if bitmap else SetSpec(kind, Family.IPV4, 9)
    assert decode_set(payloads) == (spec, {member})
    removed = ipset_codec.removals("KUBE-A", [member])
    assert (removed.payload, removed.kind) == (request.payload, request.kind + 1)


addresses = st.one_of(
    st.binary(min_size=4, max_size=4).map(Address), st.binary(min_size=16, max_size=16).map(Address)
)
frontends = st.builds(
    IpPortMember, addresses, st.sampled_from(list(Protocol)), st.integers(0, 65535)
)


@given(
    st.one_of(
        st.tuples(st.just(SetType.HASH_IP), st.lists(st.builds(IpMember, addresses))),
        st.tuples(st.just(SetType.HASH_IP_PORT), st.lists(frontends)),
    )
)
def test_many_are_read_like_each_alone(case: tuple[SetType, list[Member]]) -> None:
    """Whether they are laid out alike, or of two families, which no set of the kernel's is."""
    kind, members = case
    payload = ipset_codec.additions("KUBE-A", members).payload
    alone = {
        one
        for member in members
        for one in decode_set(listed(kind, ipset_codec.additions("KUBE-A", [member]).payload))[1]
    }
    assert decode_set(listed(kind, payload))[1] == alone == set(members)


def test_members_of_other_protocols_are_left_out() -> None:
    member = IpPortMember(V4, Protocol.TCP, 80)
    payload = ipset_codec.additions("KUBE-A", [member]).payload
    other = payload.replace(attribute(7, bytes([Protocol.TCP])), attribute(7, bytes([1])))
    assert other != payload
    assert decode_set(listed(SetType.HASH_IP_PORT, other))[1] == set()
    assert decode_set(listed(SetType.HASH_IP_PORT, other, payload))[1] == {member}


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (SetType.HASH_IP, attribute(MAXELEM, bytes(4)) + attribute(TIMEOUT, bytes(4))),
        (SetType.BITMAP_PORT, attribute(PORT, bytes(2)) + attribute(PORT_TO, b"\0d")),
        (SetType.HASH_IP, b""),
    ],
    ids=["members expire", "few ports", "no size"],
)
def test_a_set_that_is_made_otherwise_is_odd(kind: SetType, options: bytes) -> None:
    with pytest.raises(OddError):
        decode_set(listed(kind, options=options))


def test_names_are_read() -> None:
    payloads = [bytes(4) + attribute(NAME, name + b"\0") for name in (b"KUBE-A", b"other")]
    assert decode_names(payloads) == ["KUBE-A", "other"]
    with pytest.raises(OddError):
        decode_names([bytes(4)])


def test_more_than_a_message_can_hold_is_refused() -> None:
    members = [IpPortMember(V4, Protocol.TCP, port) for port in range(2100)]
    with pytest.raises(CodecError):
        ipset_codec.additions("KUBE-A", members)


@given(st.lists(st.binary(max_size=80), max_size=3), st.sampled_from(SetType), st.data())
def test_whatever_the_bytes_a_set_is_read_or_odd(
    garbage: list[bytes], kind: SetType, data: st.DataObject
) -> None:
    payload = bytearray(ipset_codec.additions("KUBE-A", [member for _, member in MEMBERS]).payload)
    position = data.draw(st.integers(0, len(payload) - 1))
    payload[position] ^= data.draw(st.integers(0, 255))
    with suppress(OddError):
        decode_set([*listed(kind, bytes(payload)), *garbage])
    with suppress(OddError):
        decode_names(garbage)
