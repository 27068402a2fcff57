"""The order of tests in which every program takes seconds to start.

Any order will do, but after a clean-up the agent has to run again for whatever comes then.
"""

from __future__ import annotations

import pytest

LAST = "test_cleanup"


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    mine = [item for item in items if "tests/nft/" in item.nodeid]
    if len(mine) == len(items):
        items.sort(key=lambda item: item.name.startswith(LAST))
