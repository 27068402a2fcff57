"""The flags that set settings, and how they become `Settings` with environment and file.

Flags carry kube-proxy's names where it has them, and their values stay text until `config.load`
reads them, so that a wrong value is answered in the same words wherever it comes from.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, TypeVar

import click

from ipvsproxy.config.load import FILE_VARIABLE
from ipvsproxy.config.values import ConfigurationError

if TYPE_CHECKING:
    from ipvsproxy.config import Resolved

T = TypeVar("T")

Command = Callable[..., object]
Decorator = Callable[[Command], Command]

output_option = click.option(
    "--output",
    "-o",
    type=click.Choice(["text", "json"]),
    default="text",
    help="How the answer is written (default text).",
)


class WrongSettingError(click.UsageError):
    """A setting is wrong or missing; shown as the one line that says it, without the usage."""

    def show(self, file: IO[str] | None = None) -> None:
        """Write the line on standard error, or on `file`."""
        click.echo(f"Error: {self.format_message()}", file=file, err=file is None)


def _option(*names: str, help: str, metavar: str = "TEXT") -> Decorator:  # noqa: A002 - click's word
    return click.option(*names, help=help, metavar=metavar, default=None)


def switch(*names: str, help: str) -> Decorator:  # noqa: A002 - click's word
    """Make a flag of Go's form: `--name` and `--name=false` both work."""
    return click.option(
        *names, help=help, is_flag=False, flag_value="true", default=None, metavar="[true|false]"
    )


_OPTIONS: Mapping[str, Decorator] = {
    "config": click.option(
        "--config",
        "config_file",
        metavar="FILE",
        default=None,
        envvar=FILE_VARIABLE,
        help="Configuration file: our own, or kube-proxy's KubeProxyConfiguration as it is "
        f"(default: the one that {FILE_VARIABLE} names, if any).",
    ),
    "manifests": _option(
        "--manifests",
        metavar="DIR",
        help="Folder of Kubernetes manifests (Service, EndpointSlice, Node, Pod), followed live.",
    ),
    "kubeconfig": _option("--kubeconfig", metavar="FILE", help="Kubeconfig of the API server."),
    "master": _option(
        "--master",
        metavar="URL[,URL]",
        help="URLs of the API servers, tried in turn; go before the kubeconfig's.",
    ),
    "node_name": _option(
        "--hostname-override",
        "node_name",
        metavar="NAME",
        help="Name of this node's Node object (default: NODE_NAME, then the host's name).",
    ),
    "default_scheduler": _option(
        "--default-scheduler",
        "--ipvs-scheduler",
        "default_scheduler",
        metavar="NAME",
        help="Scheduler of a Service that names none: rr, wrr, lc, sh, ... (default rr).",
    ),
    "cluster_cidrs": _option(
        "--cluster-cidr",
        "cluster_cidrs",
        metavar="CIDR[,CIDR]",
        help="The pods' networks; traffic from elsewhere is masqueraded.",
    ),
    "detect_local_mode": _option(
        "--detect-local-mode",
        metavar="MODE",
        help="How a pod's traffic is told: ClusterCIDR (default), NodeCIDR, BridgeInterface or "
        "InterfaceNamePrefix.",
    ),
    "pod_bridge_interface": _option(
        "--pod-bridge-interface",
        metavar="NAME",
        help="The bridge that the pods are behind, for BridgeInterface.",
    ),
    "pod_interface_name_prefix": _option(
        "--pod-interface-name-prefix",
        metavar="TEXT",
        help="What the names of the pods' interfaces begin with, for InterfaceNamePrefix.",
    ),
    "node_port_addresses": _option(
        "--nodeport-addresses",
        "node_port_addresses",
        metavar="primary|all|CIDR[,CIDR]",
        help="On which of the node's addresses NodePorts are served (default all).",
    ),
    "bind_address": _option(
        "--bind-address",
        metavar="ADDRESS",
        help="Takes the place of the Node's InternalIP of its family; nothing listens there.",
    ),
    "no_local_endpoints": _option(
        "--no-local-endpoints",
        metavar="drop|reject",
        help="What becomes of outside connections that only a local endpoint may take, where there "
        "is none (default drop).",
    ),
    "protected_ports": _option(
        "--protected-ports",
        metavar="PORT[,PORT]",
        help="Ports of the node's own addresses that no Service may take "
        "(default 22,6443,10250,10256).",
    ),
    "watch_nodes": _option(
        "--watch-nodes",
        metavar="auto|always|never",
        help="Whether all Nodes are watched, to keep Services off their addresses (default auto: "
        "from the first Service on with externalIPs, or with a load balancer's address near this "
        "node's own).",
    ),
    "watch_pods": switch(
        "--watch-pods",
        help="Watch all Pods' metadata once a Service's weights go by Pods (weight-source: pod).",
    ),
    "strict_arp": switch(
        "--strict-arp",
        "--ipvs-strict-arp",
        "strict_arp",
        help="Answer ARP for service addresses on no interface, as MetalLB needs it.",
    ),
    "masquerade_all": switch(
        "--masquerade-all", help="Masquerade the pods' own traffic to Services too."
    ),
    "masquerade_bit": _option(
        "--masquerade-bit",
        "--iptables-masquerade-bit",
        "masquerade_bit",
        metavar="0-31",
        help="Bit of the packet mark that says masquerade (default 14).",
    ),
    "exclude_cidrs": _option(
        "--exclude-cidrs",
        "--ipvs-exclude-cidrs",
        "exclude_cidrs",
        metavar="CIDR[,CIDR]",
        help="Never touch virtual servers with addresses in these networks.",
    ),
    "take_over": switch(
        "--take-over", help="Start, or clean up, although a kube-proxy answers on this node."
    ),
    "sync_period": _option(
        "--sync-period",
        "--ipvs-sync-period",
        "sync_period",
        metavar="DURATION",
        help="Time in which the kernel's tables are audited, part by part (default 60s).",
    ),
    "min_sync_period": _option(
        "--min-sync-period",
        "--ipvs-min-sync-period",
        "min_sync_period",
        metavar="DURATION",
        help="Least time from one cycle to the next (default 0s: at once).",
    ),
    "drain_deadline": _option(
        "--drain-deadline",
        metavar="DURATION",
        help="How long an endpoint that has left keeps its open connections (default 15m).",
    ),
    "removed_service_drain": _option(
        "--removed-service-drain",
        metavar="DURATION",
        help="How long a deleted Service keeps its open connections (default 60s).",
    ),
    "health_checks": switch(
        "--health-checks",
        help="Probe the endpoints of Services that ask for it (default true).",
    ),
    "health_check_networks": _option(
        "--health-check-networks",
        metavar="CIDR[,CIDR]",
        help="Networks besides the pods' in which endpoints are probed.",
    ),
    "health_check_panic_percent": _option(
        "--health-check-panic-percent",
        metavar="0-99",
        help="Where more of a Service's endpoints fail, all are used (default 50).",
    ),
    "health_check_concurrency": _option(
        "--health-check-concurrency",
        metavar="NUMBER",
        help="Most probes at a time (default 10000).",
    ),
    "health_check_nodes": _option(
        "--health-check-nodes",
        metavar="NUMBER",
        help="With more Nodes than this, intervals are stretched (default 100; 0: never).",
    ),
    "set_hash_size": _option(
        "--set-hash-size",
        metavar="NUMBER",
        help="Buckets of each ipset when it is made (default 1024).",
    ),
    "set_capacity": _option(
        "--set-capacity",
        metavar="NUMBER",
        help="Most members of each ipset when it is made (default 65536).",
    ),
    "set_capacity_limit": _option(
        "--set-capacity-limit",
        metavar="NUMBER",
        help="Most members that an ipset may grow to (default 16777216).",
    ),
    "iptables_backend": _option(
        "--iptables-backend",
        metavar="auto|nft|legacy",
        help="Which iptables programs to use (default auto: the one that the node uses).",
    ),
    "ipvs_tcp_timeout": _option(
        "--ipvs-tcp-timeout",
        metavar="DURATION",
        help="When IPVS forgets an idle TCP connection (default 0: as the node has it).",
    ),
    "ipvs_tcp_fin_timeout": _option(
        "--ipvs-tcpfin-timeout",
        "ipvs_tcp_fin_timeout",
        metavar="DURATION",
        help="The same once it is being closed.",
    ),
    "ipvs_udp_timeout": _option("--ipvs-udp-timeout", metavar="DURATION", help="The same of UDP."),
    "conntrack_max_per_core": _option(
        "--conntrack-max-per-core",
        metavar="NUMBER",
        help="Flows that are tracked for each processor; only raised (default: as the node has "
        "it).",
    ),
    "conntrack_min": _option(
        "--conntrack-min", metavar="NUMBER", help="Flows that are tracked at least, then."
    ),
    "conntrack_tcp_established_timeout": _option(
        "--conntrack-tcp-timeout-established",
        "conntrack_tcp_established_timeout",
        metavar="DURATION",
        help="How long an idle TCP flow is tracked (default 0: as the node has it).",
    ),
    "conntrack_tcp_close_wait_timeout": _option(
        "--conntrack-tcp-timeout-close-wait",
        "conntrack_tcp_close_wait_timeout",
        metavar="DURATION",
        help="The same in CLOSE_WAIT.",
    ),
    "conntrack_tcp_be_liberal": switch(
        "--conntrack-tcp-be-liberal", help="Track packets outside of the TCP window too."
    ),
    "conntrack_udp_timeout": _option(
        "--conntrack-udp-timeout",
        metavar="DURATION",
        help="How long a UDP flow without an answer is tracked.",
    ),
    "conntrack_udp_stream_timeout": _option(
        "--conntrack-udp-timeout-stream",
        "conntrack_udp_stream_timeout",
        metavar="DURATION",
        help="The same with answers.",
    ),
    "oom_score_adj": _option(
        "--oom-score-adj",
        metavar="-1000-1000",
        help="The agent's place in the choice of a victim when memory runs out.",
    ),
    "healthz_bind_address": _option(
        "--healthz-bind-address",
        metavar="ADDRESS:PORT",
        help="Where /healthz, /livez, /readyz are served (default 0.0.0.0:10256; empty: nowhere).",
    ),
    "metrics_bind_address": _option(
        "--metrics-bind-address",
        metavar="ADDRESS:PORT",
        help="Where /metrics and /status are served (default 127.0.0.1:10249; empty: nowhere).",
    ),
    "endpoint_metrics": switch(
        "--endpoint-metrics",
        help="Count traffic for each endpoint too, not only each Service port.",
    ),
    "log_format": _option(
        "--log-format",
        "--logging-format",
        "log_format",
        metavar="auto|json|console",
        help="How log lines look (default auto: console on a terminal, else JSON).",
    ),
    "verbosity": click.option(
        "-v",
        "--v",
        "verbosity",
        metavar="0-10",
        default=None,
        callback=lambda _context, _parameter, value: value.lstrip("=") if value else value,
        help="Verbosity as kube-proxy's -v; from 4 on debug lines (default 2).",
    ),
}


def setting_options(*names: str) -> Decorator:
    """Give a command the flags of these settings; without names, of all that have one."""

    def decorate(command: Command) -> Command:
        for name in reversed(names or tuple(_OPTIONS)):
            command = _OPTIONS[name](command)
        return command

    return decorate


def resolve(flags: Mapping[str, object]) -> Resolved:
    """Make the settings of flags (with `config_file`), environment and file.

    Raises WrongSettingError.
    """
    try:
        return read_settings(flags)
    except ConfigurationError as error:
        raise WrongSettingError(str(error)) from None


def read_settings(flags: Mapping[str, object]) -> Resolved:
    """Do as `resolve` does, but raise ConfigurationError."""
    from ipvsproxy.config import load  # noqa: PLC0415 - costs time that --help need not take

    given = dict(flags)
    config_file = given.pop("config_file", None)
    text = read_text(Path(str(config_file))) if config_file is not None else None
    return load(given, os.environ, text, host_name=socket.gethostname())


def follow(work: Coroutine[object, object, T]) -> T:
    """Run a command's work to its end; what an operator can meet becomes one line and status 1."""
    from ipvsproxy.agent import AnotherAgentError, MeasuredLoop  # noqa: PLC0415 - as above
    from ipvsproxy.dataplane import DataplaneError  # noqa: PLC0415
    from ipvsproxy.sources.kubernetes.errors import AccessError, ApiError  # noqa: PLC0415

    known = (AccessError, AnotherAgentError, ApiError, ConfigurationError, DataplaneError)
    try:
        with asyncio.Runner(loop_factory=MeasuredLoop) as runner:
            return runner.run(work)
    except known as error:
        raise click.ClickException(str(error)) from None
    except BaseExceptionGroup as group:
        told = _only(group, known)
        if told is None:
            raise
        raise click.ClickException(str(told)) from None
    except KeyboardInterrupt:
        raise click.Abort from None


def _only(group: BaseExceptionGroup, known: tuple[type[Exception], ...]) -> BaseException | None:
    """Return the first error of a task group, None when not all of them are known ones."""
    matched, rest = group.split(known)
    if matched is None or rest is not None:
        return None
    error: BaseException = matched
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def read_text(path: Path) -> str:
    """Read a configuration file. Raises ConfigurationError."""
    return _readable(str(path), path.read_bytes)


def stdin_text() -> str:
    """Read a configuration file from standard input, as `read_text` does."""
    return _readable("on standard input", sys.stdin.buffer.read)


def _readable(name: str, read: Callable[[], bytes]) -> str:
    try:
        text = read().decode()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ConfigurationError(
            f"configuration file {name}: cannot be read ({reason}): give a readable file"
        ) from None
    return text.replace("\r\n", "\n")
