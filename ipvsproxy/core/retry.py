"""When a refused operation is tried again, and what of the kernel is not yet as it is wanted.

What failed is still different, so nothing has to be queued; but it should not be tried in every
cycle. Each refused operation has a pause that doubles; another operation on the same thing (a
scheduler that was mended, say) is a different one and has none.
"""

from __future__ import annotations

from collections.abc import Container, Iterable
from typing import NamedTuple, assert_never

from ipvsproxy.core.desired import Touched
from ipvsproxy.core.operations import (
    AddMember,
    AddRealServer,
    AddVirtualServer,
    BindAddress,
    CreateLink,
    CreateSet,
    DestroySet,
    ForgetFlows,
    GrowSet,
    Operation,
    RemoveLink,
    RemoveMember,
    RemoveRealServer,
    RemoveVirtualServer,
    ReplaceChains,
    SetRealServer,
    SetSysctl,
    SetTimeouts,
    SetVirtualServer,
    UnbindAddress,
)

FIRST_PAUSE = 1.0
"""Seconds before a refused operation is tried again."""
LONGEST_PAUSE = 60.0


class _Pause(NamedTuple):
    until: float
    length: float


class Retries:
    """The pauses of refused operations; times are seconds of the caller's clock."""

    def __init__(self) -> None:
        self._pauses: dict[Operation, _Pause] = {}

    def refused(self, operation: Operation, now: float) -> None:
        """Begin, or lengthen, the pause of an operation."""
        before = self._pauses.get(operation)
        length = min(before.length * 2, LONGEST_PAUSE) if before else FIRST_PAUSE
        self._pauses[operation] = _Pause(now + length, length)

    def acknowledged(self, operations: Iterable[Operation]) -> None:
        """Forget the pauses of operations that have succeeded."""
        if self._pauses:
            for operation in operations:
                self._pauses.pop(operation, None)

    @property
    def none(self) -> bool:
        """Whether there is no pause at all, as mostly."""
        return not self._pauses

    def withheld(self, operation: Operation, now: float) -> bool:
        """Whether an operation is in its pause."""
        pause = self._pauses.get(operation)
        return pause is not None and now < pause.until

    def forget_unless(self, wanted: Container[Operation]) -> None:
        """Forget the pauses of operations that are no longer wanted."""
        self._pauses = {one: pause for one, pause in self._pauses.items() if one in wanted}

    def next_due(self, tried: float) -> float | None:
        """When the next pause ends; None when there is none.

        One that had ended by `tried`, when all that could be was tried, is of an operation that
        waits for another: it is tried when that one is.
        """
        return min((one.until for one in self._pauses.values() if one.until > tried), default=None)


def scope(operation: Operation) -> Touched:
    """Say what has to be planned again when an operation was not carried out."""
    match operation:
        case AddVirtualServer(key, _) | SetVirtualServer(key, _) | RemoveVirtualServer(key):
            return Touched(keys={key})
        case AddRealServer(key, _, _) | SetRealServer(key, _, _) | RemoveRealServer(key, _):
            return Touched(keys={key})
        case BindAddress(address) | UnbindAddress(address):
            return Touched(addresses={address})
        case AddMember(name, member) | RemoveMember(name, member):
            return Touched(members={(name, member)})
        case CreateLink() | RemoveLink() | CreateSet() | DestroySet() | ReplaceChains():
            return Touched()
        case GrowSet() | SetSysctl() | SetTimeouts() | ForgetFlows():
            return Touched()
        case _:
            assert_never(operation)
