"""Modules that stand for others until these are asked for."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from ipvsproxy.stand_ins import calling, forget, stand_in, standing_in

REAL = "ipvsproxy_test_real"
USER = "ipvsproxy_test_user"


@pytest.fixture(autouse=True)
def two_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is imported, and one that imports a function of it and the module itself."""
    (tmp_path / f"{REAL}.py").write_text("def double(one, *, by=2):\n    return one * by\n")
    (tmp_path / f"{USER}.py").write_text(
        f"import {REAL} as module\n"
        f"from {REAL} import double\n"
        "def use():\n    return double(3), double(3, by=3), module.__file__\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    for name in (REAL, USER):
        monkeypatch.delitem(sys.modules, name, raising=False)


def test_what_was_taken_of_a_stand_in_asks_the_real_one() -> None:
    with standing_in({REAL: calling(REAL, "double")}):
        user = importlib.import_module(USER)
    assert REAL not in sys.modules
    assert user.use() == (6, 9, importlib.import_module(REAL).__file__)
    forget(USER)
    assert importlib.import_module(USER).double is importlib.import_module(REAL).double
    forget(REAL)


def test_a_name_that_was_not_foreseen_fails_as_a_missing_one_does() -> None:
    with standing_in({REAL: stand_in(REAL)}), pytest.raises(ImportError, match="double"):
        importlib.import_module(USER)
    assert REAL not in sys.modules
    assert importlib.import_module(USER).double(1) == 2
    forget(USER)
    forget(REAL)


def test_nothing_stands_for_what_is_imported_already() -> None:
    real = importlib.import_module(REAL)
    with standing_in({REAL: None}):
        assert importlib.import_module(USER).double is real.double
    assert sys.modules[REAL] is real
    forget(USER)
    forget(REAL)


def test_none_has_a_module_be_missing() -> None:
    with standing_in({REAL: None}), pytest.raises(ModuleNotFoundError):
        importlib.import_module(REAL)
    assert importlib.import_module(REAL).double(1) == 2
    forget(REAL)


def test_a_package_is_forgotten_with_its_modules_and_no_other() -> None:
    found = {"one": 1, "one.two": 2, "one_more": 3}
    sys.modules.update(found)  # type: ignore[arg-type] # only the names matter
    try:
        forget("one")
        assert found.keys() & sys.modules.keys() == {"one_more"}
    finally:
        for name in found:
            sys.modules.pop(name, None)
