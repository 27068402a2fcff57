"""The dummy interface and its addresses, and the addresses of the node.

Knows rtnetlink. Calls block, but for `changes`: they are made in one worker thread.

The link is made and removed through pyroute2, with a socket for each call: calls are rare, opening
takes a millisecond, and a pyroute2 object that met an error answers nothing any more or hangs
(0.9.7, an overrun buffer), so each call has a time limit and leaves nothing behind. Addresses come
in thousands; they are packed and unpacked here, and `netlink` sends them in batches and lists them:
360 µs to bind one become a few, 120 µs to list one become 20. Notifications are read
from a socket of their own and hardly decoded, since most of them are echoes of the addresses that
we bind ourselves.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, TypeVar, assert_never

from pyroute2 import AsyncIPRoute
from pyroute2.netlink.exceptions import NetlinkError

from ipvsproxy.core.operations import BindAddress, CreateLink, RemoveLink, UnbindAddress
from ipvsproxy.dataplane import (
    DONE,
    Change,
    DataplaneError,
    NodeNetworkChanged,
    Outcome,
    Refusal,
)
from ipvsproxy.kernel import message
from ipvsproxy.kernel.message import CodecError
from ipvsproxy.kernel.netlink import NetlinkSocket, Request
from ipvsproxy.kernel.refusals import UNANSWERED, refused
from ipvsproxy.model import DUMMY_INTERFACE, Address, Family

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence

__all__ = ["Link", "LinkOperation", "changes", "families"]

LinkOperation: TypeAlias = CreateLink | RemoveLink | BindAddress | UnbindAddress
_AddressOperation: TypeAlias = BindAddress | UnbindAddress
_Result = TypeVar("_Result")

_NETLINK_ROUTE = 0
_NEW_LINK, _DELETE_LINK, _LIST_LINKS = 16, 17, 18  # RTM_*
_NEW_ADDRESS, _DELETE_ADDRESS, _LIST_ADDRESSES = 20, 21, 22  # RTM_*
_GROUPS = 0x1 | 0x10 | 0x100  # RTMGRP_LINK, RTMGRP_IPV4_IFADDR, RTMGRP_IPV6_IFADDR
_ADDRESS, _LOCAL = 1, 2  # IFA_ADDRESS, IFA_LOCAL
_NAME = 3  # IFLA_IFNAME
_NO_DUPLICATE_DETECTION = 0x2  # IFA_F_NODAD: many nodes have the address
_ADDRESS_MESSAGE = struct.Struct("=BBBBI")  # struct ifaddrmsg: family, prefix, flags, scope, index
_LINK_MESSAGE = struct.Struct("=BxHiII")  # struct ifinfomsg: family, type, index, flags, mask
_AF = {Family.IPV4: socket.AF_INET, Family.IPV6: socket.AF_INET6}
_NOTICE_BUFFER = 65536
_LINK_LOCAL = bytes.fromhex("fe80")

_GONE = {errno.EADDRNOTAVAIL, errno.ENODEV, errno.ENXIO}


class Interfaces(NamedTuple):
    """The addresses of this node's interfaces."""

    dummy: set[Address] | None
    """Those of the dummy interface; None when there is no such interface.

    IPv6 link-local ones, which the kernel makes up itself, are left out.
    """
    others: Mapping[str, set[Address]]
    """Those of every other interface, by its name."""


class Link:
    """The dummy interface of this network namespace."""

    def __init__(self, *, timeout: float = 5.0) -> None:
        """Wait at most `timeout` seconds for an answer."""
        self._timeout = timeout
        self._netlink = NetlinkSocket(_NETLINK_ROUTE, timeout=timeout)

    def close(self) -> None:
        """Close the socket; the next use opens another."""
        self._netlink.close()

    def dump(self) -> Interfaces:
        """Return the addresses of all interfaces. Raises DataplaneError."""
        others = self._list_all()
        dummy = others.pop(DUMMY_INTERFACE, None)
        if dummy is not None:
            dummy = {address for address in dummy if not _is_made_up(address)}
        return Interfaces(dummy, others)

    def apply(self, operations: Sequence[LinkOperation]) -> list[Outcome]:
        """Carry out operations, those on the link first; one outcome for each, in order."""
        outcomes: list[Outcome] = [DONE] * len(operations)
        of_addresses: list[tuple[int, _AddressOperation]] = []
        for index, operation in enumerate(operations):
            match operation:
                case CreateLink():
                    outcomes[index] = self._create()
                case RemoveLink():
                    outcomes[index] = self._remove()
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
        index = _index()
        if index is None:
            return [_address_outcome(operation, errno.ENODEV) for operation in operations]
        answers = self._netlink.exchange([_request(operation, index) for operation in operations])
        return [
            _address_outcome(operation, answer.error) if answer.error else DONE
            for operation, answer in zip(operations, answers, strict=True)
        ]

    def _create(self) -> Outcome:
        async def create(route: Any) -> None:  # noqa: ANN401 - pyroute2 has no types
            await route.link("add", ifname=DUMMY_INTERFACE, kind="dummy")

        try:
            self._ask(create)
        except OSError as error:
            return _creation_outcome(error.errno or UNANSWERED)
        return DONE

    def _remove(self) -> Outcome:
        index = _index()
        if index is None:
            return DONE

        async def remove(route: Any) -> None:  # noqa: ANN401 - pyroute2 has no types
            await route.link("del", index=index)

        try:
            self._ask(remove)
        except OSError as error:
            return DONE if error.errno in _GONE else refused(error.errno or UNANSWERED)
        return DONE

    def _list_all(self) -> dict[str, set[Address]]:
        # Interfaces first: an address that is bound meanwhile then belongs to one that is known.
        links = Request(_LIST_LINKS, _LINK_MESSAGE.pack(socket.AF_UNSPEC, 0, 0, 0, 0))
        addresses = Request(_LIST_ADDRESSES, _ADDRESS_MESSAGE.pack(socket.AF_UNSPEC, 0, 0, 0, 0))
        try:
            names = dict(map(_interface, self._netlink.dump(links)))
            found: dict[str, set[Address]] = {name: set() for name in names.values()}
            for index, address in filter(None, map(_bound, self._netlink.dump(addresses))):
                if index in names:
                    found[names[index]].add(address)
        except (OSError, CodecError, struct.error) as error:
            raise DataplaneError(f"the interfaces cannot be listed: {error}") from error
        return found

    def _ask(self, question: Callable[[Any], Awaitable[_Result]]) -> _Result:
        async def ask() -> _Result:
            async with asyncio.timeout(self._timeout), AsyncIPRoute() as route:
                return await question(route)

        try:
            # A loop for this question only, never the thread's current one.
            with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
                return runner.run(ask())
        except NetlinkError as error:
            raise OSError(error.code, str(error)) from error


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


async def changes() -> AsyncIterator[Change]:
    """Report links and addresses that come and go, but for addresses of the dummy interface.

    Lasts until it is closed. Notifications that were lost (ENOBUFS) are reported as a change; the
    socket goes on after that.
    """
    loop = asyncio.get_running_loop()
    kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
    with socket.socket(socket.AF_NETLINK, kind, _NETLINK_ROUTE) as connection:
        connection.bind((0, _GROUPS))
        while True:
            try:
                notice = await loop.sock_recv(connection, _NOTICE_BUFFER)
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                yield NodeNetworkChanged()
            else:
                if _is_change(notice, _index()):
                    yield NodeNetworkChanged()


def _is_change(notice: bytes, dummy: int | None) -> bool:
    try:
        return any(_concerns_node(one, dummy) for one in message.messages(notice))
    except (CodecError, struct.error):
        return True


def _concerns_node(notice: message.Message, dummy: int | None) -> bool:
    # struct ifinfomsg has family and index in the same places as struct ifaddrmsg.
    family, _, _, _, index = _ADDRESS_MESSAGE.unpack_from(notice.payload)
    if notice.kind in {_NEW_ADDRESS, _DELETE_ADDRESS}:
        return bool(index != dummy)
    if notice.kind in {_NEW_LINK, _DELETE_LINK}:
        return bool(family == socket.AF_UNSPEC)  # others tell of bridge ports and advertisements
    return False


def _interface(payload: bytes) -> tuple[int, str]:
    """Read index and name of a listed interface."""
    _, _, index, _, _ = _LINK_MESSAGE.unpack_from(payload)
    name = message.attributes(payload, _LINK_MESSAGE.size).get(_NAME, b"")
    return index, name.rstrip(b"\0").decode(errors="replace")


def _bound(payload: bytes) -> tuple[int, Address] | None:
    """Read a listed address, and the index of its interface; None for other families."""
    family, _, _, _, index = _ADDRESS_MESSAGE.unpack_from(payload)
    if family not in _AF.values():
        return None
    found = message.attributes(payload, _ADDRESS_MESSAGE.size)
    # With a peer, IFA_LOCAL is ours; IPv6 without one has IFA_ADDRESS only.
    packed = found.get(_LOCAL) or found.get(_ADDRESS)
    return None if packed is None else (index, Address(packed))


def _index() -> int | None:
    try:
        return socket.if_nametoindex(DUMMY_INTERFACE)
    except OSError:
        return None


def _request(operation: _AddressOperation, index: int) -> Request:
    address = operation.address
    family = address.family
    flags = _NO_DUPLICATE_DETECTION if family is Family.IPV6 else 0
    payload = _ADDRESS_MESSAGE.pack(_AF[family], family.host_prefix, flags, 0, index)
    payload += message.attribute(_LOCAL, address)
    match operation:
        case BindAddress():
            return Request(_NEW_ADDRESS, payload, message.CREATE | message.EXCLUSIVE)
        case UnbindAddress():
            return Request(_DELETE_ADDRESS, payload)
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


def _is_made_up(address: Address) -> bool:
    return address.family is Family.IPV6 and address[:2] == _LINK_LOCAL
