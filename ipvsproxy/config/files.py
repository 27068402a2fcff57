"""Reads the two kinds of configuration file into values by field of `Settings`.

Our own: YAML or JSON, the fields of `Settings` in camelCase (`defaultScheduler: lc`). And
kube-proxy's `KubeProxyConfiguration` (kubeproxy.config.k8s.io/v1alpha1), taken as it is: what has
an equal here is used, what is set and has none is named in one warning. In kube-proxy's file an
empty value means its default (kubeadm writes every field, empty), in ours it means what it says.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple, TypeGuard

import yaml

from ipvsproxy.config.settings import Settings
from ipvsproxy.config.values import ConfigurationError
from ipvsproxy.config.yaml_text import UnreadableYaml, read_yaml

KUBE_PROXY_KIND = "KubeProxyConfiguration"
KUBE_PROXY_GROUP = "kubeproxy.config.k8s.io/"
_OWN_EXTRA = frozenset({"apiVersion", "kind"})
OWN_KIND = "IpvsproxyConfiguration"
"""Optional in our own file."""


class FileValue(NamedTuple):
    """A value as YAML gave it, and where it was: `configuration file, line 7, ipvs.scheduler`."""

    place: str
    value: object


class FileContents(NamedTuple):
    """What a file says, by field of `Settings`."""

    values: Mapping[str, FileValue]
    warnings: tuple[str, ...] = ()


_KUBE_PROXY_FIELDS: Mapping[str, str] = {
    "hostnameOverride": "node_name",
    "clientConnection.kubeconfig": "kubeconfig",
    "clusterCIDR": "cluster_cidrs",
    "detectLocalMode": "detect_local_mode",
    "detectLocal.bridgeInterface": "pod_bridge_interface",
    "detectLocal.interfaceNamePrefix": "pod_interface_name_prefix",
    "nodePortAddresses": "node_port_addresses",
    "ipvs.scheduler": "default_scheduler",
    "ipvs.excludeCIDRs": "exclude_cidrs",
    "ipvs.strictARP": "strict_arp",
    "ipvs.syncPeriod": "sync_period",
    "ipvs.minSyncPeriod": "min_sync_period",
    "iptables.masqueradeBit": "masquerade_bit",
    "iptables.masqueradeAll": "masquerade_all",
    "healthzBindAddress": "healthz_bind_address",
    "metricsBindAddress": "metrics_bind_address",
    "logging.format": "log_format",
    "logging.verbosity": "verbosity",
}
"""Path in kube-proxy's file, and the field of `Settings` that means the same."""

_KUBE_PROXY_DEFAULTS: Mapping[str, tuple[object, ...]] = {
    "apiVersion": ("kubeproxy.config.k8s.io/v1alpha1",),
    "kind": (KUBE_PROXY_KIND,),
    "mode": ("ipvs",),
    "bindAddress": ("0.0.0.0", "::"),  # noqa: S104 - a value to compare with
    "configSyncPeriod": ("15m", "15m0s"),
    "oomScoreAdj": (-999,),
    "clientConnection.qps": (5,),
    "clientConnection.burst": (10,),
    "clientConnection.contentType": ("application/vnd.kubernetes.protobuf",),
    "conntrack.maxPerCore": (32768,),
    "conntrack.min": (131072,),
    "conntrack.tcpEstablishedTimeout": ("24h", "24h0m0s"),
    "conntrack.tcpCloseWaitTimeout": ("1h", "1h0m0s"),
    "iptables.localhostNodePorts": (True,),
    "iptables.syncPeriod": ("30s",),
    "iptables.minSyncPeriod": ("1s",),
    "nftables.masqueradeBit": (14,),
    "nftables.syncPeriod": ("30s",),
    "nftables.minSyncPeriod": ("1s",),
    "logging.flushFrequency": ("5s", 5000000000),
}
"""Values that ask for nothing beyond kube-proxy's default (pkg/proxy/apis/config/v1alpha1)."""

_NOTHING = (None, "", 0, "0", "0s", False)
"""Values that mean "the default" in kube-proxy's file; empty lists and mappings too."""


def read_file(text: str) -> FileContents:
    """Read a configuration file of either kind. Raises ConfigurationError."""
    document, lines = _parse(text)
    kind, version = document.get("kind"), document.get("apiVersion")
    if kind == KUBE_PROXY_KIND or str(version).startswith(KUBE_PROXY_GROUP):
        return _kube_proxy(document, lines)
    if kind not in (None, OWN_KIND):
        raise ConfigurationError(
            f"{_place(lines, 'kind')}: {kind!r}: {OWN_KIND} or {KUBE_PROXY_KIND} is needed"
        )
    return _own(document, lines)


def _own(document: Mapping[str, object], lines: Mapping[str, int]) -> FileContents:
    known = {_camel_case(field): field for field in Settings.__struct_fields__}
    found: dict[str, FileValue] = {}
    for key, value in document.items():
        if key in _OWN_EXTRA:
            continue
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
            raise ConfigurationError(f"{_place(lines, key)}: no such field; {hint}")
        if value is not None:
            found[known[key]] = FileValue(_place(lines, key), value)
    return FileContents(found)


def _kube_proxy(document: Mapping[str, object], lines: Mapping[str, int]) -> FileContents:
    found: dict[str, FileValue] = {}
    without_effect: list[str] = []
    for path, value in _leaves(document):
        if _asks_nothing(path, value):
            continue
        field = _KUBE_PROXY_FIELDS.get(path)
        if field is None:
            without_effect.append(path)
        elif not (field == "log_format" and value == "text"):  # klog's text: ours is `auto`
            found[field] = FileValue(_place(lines, path), value)
    if not without_effect:
        return FileContents(found)
    named = ", ".join(without_effect)
    return FileContents(found, (f"without effect here, from {KUBE_PROXY_KIND}: {named}",))


def _asks_nothing(path: str, value: object) -> bool:
    """Say whether a value of kube-proxy's file is its default, or empty, which means the same.

    A number 0 is not the default for masqueradeBit, which is a pointer there.
    """
    if path == "iptables.masqueradeBit":
        return value is None
    if value in ([], {}) or any(value is no or value == no for no in _NOTHING):
        return True
    if path.endswith(".infoBufferSize") or path.startswith("winkernel."):
        return True
    return value in _KUBE_PROXY_DEFAULTS.get(path, ())


def _leaves(document: Mapping[str, object], above: str = "") -> Iterator[tuple[str, object]]:
    for key, value in document.items():
        path = f"{above}{key}"
        if _is_mapping(value) and value:
            yield from _leaves(value, f"{path}.")
        else:
            yield path, value


def _parse(text: str) -> tuple[Mapping[str, object], Mapping[str, int]]:
    """Return the document and the line number of each field's path."""
    try:
        documents = list(read_yaml(text))
    except UnreadableYaml as error:
        line = f", line {error.line}" if error.line is not None else ""
        raise ConfigurationError(
            f"configuration file{line}: not readable as YAML or JSON: {error.reason}"
        ) from None
    if len(documents) > 1:
        line = f", line {documents[1].line}"
        raise ConfigurationError(f"configuration file{line}: a second document; one is needed")
    if not documents or documents[0].value is None:
        return {}, {}
    document = documents[0].value
    if not _is_mapping(document):
        raise ConfigurationError("configuration file: fields and values (a mapping) are needed")
    return document, dict(_lines(documents[0].node, ()))


def _lines(
    node: yaml.Node, containing: tuple[yaml.MappingNode, ...], above: str = ""
) -> Iterator[tuple[str, int]]:
    if not isinstance(node, yaml.MappingNode):
        return
    for key, value in node.value:
        path, line = f"{above}{key.value}", key.start_mark.line + 1
        yield path, line
        if value is node or value in containing:
            raise ConfigurationError(f"configuration file, line {line}, {path}: it contains itself")
        yield from _lines(value, (*containing, node), f"{path}.")


def _place(lines: Mapping[str, int], path: str) -> str:
    line = f", line {lines[path]}" if path in lines else ""
    return f"configuration file{line}, {path}"


def _camel_case(field: str) -> str:
    written = re.sub(r"_(\w)", lambda match: match[1].upper(), field)
    return written.replace("Cidrs", "CIDRs").replace("Arp", "ARP")


def _is_mapping(value: object) -> TypeGuard[Mapping[str, object]]:
    return isinstance(value, dict) and all(isinstance(key, str) for key in value)
