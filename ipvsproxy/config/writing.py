"""Writes settings as our own configuration file, in YAML.

Knows how each field is written so that it is read back as the same value; which fields are written
is for others to say.
"""

from __future__ import annotations

from collections.abc import Collection

import yaml

from ipvsproxy.config.fields import DURATIONS, READERS, name_in_file
from ipvsproxy.config.load import Resolved, Source, effective
from ipvsproxy.config.settings import Settings


def own_file(settings: Settings, fields: Collection[str] = READERS.keys()) -> str:
    """Write these fields (all of them) as a file of our own kind; a value of None is left out."""
    values = effective(settings)
    written = {
        name_in_file(field): _written(field, values[field])
        for field in READERS
        if field in fields and values[field] is not None
    }
    return yaml.safe_dump(written, sort_keys=False) if written else "{}\n"


def converted(resolved: Resolved) -> str:
    """Write what the file that settings were loaded from says, as a file of our own kind."""
    said = [field for field, source in resolved.sources.items() if source is Source.FILE]
    return own_file(resolved.settings, said)


def _written(field: str, value: object) -> object:
    """Write a duration as Go does, without an exponent."""
    if field not in DURATIONS or not isinstance(value, int | float):
        return value
    return f"{int(value)}s" if value == int(value) else f"{value:f}s"
