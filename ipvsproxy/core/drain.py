"""Draining as desired state: what a virtual server should look like while servers leave it.

A real server that is no longer wanted stays wanted at weight 0 while it has connections: without
limit while its endpoint is still in a slice, and up to a deadline from when it left. That makes
draining a pure edit of what is wanted, and a restart in the middle of it changes nothing: the
weights found in the kernel are the memory, and only the deadline starts anew.

UDP has no end of a connection that anybody could wait for, so a UDP real server goes at once.

A scheduler that hashes refuses clients whose server is at weight 0. sh and mh are always
programmed with their fallback flag; dh has none, so a dh virtual server is fo while one of its
real servers is at weight 0 beside one that is not (tried on Linux 6.1: new connections served, open
ones kept), and dh again afterwards.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple

from ipvsproxy.core.translate import Frontend
from ipvsproxy.core.weights.climbing import NOBODY_CLIMBS, Climb
from ipvsproxy.core.weights.shaping import UNSHAPED, shaped
from ipvsproxy.model import (
    Flags,
    Protocol,
    RealServer,
    RealServerKey,
    Scheduler,
    State,
    VirtualServer,
)


class Wanted(NamedTuple):
    """A virtual server as the kernel should have it, draining real servers included."""

    server: VirtualServer
    real_servers: Mapping[RealServerKey, RealServer]
    patient: frozenset[RealServerKey]
    """Ready ones that are on their way out: they wait for all additions before they are lowered."""


class Settled(NamedTuple):
    """What is wanted of a virtual server now, and what draining has to remember until next time."""

    wanted: Wanted
    departed: Mapping[RealServerKey, float]
    """Draining real servers that have left all slices, with the time (s) at which they had."""
    draining: frozenset[RealServerKey]
    """All that are wanted only for their open connections."""


def settle(
    frontend: Frontend,
    state: State,
    *,
    connections: Mapping[RealServerKey, int],
    departed: Mapping[RealServerKey, float],
    now: float,
    deadline: float,
    unavailable: Collection[str] = frozenset(),
    climb: Climb = NOBODY_CLIMBS,
) -> Settled:
    """Say what a virtual server should look like, given what it looks like.

    `connections` are counts (active and inactive) read after the weight had been set to 0; a real
    server without one is not known to be idle. `deadline` (s) holds from `departed`. `climb`: how
    far a slow start has come.
    """
    real_servers = dict(frontend.real_servers)
    held: set[RealServerKey] = set()
    remembered: dict[RealServerKey, float] = {}
    draining: set[RealServerKey] = set()
    still_listed = frontend.retiring | frontend.displaced
    present = state.real_servers.get(frontend.key, {})
    leaving = set(present).difference(real_servers) if present else ()
    for member in sorted(leaving):  # quick where nearly all stay
        if member in frontend.cut:
            continue
        found = present[member]
        if not frontend.whole and member not in still_listed:
            real_servers[member] = found
            held.add(member)
            continue
        if frontend.key.protocol is Protocol.UDP:
            continue
        if found.weight == 0 and connections.get(member) == 0:
            continue
        if member not in still_listed:
            since = departed.get(member, now)
            if now - since >= deadline:
                continue
            remembered[member] = since
        real_servers[member] = found._replace(weight=0)
        draining.add(member)
    server = _tolerant(frontend.server, real_servers, unavailable)
    weights = _weights(frontend, state, real_servers, held, climb, scheduler=server.scheduler)
    _reweigh(real_servers, weights)
    wanted = Wanted(server, real_servers, frontend.displaced)
    return Settled(wanted, remembered, frozenset(draining))


def _weights(
    frontend: Frontend,
    state: State,
    real_servers: Mapping[RealServerKey, RealServer],
    held: Collection[RealServerKey],
    climb: Climb,
    *,
    scheduler: str,
) -> Mapping[RealServerKey, int]:
    """Give the weights for the kernel, as far as they are others; of none that is `held`.

    What is held has a weight in the kernel's proportion, and what it was worth nobody knows. So
    the others keep theirs as well, but for those that go to 0 or come from there.
    """
    sorts = set(real_servers.values())  # few, of however many
    if frontend.shaping == UNSHAPED and all(real.weight <= 1 for real in sorts):
        return {}  # as they are, and of most Services
    wanted = {member: real.weight for member, real in real_servers.items() if member not in held}
    weights = shaped(wanted, frontend.shaping, scheduler, climb.steps)
    if climb.stays:
        weights = {
            member: climb.stays.get(member, weight) if weight else weight
            for member, weight in weights.items()
        }
    if not held:
        return weights
    found = state.real_servers.get(frontend.key, {})
    return {
        member: found[member].weight
        if weight and member in found and found[member].weight
        else weight
        for member, weight in weights.items()
    }


def _reweigh(
    real_servers: dict[RealServerKey, RealServer], weights: Mapping[RealServerKey, int]
) -> None:
    for member, weight in weights.items():
        if real_servers[member].weight != weight:
            real_servers[member] = real_servers[member]._replace(weight=weight)


def refuses_at_weight_zero(server: VirtualServer) -> bool:
    """Whether this scheduler, with these flags, turns clients away from a server of weight 0."""
    match server.scheduler:
        case Scheduler.DH:
            return True
        case Scheduler.SH | Scheduler.MH:
            return not server.flags & Flags.SCHED_1
        case _:
            return False


def _tolerant(
    server: VirtualServer,
    real_servers: Mapping[RealServerKey, RealServer],
    unavailable: Collection[str],
) -> VirtualServer:
    if server.scheduler != Scheduler.DH:
        return server
    weights = [real.weight for real in real_servers.values()]
    if not weights or all(weights) or not any(weights):
        return server
    if Scheduler.FO in unavailable:
        return server._replace(scheduler=Scheduler.SH, flags=server.flags | Flags.SCHED_1)
    return server._replace(scheduler=Scheduler.FO)
