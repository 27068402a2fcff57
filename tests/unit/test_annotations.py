"""Annotations: what an operator may write, and what happens to what he may not."""

from __future__ import annotations

import pytest

from ipvsproxy.core.annotations import (
    Reader,
    choose_scheduler,
    read_weights,
    scheduler_flags,
    unknown_annotation,
)
from ipvsproxy.core.problem import ProblemKind
from ipvsproxy.model import Address, Flags, Scheduler

OURS, ALIAS = "ipvsproxy.io/scheduler", "kube-router.io/service.scheduler"


@pytest.mark.parametrize(
    ("annotations", "previous", "scheduler", "problem"),
    [
        pytest.param({}, None, "rr", None, id="none: the default"),
        pytest.param({}, "wlc", "rr", None, id="taken away: the default, not the previous"),
        pytest.param({OURS: "sh"}, None, "sh", None, id="ours"),
        pytest.param({OURS: " sh\n"}, None, "sh", None, id="blanks around it"),
        pytest.param({ALIAS: "dh"}, None, "dh", None, id="alias"),
        pytest.param({ALIAS: "dh", OURS: "sh"}, None, "sh", None, id="ours goes before the alias"),
        pytest.param(
            {ALIAS: "dh", OURS: "x"},
            "lc",
            "lc",
            ProblemKind.INVALID_ANNOTATION,
            id="a wrong one of ours is not replaced by the alias",
        ),
        pytest.param(
            {OURS: "RR"}, None, "rr", ProblemKind.INVALID_ANNOTATION, id="wrong, new: default"
        ),
        pytest.param(
            {OURS: ""}, "wlc", "wlc", ProblemKind.INVALID_ANNOTATION, id="empty: previous"
        ),
        pytest.param(
            {OURS: "twos"},
            "wlc",
            "wlc",
            ProblemKind.SCHEDULER_UNAVAILABLE,
            id="not in this kernel: previous",
        ),
        pytest.param(
            {OURS: "twos"},
            None,
            "rr",
            ProblemKind.SCHEDULER_UNAVAILABLE,
            id="not in this kernel, new: default",
        ),
    ],
)
def test_which_scheduler_is_used(
    annotations: dict[str, str],
    previous: str | None,
    scheduler: str,
    problem: ProblemKind | None,
) -> None:
    choice = choose_scheduler(
        annotations, default="rr", previous=previous, unavailable=frozenset({"twos"})
    )
    assert choice.scheduler == scheduler
    assert choice.annotated == bool(annotations)
    assert (choice.problem.kind if choice.problem else None) == problem
    if choice.problem is not None:
        assert "\n" not in choice.problem.message
        assert f"{scheduler} stays" in choice.problem.message


@pytest.mark.parametrize(
    ("annotations", "previous", "scheduler"),
    [({}, None, "rr"), ({}, "wrr", "wrr"), ({OURS: "fastest"}, None, "rr")],
)
def test_a_default_that_this_kernel_lacks_leaves_the_previous_one_or_rr(
    annotations: dict[str, str], previous: str | None, scheduler: str
) -> None:
    choice = choose_scheduler(
        annotations, default="lc", previous=previous, unavailable=frozenset({"lc"})
    )
    assert choice.scheduler == scheduler
    assert choice.problem is not None
    assert f"{scheduler} stays" in choice.problem.message


@pytest.mark.parametrize("scheduler", list(Scheduler))
def test_hashes_fall_back_to_another_server(scheduler: Scheduler) -> None:
    assert scheduler_flags(scheduler) == (Flags.SCHED_1 if scheduler in {"sh", "mh"} else 0)


@pytest.mark.parametrize("name", ["ipvsproxy.io/schedular", "ipvsproxy.io/weight"])
def test_an_annotation_of_our_domain_that_means_nothing_is_answered(name: str) -> None:
    problem = unknown_annotation({OURS: "lc", ALIAS: "rr", name: "sh"})
    assert problem is not None
    assert f"annotation {name}: not known on a Service" in problem.message
    assert unknown_annotation({OURS: "lc", ALIAS: "rr"}) is None


def test_weights_are_read_by_address() -> None:
    assert read_weights('{"10.1.0.1": 0, "fd00::1": 65535, "::ffff:10.1.0.2": 3}') == {
        Address.parse("10.1.0.1"): 0,
        Address.parse("fd00::1"): 65535,
        Address.parse("10.1.0.2"): 3,
    }


@pytest.mark.parametrize(
    ("text", "says"),
    [
        pytest.param("", "not a JSON object", id="empty"),
        pytest.param("[1]", "not a JSON object", id="a list"),
        pytest.param("{", "not a JSON object", id="cut off"),
        pytest.param('{"web-1": 3}', "'web-1' is no IP address", id="a name"),
        pytest.param('{"10.1.0.1": "3"}', "weight '3' of 10.1.0.1", id="text"),
        pytest.param('{"10.1.0.1": true}', "weight True of 10.1.0.1", id="true"),
        pytest.param('{"10.1.0.1": 1.5}', "weight 1.5 of 10.1.0.1", id="a fraction"),
        pytest.param('{"10.1.0.1": -1}', "weight -1 of 10.1.0.1", id="negative"),
        pytest.param('{"10.1.0.1": 65536}', "weight 65536 of 10.1.0.1", id="too great"),
    ],
)
def test_wrong_weights_are_answered_in_one_line(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says) as caught:
        read_weights(text)
    assert "write for example" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_wrong_value_leaves_the_last_good_one_and_says_so() -> None:
    first = Reader({"a": " 1 "}, {})
    assert first.read("a", int) == 1
    assert not first.problems
    second = Reader({"a": "one"}, first.good)
    assert second.read("a", int) == 1
    (problem,) = second.problems
    assert problem.kind is ProblemKind.INVALID_ANNOTATION
    assert problem.message.startswith("annotation a: invalid literal")
    assert problem.message.endswith("; '1' stays")
    assert Reader({"a": "none"}, second.good).read("a", int) == 1


def test_a_value_that_was_never_right_counts_as_not_written() -> None:
    reader = Reader({"a": "one"}, {"b": "1"})
    assert reader.read("a", int) is None
    assert reader.read("b", int) is None
    assert reader.problems[0].message.endswith("; it counts as not written")
    assert reader.good == {}


def test_a_value_that_was_taken_away_is_not_the_last_good_one() -> None:
    removed = Reader({}, {"a": "1"})
    assert removed.read("a", int) is None
    assert removed.good == {}
