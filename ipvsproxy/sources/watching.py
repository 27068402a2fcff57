"""Notices that something in a folder has changed, for as long as the kernel tells of it.

Knows inotify's library and how it fails; what is in the folder, and how often it is looked at in
any case, is for others to know. Its errors come plain or in a group, from its own task; all of them
are one here, and none of them is a reason to stop.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from watchfiles.main import FileChange

_QUIET_MILLISECONDS = 50
"""Changes are told when none has followed for so long ..."""
_LONGEST_MILLISECONDS = 2000
"""... or when they have gone on for so long."""
_KNOWN = (OSError, RuntimeError, ValueError)
"""The system's, the library's own, and a path that is not UTF-8: it is a file that is there now,
or the folder."""


class CannotWatchError(Exception):
    """The folder is not watched, or no longer; the message is why, in one line."""


async def changes_in(
    folder: Path, stop: asyncio.Event, *, recursive: bool
) -> AsyncGenerator[set[FileChange], None]:
    """Yield what has changed, until `stop` or the folder is not there. Raises CannotWatchError.

    The first step establishes the watch.
    """
    from watchfiles import awatch  # noqa: PLC0415 - a start that follows no folder does without

    try:
        with contextlib.suppress(FileNotFoundError):
            async for changes in awatch(
                folder,
                watch_filter=None,
                recursive=recursive,
                debounce=_LONGEST_MILLISECONDS,
                step=_QUIET_MILLISECONDS,
                stop_event=stop,
                ignore_permission_denied=True,
            ):
                yield changes
    except _KNOWN as error:
        raise CannotWatchError(str(error)) from error
    except ExceptionGroup as group:
        known, others = group.split(_KNOWN)
        if known is None or others is not None:
            raise
        raise CannotWatchError("; ".join(map(str, known.exceptions))) from group
