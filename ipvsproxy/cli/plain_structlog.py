"""structlog, imported without rich: for a process whose log lines nobody wants in colours.

Knows that structlog imports rich where it is installed, to draw tracebacks with the values of all
variables. The agent must not do that, for a value may be a token; and the import is 40 ms and 4 MiB
of every start. Commands that print tables import rich themselves.
"""

from __future__ import annotations

import importlib
import sys

__all__ = ["import_structlog"]

_OPTIONAL = "rich"


def import_structlog() -> None:
    """Import structlog, unless it is imported already, and have it find no rich."""
    if _OPTIONAL in sys.modules or "structlog" in sys.modules:
        return
    sys.modules[_OPTIONAL] = None  # type: ignore[assignment] # makes `import` say that it is missing
    try:
        importlib.import_module("structlog")
    finally:
        del sys.modules[_OPTIONAL]
