"""Measured values, what they are compared with, and the table that shows them.

Knows numbers and text; does not know how anything is measured.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import StrEnum

import msgspec


class Unit(StrEnum):
    """What a value counts. Times are in seconds and shown as is readable."""

    COUNT = "count"
    SECONDS = "s"
    MEBIBYTES = "MiB"


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """One value, for one size of the cluster."""

    stage: str
    services: int
    endpoints: int
    """Of each Service."""
    name: str
    value: float
    unit: Unit = Unit.SECONDS
    floors: tuple[str, ...] = ()
    """Names of the figures of the same size whose sum is the least that this can cost."""
    ratio: float | None = None
    """The value divided by that sum; None without floors, or when one was not measured."""


_Size = tuple[int, int]
"""Endpoints of a Service, and Services: columns stand in this order."""
_COLUMN = 13
_RATIO = 10
_MILLISECOND = 1e-3
_BIG = 100


def with_ratios(figures: Iterable[Figure]) -> list[Figure]:
    """Compare each figure with its floors, those of the same number of Services."""
    figures = list(figures)
    values = {(one.services, one.endpoints, one.name): one.value for one in figures}
    return [msgspec.structs.replace(one, ratio=_ratio(one, values)) for one in figures]


def table(figures: Sequence[Figure]) -> str:
    """Lay figures out: counts first, then times by stage; one column for each size."""
    sizes = sorted({(one.endpoints, one.services) for one in figures})
    sections: dict[str, dict[str, dict[_Size, Figure]]] = defaultdict(lambda: defaultdict(dict))
    for one in sorted(figures, key=lambda one: one.unit is not Unit.COUNT):
        section = "counts" if one.unit is Unit.COUNT else one.stage
        sections[section][one.name][one.endpoints, one.services] = one
    width = max((len(one.name) for one in figures), default=0) + 2
    lines: list[str] = []
    for title, rows in sections.items():
        lines += ["", _heading(title, width, sizes)]
        lines += [_row(name, row, width, sizes) for name, row in rows.items()]
    return "\n".join(lines[1:])


def json_lines(figures: Iterable[Figure]) -> Iterator[str]:
    """Write each figure as one line of JSON."""
    for one in figures:
        yield msgspec.json.encode(one).decode()


def _ratio(figure: Figure, values: Mapping[tuple[int, int, str], float]) -> float | None:
    size = figure.services, figure.endpoints
    parts = [values.get((*size, name)) for name in figure.floors]
    known = [part for part in parts if part is not None]
    if not parts or len(known) < len(parts) or not sum(known):
        return None
    return figure.value / sum(known)


def _heading(title: str, width: int, sizes: Sequence[_Size]) -> str:
    named = [f"{services:,} x {endpoints}" for endpoints, services in sizes]
    columns = "".join(f"{name:>{_COLUMN}}{'x floor':>{_RATIO}}" for name in named)
    if title == "counts":
        columns = "".join(f"{name:>{_COLUMN}}" for name in named)
    return f"{title:<{width}}{columns}"


def _row(name: str, row: Mapping[_Size, Figure], width: int, sizes: Sequence[_Size]) -> str:
    cells = []
    for size in sizes:
        figure = row.get(size)
        cells.append(f"{_shown(figure) if figure else '':>{_COLUMN}}")
        if figure is None or figure.unit is not Unit.COUNT:
            ratio = figure.ratio if figure else None
            cells.append(f"{'' if ratio is None else _number(ratio):>{_RATIO}}")
    return f"{name:<{width}}{''.join(cells)}".rstrip()


def _shown(figure: Figure) -> str:
    match figure.unit:
        case Unit.COUNT:
            return f"{figure.value:,.0f}"
        case Unit.MEBIBYTES:
            return f"{figure.value:.0f} MiB"
        case Unit.SECONDS if figure.value < _MILLISECOND:
            return f"{_number(figure.value * 1e6)} µs"
        case Unit.SECONDS if figure.value < 1:
            return f"{_number(figure.value * 1e3)} ms"
        case Unit.SECONDS:
            return f"{_number(figure.value)} s"


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= _BIG else f"{value:.3g}"
