"""The dummy interface and its addresses, written.

Knows which rtnetlink message carries out which operation, and what the kernel's answers mean; the
bytes are `rtnetlink`'s. Calls block: they are made in one worker thread. What stands on the
interface is read in `surroundings`, together with the rest of the node's network.

Addresses come in thousands; they are packed here, and `netlink` sends them in batches.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, assert_never

from ipvsproxy.core.operations import BindAddress, CreateLink, RemoveLink, UnbindAddress
from ipvsproxy.dataplane import DONE, Outcome, Refusal
from ipvsproxy.kernel import message, rtnetlink
from ipvsproxy.kernel.netlink import NetlinkSocket, Request
from ipvsproxy.kernel.refusals import UNANSWERED, refused
from ipvsproxy.model import DUMMY_INTERFACE, Family

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Link", "LinkOperation", "families", "index_of", "remove_interface"]

LinkOperation: TypeAlias = CreateLink | RemoveLink | BindAddress | UnbindAddress
_AddressOperation: TypeAlias = BindAddress | UnbindAddress

_NO_DUPLICATE_DETECTION = 0x2  # IFA_F_NODAD: many nodes have the address

_GONE = {errno.EADDRNOTAVAIL, errno.ENODEV, errno.ENXIO}


class Link:
    """The dummy interface of this network namespace."""

    def __init__(self, *, timeout: float = 5.0) -> None:
        """Wait at most `timeout` seconds for an answer."""
        self._netlink = NetlinkSocket(rtnetlink.PROTOCOL, timeout=timeout)

    def close(self) -> None:
        """Close the socket; the next use opens another."""
        self._netlink.close()

    def apply(self, operations: Sequence[LinkOperation]) -> list[Outcome]:
        """Carry out operations, those on the link first; one outcome for each, in order."""
        outcomes: list[Outcome] = [DONE] * len(operations)
        of_addresses: list[tuple[int, _AddressOperation]] = []
        for index, operation in enumerate(operations):
            match operation:
                case CreateLink():
                    outcomes[index] = self._create()
                case RemoveLink():
                    outcomes[index] = remove_interface(self._netlink, DUMMY_INTERFACE)
                case BindAddress() | UnbindAddress():
                    of_addresses.append((index, operation))
                case _:
                    assert_never(operation)
        results = self._apply_addresses([operation for _, operation in of_addresses])
        for (index, _), result in zip(of_addresses, results, strict=True):
            outcomes[index] = result
        return outcomes

    def _apply_addresses(self, operations: Sequence[_AddressOperation]) -> list[Outcome]:
        if not operations:
            return []
        try:
            index = index_of(self._netlink, DUMMY_INTERFACE)
        except OSError as error:
            return [refused(error.errno or errno.EIO)] * len(operations)
        if index is None:
            return [_address_outcome(operation, errno.ENODEV) for operation in operations]
        answers = self._netlink.exchange([_request(operation, index) for operation in operations])
        return [
            _address_outcome(operation, answer.error) if answer.error else DONE
            for operation, answer in zip(operations, answers, strict=True)
        ]

    def _create(self) -> Outcome:
        flags = message.CREATE | message.EXCLUSIVE
        request = Request(rtnetlink.NEW_LINK, rtnetlink.NEW_DUMMY, flags)
        (answer,) = self._netlink.exchange([request])
        return _creation_outcome(answer.error) if answer.error else DONE


def index_of(netlink: NetlinkSocket, name: str) -> int | None:
    """Return the index of an interface; None where there is none. Raises OSError.

    `netlink` is a socket of rtnetlink. An OSError without an answer of the kernel has the number
    `UNANSWERED`.
    """
    (answer,) = netlink.exchange([rtnetlink.link_named(name)])
    if answer.error in _GONE:
        return None
    if answer.error == UNANSWERED:
        raise OSError(UNANSWERED, refused(UNANSWERED).reason)
    if answer.error:
        raise OSError(answer.error, os.strerror(answer.error))
    _, index = rtnetlink.family_and_index(answer.payloads[0])
    return index


def remove_interface(netlink: NetlinkSocket, name: str) -> Outcome:
    """Remove an interface with its addresses; one that is gone already counts too."""
    try:
        index = index_of(netlink, name)
    except OSError as error:
        return refused(error.errno or errno.EIO)
    if index is None:
        return DONE
    (answer,) = netlink.exchange([Request(rtnetlink.DELETE_LINK, rtnetlink.link_payload(index))])
    return DONE if answer.error in {0, *_GONE} else refused(answer.error)


def families() -> frozenset[Family]:
    """Return the families in which service addresses can be bound here, IPv4 always.

    IPv6 is not there when the kernel was booted without it, nor when it is switched off on the
    dummy interface, or for new interfaces as long as there is none.
    """
    settings = Path("/proc/sys/net/ipv6/conf")
    for name in (DUMMY_INTERFACE, "default"):
        try:
            switched_off = (settings / name / "disable_ipv6").read_text(encoding="ascii")
        except OSError:
            continue
        return frozenset({Family.IPV4} if int(switched_off) else Family)
    return frozenset({Family.IPV4})


def _request(operation: _AddressOperation, index: int) -> Request:
    address = operation.address
    flags = _NO_DUPLICATE_DETECTION if address.family is Family.IPV6 else 0
    payload = rtnetlink.address_payload(address, index=index, flags=flags)
    match operation:
        case BindAddress():
            return Request(rtnetlink.NEW_ADDRESS, payload, message.CREATE | message.EXCLUSIVE)
        case UnbindAddress():
            return Request(rtnetlink.DELETE_ADDRESS, payload)
        case _:
            assert_never(operation)


def _address_outcome(operation: _AddressOperation, number: int) -> Outcome:
    if isinstance(operation, UnbindAddress):
        return DONE if number in _GONE else refused(number)
    if number == errno.EEXIST:
        return Outcome(Refusal.CONTRADICTED, "it is bound already")
    if number in _GONE:
        return Outcome(Refusal.CONTRADICTED, f"there is no interface {DUMMY_INTERFACE}")
    if number == errno.EACCES and operation.address.family is Family.IPV6:
        reason = f"IPv6 is switched off on {DUMMY_INTERFACE}: see its sysctl disable_ipv6"
        return Outcome(Refusal.UNSUPPORTED, reason)
    return refused(number)


def _creation_outcome(number: int) -> Outcome:
    if number == errno.EEXIST:
        return Outcome(Refusal.CONTRADICTED, "it exists already")
    if number == errno.EOPNOTSUPP:
        reason = "this kernel has no dummy interfaces: load the module dummy (modprobe dummy)"
        return Outcome(Refusal.UNSUPPORTED, reason)
    return refused(number)
