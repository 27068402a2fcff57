"""What the kernel has, written as the tools of its tables write it, done to a fake's state.

`-A`, `-a`, `-D` and `-d` as `ipvsadm -Sn` and ipvsadm have them, `add` and `del` as `ipset save`
has them, and `address` or `no address` for the dummy interface. A set that is not there yet is
made, of the type that its name has here. Only what scenarios need is understood.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

from ipvsproxy.core.firewall import set_specs
from ipvsproxy.model import (
    Address,
    Family,
    Flags,
    ForwardingMethod,
    IpMember,
    IpPortMember,
    Member,
    Protocol,
    RealServer,
    RealServerKey,
    SetType,
    State,
    VirtualServer,
    VirtualServerKey,
)

_PROTOCOLS = {"-t": Protocol.TCP, "-u": Protocol.UDP, "--sctp-service": Protocol.SCTP}
_SPECS = set_specs(Family, 65536)


def do_to(state: State, lines: Iterable[str]) -> None:
    """Do to a state what the lines say."""
    for line in lines:
        words = line.split()
        match words:
            case ["-A" | "-a" | "-D" | "-d", *_]:
                _ipvsadm(state, words)
            case ["add" | "del" as verb, name, text]:
                _member(state, verb, name, text)
            case ["address", text]:
                state.link = True
                state.addresses.add(Address.parse(text))
            case ["no", "address", text]:
                state.addresses.remove(Address.parse(text))
            case _:
                raise AssertionError(f"not understood: {line}")


def frontend(text: str) -> VirtualServerKey:
    """Read a virtual server's key as it is printed: `10.96.0.10:80/TCP`."""
    place, _, protocol = text.rpartition("/")
    return VirtualServerKey(Protocol[protocol], *_place(place))


def _ipvsadm(state: State, words: list[str]) -> None:
    verb, protocol, place, *rest = words
    key = VirtualServerKey(_PROTOCOLS[protocol], *_place(place))
    options = dict(pairwise([*rest, ""]))
    match verb:
        case "-A":
            state.virtual_servers[key] = VirtualServer(
                options["-s"],
                Flags.SCHED_1 if "-b" in options else Flags.NONE,
                int(options.get("-p", 0)),
                key.family.host_prefix,
            )
            state.real_servers.setdefault(key, {})
        case "-D":
            del state.virtual_servers[key], state.real_servers[key]
        case "-a":
            method = ForwardingMethod.MASQUERADE if "-m" in rest else ForwardingMethod.DIRECT_ROUTE
            server = RealServer(int(options["-w"]), method)
            state.real_servers[key][RealServerKey(*_place(options["-r"]))] = server
        case _:
            del state.real_servers[key][RealServerKey(*_place(options["-r"]))]


def _member(state: State, verb: str, name: str, text: str) -> None:
    spec = _SPECS[name]
    state.sets.setdefault(name, spec)
    members = state.members.setdefault(name, set())
    if verb == "add":
        members.add(_parsed(spec.type, text))
    else:
        members.remove(_parsed(spec.type, text))


def _parsed(set_type: SetType, text: str) -> Member:
    if set_type is SetType.HASH_IP:
        return IpMember(Address.parse(text))
    address, _, port = text.partition(",")
    protocol, _, number = port.partition(":")
    return IpPortMember(Address.parse(address), Protocol[protocol.upper()], int(number))


def _place(text: str) -> tuple[Address, int]:
    host, _, port = text.rpartition(":")
    return Address.parse(host.strip("[]")), int(port)
