"""Every recorded case: what the agent makes of the objects means what kube-proxy's state means.

A difference is a mistake unless the table in `differences` has it. More cases may lie in the folder
that IPVSPROXY_PARITY_CASES names. IPVSPROXY_UPDATE_DIFFERENCES=1 writes the document anew.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.parity.agent import end_state
from tests.parity.comparison import compare
from tests.parity.differences import DIFFERENCES, meant, page
from tests.parity.facts import facts_of
from tests.parity.recording import read_case

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = ROOT / "docs" / "differences-from-kube-proxy.md"
FOLDERS = [Path(__file__).parent / "cases"]
FOLDERS += [Path(one) for one in (os.environ.get("IPVSPROXY_PARITY_CASES"),) if one]
CASES = sorted(path.parent for folder in FOLDERS for path in folder.glob("*/objects.yaml"))


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.name)
async def test_it_means_the_same_but_for_what_is_intended(path: Path) -> None:
    case = read_case(path)
    facts = facts_of(case.final)
    ours = await end_state(case)
    mistakes = [
        str(difference)
        for difference in compare(case.theirs, ours, facts)
        if not list(meant(difference, facts))
    ]
    assert not mistakes, f"{len(mistakes)} differences\n" + "\n".join(mistakes)


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.name)
def test_a_kernel_means_what_it_means(path: Path) -> None:
    case = read_case(path)
    assert list(compare(case.theirs, case.theirs, facts_of(case.final))) == []


def test_the_document_is_the_table() -> None:
    if os.environ.get("IPVSPROXY_UPDATE_DIFFERENCES"):
        DOCUMENT.write_text(page())
    assert DOCUMENT.read_text() == page()


def test_every_difference_has_its_reason() -> None:
    for one in DIFFERENCES:
        assert all((one.topic, one.here, one.there, one.why)), one
