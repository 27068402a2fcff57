"""The settings and what each means. Values only: how they are read is `load`'s affair.

To add one: a field here with its docstring (unit, effect, range, what 0 means), a reader in
`fields`, a flag in `cli.options`, and its line in the README.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from ipvsproxy.model import Address, Network, Scheduler

HEALTHZ_BIND_ADDRESS = "0.0.0.0:10256"
METRICS_BIND_ADDRESS = "127.0.0.1:10249"
IPV6_BIND_ADDRESSES = {
    "healthz_bind_address": "[::]:10256",
    "metrics_bind_address": "[::1]:10249",
}
"""The defaults where `bind_address` is an IPv6 one, `::` too, as kube-proxy has them
(getDefaultAddresses in pkg/proxy/apis/config/v1alpha1/defaults.go)."""


class IptablesBackend(StrEnum):
    """Which iptables programs are used."""

    AUTO = "auto"
    """The one that kubelet's hint chain, or else rules that exist, are found in; else nft."""
    NFT = "nft"
    LEGACY = "legacy"


class LogFormat(StrEnum):
    """How log lines look."""

    AUTO = "auto"
    """Console on a terminal, JSON elsewhere."""
    JSON = "json"
    CONSOLE = "console"


class DetectLocalMode(StrEnum):
    """How a packet of a pod is told from others; kube-proxy's detectLocalMode."""

    CLUSTER_CIDR = "ClusterCIDR"
    """By its source, which is in `cluster_cidrs`."""
    NODE_CIDR = "NodeCIDR"
    """By its source, which is in the podCIDRs of this Node."""
    BRIDGE_INTERFACE = "BridgeInterface"
    """By the interface that it comes in by: `pod_bridge_interface`."""
    INTERFACE_NAME_PREFIX = "InterfaceNamePrefix"
    """By the beginning of that interface's name: `pod_interface_name_prefix`."""


class NoLocalEndpoints(StrEnum):
    """What becomes of a new connection from outside, for which there is no local endpoint."""

    DROP = "drop"
    """Silence, so that a load balancer's retry lands on another node."""
    REJECT = "reject"


class WatchNodes(StrEnum):
    """Whether all Nodes of the cluster are watched; the own one always is."""

    AUTO = "auto"
    """From the first Service on that has externalIPs, or a load balancer's address near this node's
    own (within 16 bits, IPv6 64): these may be another node's address."""
    ALWAYS = "always"
    """LoadBalancer addresses are then held against the nodes' addresses too."""
    NEVER = "never"


class NodePortAddresses(msgspec.Struct, frozen=True):
    """On which of the node's addresses NodePorts are served; kube-proxy's nodePortAddresses.

    Neither `primary` nor a network of a family: on all addresses of that family.
    """

    primary: bool = False
    """On the Node's own InternalIPs only."""
    networks: tuple[Network, ...] = ()
    """On the addresses within these networks."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that can be set, valid; made by `config.load`, or by hand in tests."""

    node_name: str
    """The name of this node's Node object; decides which endpoints are local. Lower case."""

    manifests: str | None = None
    """Folder of manifests that is followed. None: no folder."""

    kubeconfig: str | None = None
    """Kubeconfig file of the API server. None: without `master` too, and without a folder, the
    ServiceAccount of the pod that the agent runs in."""

    master: str | None = None
    """URL of the API server, or several with commas between them; goes before the one in the
    kubeconfig file. None: that one."""

    default_scheduler: Scheduler = Scheduler.RR
    """The scheduler of a Service that does not name one."""

    cluster_cidrs: tuple[Network, ...] = ()
    """The pods' networks: what comes from elsewhere is masqueraded, so that answers return through
    this node. Empty: nothing is known of pods, and only hairpin traffic is masqueraded."""

    detect_local_mode: DetectLocalMode = DetectLocalMode.CLUSTER_CIDR
    """How a packet of a pod is told from others. Where nothing is known of pods (no network, no
    interface is set), only the node's own traffic is known to be from inside the cluster."""

    pod_bridge_interface: str | None = None
    """The bridge that all pods of this node are behind, for BridgeInterface."""

    pod_interface_name_prefix: str | None = None
    """What the names of the pods' interfaces begin with, for InterfaceNamePrefix."""

    node_port_addresses: NodePortAddresses = NodePortAddresses()
    """On which of the node's addresses NodePorts are served; unset: on all but loopback."""

    bind_address: Address | None = None
    """Takes the place of the Node's first InternalIP of its family: source ranges are held against
    it, and it is what `primary` means. Nothing listens there. None: the Node's own."""

    no_local_endpoints: NoLocalEndpoints = NoLocalEndpoints.DROP
    """What becomes of new connections from outside to a Service of externalTrafficPolicy Local
    that has endpoints, but none on this node."""

    protected_ports: tuple[int, ...] = (22, 6443, 10250, 10256)
    """Ports of this node's own addresses that no Service's external address may take."""

    watch_nodes: WatchNodes = WatchNodes.AUTO
    """Whether all Nodes are watched, to keep Services off other nodes' addresses. Each agent that
    does costs the API server a watch of all Nodes."""

    watch_pods: bool = False
    """Whether all Pods are watched, their metadata only, once a Service's weights go by Pods. Each
    agent that does costs the API server a watch of all Pods, and needs a right to it."""

    strict_arp: bool = False
    """Answer ARP for service addresses on no interface (sysctls arp_ignore=1, arp_announce=2), as
    MetalLB and the like need it. False: these sysctls are left as they are."""

    masquerade_all: bool = False
    """Masquerade everything sent to a service address, pods' own traffic too."""

    masquerade_bit: int = 14
    """The bit, 0-31, of the packet mark that says "masquerade". The same on the whole node: CNI
    plug-ins and kubelet use other bits."""

    exclude_cidrs: tuple[Network, ...] = ()
    """Virtual servers with addresses in these networks never count as leftovers: what no Service
    asks for stays there, whoever made it. kube-proxy's excludeCIDRs."""

    take_over: bool = False
    """Start although a kube-proxy answers on this node's metrics port. False: refuse to, because
    two proxies undo each other's work."""

    sync_period: float = 60.0
    """Seconds within which what others changed in the kernel's tables is looked for and mended, at
    least 1: twelve glances, the chains once, and 10,000 real servers at the most, some with each
    glance. The health endpoints fail when changes have waited for twice as long."""

    min_sync_period: float = 0.0
    """Least seconds between the ends and starts of two cycles; at most `sync_period`. 0: a change
    is carried out at once."""

    drain_deadline: float = 900.0
    """Seconds for which an endpoint that has left its Service keeps its open connections, at weight
    0. 0: it is removed at once."""

    removed_service_drain: float = 60.0
    """Seconds for which a Service or port that was deleted keeps its open connections. 0: it is
    removed at once."""

    health_checks: bool = True
    """Probe the endpoints of Services that ask for it. False: such Services are served as if they
    did not ask."""

    health_check_networks: tuple[Network, ...] = ()
    """Networks besides `cluster_cidrs` and this Node's podCIDRs in which endpoints are probed.
    Addresses of nodes, gateways, API servers and Services are not, wherever they are."""

    health_check_panic_percent: int = 50
    """Where more than this share of a Service's endpoints fails, 0-99, checks are passed over."""

    health_check_concurrency: int = 10_000
    """Most probes at a time, 1-100,000, and never more than three quarters of the open files that
    the agent may have, for each needs one. Others wait, and are late."""

    health_check_nodes: int = 100
    """With more Nodes than this, 1-100,000, probes are stretched: the interval grows in proportion,
    so that an endpoint is not probed more often, by all together. 0: never."""

    set_hash_size: int = 1024
    """Buckets of each ipset when it is made, 64-1,048,576; the kernel adds more by itself."""

    set_capacity: int = 65536
    """Most members of each ipset when it is made (its maxelem), 1,024-16,777,216. It grows before
    it is full; memory follows use."""

    set_capacity_limit: int = 16777216
    """Most members that an ipset may grow to; at least `set_capacity`."""

    iptables_backend: IptablesBackend = IptablesBackend.AUTO
    """Which iptables programs are used; must be the one that the rest of the node uses."""

    ipvs_tcp_timeout: int | None = None
    """Seconds after which IPVS forgets an established TCP connection that is silent. None and 0:
    as the node has it (900 by the kernel). It is per network namespace, as the two that follow."""

    ipvs_tcp_fin_timeout: int | None = None
    """The same once it is being closed. None and 0: as the node has it (120 by the kernel)."""

    ipvs_udp_timeout: int | None = None
    """The same of UDP. None and 0: as the node has it (300 by the kernel)."""

    conntrack_max_per_core: int | None = None
    """Flows that connection tracking may hold for each processor; what the node has is raised to
    it, never lowered, and the hash table to a quarter. None and 0: as the node has it."""

    conntrack_min: int | None = None
    """Flows that it may hold at least, where `conntrack_max_per_core` is set."""

    conntrack_tcp_established_timeout: int | None = None
    """Seconds for which an idle established TCP flow is tracked. None and 0: as the node has it."""

    conntrack_tcp_close_wait_timeout: int | None = None
    """The same in CLOSE_WAIT."""

    conntrack_tcp_be_liberal: bool = False
    """Track packets outside of the TCP window too. False: as the node has it."""

    conntrack_udp_timeout: int | None = None
    """Seconds for which a UDP flow without an answer is tracked. None and 0: as the node has it."""

    conntrack_udp_stream_timeout: int | None = None
    """The same of a UDP flow with answers."""

    oom_score_adj: int | None = None
    """The agent's place in the choice of a victim when memory runs out, -1000 (never) to 1000.
    None: as it was started."""

    healthz_bind_address: str = HEALTHZ_BIND_ADDRESS
    """ADDRESS:PORT of /healthz, /livez and /readyz; 0.0.0.0 and :: are all addresses of both
    families. Empty: none."""

    metrics_bind_address: str = METRICS_BIND_ADDRESS
    """ADDRESS:PORT of /metrics, /status, /proxyMode and /configz; as above. Empty: none."""

    endpoint_metrics: bool = False
    """Count traffic for each endpoint too: up to five more series for each, and one more reading of
    the kernel for each virtual server at a scrape."""

    log_format: LogFormat = LogFormat.AUTO
    """How log lines look."""

    verbosity: int = 2
    """As kube-proxy's -v, 0-10: below 4 what happens; from 4 on also debug lines: where each
    setting came from, and each HTTP answer."""

    @property
    def reads_pods(self) -> bool:
        """Whether it is known what Pods say: they are watched, or in the folder."""
        return self.watch_pods or self.manifests is not None
