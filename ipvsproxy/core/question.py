"""What is asked of the tracer, and what follows from it: the packets to follow.

Knows how a question is written (`pod`, `10.244.1.7`, `203.0.113.5:80/tcp`), and who stands for "a
pod" or "somebody outside" on this node; what becomes of a packet is `core.trace`'s. Whatever had to
be chosen is in the packet, so that it can be shown.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from ipvsproxy.config import DetectLocalMode, Settings
from ipvsproxy.core.packet import Packet, Sender, SenderKind
from ipvsproxy.core.rule_matching import is_local
from ipvsproxy.model import Address, Family, Network, Protocol, State

__all__ = ["Place", "Who", "packet_of", "parse_place", "parse_who"]

OUTSIDERS = {
    Family.IPV4: Address.parse("198.51.100.77"),
    Family.IPV6: Address.parse("2001:db8:51::77"),
}
"""Addresses that are nobody's (RFC 5737, RFC 3849)."""
SOME_POD_INTERFACE = "(a pod's)"
SOME_INTERFACE = "(from outside)"
"""Names of interfaces that no rule can ask for."""

_MOST_PORT = 65535
_TRIES = 256


class Who(NamedTuple):
    """Who is to send; what is left open is chosen."""

    kind: SenderKind | None = None
    """None: what the address is."""
    address: Address | None = None
    interface: str | None = None
    """The interface that the packet comes in by."""


class Place(NamedTuple):
    """Where a packet is to go."""

    protocol: Protocol | None
    """None: a ping."""
    address: Address
    port: int = 0


def parse_who(text: str) -> Who:
    """Read `outside`, `pod`, `node` or an address.

    Raises ValueError, whose text says what is expected.
    """
    if text in tuple(SenderKind):
        return Who(SenderKind(text))
    try:
        return Who(None, Address.parse(text))
    except ValueError:
        raise ValueError(f"{text!r} is none of outside, pod, node, and no address") from None


def parse_place(text: str) -> Place:
    """Read `ADDRESS:PORT`, `ADDRESS:PORT/PROTOCOL` (tcp, udp, sctp) or `ADDRESS/icmp`, a ping.

    An IPv6 address before a port is in brackets. Raises ValueError, whose text says what is wrong.
    """
    place, _, name = text.partition("/")
    if name.lower() == "icmp":
        return Place(None, _address(place))
    try:
        protocol = Protocol[name.upper() or "TCP"]
    except KeyError:
        raise ValueError(f"{name!r} is none of tcp, udp, sctp, icmp") from None
    host, _, port = place.rpartition(":")
    if not port.isdecimal() or not 0 < int(port) <= _MOST_PORT:
        raise ValueError(
            f"{text!r} has no port from 1 to {_MOST_PORT}: give ADDRESS:PORT/PROTOCOL, IPv6 in "
            "brackets"
        )
    if ":" in host and not host.startswith("["):
        raise ValueError(f"{text!r}: give an IPv6 address in brackets")
    return Place(protocol, _address(host), int(port))


def _address(text: str) -> Address:
    try:
        return Address.parse(text.strip("[]"))
    except ValueError:
        raise ValueError(
            f"{text!r} is no address; names are not looked up (ask for a Service by --service "
            "NAMESPACE/NAME)"
        ) from None


def packet_of(who: Who, place: Place, settings: Settings, state: State) -> Packet:
    """Choose what the question leaves open.

    Raises ValueError, whose text says what must be given.
    """
    return Packet(
        _sender(who, place.address.family, settings, state),
        place.protocol,
        place.address,
        place.port,
    )


def _sender(who: Who, family: Family, settings: Settings, state: State) -> Sender:
    if who.address is not None and who.address.family is not family:
        raise ValueError(f"{who.address} cannot send to IPv{family}: both must be of one family")
    kind = who.kind or _kind(who, settings, state)
    match kind:
        case SenderKind.NODE:
            return Sender(kind, who.address)
        case SenderKind.POD:
            address = who.address or _some_pod(family, settings, state)
            interface = who.interface or _pod_interface(family, settings, state)
            return Sender(kind, address, interface)
        case SenderKind.OUTSIDE:
            address = who.address or OUTSIDERS[family]
            return Sender(kind, address, who.interface or _uplink(family, settings, state))


def _kind(who: Who, settings: Settings, state: State) -> SenderKind:
    """Say what an address is."""
    assert who.address is not None, "without a kind there is an address"
    if is_local(state, who.address) and who.interface is None:
        return SenderKind.NODE
    if _is_pod(who.address, settings) or _of_pods(who.interface or "", settings):
        return SenderKind.POD
    return SenderKind.OUTSIDE


def _some_pod(family: Family, settings: Settings, state: State) -> Address:
    """Choose an address that pods have, and no endpoint."""
    servers = {member.address for found in state.real_servers.values() for member in found}
    for network in settings.cluster_cidrs:
        if network.family is family:
            for address in _last(network):
                if address not in servers and not is_local(state, address):
                    return address
    raise ValueError(
        f"it is not known which IPv{family} addresses pods have, as clusterCIDRs has none: "
        "give a pod's address (--from ADDRESS)"
    )


def _last(network: Network) -> Iterator[Address]:
    """Give addresses from the end of a network, without its last one."""
    length = len(network.address)
    size = 1 << (length * 8 - network.prefix_length)
    first = int.from_bytes(network.address)
    for offset in range(size - 1, max(0, size - _TRIES), -1):
        yield Address((first + offset - 1).to_bytes(length))
    yield network.address


def _pod_interface(family: Family, settings: Settings, state: State) -> str:
    """Choose the interface of a pod of this node."""
    match settings.detect_local_mode:
        case DetectLocalMode.BRIDGE_INTERFACE if settings.pod_bridge_interface:
            return settings.pod_bridge_interface
        case DetectLocalMode.INTERFACE_NAME_PREFIX if settings.pod_interface_name_prefix:
            return f"{settings.pod_interface_name_prefix}0"
        case _:
            pass
    for name, addresses in sorted(state.network.interfaces.items()):
        if any(one.family is family and _is_pod(one, settings) for one in addresses):
            return name
    return SOME_POD_INTERFACE


def _uplink(family: Family, settings: Settings, state: State) -> str:
    """Choose the interface by which somebody outside comes in."""
    for name, addresses in sorted(state.network.interfaces.items()):
        own = [one for one in addresses if one.family is family]
        if name == "lo" or not own or _of_pods(name, settings):
            continue
        if not any(_is_pod(one, settings) for one in own):
            return name
    return SOME_INTERFACE


def _is_pod(address: Address, settings: Settings) -> bool:
    return any(address in network for network in settings.cluster_cidrs)


def _of_pods(interface: str, settings: Settings) -> bool:
    prefix = settings.pod_interface_name_prefix
    return bool(interface) and (
        interface == settings.pod_bridge_interface
        or (prefix is not None and interface.startswith(prefix))
    )
