"""Netlink frames: what is split, what ends an exchange, what is refused."""

import errno
import struct

import pytest

from ipvsproxy.kernel import message
from ipvsproxy.kernel.message import CodecError, Message


def number(value: int) -> bytes:
    return struct.pack("=i", value)


def test_a_buffer_is_split_at_multiples_of_four() -> None:
    padded = struct.pack("=IHHII", 17, 5, 0, 1, 0) + b"x\0\0\0"
    buffer = padded + message.frame(6, b"four", flags=0x10, sequence=2)
    assert list(message.messages(buffer)) == [Message(5, 0, 1, b"x"), Message(6, 0x10, 2, b"four")]


@pytest.mark.parametrize("length", [0, 15, 21, 0xFFFFFFFF])
def test_a_message_of_an_impossible_length_is_an_error(length: int) -> None:
    buffer = struct.pack("=IHHII", length, 5, 0, 1, 0) + b"four"
    with pytest.raises(CodecError):
        list(message.messages(buffer))


def test_a_remainder_shorter_than_a_header_is_an_error() -> None:
    with pytest.raises(CodecError, match="left over"):
        list(message.messages(message.frame(6, b"", flags=0, sequence=1) + b"\0" * 4))


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (Message(2, 0, 1, number(0)), 0),
        (Message(2, 0, 1, number(-errno.EEXIST)), errno.EEXIST),
        (Message(3, 0, 1, number(0)), 0),
        (Message(3, 0, 1, number(-errno.ENOMEM)), errno.ENOMEM),
        (Message(3, 0, 1, b""), 0),
        (Message(28, 0, 1, number(0)), None),
    ],
)
def test_what_ends_an_exchange(answer: Message, expected: int | None) -> None:
    assert message.failure(answer) == expected


def test_an_error_without_a_number_is_an_error() -> None:
    with pytest.raises(CodecError):
        message.failure(Message(2, 0, 1, b"\0"))


def test_a_changed_table_is_seen_in_the_flags() -> None:
    assert Message(28, 0x12, 1, b"").interrupted
    assert not Message(28, 0x2, 1, b"").interrupted


def test_of_duplicate_attributes_the_last_counts_and_type_flags_are_dropped() -> None:
    data = message.attribute(1, b"a") + message.attribute(0x8001, b"bc") + message.attribute(2, b"")
    assert message.attributes(data) == {1: b"bc", 2: b""}


@pytest.mark.parametrize("length", [0, 3, 9])
def test_an_attribute_of_an_impossible_length_is_an_error(length: int) -> None:
    with pytest.raises(CodecError):
        message.attributes(struct.pack("=HH", length, 1) + b"four")
