"""What the kernel has, written as the tools of its tables write it, done to a fake's state.

`-A`, `-a`, `-D` and `-d` as `ipvsadm -Sn` and ipvsadm have them, `add` and `del` as `ipset save`
has them, and `address` or `no address` for the dummy interface. A set that is not there yet is
made, of the type that its name has here. Of the node's own network `network INTERFACE ADDRESS...`
says what an interface has (nothing: it is gone), `gateway ADDRESS` where a route leads, and
`listener PROTOCOL PLACE` or `no listener ...` where a program listens. Only what scenarios need is
understood.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from itertools import pairwise

from ipvsproxy.core.operations import CreateSet
from ipvsproxy.core.sets import set_specs
from ipvsproxy.kernel.ipset_text import line, parse_save
from ipvsproxy.model import (
    Address,
    Family,
    Flags,
    ForwardingMethod,
    Listener,
    NodeNetwork,
    Protocol,
    RealServer,
    RealServerKey,
    State,
    VirtualServer,
    VirtualServerKey,
)

_PROTOCOLS = {"-t": Protocol.TCP, "-u": Protocol.UDP, "--sctp-service": Protocol.SCTP}
_SPECS = set_specs(Family, 65536)


def do_to(state: State, lines: Iterable[str]) -> None:
    """Do to a state what the lines say."""
    for text in lines:
        words = text.split()
        match words:
            case ["-A" | "-a" | "-D" | "-d", *_]:
                _ipvsadm(state, words)
            case ["add" | "del" as verb, name, member]:
                _member(state, verb, name, member)
            case ["address", address]:
                state.link = True
                state.addresses.add(Address.parse(address))
            case ["no", "address", address]:
                state.addresses.remove(Address.parse(address))
            case ["network", interface, *addresses]:
                state.network = _with_interface(state.network, interface, addresses)
            case ["gateway", address]:
                gateways = state.network.gateways | {Address.parse(address)}
                state.network = dataclasses.replace(state.network, gateways=gateways)
            case ["listener", protocol, place]:
                listeners = state.network.listeners | {_listener(protocol, place)}
                state.network = dataclasses.replace(state.network, listeners=listeners)
            case ["no", "listener", protocol, place]:
                listeners = state.network.listeners - {_listener(protocol, place)}
                state.network = dataclasses.replace(state.network, listeners=listeners)
            case _:
                raise AssertionError(f"not understood: {text}")


def frontend(text: str) -> VirtualServerKey:
    """Read a virtual server's key as it is printed: `10.96.0.10:80/TCP`."""
    place, _, protocol = text.rpartition("/")
    return VirtualServerKey(Protocol[protocol], *_place(place))


def change_node_address(state: State, verb: str, text: str, interface: str) -> None:
    """Add an address to an interface of the node, or remove it."""
    address = frozenset({Address.parse(text)})
    present = state.network.interfaces.get(interface, frozenset())
    assert verb in {"add", "remove"}, verb
    wanted = present | address if verb == "add" else present - address
    state.network = _with_interface(state.network, interface, sorted(map(str, wanted)))


def _with_interface(network: NodeNetwork, interface: str, addresses: Sequence[str]) -> NodeNetwork:
    interfaces = {**network.interfaces, interface: frozenset(map(Address.parse, addresses))}
    if not addresses:
        del interfaces[interface]
    return dataclasses.replace(network, interfaces=interfaces)


def _listener(protocol: str, place: str) -> Listener:
    return Listener(Protocol[protocol.upper()], *_place(place))


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
    (member,) = parse_save(f"{line(CreateSet(name, spec))}\nadd {name} {text}")[1][name]
    if verb == "add":
        members.add(member)
    else:
        members.remove(member)


def _place(text: str) -> tuple[Address, int]:
    host, _, port = text.rpartition(":")
    return Address.parse(host.strip("[]")), int(port)
