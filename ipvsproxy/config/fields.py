"""How each field of `Settings` is read, what it is called elsewhere, and when a change counts.

Knows every field by name and no value of any.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from ipvsproxy.config import values
from ipvsproxy.config.settings import (
    DetectLocalMode,
    IptablesBackend,
    NoLocalEndpoints,
    WatchNodes,
)
from ipvsproxy.config.values import Reader
from ipvsproxy.model import Scheduler

_INTERFACE_CHARACTERS = 15
"""IFNAMSIZ without its end; iptables wants one of them for the `+` behind a prefix."""
_LONGEST_TIMEOUT = (2**31 - 1) // 1000
"""Seconds: INT_MAX / HZ in ip_vs_set_timeout and in conntrack's proc_dointvec_jiffies."""
_MOST_FLOWS = 2**31 - 1

_TIMEOUT = values.whole_seconds(_LONGEST_TIMEOUT)

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
    "bind_address": values.address,
    "no_local_endpoints": values.choice(NoLocalEndpoints),
    "protected_ports": values.ports,
    "watch_nodes": values.choice(WatchNodes),
    "watch_pods": values.boolean,
    "strict_arp": values.boolean,
    "masquerade_all": values.boolean,
    "masquerade_bit": values.whole_number(0, 31),
    "exclude_cidrs": values.networks,
    "take_over": values.boolean,
    "sync_period": values.a_second_at_least,
    "min_sync_period": values.seconds,
    "drain_deadline": values.seconds,
    "removed_service_drain": values.seconds,
    "health_checks": values.boolean,
    "health_check_networks": values.networks,
    "health_check_panic_percent": values.whole_number(0, 99),
    "health_check_concurrency": values.whole_number(1, 100_000),
    "health_check_nodes": values.whole_number(0, 100_000),
    "set_hash_size": values.whole_number(64, 1 << 20),
    "set_capacity": values.whole_number(1024, 1 << 24),
    "set_capacity_limit": values.whole_number(1024, 1 << 24),
    "iptables_backend": values.choice(IptablesBackend),
    "ipvs_tcp_timeout": _TIMEOUT,
    "ipvs_tcp_fin_timeout": _TIMEOUT,
    "ipvs_udp_timeout": _TIMEOUT,
    "conntrack_max_per_core": values.whole_number(0, _MOST_FLOWS),
    "conntrack_min": values.whole_number(0, _MOST_FLOWS),
    "conntrack_tcp_established_timeout": _TIMEOUT,
    "conntrack_tcp_close_wait_timeout": _TIMEOUT,
    "conntrack_tcp_be_liberal": values.boolean,
    "conntrack_udp_timeout": _TIMEOUT,
    "conntrack_udp_stream_timeout": _TIMEOUT,
    "oom_score_adj": values.whole_number(-1000, 1000),
    "healthz_bind_address": values.bind_address(10256),
    "metrics_bind_address": values.bind_address(10249),
    "endpoint_metrics": values.boolean,
    "log_format": values.log_format,
    "verbosity": values.whole_number(0, 10),
}
"""How each field of `Settings` is read, in the order in which they are shown."""

DURATIONS = frozenset(
    field
    for field, read in READERS.items()
    if read in (_TIMEOUT, values.seconds, values.a_second_at_least)
)
"""Fields that are a number of seconds, and are written as Go writes durations."""

FLAGS = {
    "node_name": "--hostname-override",
    "cluster_cidrs": "--cluster-cidr",
    "node_port_addresses": "--nodeport-addresses",
    "ipvs_tcp_fin_timeout": "--ipvs-tcpfin-timeout",
    "conntrack_tcp_established_timeout": "--conntrack-tcp-timeout-established",
    "conntrack_tcp_close_wait_timeout": "--conntrack-tcp-timeout-close-wait",
    "conntrack_udp_stream_timeout": "--conntrack-udp-timeout-stream",
    "verbosity": "-v",
}
"""Flags that are not named as their field is; the names are kube-proxy's."""

NEED_RESTART = frozenset(
    {
        "node_name",
        "manifests",
        "kubeconfig",
        "master",
        "watch_nodes",
        "watch_pods",
        "take_over",
        "iptables_backend",
        "oom_score_adj",
        "healthz_bind_address",
        "metrics_bind_address",
        "log_format",
    }
)
"""Fields of which a running agent goes on with the old value: a source, a port or a program has
been opened by it. All others are taken anew at the start of a cycle."""


def flag(field: str) -> str:
    """Give the flag that sets a field."""
    return FLAGS.get(field, f"--{field.replace('_', '-')}")


def name_in_file(field: str) -> str:
    """Give a field's name in our own file: `sync_period` is `syncPeriod`."""
    written = re.sub(r"_(\w)", lambda match: match[1].upper(), field)
    return written.replace("Cidrs", "CIDRs").replace("Arp", "ARP")
