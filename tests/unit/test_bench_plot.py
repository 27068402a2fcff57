"""The charts of the benchmark: what is drawn is what was measured."""

from __future__ import annotations

from xml.etree import ElementTree as ET

from bench.figures import Figure
from bench.plot import Line, _Wanted, chart, lines_of

SVG = "{http://www.w3.org/2000/svg}"


def figure(name: str, value: float, services: int, *, endpoints: int = 5) -> Figure:
    return Figure(stage="agent", services=services, endpoints=endpoints, name=name, value=value)


def test_a_line_adds_up_its_figures_where_all_of_them_were_measured() -> None:
    figures = [
        figure("table", 1.0, 1000),
        figure("sets", 0.5, 1000),
        figure("table", 4.0, 5000),
        figure("table", 99.0, 1000, endpoints=50),
    ]
    lines = lines_of(
        figures, (_Wanted("floor", ("table", "sets", "sets"), 10.0), _Wanted("other", ("none",)))
    )
    assert lines == [Line("floor", ((1000.0, 20.0),))]


def test_points_lie_where_the_axes_say() -> None:
    lines = [Line("cold", ((0.0, 0.0), (20000.0, 10.0))), Line("floor", ((10000.0, 5.0),), True)]
    root = ET.fromstring(chart("Cold start", lines))
    circles = [
        (float(one.attrib["cx"]), float(one.attrib["cy"])) for one in root.iter(f"{SVG}circle")
    ]
    (left, bottom), (right, top), middle = circles
    assert middle == ((left + right) / 2, (top + bottom) / 2)
    texts = [one.text for one in root.iter(f"{SVG}text")]
    assert {"Cold start", "cold", "floor", "20,000", "10"} <= set(texts)
