"""What the demonstration says of itself: a claim that does not hold is its exit status."""

from __future__ import annotations

from typing import TYPE_CHECKING

from demo.scene import OLD_NAMES, SERVICES
from demo.show import Screen
from testbed.manifests import documents

if TYPE_CHECKING:
    import pytest


def test_all_claims_true_is_success(capsys: pytest.CaptureFixture[str]) -> None:
    screen = Screen()
    screen.claim("water is wet", holds=True)
    assert screen.finish() == 0
    assert "1 claims" in capsys.readouterr().out


def test_a_claim_that_does_not_hold_is_named_and_fails(capsys: pytest.CaptureFixture[str]) -> None:
    screen = Screen()
    screen.claim("water is wet", holds=True)
    screen.claim("no request failed", holds=False)
    assert screen.finish() == 1
    assert "1 of 2 claims did not hold:\n    no request failed" in capsys.readouterr().out


def test_what_is_no_terminal_gets_no_colour(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    screen = Screen()
    screen.section("Title")
    screen.bars({"red-1": 3}, OLD_NAMES)
    screen.claim("so it is", holds=True)
    assert "\x1b" not in capsys.readouterr().out


def test_every_service_of_the_demonstration_names_its_scheduler() -> None:
    for scheduler, service in SERVICES.items():
        assert f"'ipvsproxy.io/scheduler': '{scheduler}'" in str(documents(service)[0])
