"""The configuration file, followed: what can be changed in a running agent is.

Knows when to look (inotify makes it quick, and a look at intervals makes up for what it misses, as
for a folder of manifests) and what becomes of what is found: settings that count now, fields that
need a restart, or a file that is wrong, which leaves the settings as they are. How the file is read
together with flags and environment is handed in. A ConfigMap that is mounted is replaced by the
swap of a link beside the file, so the folder is watched, not the file.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import structlog

from ipvsproxy.agent.wiring import Wiring
from ipvsproxy.config import (
    ConfigurationError,
    Resolved,
    Settings,
    name_in_file,
    taken,
)
from ipvsproxy.sources.watching import CannotWatchError, changes_in
from ipvsproxy.telemetry import ConditionType

log = structlog.get_logger(__name__)

_SUBJECT = "Configuration"
_LOOK_SECONDS = 10.0
"""How often the file is looked at in any case."""


class ConfigFile(NamedTuple):
    """A configuration file, and how it is read."""

    path: Path
    read: Callable[[], Resolved]
    """Read it anew, with flags and environment. Raises ConfigurationError."""
    took: Callable[[Settings], None]
    """Is told of settings that count from now on: the command line has the log's level of them."""


class Reloader:
    """Takes what the configuration file says now."""

    def __init__(self, file: ConfigFile, wiring: Wiring, wall_clock: Callable[[], float]) -> None:
        self._file = file
        self._wiring = wiring
        self._wall_clock = wall_clock
        self._asked: Settings | None = None
        """What was read last; None: the file was wrong, or has not been read since the start."""
        self._problem = ""
        wiring.metrics.config_reloaded(wall_clock())

    async def run(self) -> None:
        """Follow the file until cancelled."""
        changed, stop = asyncio.Event(), asyncio.Event()
        watch = asyncio.create_task(_watch(self._file.path.parent, changed, stop))
        try:
            # The task's first step establishes the watch, before the file is read.
            await asyncio.sleep(0)
            while True:
                changed.clear()
                self.look()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(changed.wait(), _LOOK_SECONDS)
        finally:
            stop.set()  # the watcher's thread notices this, and no cancellation
            await watch

    def look(self) -> None:
        """Read the file; nothing happens where it says what it said before."""
        try:
            resolved = self._file.read()
        except ConfigurationError as error:
            self._refuse("; ".join(error.problems))
            return
        if self._problem:
            self._problem = ""
            self._wiring.conditions.clear(_SUBJECT, ConditionType.INVALID_CONFIGURATION)
        elif resolved.settings == (self._asked or self._wiring.settings):
            return
        self._asked = resolved.settings
        self._wiring.metrics.config_reloaded(self._wall_clock())
        self._take(resolved)

    def _take(self, resolved: Resolved) -> None:
        change = taken(self._wiring.settings, resolved.settings)
        for warning in resolved.warnings:
            log.warning("configuration", warning=warning)
        if change.changed:
            self._wiring.configure(change.settings)
            self._file.took(change.settings)
        log.info("configuration read anew", changed=_named(change.changed))
        self._wiring.observer.restart_needed = tuple(map(name_in_file, change.need_restart))
        self._wiring.metrics.config_restart_needed.set(len(change.need_restart))
        if change.need_restart:
            log.warning("a restart is needed", fields=_named(change.need_restart))

    def _refuse(self, problem: str) -> None:
        if problem == self._problem:
            return
        self._problem = problem
        self._asked = None
        self._wiring.metrics.config_reload_successful.set(0)
        conditions = self._wiring.conditions
        message = f"the settings stay as they were: {problem}"
        conditions.set(
            _SUBJECT,
            ConditionType.INVALID_CONFIGURATION,
            message=message,
            now=self._wall_clock(),
        )
        raised = conditions.take_raised_of(_SUBJECT, ConditionType.INVALID_CONFIGURATION)
        if raised is not None:
            log.error("condition", subject=raised.subject, type=str(raised.type), problem=message)


async def _watch(folder: Path, changed: asyncio.Event, stop: asyncio.Event) -> None:
    """Set `changed` when something changes in a folder; ends where that cannot be known."""
    try:
        async for _ in changes_in(folder, stop, recursive=False):
            changed.set()
    except CannotWatchError as error:
        log.warning(
            "the configuration's folder cannot be watched, the file is read at intervals",
            folder=str(folder),
            reason=str(error),
        )


def _named(fields: tuple[str, ...]) -> str:
    return ", ".join(map(name_in_file, fields)) or "nothing"
