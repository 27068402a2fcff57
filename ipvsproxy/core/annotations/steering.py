"""All that a Service's annotations say of its virtual servers besides scheduler and weights.

Gathers what the modules of the single annotations have chosen, each judged against the scheduler in
force, the Service's protocols and its session affinity. After a restart nobody remembers the last
good text of an annotation that is wrong now; the kernel has kept what it meant, and `kept_by` reads
it from there. (It has kept no deadline: a wrong one counts as not written then. Nor how long a slow
start takes, but weights that differ may be those of a climb: then it goes on in a usual time.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import NamedTuple, assert_never

from ipvsproxy.core.annotations.affinity_prefix import (
    AFFINITY_PREFIX,
    Prefixes,
    choose_prefixes,
    read_prefixes,
)
from ipvsproxy.core.annotations.connection_limit import (
    CONNECTION_LIMIT,
    ConnectionLimit,
    choose_limit,
    read_limit,
)
from ipvsproxy.core.annotations.drain_deadline import choose_drain_deadline
from ipvsproxy.core.annotations.one_packet import (
    ONE_PACKET,
    OnePacket,
    choose_one_packet,
    read_one_packet,
)
from ipvsproxy.core.annotations.reading import Reader
from ipvsproxy.core.annotations.scheduler_flags import (
    SCHEDULER_FLAGS,
    choose_flags,
    read_scheduler_flags,
)
from ipvsproxy.core.annotations.schedulers import scheduler_flags
from ipvsproxy.core.annotations.slow_start import SLOW_START, UNREMEMBERED, read_slow_start
from ipvsproxy.core.frontends import Place
from ipvsproxy.core.sharing import shared_real_server, shared_virtual_server
from ipvsproxy.model import (
    Family,
    Flags,
    ForwardingMethod,
    Protocol,
    RealServer,
    State,
    VirtualServer,
    VirtualServerKey,
)
from ipvsproxy.objects import Service


class Steering(NamedTuple):
    """What holds for all virtual servers of a Service."""

    scheduler: str
    flags: Flags
    persistence: int
    """Seconds; 0: none."""
    prefixes: Prefixes
    one_packet: OnePacket
    limit: ConnectionLimit
    drain_deadline: float | None
    """Seconds, 0 or more; None: that of the setting."""

    def virtual_server(self, place: Place) -> VirtualServer:
        """Say what the virtual server of a place looks like."""
        return shared_virtual_server(
            self.scheduler,
            self.flags | Flags.ONE_PACKET if self._is_one_packet(place) else self.flags,
            self.persistence,
            self.prefixes.of(place.key.family),
        )

    def _is_one_packet(self, place: Place) -> bool:
        if place.key.protocol is not Protocol.UDP:
            return False
        match self.one_packet:
            case OnePacket.ALL:
                return True
            case OnePacket.CLUSTER_IP:
                return not place.external
            case OnePacket.NONE:
                return False
            case _:
                assert_never(self.one_packet)

    def real_server(self, weight: int) -> RealServer:
        """Say what a real server of this weight looks like."""
        return shared_real_server(
            weight, ForwardingMethod.MASQUERADE, self.limit.upper, self.limit.lower
        )


def steer(reader: Reader, service: Service, scheduler: str, *, masquerade_all: bool) -> Steering:
    """Read a Service's annotations; `scheduler` is the one in force, `masquerade_all` as set."""
    if not reader.written:
        return _unsteered(scheduler, service.affinity_seconds)
    sticky = service.affinity_seconds > 0
    protocols = {port.protocol for port in service.ports}
    one_packet = choose_one_packet(reader, service, scheduler, masquerade_all=masquerade_all)
    return Steering(
        scheduler,
        choose_flags(reader, scheduler, sticky=sticky),
        service.affinity_seconds,
        choose_prefixes(reader, {one.family for one in service.cluster_ips}, sticky=sticky),
        one_packet,
        choose_limit(
            reader,
            protocols,
            scheduler,
            sticky=sticky,
            one_packet=one_packet is not OnePacket.NONE,
        ),
        choose_drain_deadline(reader, protocols),
    )


@lru_cache(maxsize=1024)
def _unsteered(scheduler: str, persistence: int) -> Steering:
    """Say what holds for a Service without annotations: for most of them it is the same."""
    return Steering(
        scheduler,
        scheduler_flags(scheduler),
        persistence,
        Prefixes(),
        OnePacket.NONE,
        ConnectionLimit(),
        drain_deadline=None,
    )


def kept_by(kernel: State, keys: Iterable[VirtualServerKey]) -> Mapping[str, str]:
    """Give the annotations that would make a Service's virtual servers what the kernel has.

    What nobody could have written (another has made it) is left out.
    """
    found: dict[str, str] = {}
    prefixes: dict[Family, int] = {}
    for key in keys:
        server = kernel.virtual_servers.get(key)
        if server is None:
            continue
        if server.flags & Flags.SCHED_2:
            found[SCHEDULER_FLAGS] = f"{server.scheduler}-port"
        if server.flags & Flags.ONE_PACKET:
            found[ONE_PACKET] = "one-way"
        if server.persistence:
            prefixes[key.family] = server.persistence_prefix
        real_servers = kernel.real_servers.get(key, {}).values()
        if len({real.weight for real in real_servers if real.weight}) > 1:
            found[SLOW_START] = UNREMEMBERED
        for real in real_servers:
            if real.upper_threshold:
                upper, lower = real.upper_threshold, real.lower_threshold
                found[CONNECTION_LIMIT] = f"{upper},{lower}" if lower else f"{upper}"
    if prefixes:
        lengths = (prefixes.get(family, family.host_prefix) for family in Family)
        found[AFFINITY_PREFIX] = ",".join(map(str, lengths))
    return {name: text for name, text in found.items() if _is_right(name, text)}


_PARSERS: Mapping[str, Callable[[str], object]] = {
    SCHEDULER_FLAGS: read_scheduler_flags,
    ONE_PACKET: read_one_packet,
    AFFINITY_PREFIX: read_prefixes,
    CONNECTION_LIMIT: read_limit,
    SLOW_START: read_slow_start,
}


def _is_right(name: str, text: str) -> bool:
    try:
        _PARSERS[name](text)
    except ValueError:
        return False
    return True
