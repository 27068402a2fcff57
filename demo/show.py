"""What the demonstration prints, and which of its claims held.

Coloured on a terminal only, or where FORCE_COLOR says that one is behind the pipe of a rig.
"""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

BAR = 30
RESET = "\x1b[0m"
BOLD, DIM, RED, GREEN, BLUE = "\x1b[1m", "\x1b[2m", "\x1b[31m", "\x1b[32m", "\x1b[34m"


def _coloured() -> bool:
    wanted = sys.stdout.isatty() or "FORCE_COLOR" in os.environ
    return wanted and "NO_COLOR" not in os.environ


@dataclass(slots=True)
class Screen:
    """Prints sections, and counts the claims that were made and those that did not hold."""

    coloured: bool = field(default_factory=_coloured)
    claims: int = 0
    broken: list[str] = field(default_factory=list)
    _started: float = field(default_factory=time.monotonic)
    _section: int = 0

    def paint(self, style: str, text: str) -> str:
        """Return text in a style, where there is colour."""
        return f"{style}{text}{RESET}" if self.coloured else text

    def line(self, text: str = "") -> None:
        """Print a line."""
        print(f"  {text}".rstrip(), flush=True)

    def section(self, title: str) -> None:
        """Begin a section."""
        self._section += 1
        seconds = time.monotonic() - self._started
        head = f"{self._section}. {title} "
        rule = "─" * max(3, 84 - len(head))
        print(
            f"\n{self.paint(BOLD, head)}{self.paint(DIM, f'{rule} {seconds:4.0f} s')}", flush=True
        )

    def bars(self, counts: Mapping[str, int], names: Sequence[str]) -> None:
        """Print how often each of `names` answered."""
        most = max([*counts.values(), 1])
        for name in names:
            count = counts.get(name, 0)
            bar = "█" * round(BAR * count / most) or ("▏" if count else "")
            self.line(f"  {name:<8} {count:>5}  {self.paint(BLUE, bar)}".rstrip())

    def claim(self, text: str, holds: bool) -> None:
        """Print a claim with whether it held."""
        self.claims += 1
        mark = self.paint(GREEN, "✔") if holds else self.paint(RED, "✘ NOT TRUE:")
        self.line(f"{mark} {text}")
        if not holds:
            self.broken.append(text)

    def program(self, command: str, output: str) -> None:
        """Print what a program said."""
        self.line(self.paint(BOLD, f"$ {command}"))
        for line in output.rstrip().splitlines():
            self.line(line)

    def finish(self) -> int:
        """Say how it went; return the exit status."""
        seconds = time.monotonic() - self._started
        print()
        if self.broken:
            verdict = f"{len(self.broken)} of {self.claims} claims did not hold:"
            self.line(self.paint(RED, verdict))
            for text in self.broken:
                self.line(f"  {text}")
            return 1
        verdict = f"{self.claims} claims, each measured, all true. {seconds:.0f} s."
        self.line(self.paint(GREEN, verdict))
        return 0
