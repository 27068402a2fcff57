"""What a running agent takes of settings that have changed.

Knows which fields count from the next cycle on; that the others need a restart is said, not done.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from ipvsproxy.config.fields import NEED_RESTART, READERS
from ipvsproxy.config.settings import Settings


class Change(NamedTuple):
    """What becomes of new settings."""

    settings: Settings
    """Those that count from now on."""
    changed: tuple[str, ...]
    """Fields that have another value in `settings` than before."""
    need_restart: tuple[str, ...]
    """Fields that are asked to have another value, and keep their old one until a restart."""


def taken(present: Settings, asked: Settings) -> Change:
    """Say what becomes of `asked` in an agent that runs with `present`."""
    kept = {field: getattr(present, field) for field in NEED_RESTART}
    settings = msgspec.structs.replace(asked, **kept)
    return Change(settings, _differing(present, settings), _differing(settings, asked))


def _differing(one: Settings, other: Settings) -> tuple[str, ...]:
    return tuple(field for field in READERS if getattr(one, field) != getattr(other, field))
