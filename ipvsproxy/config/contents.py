"""What a configuration file says: values by field of `Settings`, each with its place.

Values only; what a value means and whether it is right is for others to say.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, TypeAlias

Lines: TypeAlias = Mapping[str, int]
"""The line, from 1, of each path of a file."""


class FileValue(NamedTuple):
    """A value as YAML gave it, and where it was: `configuration file, line 7, ipvs.scheduler`."""

    place: str
    value: object


class FileContents(NamedTuple):
    """What a file says, by field of `Settings`."""

    values: Mapping[str, FileValue]
    warnings: tuple[str, ...] = ()
    """One line each: what has no effect."""
    problems: tuple[str, ...] = ()
    """One line each, with its place: what makes the file wrong."""


def place(lines: Lines, path: str) -> str:
    """Say where a field is."""
    line = f", line {lines[path]}" if path in lines else ""
    return f"configuration file{line}, {path}"
