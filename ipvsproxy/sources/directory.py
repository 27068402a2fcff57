"""A folder of manifests as a source of events, followed while it changes.

Knows files and how to notice that they changed; `manifests` knows what is in them, `picture` what
follows from it. Reading is done in a thread, so that a large file does not hold up the loop.

The folder is the truth, not the notifications: each wake-up surveys the whole folder (a stat of
each file) and parses again only what has changed since. inotify makes this quick; that it
loses events, does not see through symbolic links or does not work at all (a network file system,
the limit of watches) costs a few seconds and nothing else, because the folder is also surveyed at
intervals.

A file counts if its name ends in .yaml, .yml or .json and neither begins with a dot nor ends with
a tilde, in sub-folders too. A folder that begins with a dot is passed over, so a mounted ConfigMap
(whose files are links into `..data`) is read once.

Only what the folder does not list any more is deleted. Whatever else cannot be looked at is a
problem at its path, whatever its name, because it may be a folder of manifests: a link that leads
nowhere (a share that is not mounted), a file that must not be looked at, a disk that fails. So is a
folder that is suddenly empty and on another file system than before: a bare mount point.

Save a file by renaming a finished one over it,
as editors do: one that is written in place is read once it has been left alone for a moment.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import stat
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import NamedTuple

import structlog
from watchfiles import Change

from ipvsproxy.sources.manifests import (
    MAXIMUM_BYTES,
    SUFFIXES,
    Manifest,
    UnreadableManifest,
    read_manifest,
)
from ipvsproxy.sources.picture import Picture, Reading, advance
from ipvsproxy.sources.watching import CannotWatchError, changes_in
from ipvsproxy.store import Event

_MISSING_SECONDS = 1.0
"""How often a folder that is not there is looked for."""
_MAXIMUM_SURVEYS = 10
_BARE_MOUNT_POINT = "the folder is empty and on another file system than before: is it mounted?"

log: structlog.typing.FilteringBoundLogger = structlog.get_logger(__name__)


class DirectorySource:
    """A folder of manifests; one object follows one folder, for one receiver of the events."""

    def __init__(self, folder: Path, *, survey_seconds: float = 5.0) -> None:
        """Take the folder, which need not be there yet, and the longest time between surveys."""
        self._folder = folder
        self._survey_seconds = survey_seconds
        self._reader = _Reader(folder)
        self._picture = Picture()
        self._empty = False
        """Whether it was, and has been said."""

    async def read(self) -> list[Event]:
        """Read the folder once; return what has changed since the last time, at first everything.

        Without `Listed` in the first result the folder could not be read. Nothing is raised for
        what is wrong in or with the folder: it is said by events.
        """
        reading = await asyncio.to_thread(self._reader.read)
        empty = reading.present and not reading.manifests and not reading.problems
        if empty and not self._empty:
            log.warning("no manifests in the folder", folder=str(self._folder))
        self._empty = empty
        self._picture, events = advance(self._picture, reading)
        return events

    async def once(self) -> AsyncIterator[Event]:
        """Read the folder once; the events of `read`."""
        for event in await self.read():
            yield event

    async def events(self) -> AsyncGenerator[Event, None]:
        """Read the folder and follow it, for as long as the iteration lasts.

        Close the generator (`contextlib.aclosing`) when done with it, so that the watcher ends.
        """
        changed = asyncio.Event()
        watch = _Watch(self._folder, changed)
        try:
            while True:
                await watch.ensure()
                changed.clear()
                for event in await self.read():
                    yield event
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(changed.wait(), self._patience())
        finally:
            await watch.close()

    def need_nodes(self, *, needed: bool = True) -> None:
        """Do nothing: all Nodes that are in the folder are told in any case."""

    def need_pods(self, *, needed: bool = True) -> None:
        """Do nothing: so are all Pods."""

    def _patience(self) -> float:
        missing = _shown(self._folder) in self._picture.problems
        return min(self._survey_seconds, _MISSING_SECONDS) if missing else self._survey_seconds


# ------------------------------------------------------------------------------ reading


class _Stamp(NamedTuple):
    """What tells a file's content from an earlier one, as far as that goes without reading it."""

    modified_ns: int
    size: int
    inode: int
    device: int

    @classmethod
    def of(cls, status: os.stat_result) -> _Stamp:
        return cls(status.st_mtime_ns, status.st_size, status.st_ino, status.st_dev)


class _Survey(NamedTuple):
    """Which files there are, and what could not be looked at."""

    files: dict[str, _Stamp]
    problems: dict[str, str]
    devices: dict[str, int]
    """On which file system each folder is, where that was in order."""


class _Reader:
    """Reads a folder; blocks. Keeps what each unchanged file says."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known: dict[str, tuple[_Stamp | None, Manifest | str]] = {}
        """What each file says, with no stamp where it is to be read again in any case."""
        self._devices: dict[str, int] = {}

    def read(self) -> Reading:
        """Read what has changed, until nothing changes meanwhile: a file that is moved is seen."""
        survey = self._survey()
        for _ in range(_MAXIMUM_SURVEYS):
            self._known = {
                path: self._read_file(path, stamp) for path, stamp in survey.files.items()
            }
            before, survey = survey, self._survey()
            if survey == before:
                break
        said = {_shown(path): said for path, (_, said) in self._known.items()}
        manifests = {path: one for path, one in said.items() if isinstance(one, Manifest)}
        unparsed = {path: one for path, one in said.items() if isinstance(one, str)}
        problems = {_shown(path): problem for path, problem in survey.problems.items()}
        return Reading(manifests, problems | unparsed, _shown(self._folder) not in problems)

    def _read_file(self, path: str, stamp: _Stamp) -> tuple[_Stamp | None, Manifest | str]:
        known = self._known.get(path)
        if known is not None and known[0] == stamp:
            return known
        if stamp.size > MAXIMUM_BYTES:
            return stamp, f"{stamp.size} bytes are more than the {MAXIMUM_BYTES} that are read"
        try:
            manifest = read_manifest(Path(path).read_bytes(), _shown(path))
        except OSError as error:  # what mends that (rights, a disk) need not change the stamp
            return None, _explain(error)
        except UnreadableManifest as error:
            return stamp, str(error)
        for fault in manifest.faults:
            log.error("an object could not be read", file=path, exc_info=fault)
        if manifest.ignored:
            log.info("objects passed over", file=path, objects=dict(manifest.ignored))
        return stamp, manifest

    def _survey(self) -> _Survey:
        survey = _Survey({}, {}, {})
        self._survey_folder(self._folder, survey, frozenset())
        if survey.problems:  # a folder that is missing from this survey may come back
            self._devices |= survey.devices
        else:
            self._devices = survey.devices
        return survey._replace(files=dict(sorted(survey.files.items())))

    def _survey_folder(
        self, folder: Path, survey: _Survey, above: frozenset[tuple[int, int]]
    ) -> None:
        """Add a folder's files to the survey; `above` are the folders leading to it, by identity.

        A folder that is empty where another file system was before is a mount point whose file
        system is not there; it is in order again when anything is in it, or on the one from before.
        """
        try:
            status = folder.stat()
            identity = (status.st_dev, status.st_ino)
            if identity in above:
                survey.problems[str(folder)] = "the link leads back to a folder that contains it"
                return
            entries = [one for one in sorted(folder.iterdir()) if not one.name.startswith(".")]
        except OSError as error:
            survey.problems[str(folder)] = _explain(error)
            return
        if not entries and self._devices.get(str(folder), status.st_dev) != status.st_dev:
            survey.problems[str(folder)] = _BARE_MOUNT_POINT
            return
        survey.devices[str(folder)] = status.st_dev
        for path in entries:
            self._survey_entry(path, survey, above | {identity})

    def _survey_entry(self, path: Path, survey: _Survey, above: frozenset[tuple[int, int]]) -> None:
        try:
            status = _status(path)
        except OSError as error:
            survey.problems[str(path)] = _explain(error)
            return
        if status is None:
            return
        if stat.S_ISDIR(status.st_mode):
            self._survey_folder(path, survey, above)
        elif path.suffix in SUFFIXES:
            if stat.S_ISREG(status.st_mode):
                survey.files[str(path)] = _Stamp.of(status)
            else:
                survey.problems[str(path)] = "not a regular file"


def _status(path: Path) -> os.stat_result | None:
    """Look at what a path leads to; None where the path has just gone. Raises OSError."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return None
    if not stat.S_ISLNK(status.st_mode):
        return status
    try:
        return path.stat()
    except FileNotFoundError as error:
        raise OSError(f"the link leads nowhere: {_explain(error)}") from error
    except OSError as error:
        raise OSError(f"the link cannot be followed: {_explain(error)}") from error


def _shown(path: str | Path) -> str:
    r"""Write a path as text that can be shown anywhere: a name that is not UTF-8 with \\x.."""
    return os.fsencode(path).decode(errors="backslashreplace")


def _explain(error: OSError) -> str:
    return (error.strerror or str(error)).lower()


# ----------------------------------------------------------------------------- watching


class _Watch:
    """Sets `changed` whenever something changes in the folder; starts anew when that is lost."""

    def __init__(self, folder: Path, changed: asyncio.Event) -> None:
        self._folder = folder
        self._changed = changed
        self._stop = asyncio.Event()
        self._identity: tuple[int, int] | None = None
        self._task: asyncio.Task[None] | None = None
        self._complained = False

    async def ensure(self) -> None:
        """Have the folder watched that is there now; without one there is nothing to watch."""
        identity = _identity(self._folder)
        if self._task is not None and not self._task.done() and identity == self._identity:
            return
        await self.close()
        self._identity = identity
        if identity is not None:
            self._stop = asyncio.Event()
            self._task = asyncio.create_task(self._follow(self._stop))
            # The task's first step establishes the watch, before the folder is read.
            await asyncio.sleep(0)

    async def close(self) -> None:
        """Stop watching; takes as long as the watcher needs to notice, 50 ms."""
        task, self._task = self._task, None
        if task is not None:
            self._stop.set()
            await task

    async def _follow(self, stop: asyncio.Event) -> None:
        try:
            async for changes in changes_in(self._folder, stop, recursive=True):
                self._changed.set()
                if (Change.deleted, str(self._folder)) in changes:
                    return
        except CannotWatchError as error:
            if not self._complained:
                self._complained = True
                log.warning(
                    "the folder cannot be watched and is read at intervals",
                    folder=str(self._folder),
                    reason=str(error),
                )


def _identity(folder: Path) -> tuple[int, int] | None:
    try:
        status = folder.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino
