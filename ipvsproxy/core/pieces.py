"""Work that grows with the number of Services, cut into pieces of bounded length.

A function that takes long is a generator: after each piece it yields what the piece has cost, and
in the end it returns what it has made. Whoever runs it decides what happens between two pieces: the
reconciler lets others have their turn of the event loop (`reconciler.turns`), who has nothing else
to do goes on (`whole`). What the work looks at must stay as it is until it has come to its end.

Costs are in units of about five microseconds of a usual machine, by rule of thumb: the condition of
a Service that has none is 1, to look whether something is in a dict a quarter.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from itertools import islice
from typing import TypeAlias, TypeVar

__all__ = ["FEW", "MANY", "Cost", "Pieces", "cut", "whole"]

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

Cost: TypeAlias = int
"""What a piece of work has cost, in the units above."""
Pieces: TypeAlias = Generator[Cost, None, _Result]
"""Work in pieces, each with its cost, and what comes of it all."""

FEW = 10
"""So many things are dealt with in a piece where each takes some tens of microseconds: a piece for
each would be handed through as many generators as lie between it and who runs it."""
MANY = 400
"""So many things are dealt with in a piece where each takes a microsecond at most."""


def cut(items: Iterable[_Item], size: int) -> Iterator[list[_Item]]:
    """Cut what there is into lists of `size` at the most; none of them is empty."""
    rest = iter(items)
    while piece := list(islice(rest, size)):
        yield piece


def whole(work: Pieces[_Result]) -> _Result:
    """Do all pieces, one after the other."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            result: _Result = end.value
            return result
