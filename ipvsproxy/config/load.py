"""Puts the settings together: flag before environment variable before file before default.

Pure: the environment, the host's name and the file's text are arguments. Each field is decided by
itself, so a flag overrides one line of the file and leaves the others (kube-proxy ignores most
flags beside a file; a listed difference), and `Resolved.sources` says for each who won.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import NamedTuple

from ipvsproxy.config.contents import FileContents, FileValue
from ipvsproxy.config.fields import READERS, flag
from ipvsproxy.config.settings import (
    IPV6_BIND_ADDRESSES,
    DetectLocalMode,
    NodePortAddresses,
    Settings,
)
from ipvsproxy.config.values import ConfigurationError
from ipvsproxy.model import Address, Network

PREFIX = "IPVSPROXY_"
"""Of every environment variable: `IPVSPROXY_SYNC_PERIOD` sets `sync_period`."""

FILE_VARIABLE = f"{PREFIX}CONFIG"
"""Names the file where no flag does: so that every command in a container has the agent's."""

_NEEDED_BY_MODE = {
    DetectLocalMode.BRIDGE_INTERFACE: "pod_bridge_interface",
    DetectLocalMode.INTERFACE_NAME_PREFIX: "pod_interface_name_prefix",
}

_NAMELESS = (
    "the node's name is unknown: give --hostname-override NAME, or set NODE_NAME "
    "(in a DaemonSet from fieldRef spec.nodeName)"
)
_ALONE = "conntrack-min is without effect: conntrack-max-per-core is not set"

_NEAR = 0.8
"""How much of a variable's name is a setting's, so that it is taken for a slip."""
_EMPTY_MEANS_NONE = frozenset({"healthz_bind_address", "metrics_bind_address"})


class Source(StrEnum):
    """Where a value comes from."""

    FLAG = "flag"
    ENVIRONMENT = "environment"
    FILE = "file"
    DEFAULT = "default"


class Resolved(NamedTuple):
    """The settings, who set what, and what the operator should know."""

    settings: Settings
    sources: Mapping[str, Source]
    """By field, all of them."""
    warnings: tuple[str, ...] = ()
    """One line each."""
    places: Mapping[str, str] = MappingProxyType({})
    """By field, where exactly its value was given; not there: nowhere, it is the default."""


class _Candidate(NamedTuple):
    source: Source
    place: str
    value: object


def load(
    flags: Mapping[str, object],
    environment: Mapping[str, str],
    file_text: str | None,
    *,
    host_name: str = "",
) -> Resolved:
    """Decide every setting.

    `flags` is by field name, None where a flag was not given; `file_text` is None without a file;
    `host_name` is the node's name when nothing else gives one. Raises ConfigurationError, with all
    that is wrong.
    """
    if unknown := flags.keys() - READERS.keys():
        raise TypeError(f"flags that are no settings: {sorted(unknown)}")
    contents = _read(file_text) if file_text is not None else FileContents({})
    winners = {
        field: candidate
        for field in READERS
        if (candidate := _candidate(field, flags, environment, contents.values)) is not None
    }
    if ":" in str(winners["bind_address"].value if "bind_address" in winners else ""):
        for field, default in IPV6_BIND_ADDRESSES.items():
            winners.setdefault(field, winners["bind_address"]._replace(value=default))
    problems = [*contents.problems]
    decided: dict[str, object] = {}
    for field, candidate in winners.items():
        try:
            decided[field] = READERS[field](candidate.value)
        except ValueError as error:
            problems.append(f"{candidate.place}: {candidate.value!r}: {error}")
    if "node_name" not in winners:
        if not host_name.strip():
            problems.append(_NAMELESS)
        decided["node_name"] = host_name.strip().lower()
    if problems:
        raise ConfigurationError(*problems)
    settings = Settings(**decided)  # type: ignore[arg-type]  # each field's reader returns its type
    if conflicts := tuple(_conflicts(settings)):
        raise ConfigurationError(*conflicts)
    sources = {
        field: winners[field].source if field in winners else Source.DEFAULT for field in READERS
    }
    return Resolved(
        settings,
        sources,
        (*contents.warnings, *_misspelt(environment), *_without_effect(settings)),
        {field: candidate.place for field, candidate in winners.items()},
    )


def effective(settings: Settings) -> Mapping[str, object]:
    """Write settings as plain values (texts, numbers, lists), for /configz and for people."""
    return {field: _plain(getattr(settings, field)) for field in READERS}


def _read(file_text: str) -> FileContents:
    from ipvsproxy.config.files import read_file  # noqa: PLC0415 - YAML, for who has a file

    return read_file(file_text)


def _candidate(
    field: str,
    flags: Mapping[str, object],
    environment: Mapping[str, str],
    from_file: Mapping[str, FileValue],
) -> _Candidate | None:
    if (given := flags.get(field)) is not None:
        return _Candidate(Source.FLAG, f"flag {flag(field)}", given)
    names = [PREFIX + field.upper()]
    if field == "node_name":
        names.append("NODE_NAME")
    for name in names:
        value = environment.get(name)
        if value or (value is not None and field in _EMPTY_MEANS_NONE):
            return _Candidate(Source.ENVIRONMENT, f"environment variable {name}", value)
    if (entry := from_file.get(field)) is not None:
        return _Candidate(Source.FILE, entry.place, entry.value)
    return None


def _misspelt(environment: Mapping[str, str]) -> Iterator[str]:
    """Name variables that look like settings and are none.

    Not every variable that begins so: kubelet makes IPVSPROXY_SERVICE_HOST and the like for a
    Service of that name.
    """
    flags = {flag(field).strip("-").replace("-", "_"): field for field in READERS}
    flags["config_file"] = "config"
    for name in sorted(environment.keys() - {FILE_VARIABLE}):
        written = name.removeprefix(PREFIX).lower()
        if written == name.lower() or written in READERS:
            continue
        import difflib  # noqa: PLC0415 - for who has made a slip

        near = difflib.get_close_matches(written, READERS, n=1, cutoff=_NEAR)
        field = flags.get(written) or next(iter(near), None)
        if field is not None:
            yield (
                f"environment variable {name} sets nothing; did you mean {PREFIX}{field.upper()}?"
            )


def _conflicts(settings: Settings) -> Iterator[str]:
    """Say which settings do not go together, each being right by itself."""
    if settings.min_sync_period > settings.sync_period:
        yield (
            f"min-sync-period {settings.min_sync_period:g}s is longer than sync-period "
            f"{settings.sync_period:g}s: it must not be"
        )
    if settings.set_capacity > settings.set_capacity_limit:
        yield (
            f"set-capacity {settings.set_capacity} is more than set-capacity-limit "
            f"{settings.set_capacity_limit}: it must not be"
        )
    for mode, field in _NEEDED_BY_MODE.items():
        if settings.detect_local_mode is mode and getattr(settings, field) is None:
            yield f"detect-local-mode {mode} needs {field.replace('_', '-')}: set it"


def _without_effect(settings: Settings) -> tuple[str, ...]:
    """Name what was set in vain: it belongs to something else that was not set."""
    floor = settings.conntrack_min is not None and settings.conntrack_max_per_core is None
    return (*_pod_interfaces_without_effect(settings), *((_ALONE,) if floor else ()))


def _pod_interfaces_without_effect(settings: Settings) -> Iterator[str]:
    """Name what was set for another way of telling pods from others than the chosen one."""
    return (
        f"{field.replace('_', '-')} is without effect: detect-local-mode is "
        f"{settings.detect_local_mode}, not {mode}"
        for mode, field in _NEEDED_BY_MODE.items()
        if settings.detect_local_mode is not mode and getattr(settings, field) is not None
    )


def _plain(value: object) -> object:
    if isinstance(value, NodePortAddresses):
        return ["primary"] if value.primary else _plain(value.networks)
    if isinstance(value, Network | Address):
        return str(value)
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, StrEnum) else value
