"""When everything is compared, not only what was touched: after an audit, or with other settings.

Knows the settlement, which says what everything is, and what of the kernel cannot be told from
leftovers yet; does not know what is done with what was touched.
"""

from __future__ import annotations

from ipvsproxy.core.desired import Desired, Touched
from ipvsproxy.core.pieces import Pieces
from ipvsproxy.core.settlement import Holds, Settlement
from ipvsproxy.model import State


class Sweeps:
    """Has everything touched where there is a reason to."""

    def __init__(self, desired: Desired, settlement: Settlement) -> None:
        self._desired = desired
        self._settlement = settlement
        self.due = False
        """Whether everything is to be compared as soon as all Services are translated."""
        self._held = Holds(everything=True)
        """What could not be told from leftovers in the last cycle."""

    def touch(
        self, touched: Touched, state: State, held: Holds, *, translated: bool, now: float
    ) -> Pieces[None]:
        """Touch everything where that is due, also when more of the picture is known than before.

        Not before every Service has been `translated`: what is not claimed yet is no leftover.
        """
        before, self._held = self._held, held
        if before.everything > held.everything or before.addresses - held.addresses:
            self.due = True
        if self.due and translated:
            self.due = False
            for key in self._desired.foreign - state.virtual_servers.keys():
                touched.add(self._desired.clear_foreign(key))
            yield from self._settlement.sweep(touched, state, held, now)
