"""A fresh network namespace in which ipset and iptables work; no IPVS is needed for that.

So these tests run in the rig, and on any machine that lets them: that is where the nft backend is
met, which user-mode Linux has not for IPv4.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from ipvsproxy.kernel.process import Processes
from tests.kernel.namespace import fresh_network_namespace

PROBE = "*nat\n:PROBE - [0:0]\nCOMMIT\n*nat\n-X PROBE\nCOMMIT\n"


@contextmanager
def netfilter() -> Iterator[Processes]:
    """Give a way to start programs in a namespace of its own; skip, outside the rig, if none."""
    in_rig = "IPVSPROXY_RIG_GUEST" in os.environ
    if os.geteuid() != 0 and not in_rig:
        pytest.skip("not root, so there is no network namespace of our own")
    with fresh_network_namespace():
        done = Processes().run(("ipset", "list", "-name"))
        if done.returncode and not in_rig:
            pytest.skip(f"this kernel has no ipset: {done.complaint}")
        yield Processes()


def unusable(processes: Processes, backend: str) -> str:
    """Say why an iptables backend does not work in this kernel; empty where it does."""
    done = processes.run((f"iptables-{backend}-restore", "--noflush"), PROBE)
    return done.complaint if done.returncode else ""
