"""Files that the library writes for what stands inline in a kubeconfig, or comes from a plugin.

Knows the library's `_temp_files`, a file name for each content, and its habits: it writes a file
once in its life, whatever becomes of it, never removes one before the process ends, and leaves each
open. Here they are written again where they are gone, and removed with the last session that was
made from them; none stays open.
"""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType


class InlineFiles:
    """The files of one copy of the library; `loader` is its module config.kube_config."""

    def __init__(self, loader: ModuleType) -> None:
        self._loader = loader.__dict__
        self._users: Counter[Path] = Counter()
        self._loader["tempfile"] = _Closing()

    def forget_lost(self) -> None:
        """Have files written again that are gone or empty, for the next kubeconfig that is loaded.

        The system may sweep the temporary folder (tmpfiles.d(5)); or it was full.
        """
        for content, path in self._written():
            try:
                lost = path.stat().st_size == 0
            except OSError:
                lost = True
            if lost:
                del self._loader["_temp_files"][content]

    def use(self, paths: Iterable[Path]) -> frozenset[Path]:
        """Keep files from now on; returns which of `paths` are such files, for `release`.

        To be called before anything else is awaited: files that nobody uses are removed.
        """
        ours = frozenset(path for _, path in self._written()).intersection(paths)
        self._users.update(ours)
        self._remove_unused()
        return ours

    def release(self, paths: frozenset[Path]) -> None:
        """Need files no more; those that nobody else needs are removed."""
        self._users.subtract(paths)
        self._remove_unused()

    def _remove_unused(self) -> None:
        self._users = +self._users
        for content, path in self._written():
            if path not in self._users:
                path.unlink(missing_ok=True)
                del self._loader["_temp_files"][content]

    def _written(self) -> list[tuple[str, Path]]:
        written: dict[str, str] = self._loader["_temp_files"]
        return [(content, Path(name)) for content, name in written.items()]


class _Closing:
    """In the place of the module tempfile: a file is made, and not left open."""

    @staticmethod
    def mkstemp(dir: str | None = None) -> tuple[int, str]:  # noqa: A002 - as it is called
        handle, name = tempfile.mkstemp(dir=dir)
        os.close(handle)
        return -1, name

    def __getattr__(self, name: str) -> object:
        found: object = getattr(tempfile, name)
        return found
