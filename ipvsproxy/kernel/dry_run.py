"""A dataplane that never writes: what `ipvsproxy plan` and a dry run go by.

Knows any other dataplane, which it reads, and the fake, which carries out in memory what would be
done; decides nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ipvsproxy.dataplane import Dataplane, Glance, Outcome, Reading
from ipvsproxy.kernel.fake import ALL_SCHEDULERS, FakeDataplane, Wrapper, copy_state
from ipvsproxy.model import Connections, State, VirtualServerKey

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from ipvsproxy.core.operations import Operation
    from ipvsproxy.core.parts import Part

__all__ = ["DryRunDataplane"]

_NO_CONNECTIONS = Connections(0, 0, 0)


class DryRunDataplane(Wrapper):
    """Reads from what it wraps until the first change, and carries out changes on a copy of that.

    It never writes. `recorded` has the operations that were acknowledged. Connections are always
    those of what it wraps.
    """

    def __init__(self, inner: Dataplane, *, schedulers: frozenset[str] = ALL_SCHEDULERS) -> None:
        """Accept `schedulers`: what the kernel can load cannot be known without writing."""
        super().__init__(inner)
        self._schedulers = schedulers
        self._copy: FakeDataplane | None = None

    @property
    def recorded(self) -> Sequence[Operation]:
        """What would have been done, in its order."""
        return () if self._copy is None else tuple(self._copy.applied)

    async def dump(self) -> State:
        """Return the state with the changes so far."""
        return await (self._inner if self._copy is None else self._copy).dump()

    async def glance(self, keys: Collection[VirtualServerKey], sets: Collection[str]) -> Glance:
        """Look at the state with the changes so far."""
        return await (self._inner if self._copy is None else self._copy).glance(keys, sets)

    async def look(self, part: Part) -> State:
        """Return a part of the state with the changes so far."""
        return await (self._inner if self._copy is None else self._copy).look(part)

    async def read(
        self, keys: Collection[VirtualServerKey]
    ) -> Mapping[VirtualServerKey, Reading | None]:
        """Read virtual servers with the changes so far, and the connections that really exist."""
        real = await self._inner.read(keys)
        if self._copy is None:
            return real
        planned = await self._copy.read(keys)
        return {key: _with_connections(planned[key], real[key]) for key in keys}

    async def apply(self, operations: Sequence[Operation]) -> Sequence[Outcome]:
        """Change the copy, by the kernel's rules."""
        if self._copy is None:
            state = await self._inner.dump()
            self._copy = FakeDataplane(copy_state(state), schedulers=self._schedulers)
        return await self._copy.apply(operations)


def _with_connections(planned: Reading | None, real: Reading | None) -> Reading | None:
    if planned is None:
        return None
    found = {} if real is None else real.connections
    return planned._replace(
        connections={member: found.get(member, _NO_CONNECTIONS) for member in planned.real_servers}
    )
