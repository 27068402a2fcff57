"""The parts in which the kernel's tables are read a little at a time, and a state cut to one.

Knows states only; who reads a part, and when, it does not know. A part that was read is as we
thought when it equals the same part of the shadow (`part_of`), so an audit is a comparison of two
values, and what a dataplane has to answer is defined by what it answers to a whole dump.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias, assert_never

from ipvsproxy.model import Family, State, VirtualServerKey

__all__ = [
    "Addresses",
    "KernelSettings",
    "Members",
    "Part",
    "RealServers",
    "Rules",
    "VirtualServers",
    "part_of",
]


@dataclass(frozen=True, slots=True)
class KernelSettings:
    """Sysctls, timeouts, which families there are, and what of the tables cannot be read."""


@dataclass(frozen=True, slots=True)
class Rules:
    """Our chains of one family, and the jumps into them; the one part that costs a program."""

    family: Family


@dataclass(frozen=True, slots=True)
class Addresses:
    """The dummy interface with its addresses, and the node's own network."""


@dataclass(frozen=True, slots=True)
class VirtualServers:
    """All virtual servers, without their real servers."""


@dataclass(frozen=True, slots=True)
class RealServers:
    """The real servers of some virtual servers."""

    keys: tuple[VirtualServerKey, ...]


@dataclass(frozen=True, slots=True)
class Members:
    """One set."""

    name: str


Part: TypeAlias = KernelSettings | Rules | Addresses | VirtualServers | RealServers | Members


def part_of(state: State, part: Part) -> State:  # noqa: PLR0911 - one case for each part
    """Give a state that says of one part what `state` does, and nothing of the others.

    Its containers are those of `state`, not copies. Virtual servers without real servers are left
    out of `RealServers`, as some interfaces of the kernel do not tell an empty one from none.
    """
    match part:
        case KernelSettings():
            return State(
                families=state.families,
                sysctls=state.sysctls,
                timeouts=state.timeouts,
                lacks=state.lacks,
            )
        case Rules(family):
            found = state.rulesets.get(family)
            return State(rulesets={} if found is None else {family: found})
        case Addresses():
            return State(link=state.link, addresses=state.addresses, network=state.network)
        case VirtualServers():
            return State(virtual_servers=state.virtual_servers)
        case RealServers(keys):
            behind = {key: state.real_servers.get(key) for key in keys}
            return State(real_servers={key: members for key, members in behind.items() if members})
        case Members(name):
            if name not in state.sets:
                return State()
            return State(sets={name: state.sets[name]}, members={name: state.members[name]})
        case _:
            assert_never(part)
