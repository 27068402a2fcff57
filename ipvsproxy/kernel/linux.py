"""The kernel of this machine as one `Dataplane`.

Knows which adapter carries out which operation, and the one worker thread in which all of them
run: they block, on sockets, files and programs, and the event loop must not. Knows nothing of what
the adapters do.

The thread also makes the calls follow one another, whoever is cancelled: a call that has begun is
carried out to its end, and the next one, `close` included, waits for it.
"""

from __future__ import annotations

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields
from functools import partial
from typing import TYPE_CHECKING, TypeVar, assert_never

from ipvsproxy.core.operations import (
    AddMember,
    AddRealServer,
    AddVirtualServer,
    BindAddress,
    CreateLink,
    CreateSet,
    DestroySet,
    ForgetFlows,
    GrowSet,
    Operation,
    RemoveLink,
    RemoveMember,
    RemoveRealServer,
    RemoveVirtualServer,
    ReplaceChains,
    SetRealServer,
    SetSysctl,
    SetTimeouts,
    SetVirtualServer,
    UnbindAddress,
)
from ipvsproxy.core.parts import (
    Addresses,
    KernelSettings,
    Members,
    Part,
    RealServers,
    Rules,
    VirtualServers,
)
from ipvsproxy.dataplane import DataplaneError, Glance, TrafficReading
from ipvsproxy.kernel import (
    conntrack,
    glance,
    notices,
    rtnetlink,
    surroundings,
    sysctl,
)
from ipvsproxy.kernel.ipset import Ipsets
from ipvsproxy.kernel.iptables import Iptables
from ipvsproxy.kernel.ipvs import Ipvs
from ipvsproxy.kernel.link import Link, families, index_of
from ipvsproxy.kernel.netlink import NETFILTER, NetlinkSocket, not_told
from ipvsproxy.kernel.process import Processes
from ipvsproxy.kernel.tables import Tables
from ipvsproxy.model import DUMMY_INTERFACE, State

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence

    from ipvsproxy.dataplane import Change, Counters, Outcome, Reading
    from ipvsproxy.kernel.ipset import SetOperation
    from ipvsproxy.kernel.ipvs import IpvsOperation
    from ipvsproxy.kernel.link import LinkOperation
    from ipvsproxy.model import NodeNetwork, RealServerKey, VirtualServerKey

__all__ = ["LinuxDataplane"]

_AT_ONCE = 50
"""Virtual servers that are read in one go for their counters, or their real servers': some
milliseconds."""

_Result = TypeVar("_Result")
_Operation = TypeVar("_Operation")


class LinuxDataplane:
    """The tables of the network namespace in which the first call is made."""

    def __init__(
        self,
        sysctls: Collection[str],
        iptables_backend: str = "auto",
        *,
        used: Callable[[], float] = not_told,
    ) -> None:
        """Look at the kernel settings `sysctls`, by path below /proc/sys.

        `used` (s) says what processor time the thread has had that asks (`NetlinkSocket`).
        """
        self._sysctls = tuple(sysctls)
        self._ipvs = Ipvs(used=used)
        self._link = Link()
        self._route = NetlinkSocket(rtnetlink.PROTOCOL)
        self._processes = Processes()
        self._netfilter = NetlinkSocket(NETFILTER)
        self._ipsets = Ipsets(self._processes, self._netfilter)
        self._iptables = Iptables(self._processes, iptables_backend, Tables(self._netfilter))
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="dataplane")
        self._closed = False
        self._writes = dict.fromkeys(_KINDS, 0)

    @property
    def counts(self) -> Mapping[str, int]:
        """Operations handed to the kernel since the start, by kind, and `processes` launched.

        The kinds are there from the start: sysctl, link, ipvs, set, chain, conntrack.
        """
        return {**self._writes, "processes": self._processes.launched}

    async def dump(self) -> State:
        """Read everything that we look at. Raises DataplaneError when that is not possible."""
        return await self._in_worker(self._dump)

    async def glance(self, keys: Collection[VirtualServerKey], sets: Collection[str]) -> Glance:
        """Look whether a few virtual servers and our sets are there, and count."""
        return await self._in_worker(lambda: self._glance(keys, sets))

    async def look(self, part: Part) -> State:
        """Read one part of what `dump` reads."""
        return await self._in_worker(lambda: self._look(part))

    async def read(
        self, keys: Collection[VirtualServerKey]
    ) -> Mapping[VirtualServerKey, Reading | None]:
        """Read a few virtual servers with their connection counts; None for one not there."""
        return await self._in_worker(lambda: self._ipvs.read(keys))

    async def counters(
        self, real_servers_of: Collection[VirtualServerKey] = ()
    ) -> Mapping[VirtualServerKey, TrafficReading]:
        """Read what was counted of all virtual servers, and of the real servers of some.

        A few at a time, so that a write waits for these and not for all.
        """
        counted = await self._count(self._ipvs.virtual_server_counters)
        members: dict[VirtualServerKey, Mapping[RealServerKey, Counters]] = {}
        keys = [key for key in real_servers_of if key in counted]
        for start in range(0, len(keys), _AT_ONCE):
            members |= await self._count(
                partial(self._real_server_counters, keys[start : start + _AT_ONCE])
            )
        return {key: TrafficReading(one, members.get(key, {})) for key, one in counted.items()}

    async def counters_of(
        self, keys: Collection[VirtualServerKey]
    ) -> Mapping[VirtualServerKey, Counters]:
        """Read what was counted of a few virtual servers, a few at a time as `counters` does."""
        asked = list(keys)
        found: dict[VirtualServerKey, Counters] = {}
        for start in range(0, len(asked), _AT_ONCE):
            some = asked[start : start + _AT_ONCE]
            found |= await self._count(partial(self._ipvs.counters_of, some))
        return found

    async def network(self) -> NodeNetwork:
        """Read the node's own network. Raises DataplaneError when that is not possible."""
        return await self._in_worker(lambda: surroundings.read_network(self._route))

    async def apply(self, operations: Sequence[Operation]) -> Sequence[Outcome]:
        """Carry out operations that do not depend on each other; one outcome each, in order."""
        return await self._in_worker(lambda: self._apply(operations))

    def changes(self) -> AsyncIterator[Change]:
        """Report what changed on the node by itself, for as long as the iteration lasts."""
        return notices.changes()

    async def close(self) -> None:
        """Release sockets and the thread, after what it is doing; may be called twice."""
        if not self._closed:
            self._closed = True
            await self._in_worker(self._close)
            self._worker.shutdown()

    async def _in_worker(self, work: Callable[[], _Result]) -> _Result:
        # Without the shield, cancelling would take work that waits for the thread out of the queue.
        return await asyncio.shield(asyncio.wrap_future(self._worker.submit(work)))

    async def _count(self, work: Callable[[], _Result]) -> _Result:
        if self._closed:  # a scrape may outlive the rest of the agent by a moment
            raise DataplaneError("the counters of IPVS cannot be read: the agent stops")
        return await self._in_worker(work)

    def _real_server_counters(
        self, keys: Sequence[VirtualServerKey]
    ) -> dict[VirtualServerKey, Mapping[RealServerKey, Counters]]:
        return {key: self._ipvs.real_server_counters(key) for key in keys}

    def _close(self) -> None:
        self._ipvs.close()
        self._link.close()
        self._route.close()
        self._netfilter.close()

    def _dump(self) -> State:
        usable = families()
        dummy, network = surroundings.read(self._route)
        virtual_servers = self._ipvs.list_virtual_servers()
        sets, members = self._ipsets.dump()
        return State(
            families=usable,
            link=dummy is not None,
            addresses=dummy or set(),
            network=network,
            virtual_servers=virtual_servers,
            real_servers=self._ipvs.real_servers(virtual_servers),
            sets=sets,
            members=members,
            rulesets=self._iptables.dump_all(usable),
            sysctls=sysctl.read(self._sysctls),
            timeouts=self._ipvs.timeouts(),
            processors=os.cpu_count() or 1,
            lacks=self._lacks(),
        )

    def _glance(self, keys: Collection[VirtualServerKey], sets: Collection[str]) -> Glance:
        option = self._ipvs.option
        try:
            link = index_of(self._route, DUMMY_INTERFACE) is not None
            addresses = glance.address_count(option.opened())
        except OSError as error:
            reason = error.strerror or error
            raise DataplaneError(f"the interfaces cannot be looked at: {reason}") from error
        return Glance(
            link=link,
            virtual_servers=self._ipvs.configurations(keys),
            sets=self._ipsets.present(sets),
            ipv4_virtual_servers=option.number(),
            ipv4_addresses=addresses,
        )

    def _look(self, part: Part) -> State:
        match part:
            case KernelSettings():
                self._ipsets.forget_ignored()
                return State(
                    families=families(),
                    sysctls=sysctl.read(self._sysctls),
                    timeouts=self._ipvs.timeouts(),
                    lacks=self._lacks(),
                )
            case Rules(family):
                found = self._iptables.dump(family)
                return State(rulesets={} if found is None else {family: found})
            case Addresses():
                dummy, network = surroundings.read(self._route)
                return State(link=dummy is not None, addresses=dummy or set(), network=network)
            case VirtualServers():
                return State(virtual_servers=self._ipvs.virtual_servers())
            case RealServers(keys):
                behind = self._ipvs.real_servers_of(keys)
                return State(real_servers={key: found for key, found in behind.items() if found})
            case Members(name):
                read = self._ipsets.read(name)
                return (
                    State()
                    if read is None
                    else State(sets={name: read[0]}, members={name: read[1]})
                )
            case _:
                assert_never(part)

    def _lacks(self) -> dict[str, str]:
        """Say what the last dump could not read."""
        return {
            **{
                f"IPv{family} chains": reason
                for family, reason in sorted(self._iptables.unusable.items())
            },
            **{
                f"set {name}": f"it is made otherwise ({how}); remove it with ipset destroy"
                for name, how in sorted(self._ipsets.ignored.items())
            },
        }

    def _apply(self, operations: Sequence[Operation]) -> list[Outcome]:
        parts = _Partition()
        for index, operation in enumerate(operations):
            parts.put(index, operation)
        for kind in _KINDS:
            self._writes[kind] += len(getattr(parts, kind))
        outcomes: dict[int, Outcome] = {}
        outcomes.update((index, sysctl.apply(one)) for index, one in parts.sysctl.items())
        outcomes.update(_answered(parts.link, self._link.apply))
        outcomes.update(_answered(parts.ipvs, self._ipvs.apply))
        outcomes.update(_answered(parts.set, self._ipsets.apply))
        outcomes.update((index, self._iptables.apply(one)) for index, one in parts.chain.items())
        outcomes.update(_answered(parts.conntrack, self._forget))
        return [outcomes[index] for index in range(len(operations))]

    def _forget(self, operations: Sequence[ForgetFlows]) -> Sequence[Outcome]:
        return conntrack.forget(operations, self._processes)


@dataclass(slots=True)
class _Partition:
    """Operations by the adapter that carries them out, each under its place in the batch."""

    sysctl: dict[int, SetSysctl] = field(default_factory=dict)
    link: dict[int, LinkOperation] = field(default_factory=dict)
    ipvs: dict[int, IpvsOperation] = field(default_factory=dict)
    set: dict[int, SetOperation] = field(default_factory=dict)
    chain: dict[int, ReplaceChains] = field(default_factory=dict)
    conntrack: dict[int, ForgetFlows] = field(default_factory=dict)

    def put(self, index: int, operation: Operation) -> None:
        """Add an operation to the part of its adapter."""
        match operation:
            case AddVirtualServer() | SetVirtualServer() | RemoveVirtualServer():
                self.ipvs[index] = operation
            case AddRealServer() | SetRealServer() | RemoveRealServer():
                self.ipvs[index] = operation
            case CreateLink() | RemoveLink() | BindAddress() | UnbindAddress():
                self.link[index] = operation
            case CreateSet() | DestroySet() | GrowSet() | AddMember() | RemoveMember():
                self.set[index] = operation
            case ReplaceChains():
                self.chain[index] = operation
            case SetTimeouts():
                self.ipvs[index] = operation
            case SetSysctl():
                self.sysctl[index] = operation
            case ForgetFlows():
                self.conntrack[index] = operation
            case _:
                assert_never(operation)


_KINDS = tuple(one.name for one in fields(_Partition))


def _answered(
    part: Mapping[int, _Operation], adapter: Callable[[Sequence[_Operation]], Sequence[Outcome]]
) -> dict[int, Outcome]:
    if not part:
        return {}
    return dict(zip(part, adapter(list(part.values())), strict=True))
