"""In which order changed Services are taken, and up to which revision nobody waits."""

from __future__ import annotations

from ipvsproxy.store.dirty import Dirty
from tests.unit.builders import named

A, B, C = named("a"), named("b"), named("c")


def marked() -> Dirty:
    """Give one in which c has waited longest."""
    dirty = Dirty()
    for revision, name in enumerate((C, A, B, C), start=1):
        dirty.mark([name], revision)
    return dirty


def test_who_changes_again_keeps_its_turn() -> None:
    dirty = marked()
    assert (len(dirty), dirty.take()) == (3, [C, A, B])
    assert (len(dirty), dirty.take()) == (0, [])


def test_those_that_have_waited_longest_are_taken_where_not_all_are() -> None:
    dirty = marked()
    assert dirty.take(most=2) == [C, A]
    dirty.mark([C], 5)
    assert dirty.take(most=2) == [B, C]


def test_some_may_be_taken_before_their_turn() -> None:
    dirty = marked()
    assert dirty.take([B, named("none")]) == [B]
    assert dirty.take() == [C, A]


def test_nobody_waits_for_what_came_before_the_first_that_waits() -> None:
    dirty = marked()
    assert dirty.before(4) == 0
    dirty.take(most=1)
    assert dirty.before(4) == 1
    dirty.take([A])
    assert dirty.before(4) == 2
    dirty.take()
    assert dirty.before(4) == 4


def test_what_was_marked_without_an_event_keeps_no_revision_back() -> None:
    dirty = Dirty()
    dirty.mark([A], 8)
    assert dirty.before(7) == 7
