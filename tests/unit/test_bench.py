"""The pure parts of the benchmark: a figure that is compared wrongly is worse than none."""

from __future__ import annotations

import msgspec
import pytest

from bench.figures import Figure, Unit, json_lines, table, with_ratios
from bench.inner import everything_new, measure
from bench.workload import NODE, Size, endpoint_slice, objects, pods, spare_pod
from ipvsproxy.core.operations import AddRealServer, AddVirtualServer, BindAddress
from ipvsproxy.objects import read_endpoint_slice, read_service


def figure(
    name: str, value: float, *floors: str, services: int = 100, unit: Unit = Unit.SECONDS
) -> Figure:
    return Figure(
        stage="whole",
        services=services,
        endpoints=5,
        name=name,
        value=value,
        unit=unit,
        floors=floors,
    )


class TestRatios:
    def test_a_figure_is_divided_by_the_sum_of_its_floors(self) -> None:
        measured = [figure("floor", 2.0), figure("launch", 1.0)]
        cold = figure("cold", 12.0, "floor", "launch", "launch")
        assert [one.ratio for one in with_ratios([*measured, cold])] == [None, None, 3.0]

    def test_floors_of_another_size_do_not_count(self) -> None:
        figures = [figure("floor", 2.0, services=500), figure("cold", 12.0, "floor")]
        assert with_ratios(figures)[1].ratio is None

    def test_there_is_none_where_a_floor_was_not_measured(self) -> None:
        figures = [figure("floor", 2.0), figure("cold", 12.0, "floor", "other")]
        assert with_ratios(figures)[1].ratio is None


class TestTable:
    def test_counts_come_first_and_each_size_has_a_column(self) -> None:
        figures = with_ratios(
            [
                figure("floor", 0.0005),
                figure("cold start", 1.25, "floor"),
                figure("cold start", 6.5, services=5000),
                figure("cold start: operations", 1025, unit=Unit.COUNT),
            ]
        )
        assert table(figures).splitlines() == [
            "counts                        100 x 5    5,000 x 5",
            "cold start: operations          1,025",
            "",
            "whole                         100 x 5   x floor    5,000 x 5   x floor",
            "floor                          500 µs",
            "cold start                     1.25 s      2500        6.5 s",
        ]

    @pytest.mark.parametrize(
        ("seconds", "text"),
        [(0.00000071, "0.71 µs"), (0.000485, "485 µs"), (0.0416, "41.6 ms"), (172.3, "172 s")],
    )
    def test_times_are_shown_as_is_readable(self, seconds: float, text: str) -> None:
        assert table([figure("cold", seconds)]).endswith(text)

    def test_a_line_of_json_is_read_back_as_the_same_figure(self) -> None:
        one = figure("cold", 1.5, "floor")
        (line,) = json_lines([one])
        assert msgspec.json.decode(line, type=Figure) == one


class TestWorkload:
    def test_its_objects_are_sound_and_belong_together(self) -> None:
        described = objects(Size(120, 3))
        services = [read_service(text) for text in described.services]
        parts = [read_endpoint_slice(text) for text in described.slices]
        assert [part.service for part in parts if part] == [one.name for one in services]
        assert len({address for one in services for address in one.cluster_ips}) == 120
        pod_addresses = [one.address for part in parts if part for one in part.endpoints]
        assert len(set(pod_addresses)) == 360

    def test_one_pod_in_fifty_is_local_and_a_spare_one_never(self) -> None:
        parts = [read_endpoint_slice(text) for text in objects(Size(100, 5)).slices]
        nodes = [one.node_name for part in parts if part for one in part.endpoints]
        assert nodes.count(NODE) == 10
        spare = read_endpoint_slice(endpoint_slice(0, [spare_pod(one) for one in range(60)]))
        assert spare is not None
        assert NODE not in {one.node_name for one in spare.endpoints}
        assert spare_pod(0) not in pods(0, 10)


def test_a_cold_start_has_all_of_the_table() -> None:
    operations = [step.operation for step in everything_new(Size(100, 5)).steps]
    counts = [
        sum(isinstance(one, kind) for one in operations)
        for kind in (AddVirtualServer, AddRealServer, BindAddress)
    ]
    assert counts == [100, 500, 100]


def test_the_inner_figures_can_be_measured() -> None:
    figures = list(measure(Size(100, 2)))
    assert len({one.name for one in figures}) == len(figures)
    assert all(one.value > 0 for one in figures)
