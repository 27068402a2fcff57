"""ipset's language: the lines of `ipset restore`, and what `save` and `list` print.

Knows words and no program: text in, values out, and the reverse. Of a set it knows what it is made
with; which sets there ought to be is not its business.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias, assert_never

from ipvsproxy.core.operations import AddMember, CreateSet, DestroySet, RemoveMember, member_text
from ipvsproxy.core.predecessors import KUBE_ROUTER_FRONTENDS
from ipvsproxy.core.sets import OWN_SET_PREFIXES
from ipvsproxy.model import (
    Address,
    Family,
    IpMember,
    IpPortIpMember,
    IpPortMember,
    IpPortNetMember,
    Member,
    Network,
    PortMember,
    Protocol,
    SetSpec,
    SetType,
)

LineOperation: TypeAlias = CreateSet | DestroySet | AddMember | RemoveMember

TEMPORARY = "IPVSPROXY-GROW"
"""The set that takes another's place by a swap. It is never kept: where there is one, a run was
killed before it could destroy it."""

_PROTOCOLS = {protocol.name.lower(): protocol for protocol in Protocol}
_FAMILIES = {"inet": Family.IPV4, "inet6": Family.IPV6}
_FAMILY_WORDS = {family: word for word, family in _FAMILIES.items()}
_PLAIN_OPTIONS = frozenset({"family", "hashsize", "maxelem", "bucketsize", "initval"})
"""Options with a value that do not change what a set means; any other makes it not ours."""
_NO_TIMEOUT = ["timeout", "0"]
"""How kube-router makes its sets and their members: of a kind that could expire, and never does."""
OF_KUBE_ROUTER = frozenset[str]().union(*KUBE_ROUTER_FRONTENDS.values())
"""kube-router's sets, which are made so that their members could expire."""
_LOOKED_AT = (*OWN_SET_PREFIXES, *OF_KUBE_ROUTER)
_DEFAULT_MAXELEM = "65536"
"""IPSET_DEFAULT_MAXELEM in net/netfilter/ipset/ip_set_hash_gen.h."""


def line(operation: LineOperation) -> str:
    """Write an operation as a line of `ipset restore`."""
    match operation:
        case CreateSet(name, SetSpec(SetType.BITMAP_PORT)):
            return f"create {name} {SetType.BITMAP_PORT} range 0-65535"
        case CreateSet(name, spec):
            family = _FAMILY_WORDS[spec.family]
            size = f"hashsize {spec.hashsize} maxelem {spec.maxelem}"
            return f"create {name} {spec.type} family {family} {size}"
        case DestroySet(name):
            return f"destroy {name}"
        case AddMember(name, member):
            return f"add {name} {member_text(member)}"
        case RemoveMember(name, member):
            return f"del {name} {member_text(member)}"
        case _:
            assert_never(operation)


def is_looked_at(name: str) -> bool:
    """Whether a set of this name may be ours, or one that we take over."""
    return name.startswith(_LOOKED_AT)


def growth_text(name: str, spec: SetSpec, saved: str) -> str:
    """Write the input of one `ipset restore` that puts a set of `spec` in the place of another.

    `saved` is what `ipset save` prints of that one. Its members are copied as they stand there. Up
    to the swap nothing has happened to it; the swap is one step, and what goes by the name, or by a
    rule that uses it, finds the new set from then on.
    """
    lines = [line(CreateSet(TEMPORARY, spec))]
    beginning = f"add {name} "
    lines += (
        f"add {TEMPORARY} {row.removeprefix(beginning)}"
        for row in saved.splitlines()
        if row.startswith(beginning)
    )
    lines += (f"swap {TEMPORARY} {name}", line(DestroySet(TEMPORARY)))
    return "".join(f"{one}\n" for one in lines)


def parse_save(text: str) -> tuple[dict[str, SetSpec], dict[str, set[Member]], dict[str, str]]:
    """Read what `ipset save` prints: sets, their members, and the sets left out with the reason.

    Sets with other names are passed over. A member that we would never write (another protocol,
    an exception) is left out: what is not ours is not seen.
    """
    specs: dict[str, SetSpec] = {}
    members: dict[str, set[Member]] = {}
    ignored: dict[str, str] = {}
    for row in text.splitlines():
        words = row.split()
        if len(words) < 3 or not is_looked_at(words[1]):  # noqa: PLR2004 - verb, name, rest
            continue
        name = words[1]
        if name in OF_KUBE_ROUTER:
            words = _without_timeout(words)
        if words[0] == "create":
            spec = _parse_spec(name, words[2:])
            if spec is None:
                ignored[name] = " ".join(words[2:])
            else:
                specs[name] = spec
                members[name] = set()
        elif words[0] == "add" and name in specs and len(words) == 3:  # noqa: PLR2004 - no options
            member = _parse_member(specs[name].type, words[2])
            if member is not None:
                members[name].add(member)
    return specs, members, ignored


def parse_headers(text: str) -> dict[str, str]:
    """Read what `ipset list -terse` prints: type and options of each set, by name."""
    types: dict[str, str] = {}
    name = ""
    for row in text.splitlines():
        label, _, value = row.partition(": ")
        match label:
            case "Name":
                name = value
            case "Type":
                types[name] = value
            case "Header":
                types[name] += f" {value}"
            case _:
                pass
    return types


def _parse_spec(name: str, words: Sequence[str]) -> SetSpec | None:
    """Read type and options; None for a set of another kind."""
    if words[0] == SetType.BITMAP_PORT:
        family = Family.IPV6 if name.startswith("KUBE-6-") else Family.IPV4
        whole = list(words[1:]) == ["range", "0-65535"]
        return SetSpec(SetType.BITMAP_PORT, family) if whole else None
    if words[0] not in _PARSERS:
        return None
    options = dict(zip(words[1::2], words[2::2], strict=False))
    if len(options) * 2 != len(words) - 1 or not options.keys() <= _PLAIN_OPTIONS:
        return None
    maxelem = options.get("maxelem", _DEFAULT_MAXELEM)
    return SetSpec(SetType(words[0]), _FAMILIES[options.get("family", "inet")], int(maxelem))


def _without_timeout(words: list[str]) -> list[str]:
    for start in range(len(words) - 1):
        if words[start : start + 2] == _NO_TIMEOUT:
            return words[:start] + words[start + 2 :]
    return words


def _parse_member(set_type: SetType, element: str) -> Member | None:
    try:
        return _PARSERS[set_type](element)
    except (ValueError, OSError, KeyError):
        return None


def _address(text: str) -> Address:
    family = socket.AF_INET6 if ":" in text else socket.AF_INET
    return Address(socket.inet_pton(family, text))


def _parse_ip(element: str) -> Member:
    return IpMember(_address(element))


def _parse_ip_port(element: str) -> Member:
    address, service = element.split(",")
    protocol, port = service.split(":")
    return IpPortMember(_address(address), _PROTOCOLS[protocol], int(port))


def _parse_ip_port_ip(element: str) -> Member:
    address, service, other = element.split(",")
    protocol, port = service.split(":")
    return IpPortIpMember(_address(address), _PROTOCOLS[protocol], int(port), _address(other))


def _parse_ip_port_net(element: str) -> Member:
    address, service, network = element.split(",")
    protocol, port = service.split(":")
    block = Network.parse(network)
    return IpPortNetMember(_address(address), _PROTOCOLS[protocol], int(port), block)


def _parse_port(element: str) -> Member:
    return PortMember(int(element))


_PARSERS: Mapping[str, Callable[[str], Member]] = {
    SetType.HASH_IP: _parse_ip,
    SetType.HASH_IP_PORT: _parse_ip_port,
    SetType.HASH_IP_PORT_IP: _parse_ip_port_ip,
    SetType.HASH_IP_PORT_NET: _parse_ip_port_net,
    SetType.BITMAP_PORT: _parse_port,
}
