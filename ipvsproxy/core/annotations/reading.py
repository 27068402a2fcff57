"""How a Service's annotations are read; of a wrong value, the last good one stays.

Knows no annotation. What each may say is its own module's; the texts that were good are kept by
whoever keeps the Service's last translation, and handed in again. After a restart nobody remembers
any: what the kernel has kept is handed in then, and what nobody knows counts as not written.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

from ipvsproxy.core.problem import Problem, ProblemKind, in_short, no_effect

Value = TypeVar("Value")

_SHOWN = 100
"""Characters of a good text that are shown."""


class Reader:
    """Reads the annotations of one Service, one by one, and gathers what is wrong with them."""

    def __init__(self, written: Mapping[str, str], good_before: Mapping[str, str]) -> None:
        """Read `written`; `good_before` are the texts in force until now, by annotation."""
        self.written = written
        self._good_before = good_before
        self.good: dict[str, str] = {}
        """The texts in force now: what to hand in the next time."""
        self.problems: list[Problem] = []
        self._never_right: set[str] = set()

    def read(self, name: str, parse: Callable[[str], Value], *, stays: str = "") -> Value | None:
        """Give what an annotation says; None where it is not written, or was never right.

        `parse` raises ValueError with one line: what is wrong, and how to write it. `stays` says
        what is in force in place of a wrong value, where that is not the last good text.
        """
        return self.read_text(name, self.written.get(name), parse, stays=stays)

    def read_text(
        self, name: str, text: str | None, parse: Callable[[str], Value], *, stays: str = ""
    ) -> Value | None:
        """Read, as `read` does, what another object says; `name` tells which: "NAME of KIND X"."""
        if text is None:
            return None
        try:
            value = parse(text.strip())
        except ValueError as error:
            return self._last_good(name, parse, str(error), stays)
        self.good[name] = text
        return value

    def was_good(self, name: str) -> bool:
        """Whether a good text of an annotation was in force until now."""
        return name in self._good_before

    def never_right(self, name: str) -> bool:
        """Whether an annotation was read, is wrong, and no good text of it is known."""
        return name in self._never_right

    def restore(self, name: str) -> str | None:
        """Have the last good text stand, though the present one is well written by itself.

        Gives it; None: there is none, so nothing stands.
        """
        self.good.pop(name, None)
        text = self._good_before.get(name)
        if text is not None:
            self.good[name] = text
        return text

    def refuse(self, name: str, why: str) -> None:
        """Tell of a value that is well written, but cannot be taken here."""
        self.problems.append(
            Problem(ProblemKind.INVALID_ANNOTATION, f"annotation {name}: {why}"),
        )

    def no_effect(self, name: str, why: str) -> None:
        """Tell of a value that is right, but does nothing here, or not for all."""
        self.problems.append(no_effect(name, why))

    def _last_good(
        self, name: str, parse: Callable[[str], Value], why: str, stays: str
    ) -> Value | None:
        text = self._good_before.get(name)
        kept = "it counts as not written"
        if text is not None:
            kept = f"{in_short(repr(text.strip()), _SHOWN)} stays"
        self.refuse(name, f"{in_short(why)}; {stays or kept}")
        if text is None:
            self._never_right.add(name)
            return None
        self.good[name] = text
        return parse(text.strip())
