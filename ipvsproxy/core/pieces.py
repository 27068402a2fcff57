"""Work that grows with the number of Services, cut into pieces of bounded length.

A function that takes long is a generator: it yields nothing after each piece, and returns what it
has made. Whoever runs it decides what happens between two pieces: the reconciler lets others have
their turn of the event loop (`reconciler.turns`), who has nothing else to do goes on (`whole`).
What the work looks at must stay as it is until it has come to its end.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from itertools import islice
from typing import TypeAlias, TypeVar

__all__ = ["AT_A_TIME", "MANY", "Pieces", "cut", "whole"]

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

Pieces: TypeAlias = Generator[None, None, _Result]
"""Work in pieces, and what comes of it."""

AT_A_TIME = 250
"""So many things are dealt with in a piece: a thousandth of a second or two."""
MANY = 1000
"""The same where a thing is only looked at."""


def cut(items: Iterable[_Item], size: int = AT_A_TIME) -> Iterator[list[_Item]]:
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
