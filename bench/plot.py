"""Charts of figures over the number of Services: `python -m bench.plot FOLDER FIGURES.json ...`.

Reads what `python -m bench --output json` has printed, one or several runs of the same machine, and
writes `performance-cold-start.svg` and `performance-change.svg` into a folder; prints the table of
all of them. Knows lines, axes and text, and no library: a chart of a few points is forty lines of
SVG.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from bench import floors
from bench.figures import Figure, table, with_ratios

_ENDPOINTS = 5
"""Charts are of clusters with so many endpoints of each Service."""
_WIDTH, _HEIGHT = 760, 400
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 330, 40, 46
_COLOURS = ("#1b6ca8", "#2a9d55", "#b5532a", "#7a4aa0", "#888888", "#bbbbbb")
_TICKS = 5
_NICE = (1.0, 2.0, 2.5, 5.0, 10.0)


class Line(NamedTuple):
    """One line of a chart."""

    label: str
    points: tuple[tuple[float, float], ...]
    """Services, and what is shown of them."""
    dashed: bool = False
    """As floors are."""


class _Wanted(NamedTuple):
    """A line, by the figures that it shows."""

    label: str
    names: tuple[str, ...]
    """Their values are added up."""
    factor: float = 1.0
    dashed: bool = False


_COLD_FLOOR = (
    floors.PYTHON_ASYNCIO,
    *(floors.SEND_TABLE, floors.SEND_ADDRESSES, floors.RESTORE_SETS),
    *[floors.RESTORE_RULES] * 2,
)
_COLD_START = (
    _Wanted("all servers, addresses, sets, rules", ("cold start: until sets and rules as well",)),
    _Wanted("all servers and addresses", ("cold start: until all servers and addresses",)),
    _Wanted(
        "default/kubernetes and DNS",
        ("cold start: until default/kubernetes and DNS have servers and addresses",),
    ),
    _Wanted("restart with 20 to repair", ("restart, 20 to repair: until all is right",)),
    _Wanted("floor: Python, messages, ipset restore", _COLD_FLOOR, dashed=True),
    _Wanted("floor: ipvsadm-restore alone", (floors.RESTORE_TABLE,), dashed=True),
)
_CHANGE = (
    _Wanted("one endpoint replaced, p50", ("one endpoint replaced: p50",), 1e3),
    _Wanted("at 10 changes a second, p50", ("churn 10/s: p50",), 1e3),
    _Wanted("floor: a program launched", (floors.LAUNCH,), 1e3, dashed=True),
    _Wanted("floor: one acknowledged message", (floors.ONE_MESSAGE,), 1e3, dashed=True),
)


def main() -> int:
    """Draw both charts, and print the table."""
    folder, *paths = map(Path, sys.argv[1:])
    figures = [
        msgspec.json.decode(line, type=Figure)
        for path in paths
        for line in path.read_bytes().splitlines()
    ]
    for name, title, unit, wanted in (
        ("cold-start", "Cold start", "s", _COLD_START),
        ("change", "One change", "ms", _CHANGE),
    ):
        text = chart(f"{title} ({unit}) over the number of Services", lines_of(figures, wanted))
        (folder / f"performance-{name}.svg").write_text(text, encoding="utf-8")
    print(table(with_ratios(figures)))
    return 0


def lines_of(figures: Iterable[Figure], wanted: Iterable[_Wanted]) -> list[Line]:
    """Make a line of each figure; a size at which one of its parts was not measured is left out."""
    values = {(one.services, one.name): one.value for one in figures if one.endpoints == _ENDPOINTS}
    sizes = sorted({services for services, _ in values})
    lines = []
    for one in wanted:
        points = tuple(
            (float(size), one.factor * sum(values[size, name] for name in one.names))
            for size in sizes
            if all((size, name) in values for name in one.names)
        )
        if points:
            lines.append(Line(one.label, points, one.dashed))
    return lines


def chart(title: str, lines: Sequence[Line]) -> str:
    """Draw lines; both axes begin at 0."""
    across = max((x for line in lines for x, _ in line.points), default=1.0)
    up = max((y for line in lines for _, y in line.points), default=1.0)
    columns, rows = _ticks(across), _ticks(up)
    x = _scale(columns[-1], _LEFT, _WIDTH - _RIGHT)
    y = _scale(rows[-1], _HEIGHT - _BOTTOM, _TOP)
    box, font = f"0 0 {_WIDTH} {_HEIGHT}", 'font-family="sans-serif" font-size="12"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{box}" {font}>',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
        f'<text x="{_LEFT}" y="22" font-size="15">{title}</text>',
        *_axes(columns, rows, x, y),
        *_drawn(lines, x, y),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


_Scale = Callable[[float], float]


def _scale(most: float, start: float, end: float) -> _Scale:
    return lambda value: start + value / most * (end - start)


def _ticks(most: float) -> list[float]:
    """Choose round numbers from 0 to at least the most."""
    rough = most / _TICKS
    power = 10.0
    while power > rough:
        power /= 10
    while power * 10 <= rough:
        power *= 10
    step = next(nice * power for nice in _NICE if nice * power >= rough)
    count = int(-(-most // step))
    return [step * number for number in range(count + 1)]


def _axes(columns: list[float], rows: list[float], x: _Scale, y: _Scale) -> Iterator[str]:
    left, right, bottom = x(0), x(columns[-1]), y(0)
    for value in rows:
        at = f"{y(value):.1f}"
        yield f'<line x1="{left}" y1="{at}" x2="{right}" y2="{at}" stroke="#dddddd"/>'
        yield f'<text x="{left - 8}" y="{y(value) + 4:.1f}" text-anchor="end">{value:g}</text>'
    for value in columns:
        at = f"{x(value):.1f}"
        yield f'<line x1="{at}" y1="{bottom}" x2="{at}" y2="{bottom + 5}" stroke="#444444"/>'
        yield f'<text x="{at}" y="{bottom + 19}" text-anchor="middle">{value:,.0f}</text>'
    yield f'<line x1="{left}" y1="{bottom}" x2="{right}" y2="{bottom}" stroke="#444444"/>'


def _drawn(lines: Iterable[Line], x: _Scale, y: _Scale) -> Iterator[str]:
    for number, line in enumerate(lines):
        colour = _COLOURS[number % len(_COLOURS)]
        style = f'fill="none" stroke="{colour}" stroke-width="2"'
        if line.dashed:
            style += ' stroke-dasharray="5 4"'
        points = " ".join(f"{x(across):.1f},{y(up):.1f}" for across, up in line.points)
        yield f'<polyline points="{points}" {style}/>'
        for across, up in line.points:
            yield f'<circle cx="{x(across):.1f}" cy="{y(up):.1f}" r="3" fill="{colour}"/>'
        row, start = _TOP + 10 + 22 * number, _WIDTH - _RIGHT + 24
        yield f'<line x1="{start}" y1="{row}" x2="{start + 26}" y2="{row}" {style}/>'
        yield f'<text x="{start + 34}" y="{row + 4}">{line.label}</text>'


if __name__ == "__main__":
    sys.exit(main())
