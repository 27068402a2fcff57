"""No complaint is forgotten: each is tested, or it is told what helps instead."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.complaints.known import COMPLAINTS, Complaint

HERE = Path(__file__).parent
OPERATIONS = HERE.parents[1] / "docs" / "operations.md"
TESTED = frozenset(
    match
    for path in HERE.glob("test_*.py")
    for match in re.findall(r"def test_(issue_\d+|kep_\d+)_", path.read_text())
)


def names(complaint: Complaint) -> set[str]:
    """Give what a test of a complaint may be named after."""
    return {
        f"kep_{issue.partition('-')[2]}" if "KEP" in issue else f"issue_{issue.rpartition('#')[2]}"
        for issue in complaint.issues
    }


def told() -> str:
    """Give the section on what no node agent can mend."""
    return (
        OPERATIONS.read_text()
        .partition("\n### What no node agent can mend\n")[2]
        .partition("\n#")[0]
    )


every = pytest.mark.parametrize(
    "complaint", COMPLAINTS, ids=[str(number) for number in range(1, len(COMPLAINTS) + 1)]
)


def test_there_are_as_many_as_were_collected() -> None:
    assert len(COMPLAINTS) == 35


@every
def test_it_is_tested_or_told_why_it_cannot_be(complaint: Complaint) -> None:
    if complaint.mendable:
        assert names(complaint) & TESTED, complaint.symptom
    else:
        assert not names(complaint) & TESTED
        assert f"#{complaint.issues[0]}" in told()


def test_no_test_is_named_after_something_else() -> None:
    known = {name for complaint in COMPLAINTS for name in names(complaint)}
    assert known >= TESTED
