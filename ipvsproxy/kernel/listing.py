"""The virtual and real servers of a state as text, as `ipvsadm -Sn` prints them.

Knows ipvsadm's words (1.31, print_service_entry) and nothing of how the state came about. The one
difference is the order: by key, where ipvsadm's is that of the kernel's hash table.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ipvsproxy.model import (
    Address,
    Family,
    Flags,
    ForwardingMethod,
    Protocol,
    RealServer,
    RealServerKey,
    State,
    VirtualServer,
    VirtualServerKey,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["ipvsadm_text"]

_PROTOCOL_OPTIONS = {Protocol.TCP: "-t", Protocol.UDP: "-u", Protocol.SCTP: "--sctp-service"}
_METHOD_OPTIONS = {
    ForwardingMethod.MASQUERADE: "-m",
    ForwardingMethod.LOCAL: "-g",
    ForwardingMethod.TUNNEL: "-i",
    ForwardingMethod.DIRECT_ROUTE: "-g",
    ForwardingMethod.BYPASS: "-g",
}
_SCHEDULER_FLAGS = (Flags.SCHED_1, Flags.SCHED_2, Flags.SCHED_3)
_FLAG_NAMES: Mapping[str, tuple[str, ...]] = {
    "sh": ("sh-fallback", "sh-port"),  # a third flag means nothing to them, and is not printed
    "mh": ("mh-fallback", "mh-port"),
}
_OTHER_FLAG_NAMES = ("flag-1", "flag-2", "flag-3")


def ipvsadm_text(state: State) -> str:
    """Write the table as commands that ipvsadm reads, one a line, sorted by key."""
    return "".join(f"{line}\n" for line in _lines(state))


def _lines(state: State) -> Iterator[str]:
    for key in sorted(state.virtual_servers):
        frontend = f"{_PROTOCOL_OPTIONS[key.protocol]} {_socket(key)}"
        yield f"-A {frontend} -s {_options(key, state.virtual_servers[key])}"
        for member, server in sorted(state.real_servers.get(key, {}).items()):
            yield f"-a {frontend} -r {_socket(member)} {_real_options(server)}"


def _socket(key: VirtualServerKey | RealServerKey) -> str:
    host = str(key.address) if key.address.family is Family.IPV4 else f"[{key.address}]"
    return f"{host}:{key.port}"


def _options(key: VirtualServerKey, server: VirtualServer) -> str:
    text = server.scheduler
    if server.persistence:
        text += f" -p {server.persistence}"
        if server.persistence_prefix != key.family.host_prefix:
            text += f" -M {_mask(key.family, server.persistence_prefix)}"
    if server.flags & Flags.ONE_PACKET:
        text += " -o"
    names = _FLAG_NAMES.get(server.scheduler, _OTHER_FLAG_NAMES)
    chosen = [
        name for name, flag in zip(names, _SCHEDULER_FLAGS, strict=False) if server.flags & flag
    ]
    return f"{text} -b {','.join(chosen)}" if chosen else text


def _mask(family: Family, prefix_length: int) -> str:
    if family is Family.IPV6:
        return str(prefix_length)
    return str(Address(((1 << 32) - (1 << 32 - prefix_length)).to_bytes(4)))


def _real_options(server: RealServer) -> str:
    text = f"{_METHOD_OPTIONS[server.forwarding_method]} -w {server.weight}"
    if server.forwarding_method is ForwardingMethod.TUNNEL:
        text += " --tun-type ipip"
    return text
