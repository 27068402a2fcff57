"""What kube-proxy's `KubeProxyConfiguration` (kubeproxy.config.k8s.io/v1alpha1) means here.

Every field that any kube-proxy from 1.20 on has known is in one of two tables: those that have an
equal here, and those that have none, with the reason. A field that is in neither is passed over
with a warning, as kube-proxy does after its strict reading has failed (loadConfig in
cmd/kube-proxy/app/server.go). An empty value means the default, for kubeadm writes every field,
empty; where the field is a pointer in kube-proxy, 0 means 0.

kube-proxy's defaults for connection tracking and for the agent's own place when memory runs out
count too (pkg/proxy/apis/config/v1alpha1/defaults.go): who brings kube-proxy's file wants a node
that is set up as kube-proxy would. Without that file nothing of this is touched.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from typing import TypeGuard

from ipvsproxy.config.contents import FileContents, FileValue, Lines, place

KIND = "KubeProxyConfiguration"
GROUP = "kubeproxy.config.k8s.io/"
OWN_SECTION = "ipvsproxy"
"""A section of kube-proxy's file that kube-proxy passes over: what only we know is set there."""

FIELDS: Mapping[str, str] = {
    "hostnameOverride": "node_name",
    "bindAddress": "bind_address",
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
    "ipvs.tcpTimeout": "ipvs_tcp_timeout",
    "ipvs.tcpFinTimeout": "ipvs_tcp_fin_timeout",
    "ipvs.udpTimeout": "ipvs_udp_timeout",
    "iptables.masqueradeBit": "masquerade_bit",
    "iptables.masqueradeAll": "masquerade_all",
    "conntrack.maxPerCore": "conntrack_max_per_core",
    "conntrack.min": "conntrack_min",
    "conntrack.tcpEstablishedTimeout": "conntrack_tcp_established_timeout",
    "conntrack.tcpCloseWaitTimeout": "conntrack_tcp_close_wait_timeout",
    "conntrack.tcpBeLiberal": "conntrack_tcp_be_liberal",
    "conntrack.udpTimeout": "conntrack_udp_timeout",
    "conntrack.udpStreamTimeout": "conntrack_udp_stream_timeout",
    "oomScoreAdj": "oom_score_adj",
    "healthzBindAddress": "healthz_bind_address",
    "metricsBindAddress": "metrics_bind_address",
    "logging.format": "log_format",
    "logging.verbosity": "verbosity",
}
"""Path in kube-proxy's file, and the field of `Settings` that means the same."""

WITHOUT_EFFECT: Mapping[str, str] = {
    "bindAddressHardFail": "a port that is taken is a condition and is tried again",
    "enableProfiling": "there are no profiling pages",
    "showHiddenMetricsForVersion": "no metric is hidden",
    "featureGates": "there are none here",
    "clientConnection.qps": "a few watches need no limit",
    "clientConnection.burst": "a few watches need no limit",
    "clientConnection.contentType": "the API is spoken in JSON",
    "clientConnection.acceptContentTypes": "the API is spoken in JSON",
    "configSyncPeriod": "watches are renewed by themselves",
    "conntrack.max": "maxPerCore and min have taken its place",
    "iptables.localhostNodePorts": "IPVS serves no NodePort on loopback",
    "iptables.syncPeriod": "ipvs.syncPeriod counts",
    "iptables.minSyncPeriod": "ipvs.minSyncPeriod counts",
    "nftables": "of another mode",
    "winkernel": "of Windows",
    "windowsRunAsService": "of Windows",
    "portRange": "of the user space mode",
    "udpIdleTimeout": "of the user space mode",
    "resourceContainer": "kube-proxy ignores it too",
    "logging.flushFrequency": "lines are written at once",
    "logging.vmodule": "verbosity is for all",
    "logging.options": "verbosity and format are what can be chosen",
}
"""Paths, or the sections above them, that have no equal here, and why."""

_DEFAULTS: Mapping[str, tuple[object, ...]] = {
    "bindAddress": ("0.0.0.0",),  # noqa: S104 - a value to compare with; :: has other defaults
    "configSyncPeriod": ("15m", "15m0s"),
    "clientConnection.qps": (5,),
    "clientConnection.burst": (10,),
    "clientConnection.contentType": ("application/vnd.kubernetes.protobuf",),
    "iptables.localhostNodePorts": (True,),
    "iptables.syncPeriod": ("30s",),
    "iptables.minSyncPeriod": ("1s",),
    "nftables.masqueradeBit": (14,),
    "nftables.syncPeriod": ("30s",),
    "nftables.minSyncPeriod": ("1s",),
    "logging.flushFrequency": ("5s", 5000000000),
    "logging.format": ("text",),  # klog's: ours is `auto`
    "mode": ("ipvs",),
}
"""Values that ask for nothing beyond kube-proxy's default."""

_COUNTING_DEFAULTS: Mapping[str, object] = {
    "conntrack.maxPerCore": 32768,
    "conntrack.min": 131072,
    "conntrack.tcpEstablishedTimeout": "24h",
    "conntrack.tcpCloseWaitTimeout": "1h",
    "oomScoreAdj": -999,
}
"""Defaults of kube-proxy that change the node, and are no defaults of ours."""

_POINTERS = frozenset({"iptables.masqueradeBit", *_COUNTING_DEFAULTS})
"""Fields of which 0 is a value and only null the default."""
_NOTHING = (None, "", 0, "0", "0s", False)
"""Values that mean "the default"; empty lists and mappings too."""
_IGNORED = frozenset({"apiVersion", "kind", OWN_SECTION})
_SECTIONS = frozenset(path.rpartition(".")[0] for path in (*FIELDS, *WITHOUT_EFFECT) if "." in path)


def read(document: Mapping[str, object], lines: Lines) -> FileContents:
    """Read a KubeProxyConfiguration; its own section is left to others."""
    found = {
        FIELDS[path]: FileValue(f"{KIND}'s default of {path}", value)
        for path, value in _COUNTING_DEFAULTS.items()
    }
    without_effect: list[str] = []
    warnings: list[str] = []
    problems: list[str] = []
    for path, value in _leaves(document):
        if _asks_nothing(path, value):
            continue
        where = place(lines, path)
        if path in FIELDS:
            found[FIELDS[path]] = FileValue(where, value)
        elif path == "mode":
            warnings.append(f"{where}: {value!r}: this proxy always works as the mode ipvs does")
        elif path in _SECTIONS:
            problems.append(f"{where}: fields and values are needed")
        elif reason := _reason(path):
            without_effect.append(f"{path} ({reason})")
        else:
            warnings.append(f"{where}: no field of {KIND}, and passed over{_hint(path)}")
    if without_effect:
        named = ", ".join(without_effect)
        warnings.insert(0, f"without effect here, from {KIND}: {named}")
    return FileContents(found, tuple(warnings), tuple(problems))


def _asks_nothing(path: str, value: object) -> bool:
    """Say whether a value is kube-proxy's default, or empty, which means the same."""
    if path in _POINTERS:
        return value is None
    if value in ([], {}) or any(value is no or value == no for no in _NOTHING):
        return _reason(path) != "" or path in FIELDS or path in _SECTIONS or path == "mode"
    if path.endswith(".infoBufferSize"):
        return True
    return value in _DEFAULTS.get(path, ())


def _reason(path: str) -> str:
    while path:
        if path in WITHOUT_EFFECT:
            return WITHOUT_EFFECT[path]
        path = path.rpartition(".")[0]
    return ""


def _hint(path: str) -> str:
    near = difflib.get_close_matches(path, (*FIELDS, *WITHOUT_EFFECT), n=1)
    return f"; did you mean {near[0]}?" if near else ""


def _leaves(document: Mapping[str, object], above: str = "") -> Iterator[tuple[str, object]]:
    for key, value in document.items():
        path = f"{above}{key}"
        if path in _IGNORED:
            continue
        if _is_map(value) and value:
            yield from _leaves(value, f"{path}.")
        else:
            yield path, value


def _is_map(value: object) -> TypeGuard[Mapping[str, object]]:
    return isinstance(value, dict) and all(isinstance(key, str) for key in value)
