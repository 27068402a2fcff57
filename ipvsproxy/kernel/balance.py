"""Simulated connections: which real server takes a new one, and which are open.

Knows the schedulers well enough to test draining, affinity and weights, by what they guarantee and
not by their arithmetic: which real server a hash names, and with which one a round starts, differ
from the kernel. What holds as in the kernel (net/netfilter/ipvs, 6.1):

- a real server of weight 0 takes no new connection under any scheduler; its open ones go on;
- dh always, and sh and mh without SCHED_1, hash to it all the same, and then the client is refused;
- a persistent client goes back to its real server, of weight 0 too, unless the setting
  expire_quiescent_template ends that;
- what has lost its real server or its virtual server is broken.

Time does not pass here: a connection is open until it is closed, and affinity does not run out.
"""

from __future__ import annotations

import zlib
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ipvsproxy.dataplane import Counters
from ipvsproxy.model import (
    Address,
    Connections,
    Flags,
    Network,
    Protocol,
    RealServer,
    RealServerKey,
    Scheduler,
    State,
    VirtualServer,
    VirtualServerKey,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["Connection", "Traffic"]

_EXPIRES = "net/ipv4/vs/expire_quiescent_template"
_BY_DESTINATION = frozenset({Scheduler.DH, Scheduler.LBLC, Scheduler.LBLCR})
_BY_SOURCE = frozenset({Scheduler.SH, Scheduler.MH})


@dataclass(frozen=True, slots=True, eq=False)
class Connection:
    """A connection that a real server has taken; each is itself only."""

    key: VirtualServerKey
    client: Address
    member: RealServerKey


class Traffic:
    """The connections through one state's virtual servers."""

    def __init__(self, state: State) -> None:
        self._state = state
        self.open: list[Connection] = []
        self.broken: list[Connection] = []
        """Connections whose real server was removed while they were open."""
        self._taken: Counter[tuple[VirtualServerKey, RealServerKey]] = Counter()
        self._last: dict[tuple[VirtualServerKey, RealServerKey], int] = {}
        self._opened = 0
        self._served: Counter[tuple[VirtualServerKey, RealServerKey | None]] = Counter()
        """Connections since it was made, of each real server; None: of the virtual server."""
        self._affinity: dict[tuple[VirtualServerKey, bytes], RealServerKey] = {}

    def connect(self, key: VirtualServerKey, client: Address) -> Connection | None:
        """Open a connection; None when it is refused, or nobody is there."""
        server = self._state.virtual_servers.get(key)
        if server is None:
            return None
        group = _group(server, client)
        member = self._remembered(key, group) if server.persistence else None
        if member is None:
            member = self._scheduled(key, server, client)
        if member is None:
            return None
        if server.persistence:
            self._affinity[key, group] = member
        self._taken[key, member] += 1
        self._opened += 1
        self._served.update([(key, None), (key, member)])
        self._last[key, member] = self._opened
        connection = Connection(key, client, member)
        self.open.append(connection)
        return connection

    def close(self, connection: Connection) -> None:
        """End a connection; one that was broken stays in `broken`."""
        if connection in self.open:
            self.open.remove(connection)

    def settle(self) -> None:
        """Break what has lost its real server; to be called when the state has changed.

        Weighted rounds begin anew, so that a real server which came late is not owed anything.
        """
        self._taken.clear()
        kept = [one for one in self.open if self._lives(one.key, one.member)]
        if len(kept) != len(self.open):
            self.broken += [one for one in self.open if one not in kept]
            self.open = kept
        for name, member in list(self._affinity.items()):
            if not self._lives(name[0], member):
                del self._affinity[name]
        for key, served in list(self._served):
            if not self._is_there(key, served):
                del self._served[key, served]

    def count(self, key: VirtualServerKey, member: RealServerKey) -> Connections:
        """Count as the kernel does: UDP has no established state, so all of it is inactive."""
        here = sum(one.key == key and one.member == member for one in self.open)
        persistent = sum(
            name[0] == key and chosen == member for name, chosen in self._affinity.items()
        )
        if key.protocol is Protocol.UDP:
            return Connections(0, here, persistent)
        return Connections(here, 0, persistent)

    def counts(
        self, key: VirtualServerKey, members: Iterable[RealServerKey]
    ) -> dict[RealServerKey, Connections]:
        """Count those of some real servers of a virtual server."""
        busy = {one.member for one in self.open if one.key == key}
        busy.update(chosen for name, chosen in self._affinity.items() if name[0] == key)
        counted = dict.fromkeys(members, Connections(0, 0))
        for member in busy & counted.keys():
            counted[member] = self.count(key, member)
        return counted

    def counters(self, key: VirtualServerKey, member: RealServerKey | None = None) -> Counters:
        """Give what was counted of a virtual server, or of one of its real servers."""
        return Counters(connections=self._served[key, member])

    def _is_there(self, key: VirtualServerKey, member: RealServerKey | None) -> bool:
        return key in self._state.virtual_servers if member is None else self._lives(key, member)

    def _lives(self, key: VirtualServerKey, member: RealServerKey) -> bool:
        return member in self._state.real_servers.get(key, {})

    def _remembered(self, key: VirtualServerKey, group: bytes) -> RealServerKey | None:
        member = self._affinity.get((key, group))
        if member is None or not self._lives(key, member):
            return None
        quiescent = self._state.real_servers[key][member].weight == 0
        return None if quiescent and self._state.sysctls.get(_EXPIRES, "0") != "0" else member

    def _scheduled(
        self, key: VirtualServerKey, server: VirtualServer, client: Address
    ) -> RealServerKey | None:
        everyone = self._state.real_servers[key]
        serving = {member: real for member, real in everyone.items() if real.weight > 0}
        if not serving:
            return None
        if server.scheduler in _BY_SOURCE:
            return _hashed(client, server, everyone, serving)
        if server.scheduler == Scheduler.DH:
            return _hashed(key.address, VirtualServer(Scheduler.DH), everyone, serving)
        if server.scheduler in _BY_DESTINATION or server.scheduler == Scheduler.FO:
            return min(serving, key=lambda member: (-serving[member].weight, member))
        return min(serving, key=lambda member: self._cost(key, server.scheduler, member))

    def _cost(
        self, key: VirtualServerKey, scheduler: str, member: RealServerKey
    ) -> tuple[float, float, RealServerKey]:
        """Rank a real server under a scheduler that compares them; the lowest takes it."""
        weight = self._state.real_servers[key][member].weight
        counts = self.count(key, member)
        load = 256 * counts.active + counts.inactive  # ip_vs_dest_conn_overhead
        last = self._last.get((key, member), 0)
        costs: dict[str, tuple[float, float]] = {
            Scheduler.RR: (last, 0),
            Scheduler.WRR: (self._taken[key, member] / weight, last),
            Scheduler.LC: (load, last),
            Scheduler.SED: ((counts.active + 1) / weight, last),
            Scheduler.NQ: ((counts.active + 1) / weight if counts.active else 0, last),
            Scheduler.OVF: (counts.active >= weight, -weight),
        }
        return *costs.get(scheduler, (load / weight, last)), member


def _group(server: VirtualServer, client: Address) -> bytes:
    """Give what makes clients one client for persistence."""
    return Network.parse(f"{client}/{server.persistence_prefix}").address


def _hashed(
    address: Address,
    server: VirtualServer,
    everyone: Mapping[RealServerKey, RealServer],
    serving: Mapping[RealServerKey, RealServer],
) -> RealServerKey | None:
    start = zlib.crc32(address)
    named = sorted(everyone)[start % len(everyone)]
    if named in serving:
        return named
    if not server.flags & Flags.SCHED_1:
        return None
    return sorted(serving)[start % len(serving)]
