"""The dummy interface, where the kernel refuses or does not answer."""

from __future__ import annotations

import errno
from contextlib import closing

import pytest

from ipvsproxy.core.operations import BindAddress, UnbindAddress
from ipvsproxy.dataplane import DONE, Refusal
from ipvsproxy.kernel import rtnetlink
from ipvsproxy.kernel.link import Link, index_of, remove_interface
from ipvsproxy.kernel.netlink import Answer, NetlinkSocket
from ipvsproxy.kernel.refusals import UNANSWERED
from ipvsproxy.model import DUMMY_INTERFACE, Address

ADDRESS = Address.parse("10.96.0.1")


def answering(monkeypatch: pytest.MonkeyPatch, number: int) -> NetlinkSocket:
    """A socket to whose every request the kernel says the same."""
    monkeypatch.setattr(
        NetlinkSocket, "exchange", lambda _, requests, **__: [Answer(number) for _ in requests]
    )
    return NetlinkSocket(rtnetlink.PROTOCOL)


@pytest.mark.parametrize(
    ("number", "refusal"),
    [
        (errno.EPERM, Refusal.FORBIDDEN),
        (errno.ENOBUFS, Refusal.BUSY),
        (UNANSWERED, Refusal.BUSY),
        (errno.ENODEV, Refusal.CONTRADICTED),
    ],
)
def test_where_the_interface_cannot_be_found_no_address_is_bound_and_it_is_said_why(
    monkeypatch: pytest.MonkeyPatch, number: int, refusal: Refusal
) -> None:
    answering(monkeypatch, number)
    with closing(Link()) as link:
        bound, unbound = link.apply([BindAddress(ADDRESS), UnbindAddress(ADDRESS)])
    assert bound.refusal is refusal
    assert bound.reason
    assert unbound == (DONE if refusal is Refusal.CONTRADICTED else bound)


def test_an_interface_that_is_gone_is_none_and_removed_already(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    route = answering(monkeypatch, errno.ENODEV)
    assert index_of(route, DUMMY_INTERFACE) is None
    assert remove_interface(route, DUMMY_INTERFACE) == DONE


def test_what_the_kernel_does_not_say_of_an_interface_is_an_error_in_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    route = answering(monkeypatch, UNANSWERED)
    with pytest.raises(OSError, match="no answer from the kernel within the time limit"):
        index_of(route, DUMMY_INTERFACE)
    assert remove_interface(route, DUMMY_INTERFACE).refusal is Refusal.BUSY
