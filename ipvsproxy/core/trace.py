"""What happens to a packet, and why: netfilter, routing and IPVS, gone through in thought.

Knows the order in which the kernel asks its hooks, tables and IPVS, and what each makes of the
packet; depends in nothing on how our rules look, for it interprets those that stand in a `State`.
So it explains a live node, and holds our tables against kube-proxy's in the tests.

From an interface (priorities in include/uapi/linux/netfilter_ipv4.h, IPVS in ip_vs_core.c):

    PREROUTING    mangle, nat       nat may change the destination
    routing                         an address of this node, or on to another
    INPUT         mangle, filter    they see the destination from before IPVS
                  IPVS              chooses a real server: the packet goes on as one of the node's
    OUTPUT        mangle, filter    with the real server as destination; nat decides only once
    POSTROUTING   mangle, nat       may replace the source

From the node itself: OUTPUT mangle, nat, then IPVS (NF_IP_PRI_NAT_DST + 2), then OUTPUT filter and
POSTROUTING; what is for the node itself comes in again, by the interface lo.

Not simulated: which real server is chosen (scheduler, persistence, thresholds); rules that are not
ours; policies of built-in chains; filters of the route, such as rp_filter.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import assert_never

from ipvsproxy.core.packet import (
    Balanced,
    Candidate,
    Dropped,
    Fate,
    Forwarded,
    Kept,
    Local,
    Masqueraded,
    NotUnderstood,
    Packet,
    Refused,
    Seen,
    SenderKind,
    Step,
    Stopped,
    Trace,
)
from ipvsproxy.core.rule_matching import NO_INTERFACE, InFlight, is_local
from ipvsproxy.core.rules_walk import End, Walk
from ipvsproxy.model import (
    DUMMY_INTERFACE,
    Address,
    Family,
    ForwardingMethod,
    Listener,
    Network,
    RealServer,
    RealServerKey,
    State,
    VirtualServerKey,
)

__all__ = ["trace"]

_LOOPBACK = {Family.IPV4: Network.parse("127.0.0.0/8"), Family.IPV6: Network.parse("::1")}
_UNSPECIFIED = {Family.IPV4: Address(bytes(4)), Family.IPV6: Address(bytes(16))}


def trace(state: State, packet: Packet) -> Trace:
    """Follow the first packet of a new connection through a kernel that holds `state`.

    Source and destination are of one family. A source must be given unless the node sends it.
    """
    own = packet.sender.kind is SenderKind.NODE
    source = packet.sender.address or _own_source(state, packet.destination)
    start = InFlight(
        packet.protocol,
        source,
        packet.destination,
        packet.port,
        inward=NO_INTERFACE if own else packet.sender.interface,
    )
    walk = Walk(state, start)
    fate = _sent(walk) if own else _received(walk)
    return Trace(packet, source, tuple(walk.steps), fate)


def _own_source(state: State, destination: Address) -> Address:
    """Choose the source of the node's own packet, as the routing table does.

    The route to an address of the node has that address as its source; elsewhere it is one of the
    interface that leads there, for which any stands that is not a loopback one.
    """
    if is_local(state, destination):
        return destination
    family = destination.family
    found = (one for one in sorted(state.network.addresses) if one.family is family)
    return next((one for one in found if one not in _LOOPBACK[family]), _UNSPECIFIED[family])


def _received(walk: Walk) -> Fate:
    end = walk.hook("PREROUTING", "mangle", "nat")
    if end is not End.PASSED:
        return _ended(walk, end)
    if not _route(walk, "PREROUTING"):
        walk.packet = walk.packet._replace(outward=None)
        end = walk.hook("FORWARD", "mangle", "filter")
        return _leaving(walk) if end is End.PASSED else _ended(walk, end)
    return _delivered(walk)


def _sent(walk: Walk) -> Fate:
    lo = "lo" if is_local(walk.state, walk.packet.destination) else None
    walk.packet = walk.packet._replace(outward=lo)
    end = walk.hook("OUTPUT", "mangle", "nat")
    if end is not End.PASSED:
        return _ended(walk, end)
    local = _route(walk, "OUTPUT")
    walk.packet = walk.packet._replace(outward="lo" if local else None)
    key = _virtual_server(walk)
    if key is not None:
        return _balanced(walk, key, "OUTPUT")
    end = walk.hook("OUTPUT", "filter")
    if end is not End.PASSED:
        return _ended(walk, end)
    if not local:
        return _leaving(walk)
    end = walk.hook("POSTROUTING", "mangle", "nat")
    if end is not End.PASSED:
        return _ended(walk, end)
    walk.packet = walk.packet._replace(inward="lo", outward=NO_INTERFACE)
    return _delivered(walk)


def _route(walk: Walk, hook: str) -> bool:
    """Say whether the packet is for the node itself, and note it."""
    destination = walk.packet.destination
    local = is_local(walk.state, destination)
    if destination in walk.state.addresses:
        why = f"{destination} is on {DUMMY_INTERFACE}"
    elif local:
        why = f"{destination} is an address of this node"
    else:
        why = f"{destination} is no address of this node"
    verdict = "local" if local else "not local"
    walk.steps.append(Step(hook, rule="routing", because=(why,), verdict=verdict))
    return local


def _delivered(walk: Walk) -> Fate:
    end = walk.hook("INPUT", "mangle", "filter")
    if end is not End.PASSED:
        return _ended(walk, end)
    key = _virtual_server(walk)
    if key is not None:
        return _balanced(walk, key, "INPUT")
    return Local(tuple(sorted(_listeners(walk.state, walk.packet))))


def _leaving(walk: Walk) -> Fate:
    end = walk.hook("POSTROUTING", "mangle", "nat")
    if end is not End.PASSED:
        return _ended(walk, end)
    return Forwarded(walk.packet.destination, walk.packet.port)


def _listeners(state: State, packet: InFlight) -> Iterator[Listener]:
    if packet.protocol is None:
        return
    everybody = _UNSPECIFIED[Family.IPV6]
    taken = (packet.destination, _UNSPECIFIED[packet.destination.family], everybody)
    for listener in state.network.listeners:
        same = (listener.protocol, listener.port) == (packet.protocol, packet.port)
        if same and listener.address in taken:
            yield listener


def _virtual_server(walk: Walk) -> VirtualServerKey | None:
    """Find the virtual server of a packet: of its port, or of all ports (ip_vs_service_find)."""
    packet = walk.packet
    if packet.protocol is None:
        return None
    for port in (packet.port, 0):
        key = VirtualServerKey(packet.protocol, packet.destination, port)
        if key in walk.state.virtual_servers:
            return key
    return None


def _balanced(walk: Walk, key: VirtualServerKey, hook: str) -> Fate:
    members = sorted(walk.state.real_servers.get(key, {}).items())
    resting = tuple(member for member, server in members if server.weight == 0)
    chosen = [(member, server) for member, server in members if server.weight > 0]
    scheduler = walk.state.virtual_servers[key].scheduler
    step = Step(hook, rule="IPVS", because=(f"{key} is a virtual server",))
    if not chosen:
        why = "it has no real server" if not members else "its real servers all have weight 0"
        walk.steps.append(step._replace(because=(*step.because, why), verdict="port unreachable"))
        return Refused(walk.steps[-1], key)
    walk.steps.append(step._replace(verdict=f"scheduler {scheduler}"))
    ways = [walk.branch(_rewritten(walk.packet, key, *one)) for one in chosen]
    ends = [_towards(way, hook) for way in ways]
    for way, end in zip(ways, ends, strict=True):
        # What is not understood for one real server is not known of the whole; and where all are
        # out of reach, the first of them shows why.
        if end is End.UNCLEAR or End.PASSED not in ends:
            walk.steps += way.steps
            return _ended(walk, end)
    candidates = (
        Candidate(member, server.weight, _seen(way, end))
        for (member, server), way, end in zip(chosen, ways, ends, strict=True)
    )
    return Balanced(key, tuple(candidates), resting)


def _rewritten(
    packet: InFlight, key: VirtualServerKey, member: RealServerKey, server: RealServer
) -> InFlight:
    onward = packet._replace(balanced=key, inward=NO_INTERFACE, outward=None)
    if server.forwarding_method is not ForwardingMethod.MASQUERADE:
        return onward
    return onward._replace(destination=member.address, port=member.port)


def _towards(walk: Walk, hook: str) -> End:
    """Go on to a real server, from the hook at which IPVS had the packet.

    A packet from outside to a real server of the node itself, such as a pod in the host's network,
    goes on at once (ip_vs_nat_send_or_cont): nothing can replace its source.
    """
    local = is_local(walk.state, walk.packet.destination)
    if local and hook == "INPUT":
        return End.PASSED
    walk.packet = walk.packet._replace(outward="lo" if local else None)
    end = walk.hook("OUTPUT", "mangle", "filter")
    if end is End.PASSED:
        end = walk.hook("POSTROUTING", "mangle", "nat")
    if end is End.PASSED and local:
        walk.packet = walk.packet._replace(inward="lo", outward=NO_INTERFACE)
        end = walk.hook("INPUT", "mangle", "filter")
    return end


def _seen(walk: Walk, end: End) -> Seen:
    if end is not End.PASSED:
        return Stopped(walk.steps[-1])
    if walk.masqueraded is not None:
        return Masqueraded(walk.masqueraded)
    return Kept(walk.packet.source)


def _ended(walk: Walk, end: End) -> Fate:
    step = walk.steps[-1]
    match end:
        case End.DROPPED:
            return Dropped(step)
        case End.REJECTED:
            return Refused(step)
        case End.UNCLEAR:
            return NotUnderstood(step, "; ".join(step.because))
        case End.PASSED:
            raise AssertionError("a packet that passed goes on")
        case _:
            assert_never(end)
