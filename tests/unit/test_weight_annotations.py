"""Annotations about weights: what may be written, and what is said of everything else."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ipvsproxy.core.annotations import (
    WeightRules,
    WeightSource,
    asks_for_nodes,
    asks_for_pods,
    read_slow_start,
    read_weight,
    read_weight_rules,
    read_weight_source,
    read_weights,
    read_zone_preference,
)
from ipvsproxy.objects import Capacity, read_node
from ipvsproxy.objects.capacity import read_capacity


def test_rules_are_read_by_node_label_and_zone() -> None:
    text = "zone=a:3, zone = b : 1,node=big-1.example:10,label=pool=big:5,label=a/b=:0"
    assert read_weight_rules(text) == WeightRules(
        {"big-1.example": 10}, {("pool", "big"): 5, ("a/b", ""): 0}, {"a": 3, "b": 1}
    )


@pytest.mark.parametrize(
    ("node", "zone", "labels", "weight"),
    [
        pytest.param("big", "a", (("pool", "x"),), 10, id="what is said of a node goes first"),
        pytest.param("n", "a", (("pool", "x"),), 5, id="then what is said of a label"),
        pytest.param("n", "a", (("pool", "y"),), 3, id="then what is said of a zone"),
        pytest.param("n", "a", (("disk", "ssd"), ("pool", "x")), 4, id="the first label written"),
        pytest.param("n", "b", (), None, id="nothing"),
        pytest.param(None, None, (), None, id="an endpoint that is nowhere"),
        pytest.param(None, "a", (), 3, id="an endpoint without a node"),
    ],
)
def test_which_rule_counts(
    node: str | None, zone: str | None, labels: tuple[tuple[str, str], ...], weight: int | None
) -> None:
    rules = read_weight_rules("zone=a:3,label=disk=ssd:4,label=pool=x:5,node=big:10")
    assert rules.weight(node, zone, labels) == weight


WRONG = [
    (read_weight_rules, "", "a rule is empty"),
    (read_weight_rules, "zone=a:1,", "a rule is empty"),
    (read_weight_rules, "zone=a", "'zone=a' does not end with : and a whole number"),
    (read_weight_rules, "zone=a:", "'zone=a:' does not end with"),
    (read_weight_rules, "zone=a:-1", "'zone=a:-1' does not end with"),
    (read_weight_rules, "zone=a:1.5", "'zone=a:1.5' does not end with"),
    (read_weight_rules, "zone=a:65536", "from 0 to 65535"),
    (read_weight_rules, "zone=a:٣", "does not end with"),
    (read_weight_rules, "zone=a:²", "does not end with"),
    (read_weight_rules, "zone=a:" + "9" * 5000, "from 0 to 65535"),
    (read_weight, "9" * 5000, "from 0 to 65535"),
    (read_weights, '{"10.1.0.1": ' + "[" * 100_000, "not a JSON object"),
    (read_weights, '{"10.1.0.1": ' + "9" * 5000 + "}", "JSON"),
    (read_slow_start, "9" * 5000 + "s", "a duration from"),
    (read_zone_preference, "9" * 5000, "from 1 to 99"),
    (read_weight_rules, "zone=a=3", "does not end with"),
    (read_weight_rules, "zone:a:3", "begins with none of node= label= zone="),
    (read_weight_rules, "a:3", "begins with none of"),
    (read_weight_rules, "Zone=a:3", "begins with none of"),
    (read_weight_rules, "region=a:3", "begins with none of"),
    (read_weight_rules, '{"10.1.0.1": 3}', "by address weights are written on an EndpointSlice"),
    (read_weight_rules, "zone=:3", "names no zone"),
    (read_weight_rules, "node=:3", "names no node"),
    (read_weight_rules, "label=pool:3", "a label is KEY=VALUE"),
    (read_weight_rules, "label==x:3", "a label is KEY=VALUE"),
    (read_weight_rules, "label=a=b=c:3", "a label is KEY=VALUE"),
    (read_weight_rules, "node=pool=big:3", "'pool=big' is no name of a node"),
    (read_weight_rules, "zone=a:3,zone=a:4", "zone a has a rule already"),
    (read_weight_rules, "label=p=x:3,label=p=x:3", "label p=x has a rule already"),
    (read_weight_source, "", "'' is none of node cpu pods"),
    (read_weight_source, "CPU", "'CPU' is none of"),
    (read_weight_source, "memory", "write one of them"),
    (read_weight, "", "'' is not a whole number"),
    (read_weight, "-1", "write for example 3"),
    (read_weight, "65536", "from 0 to 65535"),
    (read_weight, "3.0", "not a whole number"),
    (read_weight, "three", "not a whole number"),
    (read_slow_start, "", "'': a duration from 2s to 1h is needed; write for example 30s"),
    (read_slow_start, "-5s", "'-5s': a duration"),
    (read_slow_start, "1s", "from 2s to 1h"),
    (read_slow_start, "0s", "from 2s"),
    (read_slow_start, "61m", "to 1h"),
    (read_slow_start, "1d", "a duration from"),
    (read_zone_preference, "", "'' is not a whole number from 1 to 99"),
    (read_zone_preference, "0", "from 1 to 99"),
    (read_zone_preference, "100", "write for example 90"),
    (read_zone_preference, "0.9", "not a whole number"),
    (read_zone_preference, "a", "not a whole number"),
    (read_zone_preference, "90%%", "not a whole number"),
]


@pytest.mark.parametrize(("read", "text", "says"), WRONG)
def test_what_is_wrong_is_answered_in_one_line(
    read: Callable[[str], object], text: str, says: str
) -> None:
    with pytest.raises(ValueError, match="write") as caught:
        read(text)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_right() -> None:
    assert [read_slow_start(text) for text in ("2s", "90s", "2m", "1m30s", "1h")] == [
        2,
        90,
        120,
        90,
        3600,
    ]
    assert [read_zone_preference(text) for text in ("1", "90", "99%")] == [1, 90, 99]
    assert [read_weight(text) for text in ("0", "65535")] == [0, 65535]
    assert read_weight_source("cpu") is WeightSource.CPU


@pytest.mark.parametrize(
    ("source", "capacity", "weight"),
    [
        (WeightSource.NODE, Capacity(4000, 110), None),
        (WeightSource.CPU, Capacity(3920, 110), 4),
        (WeightSource.CPU, Capacity(3499, 110), 3),
        (WeightSource.CPU, Capacity(100), 1),
        (WeightSource.CPU, Capacity(), None),
        (WeightSource.PODS, Capacity(4000, 110), 110),
        (WeightSource.PODS, Capacity(4000, 0), 1),
        (WeightSource.PODS, Capacity(4000), None),
    ],
)
def test_what_a_node_weighs(source: WeightSource, capacity: Capacity, weight: int | None) -> None:
    assert source.weight(capacity) == weight


@pytest.mark.parametrize(
    ("cpu", "pods", "capacity"),
    [
        ("4", "110", Capacity(4000, 110)),
        ("3920m", 110, Capacity(3920, 110)),
        ("0.5", "1k", Capacity(500, 1000)),
        (2.5, None, Capacity(2500, None)),
        ("many", "-1", Capacity()),
        ("", "1e3", Capacity()),
    ],
)
def test_what_a_node_can_bear(
    cpu: str | float | None, pods: str | float | None, capacity: Capacity
) -> None:
    assert read_capacity({"cpu": cpu, "pods": pods, "memory": "8Gi"}) == capacity


def test_a_node_is_read_with_what_weights_depend_on() -> None:
    node = read_node(
        {
            "metadata": {
                "name": "n",
                "labels": {"b": "2", "a": "1"},
                "annotations": {"ipvsproxy.io/weight": "5"},
            },
            "status": {"allocatable": {"cpu": "2"}},
        }
    )
    assert node.weighing == ((("a", "1"), ("b", "2")), "5", Capacity(2000))


@pytest.mark.parametrize(
    ("annotations", "asks"),
    [
        ({}, False),
        ({"ipvsproxy.io/weights": "zone=a:3,node=b:1"}, False),
        ({"ipvsproxy.io/weights": "zone=a:3, label=p=x:1"}, True),
        ({"ipvsproxy.io/weights": "zone=a:3, lbl=p=x:1"}, True),
        ({"ipvsproxy.io/weights": "label-of-zone"}, True),
        ({"ipvsproxy.io/weight-source": "cpu"}, True),
        ({"ipvsproxy.io/weight-source": "pod"}, False),
        ({"ipvsproxy.io/weight-source": "pod", "ipvsproxy.io/weights": "label=p=x:1"}, True),
        ({"ipvsproxy.io/zone-preference": "90", "ipvsproxy.io/slow-start": "60s"}, False),
    ],
)
def test_which_services_need_nodes(annotations: dict[str, str], asks: bool) -> None:
    assert asks_for_nodes(annotations) is asks


@pytest.mark.parametrize(
    ("source", "asks"),
    [(None, False), ("cpu", False), ("node", False), ("pods", False), ("pod", True), ("pdo", True)],
)
def test_which_services_need_pods(source: str | None, asks: bool) -> None:
    """One with a wrong value may: `pod` may be the last good one."""
    annotations = {} if source is None else {"ipvsproxy.io/weight-source": source}
    assert asks_for_pods(annotations) is asks
