"""The kernel's IPVS table: operations carried out, and the table read back.

Knows what each errno means for each operation (net/netfilter/ipvs/ip_vs_ctl.c; every one was seen
on a 6.1 kernel, tests/kernel/test_ipvs.py). `codec` knows the bytes, `netlink` the socket. Calls
block: it is used from one worker thread.

The number of the generic-netlink family is asked for on the socket that will use it.

The kernel lists real servers for one virtual server at a time, and has one listing at a time on a
socket (EBUSY), so reading the table costs one exchange for each virtual server; where the whole
table is read, it is one system call for each of IPv4 (`ipvs_sockopt`).
"""

from __future__ import annotations

import errno
import struct
from typing import TYPE_CHECKING, TypeAlias, assert_never

from ipvsproxy.core.operations import (
    AddRealServer,
    AddVirtualServer,
    RemoveRealServer,
    RemoveVirtualServer,
    SetRealServer,
    SetTimeouts,
    SetVirtualServer,
)
from ipvsproxy.dataplane import (
    DONE,
    DataplaneError,
    Outcome,
    Reading,
    Refusal,
)
from ipvsproxy.kernel import codec
from ipvsproxy.kernel.ipvs_sockopt import SocketOption
from ipvsproxy.kernel.message import CodecError
from ipvsproxy.kernel.netlink import REPORTS, Answer, NetlinkSocket, Request, not_told
from ipvsproxy.kernel.refusals import UNANSWERED, refused

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    from ipvsproxy.dataplane import Counters
    from ipvsproxy.model import RealServer, RealServerKey, Timeouts, VirtualServer, VirtualServerKey

__all__ = ["Ipvs", "IpvsOperation", "outcome"]

IpvsOperation: TypeAlias = (
    AddVirtualServer
    | SetVirtualServer
    | RemoveVirtualServer
    | AddRealServer
    | SetRealServer
    | RemoveRealServer
    | SetTimeouts
)

_NETLINK_GENERIC = 16  # the protocol; the socket module has no name for it
_GENERIC_CONTROL = 16  # GENL_ID_CTRL

_LONGEST_BATCH = 0.01
"""Seconds of processor for a batch of operations, of which mostly each takes microseconds: but
the kernel looks for each real server that is added among all that were removed in the last minutes
(ip_vs_trash_get_dest in ip_vs_ctl.c), and after a storm these are tens of thousands."""

_REPORTED_FAMILY = struct.Struct("=8xHHH")  # headers, then length, type and value of the first
_IPV6 = (6, 1, 10)  # IPVS_SVC_ATTR_AF: AF_INET6

_CONTRADICTING = {
    AddVirtualServer: {errno.EEXIST: "it exists already"},
    SetVirtualServer: {errno.ESRCH: "it does not exist"},
    AddRealServer: {
        errno.EEXIST: "it exists already",
        errno.ESRCH: "its virtual server does not exist",
    },
    SetRealServer: {
        errno.ENOENT: "it does not exist",
        errno.ESRCH: "its virtual server does not exist",
    },
}
_GONE = {
    RemoveVirtualServer: {errno.ESRCH},
    RemoveRealServer: {errno.ENOENT, errno.ESRCH},
}


class Ipvs:
    """One connection to the IPVS of this network namespace."""

    def __init__(self, *, timeout: float = 5.0, used: Callable[[], float] = not_told) -> None:
        """Wait at most `timeout` seconds for an answer; `used` as for `NetlinkSocket`."""
        self._netlink = NetlinkSocket(
            _NETLINK_GENERIC, timeout=timeout, longest_batch=_LONGEST_BATCH, used=used
        )
        self._family: int | None = None
        self._option = SocketOption()
        self._counts: Mapping[VirtualServerKey, int] = {}
        """How many real servers the virtual servers of IPv4 had when all were listed last."""

    @property
    def option(self) -> SocketOption:
        """The socket for what netlink does not tell."""
        return self._option

    def open(self) -> None:
        """Find IPVS in the kernel, loading it if need be.

        Raises DataplaneError, which says what is missing and the mend.
        """
        refusal = self._find()
        if refusal is not None:
            raise DataplaneError(f"the kernel's IPVS cannot be used: {refusal.reason}")

    def close(self) -> None:
        """Close the sockets; the next use opens others."""
        self._netlink.close()
        self._option.close()

    def list_virtual_servers(self) -> dict[VirtualServerKey, VirtualServer]:
        """List all virtual servers but those by firewall mark. Raises DataplaneError."""
        self.open()  # a module that was unloaded and loaded again has another number
        payloads = self._list(codec.encode_list_virtual_servers())
        try:
            reported = [codec.decode_virtual_server(payload) for payload in payloads]
        except CodecError as error:
            raise DataplaneError(f"the IPVS table cannot be read: {error}") from error
        return {one.key: one.server for one in reported if one is not None}

    def timeouts(self) -> Timeouts:
        """Read the timeouts of connections. Raises DataplaneError."""
        (answer,) = self._netlink.exchange([Request(self._number(), codec.encode_read_timeouts())])
        try:
            return codec.decode_timeouts(answer.payloads[0])
        except (CodecError, IndexError) as error:
            reason = _said(answer.error) if answer.error else str(error)
            raise DataplaneError(f"the timeouts of IPVS cannot be read: {reason}") from error

    def list_real_servers(self, key: VirtualServerKey) -> dict[RealServerKey, RealServer]:
        """List the real servers of one virtual server; none if it does not exist.

        Raises DataplaneError.
        """
        return {one.key: one.server for one in self._report_real_servers(key)}

    def _report_real_servers(self, key: VirtualServerKey) -> list[codec.ReportedRealServer]:
        payloads = self._list(codec.encode_list_real_servers(key))
        family = key.family
        try:
            return [codec.decode_real_server(payload, family) for payload in payloads]
        except CodecError as error:
            raise DataplaneError(f"the real servers of {key} cannot be read: {error}") from error

    def real_servers(
        self, keys: Iterable[VirtualServerKey]
    ) -> dict[VirtualServerKey, dict[RealServerKey, RealServer]]:
        """List the real servers of all virtual servers. Raises DataplaneError."""
        self._counts = self._option.counts()
        return self.real_servers_of(keys)

    def real_servers_of(
        self, keys: Iterable[VirtualServerKey]
    ) -> dict[VirtualServerKey, dict[RealServerKey, RealServer]]:
        """List the real servers of some. Raises DataplaneError.

        It is quicker where there are as many as when all virtual servers were listed last.
        """
        found: dict[VirtualServerKey, dict[RealServerKey, RealServer]] = {}
        for key in keys:
            count = self._counts.get(key)
            read = self._option.read(key, count) if count is not None else None
            found[key] = self.list_real_servers(key) if read is None else read
        return found

    def virtual_servers(self) -> dict[VirtualServerKey, VirtualServer]:
        """List all virtual servers, as `list_virtual_servers` does, in a fifth of the time.

        Those of IPv4 are listed by one system call. Raises DataplaneError.
        """
        listed = self._option.virtual_servers()
        if listed is None:
            return self.list_virtual_servers()
        self._counts = {key: one.real_servers for key, one in listed.items()}
        found = {key: one.server for key, one in listed.items()}
        payloads = self._list(codec.encode_list_virtual_servers())
        try:
            reported = map(codec.decode_virtual_server, filter(_is_of_ipv6, payloads))
            found.update((one.key, one.server) for one in reported if one is not None)
        except (CodecError, struct.error) as error:
            raise DataplaneError(f"the IPVS table cannot be read: {error}") from error
        return found

    def configurations(
        self, keys: Collection[VirtualServerKey]
    ) -> dict[VirtualServerKey, VirtualServer | None]:
        """Read a few virtual servers alone; None for one that is not there.

        Raises DataplaneError.
        """
        return {
            key: self._configuration(key, answer)
            for key, answer in zip(keys, self._ask(keys), strict=True)
        }

    def virtual_server_counters(self) -> dict[VirtualServerKey, Counters]:
        """Read what was counted of all virtual servers. Raises DataplaneError."""
        payloads = self._list(codec.encode_list_virtual_servers())
        try:
            counted = [codec.decode_virtual_server_counters(payload) for payload in payloads]
        except CodecError as error:
            raise DataplaneError(f"the counters of IPVS cannot be read: {error}") from error
        return dict(one for one in counted if one is not None)

    def counters_of(self, keys: Collection[VirtualServerKey]) -> dict[VirtualServerKey, Counters]:
        """Read what was counted of a few virtual servers that exist. Raises DataplaneError."""
        found: dict[VirtualServerKey, Counters] = {}
        for key, answer in zip(keys, self._ask(keys), strict=True):
            if answer.error == errno.ESRCH:
                continue
            try:
                counted = codec.decode_virtual_server_counters(answer.payloads[0])
            except (CodecError, IndexError) as error:
                reason = _said(answer.error) if answer.error else str(error)
                raise DataplaneError(f"the counters of {key} cannot be read: {reason}") from error
            if counted is not None:
                found[key] = counted[1]
        return found

    def real_server_counters(self, key: VirtualServerKey) -> dict[RealServerKey, Counters]:
        """Read what was counted of one virtual server's real servers. Raises DataplaneError."""
        payloads = self._list(codec.encode_list_real_servers(key))
        family = key.family
        try:
            return dict(codec.decode_real_server_counters(one, family) for one in payloads)
        except CodecError as error:
            raise DataplaneError(f"the counters of {key} cannot be read: {error}") from error

    def read(self, keys: Collection[VirtualServerKey]) -> dict[VirtualServerKey, Reading | None]:
        """Read a few virtual servers; None for one that does not exist. Raises DataplaneError.

        Those of IPv4 are read by two system calls each, however many real servers they have.
        """
        found: dict[VirtualServerKey, Reading | None] = {
            key: self._option.reading(key) for key in keys
        }
        missed = [key for key, reading in found.items() if reading is None]
        for key, server in self.configurations(missed).items():
            if server is not None:
                reported = self._report_real_servers(key)
                found[key] = Reading(
                    server,
                    {one.key: one.server for one in reported},
                    {one.key: one.connections for one in reported},
                )
        return found

    def apply(self, operations: Sequence[IpvsOperation]) -> list[Outcome]:
        """Carry out operations in their order; one outcome for each."""
        refusal = self._find() if self._family is None else None
        if refusal is not None:
            return [refusal] * len(operations)
        family = self._number()
        outcomes: list[Outcome] = [DONE] * len(operations)
        requests: list[Request] = []
        indices: list[int] = []
        for index, operation in enumerate(operations):
            try:
                requests.append(Request(family, _encode(operation)))
            except CodecError as error:
                outcomes[index] = Outcome(Refusal.INVALID, str(error))
            else:
                indices.append(index)
        for index, answer in zip(indices, self._netlink.exchange(requests), strict=True):
            if answer.error:
                outcomes[index] = outcome(operations[index], answer.error)
        return outcomes

    def _ask(self, keys: Collection[VirtualServerKey]) -> list[Answer]:
        family = self._number() if keys else 0
        return self._netlink.exchange(
            [Request(family, codec.encode_read_virtual_server(key)) for key in keys],
            batch=REPORTS,
        )

    def _configuration(self, key: VirtualServerKey, answer: Answer) -> VirtualServer | None:
        if answer.error == errno.ESRCH:
            return None
        try:
            reported = codec.decode_virtual_server(answer.payloads[0])
        except (CodecError, IndexError) as error:
            reason = _said(answer.error) if answer.error else str(error)
            raise DataplaneError(f"virtual server {key} cannot be read: {reason}") from error
        return None if reported is None else reported.server

    def _list(self, payload: bytes) -> list[bytes]:
        try:
            return self._netlink.dump(Request(self._number(), payload))
        except OSError as error:
            said = _said(error.errno or UNANSWERED)
            raise DataplaneError(f"the IPVS table cannot be read: {said}") from error
        except CodecError as error:
            raise DataplaneError(f"the IPVS table cannot be read: {error}") from error

    def _find(self) -> Outcome | None:
        (answer,) = self._netlink.exchange(
            [Request(_GENERIC_CONTROL, codec.encode_family_request())]
        )
        if answer.error == errno.ENOENT:
            return Outcome(Refusal.UNSUPPORTED, "load the module ip_vs (modprobe ip_vs)")
        if answer.error:
            return refused(answer.error)
        try:
            self._family = codec.decode_family(answer.payloads[0])
        except (CodecError, IndexError) as error:
            return Outcome(Refusal.FAILED, str(error))
        return None

    def _number(self) -> int:
        if self._family is None:
            self.open()
        assert self._family is not None
        return self._family


def outcome(operation: IpvsOperation, number: int) -> Outcome:
    """Say what an errno other than 0, or `UNANSWERED`, means for an operation."""
    if number in _GONE.get(type(operation), ()):
        return DONE
    contradiction = _CONTRADICTING.get(type(operation), {}).get(number)
    if contradiction is not None:
        return Outcome(Refusal.CONTRADICTED, contradiction)
    if number == errno.ENOENT and isinstance(operation, AddVirtualServer | SetVirtualServer):
        name = operation.server.scheduler
        reason = f"this kernel has no scheduler {name}: load the module ip_vs_{name}"
        return Outcome(Refusal.UNSUPPORTED, reason)
    return refused(number)


def _encode(operation: IpvsOperation) -> bytes:  # noqa: PLR0911 - one case for each operation
    match operation:
        case AddVirtualServer(key, server):
            return codec.encode_add_virtual_server(key, server)
        case SetVirtualServer(key, server):
            return codec.encode_set_virtual_server(key, server)
        case RemoveVirtualServer(key):
            return codec.encode_remove_virtual_server(key)
        case AddRealServer(key, member, real):
            return codec.encode_add_real_server(key, member, real)
        case SetRealServer(key, member, real):
            return codec.encode_set_real_server(key, member, real)
        case RemoveRealServer(key, member):
            return codec.encode_remove_real_server(key, member)
        case SetTimeouts(timeouts):
            return codec.encode_set_timeouts(timeouts)
        case _:
            assert_never(operation)


def _said(number: int) -> str:
    if number == errno.EPERM:
        return "the right CAP_NET_ADMIN is missing: run as root, or privileged in a container"
    return refused(number).reason


def _is_of_ipv6(payload: bytes) -> bool:
    """Whether the report of a virtual server is of IPv6: the kernel says the family first."""
    return _REPORTED_FAMILY.unpack_from(payload) == _IPV6
