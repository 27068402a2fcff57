"""The annotation that has every datagram scheduled by itself (ipvsadm's --ops).

IPVS keeps no connection for such a datagram, and in masquerading mode it is the connection by which
an answer gets the Service's address for its source again (net/netfilter/ipvs/ip_vs_core.c,
handle_response). So a client that expects an answer never sees one, and it takes a word that says
that the operator knows: `one-way`.

Where it does harm it is refused, or left out and told:

- only UDP has it (ip_vs_schedule looks at the flag for UDP alone);
- persistence would send all datagrams of a client to one server again (ip_vs_sched_persist);
- a scheduler that counts connections finds none, and chooses the first server every time;
- the datagrams of a sender that is masqueraded are one flow to conntrack, and when one leaves by
  another interface than the one before, it is dropped (nf_nat_oif_changed in
  net/netfilter/nf_nat_core.c). So it is for frontends at which nobody is masqueraded as a rule:
  the ClusterIP, and external ones with the policy Local.
"""

from __future__ import annotations

from enum import Enum

from ipvsproxy.core.annotations.reading import Reader
from ipvsproxy.model import Protocol, Scheduler
from ipvsproxy.objects import Service, ServicePort

ONE_PACKET = "ipvsproxy.io/one-packet"

_ONE_WAY = "one-way"
_COUNTING = frozenset(
    {Scheduler.LC, Scheduler.WLC, Scheduler.SED, Scheduler.NQ, Scheduler.OVF, Scheduler.LBLC}
    | {Scheduler.LBLCR}
)
"""Schedulers that go by the connections which are open."""


class OnePacket(Enum):
    """Which frontends over UDP schedule every datagram by itself."""

    NONE = "none"
    CLUSTER_IP = "the ClusterIP"
    ALL = "all"


def choose_one_packet(
    reader: Reader, service: Service, scheduler: str, *, masquerade_all: bool
) -> OnePacket:
    """Say where each datagram is scheduled by itself; `masquerade_all` is the setting."""
    if not reader.read(ONE_PACKET, read_one_packet):
        return OnePacket.NONE
    others = [f"{port.port}/{port.protocol.name}" for port in service.ports if not _is_udp(port)]
    if len(others) == len(service.ports):
        reader.no_effect(ONE_PACKET, "it is for UDP, and the Service has no UDP port; take it away")
        return OnePacket.NONE
    refusal = _refusal(service, scheduler, masquerade_all=masquerade_all)
    if refusal is not None:
        reader.refuse(ONE_PACKET, f"{refusal}; the Service is served without it")
        return OnePacket.NONE
    if others:
        reader.no_effect(
            ONE_PACKET, f"it is for UDP only; {', '.join(others)} is served as without it"
        )
    if not _is_external(service) or service.external_traffic_local:
        return OnePacket.ALL
    reader.no_effect(
        ONE_PACKET,
        "senders from outside are masqueraded, and some of their datagrams would be lost; "
        "NodePorts, load balancer addresses and externalIPs are served as without it; "
        "set externalTrafficPolicy: Local",
    )
    return OnePacket.CLUSTER_IP


def read_one_packet(text: str) -> bool:
    """Read the annotation, whose only value is `one-way`. Raises ValueError."""
    if text != _ONE_WAY:
        raise ValueError(
            f"{text!r} is not the word {_ONE_WAY}; answers to such datagrams do not reach the "
            f"client, so write {_ONE_WAY} where clients expect none, or take it away"
        )
    return True


def _refusal(service: Service, scheduler: str, *, masquerade_all: bool) -> str | None:
    if service.affinity_seconds:
        return (
            "not with session affinity, which would send every datagram of a client to the same "
            "endpoint; take one of the two away"
        )
    if scheduler in _COUNTING:
        return (
            f"not with the scheduler {scheduler}, which counts connections: single datagrams leave "
            "none, so all would go to one endpoint; choose rr, wrr, sh or mh by "
            "ipvsproxy.io/scheduler"
        )
    if masquerade_all:
        return (
            "not with the setting masqueradeAll: some of the datagrams of senders that are "
            "masqueraded would be lost; take one of the two away"
        )
    return None


def _is_external(service: Service) -> bool:
    return bool(
        service.external_ips or service.ingress_ips or any(port.node_port for port in service.ports)
    )


def _is_udp(port: ServicePort) -> bool:
    return port.protocol is Protocol.UDP
