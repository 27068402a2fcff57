"""Puts the settings together: flag before environment variable before file before default.

Pure: the environment, the host's name and the file's text are arguments. Each field is decided by
itself, so a flag overrides one line of the file and leaves the others (kube-proxy ignores most
flags beside a file; a listed difference), and `Resolved.sources` says for each who won.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import NamedTuple

from ipvsproxy.config import values
from ipvsproxy.config.files import FileValue, read_file
from ipvsproxy.config.settings import (
    DetectLocalMode,
    IptablesBackend,
    LogFormat,
    NodePortAddresses,
    NoLocalEndpoints,
    Settings,
    WatchNodes,
)
from ipvsproxy.config.values import ConfigurationError, Reader
from ipvsproxy.model import Network, Scheduler

PREFIX = "IPVSPROXY_"
"""Of every environment variable: `IPVSPROXY_SYNC_PERIOD` sets `sync_period`."""

_INTERFACE_CHARACTERS = 15
"""IFNAMSIZ without its end; iptables wants one of them for the `+` behind a prefix."""

READERS: Mapping[str, Reader] = {
    "node_name": values.node_name,
    "manifests": values.text,
    "kubeconfig": values.text,
    "master": values.urls,
    "default_scheduler": values.choice(Scheduler),
    "cluster_cidrs": values.networks,
    "detect_local_mode": values.choice(DetectLocalMode),
    "pod_bridge_interface": values.interface(_INTERFACE_CHARACTERS),
    "pod_interface_name_prefix": values.interface(_INTERFACE_CHARACTERS - 1),
    "node_port_addresses": values.node_port_addresses,
    "no_local_endpoints": values.choice(NoLocalEndpoints),
    "protected_ports": values.ports,
    "watch_nodes": values.choice(WatchNodes),
    "strict_arp": values.boolean,
    "masquerade_all": values.boolean,
    "masquerade_bit": values.whole_number(0, 31),
    "exclude_cidrs": values.networks,
    "take_over": values.boolean,
    "sync_period": values.seconds_above_zero,
    "min_sync_period": values.seconds,
    "drain_deadline": values.seconds,
    "removed_service_drain": values.seconds,
    "set_hash_size": values.whole_number(64, 1 << 20),
    "set_capacity": values.whole_number(1024, 1 << 24),
    "set_capacity_limit": values.whole_number(1024, 1 << 24),
    "iptables_backend": values.choice(IptablesBackend),
    "healthz_bind_address": values.bind_address(10256),
    "metrics_bind_address": values.bind_address(10249),
    "log_format": values.choice(LogFormat),
    "verbosity": values.whole_number(0, 10),
}
"""How each field of `Settings` is read, in the order in which they are shown."""

_FLAGS = {
    "node_name": "--hostname-override",
    "cluster_cidrs": "--cluster-cidr",
    "node_port_addresses": "--nodeport-addresses",
    "verbosity": "-v",
}
"""Flags that are not named as their field is."""

_NEEDED_BY_MODE = {
    DetectLocalMode.BRIDGE_INTERFACE: "pod_bridge_interface",
    DetectLocalMode.INTERFACE_NAME_PREFIX: "pod_interface_name_prefix",
}

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
    `host_name` is the node's name when nothing else gives one. Raises ConfigurationError.
    """
    if unknown := flags.keys() - READERS.keys():
        raise TypeError(f"flags that are no settings: {sorted(unknown)}")
    contents = read_file(file_text) if file_text is not None else None
    from_file = contents.values if contents is not None else {}
    decided: dict[str, object] = {}
    sources: dict[str, Source] = {}
    for field, read in READERS.items():
        candidate = _candidate(field, flags, environment, from_file)
        sources[field] = candidate.source if candidate is not None else Source.DEFAULT
        if candidate is not None:
            decided[field] = _read(read, candidate)
    if not decided.get("node_name"):
        decided["node_name"] = _host_name(host_name)
    settings = _settings(decided)
    warnings = contents.warnings if contents is not None else ()
    return Resolved(settings, sources, (*warnings, *_without_effect(settings)))


def effective(settings: Settings) -> Mapping[str, object]:
    """Write settings as plain values (texts, numbers, lists), for /configz and for people."""
    return {field: _plain(getattr(settings, field)) for field in READERS}


def _candidate(
    field: str,
    flags: Mapping[str, object],
    environment: Mapping[str, str],
    from_file: Mapping[str, FileValue],
) -> _Candidate | None:
    if (flag := flags.get(field)) is not None:
        name = _FLAGS.get(field, f"--{field.replace('_', '-')}")
        return _Candidate(Source.FLAG, f"flag {name}", flag)
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


def _read(read: Reader, candidate: _Candidate) -> object:
    try:
        return read(candidate.value)
    except ValueError as error:
        raise ConfigurationError(f"{candidate.place}: {candidate.value!r}: {error}") from None


def _host_name(host_name: str) -> str:
    if not host_name.strip():
        raise ConfigurationError(
            "the node's name is unknown: give --hostname-override NAME, or set NODE_NAME "
            "(in a DaemonSet from fieldRef spec.nodeName)"
        )
    return values.node_name(host_name)


def _settings(decided: Mapping[str, object]) -> Settings:
    settings = Settings(**decided)  # type: ignore[arg-type]  # each field's reader returns its type
    if (conflict := _conflict(settings)) is not None:
        raise ConfigurationError(conflict)
    return settings


def _conflict(settings: Settings) -> str | None:
    """Say which settings do not go together, each being right by itself; None: all do."""
    if settings.min_sync_period > settings.sync_period:
        return (
            f"min-sync-period {settings.min_sync_period:g}s is longer than sync-period "
            f"{settings.sync_period:g}s: it must not be"
        )
    if settings.set_capacity > settings.set_capacity_limit:
        return (
            f"set-capacity {settings.set_capacity} is more than set-capacity-limit "
            f"{settings.set_capacity_limit}: it must not be"
        )
    for mode, field in _NEEDED_BY_MODE.items():
        if settings.detect_local_mode is mode and getattr(settings, field) is None:
            return f"detect-local-mode {mode} needs {field.replace('_', '-')}: set it"
    return None


def _without_effect(settings: Settings) -> tuple[str, ...]:
    """Name what was set for another way of telling pods from others than the chosen one."""
    return tuple(
        f"{field.replace('_', '-')} is without effect: detect-local-mode is "
        f"{settings.detect_local_mode}, not {mode}"
        for mode, field in _NEEDED_BY_MODE.items()
        if settings.detect_local_mode is not mode and getattr(settings, field) is not None
    )


def _plain(value: object) -> object:
    if isinstance(value, NodePortAddresses):
        return ["primary"] if value.primary else _plain(value.networks)
    if isinstance(value, Network):
        return str(value)
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, StrEnum) else value
