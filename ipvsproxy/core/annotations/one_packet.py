"""The annotation that has every datagram scheduled by itself (ipvsadm's --ops).

IPVS keeps no connection for such a datagram, and in masquerading mode it is the connection by which
an answer gets the Service's address for its source again (net/netfilter/ipvs/ip_vs_core.c,
handle_response). So a client that expects an answer never sees one, and it takes a word that says
that the operator knows: `one-way`.

Only UDP has it (ip_vs_schedule looks at the flag for UDP alone). Persistence would send all
datagrams of a client to one server again (ip_vs_sched_persist), and who counts connections would
find none, and choose the first server every time: both are refused.
"""

from __future__ import annotations

from collections.abc import Sequence

from ipvsproxy.core.annotations.reading import Reader
from ipvsproxy.model import Protocol, Scheduler
from ipvsproxy.objects import ServicePort

ONE_PACKET = "ipvsproxy.io/one-packet"

_ONE_WAY = "one-way"
_COUNTING = frozenset(
    {Scheduler.LC, Scheduler.WLC, Scheduler.SED, Scheduler.NQ, Scheduler.OVF, Scheduler.LBLC}
    | {Scheduler.LBLCR}
)
"""Schedulers that go by the connections which are open."""


def choose_one_packet(
    reader: Reader, ports: Sequence[ServicePort], scheduler: str, *, sticky: bool
) -> bool:
    """Say whether UDP ports schedule each datagram by itself; `sticky`: session affinity."""
    if not reader.read(ONE_PACKET, read_one_packet):
        return False
    others = [f"{port.port}/{port.protocol.name}" for port in ports if not _is_udp(port)]
    if len(others) == len(ports):
        reader.no_effect(ONE_PACKET, "it is for UDP, and the Service has no UDP port; take it away")
        return False
    if sticky:
        reader.refuse(
            ONE_PACKET,
            "not with session affinity, which would send every datagram of a client to the same "
            "endpoint; the Service is served without it; take one of the two away",
        )
        return False
    if scheduler in _COUNTING:
        reader.refuse(
            ONE_PACKET,
            f"not with the scheduler {scheduler}, which counts connections: single datagrams leave "
            "none, so all would go to one endpoint; the Service is served without it; "
            "choose rr, wrr, sh or mh by ipvsproxy.io/scheduler",
        )
        return False
    if others:
        reader.no_effect(
            ONE_PACKET, f"it is for UDP only; {', '.join(others)} is served as without it"
        )
    return True


def read_one_packet(text: str) -> bool:
    """Read the annotation, whose only value is `one-way`. Raises ValueError."""
    if text != _ONE_WAY:
        raise ValueError(
            f"{text!r} is not the word {_ONE_WAY}; answers to such datagrams do not reach the "
            f"client, so write {_ONE_WAY} where clients expect none, or take it away"
        )
    return True


def _is_udp(port: ServicePort) -> bool:
    return port.protocol is Protocol.UDP
