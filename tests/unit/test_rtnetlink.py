"""Routes as rtnetlink's bytes: next hops, and bytes that are not what they should be."""

from __future__ import annotations

import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipvsproxy.kernel import message
from ipvsproxy.kernel.message import CodecError
from ipvsproxy.kernel.rtnetlink import NEW_DUMMY, UNICAST, gateways, interface
from ipvsproxy.model import DUMMY_INTERFACE, Address

GATEWAY, VIA, MULTIPATH = 5, 18, 9
HOP = Address.parse("192.0.2.1")
HOP6 = Address.parse("fe80::1")


def route(attributes: bytes, *, family: int = socket.AF_INET, kind: int = UNICAST) -> bytes:
    return struct.pack("=8BI", family, 0, 0, 0, 254, 0, 0, kind, 0) + attributes


def next_hop(attributes: bytes, length: int | None = None) -> bytes:
    size = 8 + len(attributes) if length is None else length
    return struct.pack("=HBBi", size, 0, 0, 3) + attributes


def test_the_message_that_makes_the_interface_names_it_and_its_kind() -> None:
    assert interface(NEW_DUMMY) == (0, DUMMY_INTERFACE)
    assert NEW_DUMMY.endswith(b"dummy" + bytes(3))


def test_a_gateway_is_read_whichever_way_it_is_said() -> None:
    via = struct.pack("=H", socket.AF_INET6) + HOP6
    several = next_hop(message.attribute(GATEWAY, HOP)) + next_hop(message.attribute(VIA, via))
    assert list(gateways(route(message.attribute(GATEWAY, HOP)))) == [HOP]
    assert list(gateways(route(message.attribute(VIA, via)))) == [HOP6]
    assert list(gateways(route(message.attribute(MULTIPATH, several)))) == [HOP, HOP6]


@pytest.mark.parametrize(
    "payload",
    [
        route(b""),
        route(message.attribute(GATEWAY, HOP), kind=2),
        route(message.attribute(GATEWAY, HOP), family=socket.AF_PACKET),
        route(message.attribute(GATEWAY, b"odd")),
    ],
    ids=["attached", "local", "other family", "no address"],
)
def test_a_route_that_leads_over_no_gateway_has_none(payload: bytes) -> None:
    assert list(gateways(payload)) == []


@pytest.mark.parametrize("length", [0, 7, 200])
def test_a_next_hop_of_an_impossible_length_is_refused(length: int) -> None:
    hops = next_hop(message.attribute(GATEWAY, HOP), length)
    with pytest.raises(CodecError):
        list(gateways(route(message.attribute(MULTIPATH, hops))))


@given(st.binary(max_size=200))
def test_whatever_the_attributes_the_only_exception_is_the_codecs(junk: bytes) -> None:
    try:
        found = list(gateways(route(junk)))
    except CodecError:
        return
    assert all(len(one) in {4, 16} for one in found)
