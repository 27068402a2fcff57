"""What of the kernel could not be read, and why, until it could.

Knows what was asked for and what became of it; reads nothing. What failed once is answered by
reading everything, and forgotten when that succeeds. What fails again although everything could be
read stands until it has succeeded itself, or is not there any more: otherwise it would be told and
taken back twice in a sync period.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from typing import TypeAlias, assert_never

from ipvsproxy.core.parts import (
    Addresses,
    KernelSettings,
    Members,
    Part,
    RealServers,
    Rules,
    VirtualServers,
)
from ipvsproxy.model import State, VirtualServerKey


class Beside(Enum):
    """What is read beside the parts."""

    ALL = "all"
    GLANCE = "glance"
    NETWORK = "network"


What: TypeAlias = Beside | Part | VirtualServerKey
"""What is asked for; a virtual server stands for its real servers."""


class Troubles:
    """Remembers what could not be read."""

    def __init__(self) -> None:
        self._reasons: dict[What, str] = {}
        self._again: set[What] = set()
        """What has failed, and not succeeded since, though everything could be read."""

    def failed(self, asked: Iterable[What], reason: str) -> None:
        """Take note that these could not be read."""
        for one in asked:
            self._reasons[one] = reason

    def succeeded(self, asked: Iterable[What]) -> None:
        """Take note that these could be read."""
        for one in asked:
            self._reasons.pop(one, None)
            self._again.discard(one)

    def all_read(self, state: State) -> None:
        """Take note that everything could be read, and is this."""
        self.succeeded([Beside.ALL])
        lasting = self._again & self._reasons.keys()
        self._again = {one for one in self._again | self._reasons.keys() if _is_there(one, state)}
        self._reasons = {one: why for one, why in self._reasons.items() if one in lasting}

    def reason(self, state: State | None) -> str:
        """Say why something that is there cannot be read; empty: all of it could."""
        told = (why for one, why in self._reasons.items() if state is None or _is_there(one, state))
        return next(told, "")


def parts_of(part: Part) -> Iterable[What]:
    """Give what is asked for by a part: of real servers, each virtual server by itself."""
    return part.keys if isinstance(part, RealServers) else (part,)


def _is_there(asked: What, state: State) -> bool:
    match asked:
        case VirtualServerKey():
            return asked in state.real_servers
        case RealServers(keys):
            return any(key in state.real_servers for key in keys)
        case Members(name):
            return name in state.members
        case Rules(family):
            return family in state.families
        case Beside() | KernelSettings() | Addresses() | VirtualServers():
            return True
        case _:
            assert_never(asked)
