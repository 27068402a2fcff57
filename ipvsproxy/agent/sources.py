"""Which source the settings ask for.

Knows what each source needs to be made; everything else in the agent knows `store.Source` only.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ipvsproxy.config import Settings
from ipvsproxy.store import Source
from ipvsproxy.telemetry import Conditions, Watches

if TYPE_CHECKING:
    from ipvsproxy.sources.kubernetes.events import Events


class Opened(NamedTuple):
    """A source, and where its objects' Events go."""

    source: Source
    events: Events | None = None
    """None: nowhere, as for a folder."""


@asynccontextmanager
async def open_source(
    settings: Settings,
    *,
    watches: Watches | None = None,
    conditions: Conditions | None = None,
) -> AsyncIterator[Opened]:
    """Open the folder of manifests where one is set, else the Kubernetes API.

    That one says in `watches` and `conditions` how it is doing.

    Each is imported only where it is used.
    Raises what `sources.kubernetes` raises when no API server is known or its file is wrong.
    """
    if settings.manifests is not None:
        from ipvsproxy.sources.directory import DirectorySource  # noqa: PLC0415

        yield Opened(DirectorySource(Path(settings.manifests)))
        return
    from ipvsproxy.sources.kubernetes.access import choose  # noqa: PLC0415
    from ipvsproxy.sources.kubernetes.client import connect  # noqa: PLC0415
    from ipvsproxy.sources.kubernetes.events import Events  # noqa: PLC0415
    from ipvsproxy.sources.kubernetes.health import SourceHealth  # noqa: PLC0415
    from ipvsproxy.sources.kubernetes.pace import Timing  # noqa: PLC0415
    from ipvsproxy.sources.kubernetes.source import KubernetesSource  # noqa: PLC0415

    access = choose(
        kubeconfig=Path(settings.kubeconfig) if settings.kubeconfig is not None else None,
        master=settings.master,
        environment=os.environ,
    )
    connection = await connect(access, watches.requests if watches is not None else None)
    try:
        timing = Timing(time.monotonic, asyncio.sleep, random.random)
        yield Opened(
            KubernetesSource(
                connection,
                settings.node_name,
                timing=timing,
                health=SourceHealth(watches=watches, conditions=conditions, wall_clock=time.time),
                watch_nodes=settings.watch_nodes,
                watch_pods=settings.watch_pods,
            ),
            Events(connection, settings.node_name, timing=timing, wall_clock=time.time),
        )
    finally:
        await connection.close()
