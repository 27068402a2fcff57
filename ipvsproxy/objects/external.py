"""What of a Service is reached from outside the cluster: its addresses, and who may use them.

Knows which type of Service has which of these fields. Nothing here refuses a Service, unlike in
`reading`: an entry that is wrong is passed over, as kube-proxy does, and a remark says so; the
others are served. What restricts is never passed over towards more freedom: where no range of a
family can be read, nobody of that family is let in. (kube-proxy lets everybody in.)

References: kube-proxy pkg/proxy/serviceport.go (newBaseServiceInfo); KEP-1860 (ipMode); KEP-4858
(old spellings of addresses).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from ipvsproxy.model import Address, Family, Network
from ipvsproxy.objects import fields, wire

_NODE_PORT_TYPES = ("NodePort", "LoadBalancer")
_INGRESS_MODES = ("VIP", "Proxy")
_MAPPED = Network.parse("::ffff:0:0/96")


class Reach(NamedTuple):
    """The fields of `values.Service` that are read here."""

    external_ips: tuple[Address, ...] = ()
    ingress_ips: tuple[Address, ...] = ()
    source_ranges: tuple[Network, ...] = ()
    closed_families: tuple[Family, ...] = ()
    health_check_node_port: int = 0
    traffic_local: bool = False
    remarks: tuple[str, ...] = ()


_NOT_AT_ALL = Reach()


def has_node_ports(service_type: str) -> bool:
    """Say whether the node ports that may be written in a Service's ports are in force."""
    return service_type in _NODE_PORT_TYPES


def read_reach(written: wire.Service, service_type: str, *, traffic_local: bool) -> Reach:
    """Read how a Service that has a ClusterIP is reached from outside; never refuses it."""
    spec = written.spec or wire.ServiceSpec()
    if not has_node_ports(service_type) and not spec.external_ips:
        return _NOT_AT_ALL
    remarks: list[str] = []
    external_ips = tuple(dict.fromkeys(_external_ips(spec, remarks)))
    traffic_local = traffic_local and (has_node_ports(service_type) or bool(external_ips))
    if service_type != "LoadBalancer":
        return Reach(external_ips, traffic_local=traffic_local, remarks=tuple(remarks))
    ingress_ips = tuple(dict.fromkeys(_ingress_ips(written.status, remarks)))
    ranges, closed = _source_ranges(spec, remarks)
    port = _health_check_node_port(spec, remarks) if traffic_local else 0
    return Reach(external_ips, ingress_ips, ranges, closed, port, traffic_local, tuple(remarks))


def _external_ips(spec: wire.ServiceSpec, remarks: list[str]) -> Iterator[Address]:
    for i, text in enumerate(spec.external_ips or ()):
        try:
            yield fields.unicast(f"spec.externalIPs[{i}]", fields.plain(text))
        except fields.Wrong as error:
            remarks.append(_passed_over(error))


def _ingress_ips(status: wire.ServiceStatus | None, remarks: list[str]) -> Iterator[Address]:
    """Give the addresses that packets arrive with; an ingress of a host name alone has none."""
    balancer = status.load_balancer if status else None
    for i, ingress in enumerate((balancer.ingress if balancer else None) or ()):
        path = f"status.loadBalancer.ingress[{i}]"
        mode = ingress.ip_mode or "VIP"
        if not ingress.ip or mode == "Proxy":
            continue
        try:
            if mode not in _INGRESS_MODES:
                fields.not_one_of(f"{path}.ipMode", mode, _INGRESS_MODES)
            yield fields.unicast(f"{path}.ip", fields.plain(ingress.ip))
        except fields.Wrong as error:
            remarks.append(_passed_over(error))


def _source_ranges(
    spec: wire.ServiceSpec, remarks: list[str]
) -> tuple[tuple[Network, ...], tuple[Family, ...]]:
    """Read the ranges, and the families of which none could be read."""
    ranges: dict[Network, None] = {}
    unread: set[Family] = set()
    for i, text in enumerate(spec.load_balancer_source_ranges or ()):
        try:
            ranges[_source_range(f"spec.loadBalancerSourceRanges[{i}]", text.strip())] = None
        except fields.Wrong as error:
            remarks.append(_passed_over(error))
            unread |= _looks_like(text)
    closed = tuple(sorted(unread - {one.family for one in ranges}))
    for family in closed:
        reason = f"no IPv{family.value} range can be read, so no IPv{family.value} client is let in"
        remarks.append(str(fields.Wrong("spec.loadBalancerSourceRanges", reason)))
    return tuple(ranges), closed


def _source_range(path: str, text: str) -> Network:
    found = fields.network(path, fields.plain(text))
    if found.prefix_length >= _MAPPED.prefix_length and found.address in _MAPPED:
        raise fields.Wrong(path, f"{text!r} is an IPv4 network written as IPv6; write it as IPv4")
    return found


def _looks_like(text: str) -> set[Family]:
    """Guess the family of a range that cannot be read; both where nothing tells."""
    if ":" in text:
        return {Family.IPV4, Family.IPV6} if "." in text else {Family.IPV6}
    return {Family.IPV4} if "." in text else {Family.IPV4, Family.IPV6}


def _health_check_node_port(spec: wire.ServiceSpec, remarks: list[str]) -> int:
    if not spec.health_check_node_port:
        return 0
    try:
        return fields.port("spec.healthCheckNodePort", spec.health_check_node_port)
    except fields.Wrong as error:
        remarks.append(_passed_over(error))
        return 0


def _passed_over(error: fields.Wrong) -> str:
    return f"{error}; passed over"
