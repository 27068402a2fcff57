"""Modules that stand for others until these are asked for something.

A library imports at its head what any of its functions may need, and most of it nobody calls. While
such a library is imported, `import` finds a module from here in the place of a real one; what the
library has taken of it imports the real one when it is called. So nothing is left out for good, and
who imports the real one himself has it, before and after.

Knows how `import` finds modules, and nothing of any library.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType


@contextmanager
def standing_in(modules: Mapping[str, ModuleType | None]) -> Iterator[None]:
    """Have `import` find these, but for what is imported already; None: have it find nothing.

    Not for a block in which other threads import them.
    """
    missing = {name: module for name, module in modules.items() if name not in sys.modules}
    sys.modules.update(missing)  # type: ignore[arg-type] # None is what `import` knows
    try:
        yield
    finally:
        for name in missing:
            del sys.modules[name]


def stand_in(name: str, contents: Mapping[str, object] | None = None) -> ModuleType:
    """Make a module that has `contents`, and all else of the real one as soon as that is found."""
    made = ModuleType(name)
    made.__dict__.update(contents or {})

    def find(attribute: str) -> object:
        if sys.modules.get(name) is made:
            raise AttributeError(f"{name} has no {attribute} yet")
        return getattr(importlib.import_module(name), attribute)

    made.__dict__["__getattr__"] = find
    return made


def calling(module: str, *names: str) -> ModuleType:
    """Make a module that has functions, or classes to be called, each of which calls its like."""
    return stand_in(module, {name: later(module, name) for name in names})


def later(module: str, name: str) -> Callable[..., object]:
    """Make a function that calls one of a module, which is imported for it."""

    def call(*arguments: object, **named: object) -> object:
        return getattr(importlib.import_module(module), name)(*arguments, **named)

    return call


def forget(package: str) -> None:
    """Have a package imported anew, and whole, by whoever imports it next."""
    for name in [one for one in sys.modules if one.partition(".")[0] == package]:
        del sys.modules[name]
