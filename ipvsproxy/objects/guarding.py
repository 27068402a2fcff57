"""How any object is read: what goes wrong becomes a refusal of that object, and of no other.

Knows what all kinds have in common, which is names and faults; no field of any one kind.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from ipvsproxy.objects import fields, wire
from ipvsproxy.objects.refusal import DEFAULT_NAMESPACE, describe

Value = TypeVar("Value")


def guarded(
    kind: wire.Kind[wire.WireObject], raw: wire.Raw, build: Callable[[wire.WireObject], Value]
) -> Value:
    """Read an object of a kind. Raises InvalidObject, whatever it is that `build` raises."""
    try:
        written = kind.decode(raw)
    except (ValueError, RecursionError) as error:
        raise describe(kind.name, raw, wire.explain(error, raw)) from None
    try:
        return build(written)
    except fields.Wrong as error:
        raise describe(kind.name, raw, str(error)) from None
    except Exception as error:  # one object's surprise must not hold up the others
        reason = f"internal error: {type(error).__name__}: {error}"
        raise describe(kind.name, raw, reason, internal=True) from error


def name_of(metadata: wire.Metadata) -> str:
    """Give an object's name. Raises fields.Wrong."""
    if not metadata.name:
        raise fields.Wrong("metadata.name", "is missing")
    return fields.sound_name("metadata.name", metadata.name)


def namespace_of(metadata: wire.Metadata) -> str:
    """Give an object's namespace. Raises fields.Wrong."""
    return fields.sound_name("metadata.namespace", metadata.namespace or DEFAULT_NAMESPACE)
