"""The metrics, in a registry of their own: kube-proxy's names with the same meaning, then ours.

Whoever does something calls the method or the metric named after it; nothing here measures. The
names under `kubeproxy_` are those of pkg/proxy/metrics/metrics.go, so that existing dashboards and
alerts go on working. Conditions and watches are counted when they are scraped, so they cannot
disagree with `status`.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import inf

from prometheus_client.core import (
    CollectorRegistry,
    Counter,
    CounterMetricFamily,
    Gauge,
    GaugeMetricFamily,
    Histogram,
    HistogramMetricFamily,
    Info,
    Metric,
)
from prometheus_client.gc_collector import GCCollector
from prometheus_client.metrics import disable_created_metrics
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from ipvsproxy.telemetry.conditions import Conditions, ConditionType
from ipvsproxy.telemetry.loop_lag import LoopLag
from ipvsproxy.telemetry.traffic import Traffic
from ipvsproxy.telemetry.watches import Watches

# One series more for each counter, which kube-proxy's dashboards do not know, and nobody reads.
disable_created_metrics()  # type: ignore[no-untyped-call]

SYNC_BUCKETS = tuple(0.001 * 2**power for power in range(15))
"""Seconds: 1 ms to 16.4 s, kube-proxy's."""

PROGRAMMING_BUCKETS = (0.25, 0.5, *range(1, 60), *range(60, 120, 5), *range(120, 301, 30))
"""Seconds: a quarter to five minutes, kube-proxy's."""

TRAFFIC_POLICIES = ("internal", "external")
"""Values of the label traffic_policy; each has a number from the start."""


HEALTH_CODES = ("200", "503")
"""Values of the label code; each has a number from the start, else its first rise is not seen."""


class _ConditionsCollector(Collector):
    """Counts the conditions that stand, at the moment of the scrape."""

    def __init__(self, conditions: Conditions) -> None:
        self._conditions = conditions

    def collect(self) -> Iterator[GaugeMetricFamily]:
        counted = self._conditions.count()
        family = GaugeMetricFamily(
            "ipvsproxy_conditions", "Conditions that stand now, by type", labels=["type"]
        )
        for type_, count in counted.items():
            family.add_metric([str(type_)], count)
        yield family
        yield GaugeMetricFamily(
            "ipvsproxy_invalid_annotations",
            "Services with an annotation that is wrong",
            value=counted[ConditionType.INVALID_ANNOTATION],
        )


class _WatchesCollector(Collector):
    """Says how the watches are doing, at the moment of the scrape; each family is always there."""

    def __init__(self, watches: Watches) -> None:
        self._watches = watches

    def collect(self) -> Iterator[Metric]:
        connected = _of_watches("connected", "1 while the API server keeps the watch open, else 0")
        objects = _of_watches("objects", "Objects that the watch has told of and that are there")
        heard = _of_watches(
            "heard_timestamp_seconds",
            "When the latest list, event or bookmark came, seconds since the epoch",
        )
        lists = CounterMetricFamily(
            "ipvsproxy_watch_lists", "Complete lists, the first one included", labels=["watch"]
        )
        errors = CounterMetricFamily(
            "ipvsproxy_watch_errors",
            "Requests and watches that failed, by reason",
            labels=["watch", "reason"],
        )
        for name, watch in self._watches:
            connected.add_metric([name], watch.connected)
            objects.add_metric([name], watch.objects)
            heard.add_metric([name], watch.heard_at or 0.0)
            lists.add_metric([name], watch.lists)
            for reason, count in sorted(watch.errors.items()):
                errors.add_metric([name, reason], count)
        requests = CounterMetricFamily(
            "rest_client_requests",
            "Requests to the API server by HTTP status (or <error>), method and host",
            labels=["code", "method", "host"],
        )
        for labels, count in sorted(self._watches.requests.items()):
            requests.add_metric(labels, count)
        yield from (connected, objects, heard, lists, errors, requests)


class _LoopLagCollector(Collector):
    """Says how long the event loop kept things waiting, at the moment of the scrape."""

    def __init__(self, lag: LoopLag) -> None:
        self._lag = lag

    def collect(self) -> Iterator[HistogramMetricFamily]:
        buckets = [
            ("+Inf" if bound == inf else str(bound), count)
            for bound, count in self._lag.cumulative()
        ]
        yield HistogramMetricFamily(
            "ipvsproxy_event_loop_lag_seconds",
            "Seconds that what came to the event loop had to wait at most, for each of its turns",
            buckets=buckets,
            sum_value=self._lag.total,
        )


def _of_watches(name: str, meaning: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"ipvsproxy_watch_{name}", meaning, labels=["watch"])


class Metrics:
    """Every metric of the agent, as an attribute; `registry` is what is scraped.

    The counters of `traffic` have a registry of their own: there may be tens of thousands.
    """

    def __init__(
        self,
        conditions: Conditions,
        *,
        version: str,
        watches: Watches | None = None,
        loop_lag: LoopLag | None = None,
    ) -> None:
        """Count these conditions and watches; None: there are none, as from a folder.

        `loop_lag` is that of the event loop; None: it is not measured.
        """
        self.registry = CollectorRegistry(auto_describe=False)
        _register_process(self.registry)
        self.registry.register(_ConditionsCollector(conditions))
        self.registry.register(_WatchesCollector(Watches() if watches is None else watches))
        Info("ipvsproxy_build", "Version of the agent", registry=self.registry).info(
            {"version": version}
        )
        self._kube_proxy_metrics()
        self._change_metrics()
        self._metrics_of_audits()
        self._own_metrics()
        self._probe_metrics()
        self._loop_metrics(LoopLag() if loop_lag is None else loop_lag)
        self._traffic_metrics()

    def _kube_proxy_metrics(self) -> None:
        self.sync_duration = Histogram(
            "kubeproxy_sync_proxy_rules_duration_seconds",
            "Seconds that a cycle took, from the first changed object to the last acknowledgement",
            buckets=SYNC_BUCKETS,
            registry=self.registry,
        )
        self.sync_last = self._gauge(
            "kubeproxy_sync_proxy_rules_last_timestamp_seconds",
            "When a cycle last left nothing undone, seconds since the epoch; 0: none has yet",
        )
        self.sync_last_queued = self._gauge(
            "kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds",
            "When a change was last queued, seconds since the epoch",
        )
        self.restore_failures = self._counter(
            "kubeproxy_sync_proxy_rules_iptables_restore_failures_total",
            "Replacements of our chains that iptables-restore refused",
        )
        self.no_local_endpoints = self._gauge(
            "kubeproxy_sync_proxy_rules_no_local_endpoints_total",
            "Services with a Local traffic policy that have endpoints, but none on this node",
            "traffic_policy",
        )
        for policy in TRAFFIC_POLICIES:
            self.no_local_endpoints.labels(policy)
        self.healthz = self._counter(
            "kubeproxy_proxy_healthz_total", "Answers of /healthz by HTTP status", "code"
        )
        self.livez = self._counter(
            "kubeproxy_proxy_livez_total", "Answers of /livez by HTTP status", "code"
        )
        for counter in (self.healthz, self.livez):
            for code in HEALTH_CODES:
                counter.labels(code)

    def _change_metrics(self) -> None:
        """Measure the way of a change into the kernel, as kube-proxy does."""
        self.network_programming = Histogram(
            "kubeproxy_network_programming_duration_seconds",
            "Seconds from what changed an EndpointSlice until the kernel had it",
            buckets=PROGRAMMING_BUCKETS,
            registry=self.registry,
        )
        name, meaning = "kubeproxy_sync_proxy_rules", "that no cycle has carried out yet"
        self.endpoint_changes_pending = self._gauge(
            f"{name}_endpoint_changes_pending", f"EndpointSlices with a change {meaning}"
        )
        self.endpoint_changes = self._counter(
            f"{name}_endpoint_changes_total", "Changes of EndpointSlices"
        )
        self.service_changes_pending = self._gauge(
            f"{name}_service_changes_pending", f"Services with a change {meaning}"
        )
        self.service_changes = self._counter(f"{name}_service_changes_total", "Changes of Services")

    def _metrics_of_audits(self) -> None:
        self.audits = self._counter(
            "ipvsproxy_audits_total",
            "Times that all of the kernel's tables were read, at once or in a round",
        )
        self.glances = self._counter(
            "ipvsproxy_glances_total",
            "Times that was looked whether the kernel's tables are there, and large as they should",
        )
        self.drift = self._counter(
            "ipvsproxy_drift_total",
            "Differences that an audit found and nobody here had made, by kind of table",
            "kind",
        )

    def _own_metrics(self) -> None:
        self.cycles = self._counter(
            "ipvsproxy_cycles_total",
            "Cycles by result: applied, unchanged (nothing to write), refused (in part)",
            "result",
        )
        self.operations = self._counter(
            "ipvsproxy_operations_total",
            "Operations on the kernel's tables by kind and outcome (done, or why refused)",
            "kind",
            "outcome",
        )
        self.services = self._gauge("ipvsproxy_services", "Services that are known")
        self.virtual_servers = self._gauge("ipvsproxy_virtual_servers", "Virtual servers of ours")
        self.real_servers = self._gauge("ipvsproxy_real_servers", "Real servers of ours")
        self.draining_real_servers = self._gauge(
            "ipvsproxy_draining_real_servers", "Real servers that only finish their connections"
        )
        self.pending_services = self._gauge(
            "ipvsproxy_pending_services", "Services whose state in the kernel is not as wanted"
        )
        self.set_members = self._gauge(
            "ipvsproxy_set_members", "Members of each ipset of ours", "set"
        )
        self.set_capacity = self._gauge(
            "ipvsproxy_set_capacity", "Members that each ipset of ours can have as it is", "set"
        )
        self.health_check_node_ports = self._gauge(
            "ipvsproxy_health_check_node_ports",
            "Health check node ports of Services on which this node answers",
        )
        self.config_reload_successful = self._gauge(
            "ipvsproxy_config_last_reload_successful",
            "Whether the configuration file was right when it was last read: 1, else 0",
        )
        self.config_reload_successful.set(1)
        self.config_reload_success = self._gauge(
            "ipvsproxy_config_last_reload_success_timestamp_seconds",
            "When the configuration file was last taken, seconds since the epoch; 0: there is none",
        )
        self.config_restart_needed = self._gauge(
            "ipvsproxy_config_restart_needed",
            "Settings of the configuration file that count only after a restart of the agent",
        )
        self.source_events = self._counter(
            "ipvsproxy_source_events_total", "What the sources reported, by kind of event", "event"
        )

    def _probe_metrics(self) -> None:
        """Say how the probes of health checks are doing."""
        self.health_checks = self._counter(
            "ipvsproxy_health_checks_total",
            "Probes of endpoints by outcome",
            "outcome",
        )
        self.health_check_duration = Histogram(
            "ipvsproxy_health_check_duration_seconds",
            "Seconds that successful probes took",
            buckets=SYNC_BUCKETS,
            registry=self.registry,
        )
        self.health_check_targets = self._gauge(
            "ipvsproxy_health_check_targets", "Endpoints that this node probes"
        )
        self.health_check_resting = self._gauge(
            "ipvsproxy_health_check_resting_targets",
            "Endpoints that this node does not probe while it sends them no traffic",
        )
        self.health_check_late = self._gauge(
            "ipvsproxy_health_check_late_seconds",
            "By how much the probe is late that has waited longest; 0: none is",
        )
        self.health_checks_under_way = self._gauge(
            "ipvsproxy_health_checks_under_way", "Probes that have begun and not ended"
        )
        self.health_checks_worst = self._gauge(
            "ipvsproxy_health_checks_under_way_worst",
            "Probes that would be under way at a time if no endpoint answered",
        )
        self.health_checks_limit = self._gauge(
            "ipvsproxy_health_checks_under_way_limit",
            "Probes that may be under way at a time; more wait, and are late",
        )
        self.unhealthy_endpoints = self._gauge(
            "ipvsproxy_unhealthy_endpoints",
            "Endpoints that fail their health check from this node, of Services that have one",
            "namespace",
            "service",
        )

    def _loop_metrics(self, lag: LoopLag) -> None:
        """Say how long the event loop keeps things waiting."""
        self.loop_lag = lag
        self.registry.register(_LoopLagCollector(lag))
        self.loop_lag_max = self._gauge(
            "ipvsproxy_event_loop_lag_max_seconds",
            "The longest such wait in this minute and the one before",
        )

    def _traffic_metrics(self) -> None:
        """Say how the counters are that are read from the kernel."""
        self.traffic = Traffic()
        self.traffic_read = self._gauge(
            "ipvsproxy_traffic_last_read_successful",
            "Whether the traffic counters could be read when that was last tried: 1, else 0",
        )
        self.traffic_read_at = self._gauge(
            "ipvsproxy_traffic_last_read_timestamp_seconds",
            "When the traffic counters were last read, seconds since the epoch; 0: never",
        )

    def config_reloaded(self, now: float) -> None:
        """Take note that the configuration was read and is right; seconds since the epoch."""
        self.config_reload_successful.set(1)
        self.config_reload_success.set(now)

    def _counter(self, name: str, meaning: str, *labels: str) -> Counter:
        return Counter(name, meaning, labels, registry=self.registry)

    def _gauge(self, name: str, meaning: str, *labels: str) -> Gauge:
        return Gauge(name, meaning, labels, registry=self.registry)


def _register_process(registry: CollectorRegistry) -> None:
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
