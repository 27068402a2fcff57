"""What a cycle did, as counts, and as the one sentence that is logged of it.

Values only: the loop fills it, the observer counts it, the log prints its sentence.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from ipvsproxy.reconciler.writer import Written


@dataclass(slots=True)
class CycleReport:
    """What one cycle did."""

    started: float
    """On the reconciler's clock (s)."""
    duration: float = 0.0
    """Seconds."""
    translated: int = 0
    """Services that were looked at."""
    covers: int = -1
    """The store's revision up to which all changes were looked at; -1: some wait for the next."""
    done: Counter[str] = field(default_factory=Counter)
    """Acknowledged operations, by kind."""
    refused: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Refused operations, by kind and reason."""
    undone: int = 0
    """Operations that are still wanted: refused, or waiting for a pause or for others."""
    drift: Counter[str] = field(default_factory=Counter)
    """What others had changed, where an audit was made, by kind."""
    audited: bool = False
    only_looked: bool = False
    """Whether nothing was due but to look at a few things, which were as they should be."""

    @property
    def result(self) -> str:
        """As in the metric ipvsproxy_cycles_total: applied, unchanged, or refused (in part)."""
        if self.refused:
            return "refused"
        return "applied" if self.done else "unchanged"

    def add(self, written: Written) -> None:
        """Count what became of a batch."""
        self.done.update(written.done)
        self.undone = len(written.undone)
        for refused in written.refused:
            assert refused.outcome.refusal is not None
            self.refused[type(refused.operation).__name__, refused.outcome.refusal.value] += 1

    def sentence(self) -> str:
        """Say what was done, in one sentence; empty when nothing was."""
        parts = []
        if self.drift:
            parts.append(f"found {_listed(self.drift)} changed by others")
        if self.done:
            parts.append(f"did {_listed(self.done)}")
        if self.refused:
            refusals = Counter({f"{kind} ({why})": n for (kind, why), n in self.refused.items()})
            parts.append(f"was refused {_listed(refusals)}")
        if not parts:
            return ""
        return f"{', '.join(parts)} for {self.translated} Services in {self.duration:.3f} s"


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
