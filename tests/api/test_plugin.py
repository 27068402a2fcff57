"""Programs that give a credential: whatever is noticed of their end, nothing of them stays open."""

from __future__ import annotations

import asyncio
import gc
import os
from asyncio.base_subprocess import BaseSubprocessTransport

import pytest

from ipvsproxy.sources.kubernetes.plugin import Limits, PluginError, ask


def test_nothing_stays_open_where_an_end_is_noticed_too_late(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The program has ended, and the event loop does, before it has told anybody."""
    monkeypatch.setattr(BaseSubprocessTransport, "_call", lambda *_: None)
    limits = Limits(run=0.2, ending=0.0)
    with pytest.raises(PluginError):
        asyncio.run(
            ask(
                ("sh", "-c", "exit 3"),
                os.environ,
                api_version="client.authentication.k8s.io/v1",
                limits=limits,
            )
        )
    gc.collect()  # a transport that nobody has closed warns when it goes
