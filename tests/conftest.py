"""What all tests share: hypothesis profiles, and what happens to a test without a kernel.

A test marked `kernel` needs IPVS. Where this machine's kernel has none it is skipped with the
reason and counted; with `--require-kernel`, and in CI, its absence is a failure, because a tier
that skips everywhere rots unseen.
"""

from __future__ import annotations

import asyncio
import functools
import os
import platform

import pytest
from hypothesis import HealthCheck, settings

from rig.facts import own_kernel_modules

settings.register_profile(
    "dev", max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("ci", parent=settings.get_profile("dev"), derandomize=True)
settings.register_profile("thorough", parent=settings.get_profile("dev"), max_examples=2000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") else "dev"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--require-kernel",
        action="store_true",
        help="fail, not skip, tests that need a kernel with IPVS where there is none (CI does)",
    )


def pytest_configure() -> None:
    # Around every test, also one that is not asynchronous, looptime asks for the main thread's
    # event loop. Before Python 3.14 the first to ask is given a new one, which nobody closes; that
    # is a warning in whatever test runs when it is collected. Set to none, asking makes none.
    asyncio.set_event_loop(None)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("kernel") is None:
        return
    reason = kernel_missing()
    if reason is None:
        return
    if item.config.getoption("--require-kernel") or os.environ.get("CI"):
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


@functools.cache
def kernel_missing() -> str | None:
    """Say why tests that need IPVS cannot run in this process; None where they can."""
    if "IPVSPROXY_RIG_GUEST" in os.environ:
        return None
    advice = "run it in the rig: python3 -m rig run -- .venv/bin/python -m pytest …"
    if os.geteuid() != 0:
        return f"not root, so there is no network namespace of our own; {advice}"
    if "ip_vs" not in own_kernel_modules(platform.release()):
        return f"the kernel {platform.release()} has no IPVS; {advice}"
    return None
