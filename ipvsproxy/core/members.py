"""What a Service puts into the ipsets, for each of its frontends and for itself.

Knows what each kind of frontend needs of the sets (core.sets), as kube-proxy's IPVS mode does
(pkg/proxy/ipvs/proxier.go, syncProxyRules), and when a frontend is split (ADR 0009).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeAlias

from ipvsproxy.core.frontends import Kind, Place
from ipvsproxy.core.sets import (
    CLUSTER_IP,
    EXTERNAL_IP,
    EXTERNAL_IP_LOCAL,
    HEALTH_CHECK_NODE_PORT,
    IPVS_IPS,
    LEDGER,
    LOAD_BALANCER,
    LOAD_BALANCER_FW,
    LOAD_BALANCER_LOCAL,
    LOOP_BACK,
    NO_LOCAL,
    NODE_IP,
    NODE_PORT,
    NODE_PORT_LOCAL,
    SOURCE_CIDR,
    SOURCE_IP,
    SPLIT,
    frontend_member,
    loop_back_member,
    set_name,
)
from ipvsproxy.core.surroundings import Surroundings
from ipvsproxy.model import (
    IpMember,
    IpPortIpMember,
    IpPortNetMember,
    Member,
    PortMember,
    Protocol,
    RealServerKey,
)
from ipvsproxy.objects import Service, ServicePort

SetMember: TypeAlias = tuple[str, Member]
"""A member, with the name of its set."""
NO_MEMBERS: frozenset[SetMember] = frozenset()
"""The one that most Services share: an empty one takes 216 bytes."""


def frontend_members(
    place: Place, service: Service, around: Surroundings, *, shut_out: bool
) -> tuple[SetMember, ...]:
    """Give the members that let a frontend work, each once.

    `shut_out`: nobody from outside can be served here, though the Service has endpoints. A tuple,
    for each of thousands of frontends keeps its own: a set of three takes three times the room.
    """
    family = place.key.family
    return tuple(
        dict.fromkeys(
            (set_name(base, family), member)
            for base, member in _members(place, service, around, shut_out=shut_out)
        )
    )


def service_members(
    service: Service,
    local: Iterable[tuple[ServicePort, Iterable[RealServerKey]]],
    around: Surroundings,
) -> frozenset[SetMember]:
    """Give the members that a Service has whatever its frontends: hairpins, health checks.

    Every endpoint of this node is among the hairpins, ready or not: one that is not may still have
    connections. `local` are those of each port and family.
    """
    members: set[SetMember] = set()
    for port, found in local:
        for real in found:
            name = set_name(LOOP_BACK, real.address.family)
            members.add((name, loop_back_member(port.protocol, real)))
    if service.health_check_node_port:
        member = PortMember(service.health_check_node_port)
        families = {address.family for address in service.cluster_ips}
        members.update(
            (set_name(HEALTH_CHECK_NODE_PORT, family), member)
            for family in families & around.kernel.families
        )
    return frozenset(members) if members else NO_MEMBERS


def _members(
    place: Place, service: Service, around: Surroundings, *, shut_out: bool
) -> Iterator[tuple[str, Member]]:
    itself = frontend_member(place.key)
    local = service.external_traffic_local
    yield LEDGER, itself
    if place.bind:
        yield IPVS_IPS, IpMember(place.key.address)
    for kind in place.kinds:
        match kind:
            case Kind.CLUSTER_IP:
                yield CLUSTER_IP, itself
            case Kind.EXTERNAL_IP:
                yield EXTERNAL_IP_LOCAL if local else EXTERNAL_IP, itself
            case Kind.LOAD_BALANCER:
                yield LOAD_BALANCER, itself
                if local:
                    yield LOAD_BALANCER_LOCAL, itself
                yield from _source_ranges(place, service, around)
            case Kind.NODE_PORT:
                yield from _node_port(place, local=local)
    if place.external and local:
        yield SPLIT, itself
        if shut_out:
            yield NO_LOCAL, itself


def _node_port(place: Place, *, local: bool) -> Iterator[tuple[str, Member]]:
    protocol, port = place.key.protocol, place.key.port
    member = frontend_member(place.key) if protocol is Protocol.SCTP else PortMember(port)
    yield NODE_IP, IpMember(place.key.address)
    yield NODE_PORT[protocol], member
    if local:
        yield NODE_PORT_LOCAL[protocol], member


def _source_ranges(
    place: Place, service: Service, around: Surroundings
) -> Iterator[tuple[str, Member]]:
    """Close a load balancer's address to all but the ranges of its family.

    Ranges of the other family only leave it open, as kube-proxy does. So does a range that is
    everybody: no set can hold it, and kube-proxy then shuts everybody out.
    """
    key = place.key
    ranges = service.allowed(key.family)
    if ranges is None or any(network.prefix_length == 0 for network in ranges):
        return
    yield LOAD_BALANCER_FW, frontend_member(key)
    for network in ranges:
        yield SOURCE_CIDR, IpPortNetMember(key.address, key.protocol, key.port, network)
    own = around.primary_addresses(key.family)
    if any(address in network for network in ranges for address in own):
        yield SOURCE_IP, IpPortIpMember(key.address, key.protocol, key.port, key.address)
