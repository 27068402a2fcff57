"""Settings from flags, environment and files."""

from __future__ import annotations

import json
import typing

import msgspec
import pytest

from ipvsproxy.config import (
    ConfigurationError,
    DetectLocalMode,
    IptablesBackend,
    LogFormat,
    NodePortAddresses,
    Settings,
    Source,
    effective,
    load,
)
from ipvsproxy.config.fields import READERS
from ipvsproxy.config.files import read_file
from ipvsproxy.config.kube_proxy import FIELDS, KIND, WITHOUT_EFFECT
from ipvsproxy.config.values import bind_address, seconds, split_bind_address
from ipvsproxy.config.writing import converted
from ipvsproxy.model import Address, Network, Scheduler

NAME = {"NODE_NAME": "node-a"}

KUBEADM = """\
apiVersion: kubeproxy.config.k8s.io/v1alpha1
bindAddress: 0.0.0.0
bindAddressHardFail: false
clientConnection:
  acceptContentTypes: ""
  burst: 0
  contentType: ""
  kubeconfig: /var/lib/kube-proxy/kubeconfig.conf
  qps: 0
clusterCIDR: 10.244.0.0/16,fd00:10:244::/56
configSyncPeriod: 0s
conntrack:
  maxPerCore: null
  min: null
  tcpBeLiberal: false
  tcpCloseWaitTimeout: null
detectLocal:
  bridgeInterface: ""
  interfaceNamePrefix: ""
detectLocalMode: ""
enableProfiling: false
healthzBindAddress: ""
hostnameOverride: ""
iptables:
  localhostNodePorts: null
  masqueradeAll: false
  masqueradeBit: null
  minSyncPeriod: 0s
  syncPeriod: 0s
ipvs:
  excludeCIDRs: null
  minSyncPeriod: 0s
  scheduler: ""
  strictARP: false
  syncPeriod: 0s
  tcpTimeout: 0s
kind: KubeProxyConfiguration
logging:
  flushFrequency: 0
  options:
    json:
      infoBufferSize: "0"
  verbosity: 0
metricsBindAddress: ""
mode: ipvs
nodePortAddresses: null
oomScoreAdj: null
portRange: ""
showHiddenMetricsForVersion: ""
winkernel:
  enableDSR: false
  sourceVip: ""
"""


def settings(
    file_text: str | None = None, *, flags: dict[str, object] | None = None, **environment: str
) -> Settings:
    return load(flags or {}, NAME | environment, file_text).settings


def error(file_text: str | None = None, **flags: object) -> str:
    with pytest.raises(ConfigurationError) as caught:
        load(flags, NAME, file_text)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("SYNCPERIOD", "SYNC_PERIOD"),
        ("CLUSTER_CIDR", "CLUSTER_CIDRS"),
        ("HOSTNAME_OVERRIDE", "NODE_NAME"),
        ("NODEPORT_ADDRESSES", "NODE_PORT_ADDRESSES"),
        ("CONFIG_FILE", "CONFIG"),
    ],
)
def test_a_variable_that_looks_like_a_setting_is_told(written: str, meant: str) -> None:
    name = f"IPVSPROXY_{written}"
    assert load({}, {**NAME, name: "1m"}, None).warnings == (
        f"environment variable {name} sets nothing; did you mean IPVSPROXY_{meant}?",
    )


def test_the_files_variable_and_those_that_kubelet_makes_of_our_name_are_not_told() -> None:
    names = (
        "CONFIG",
        "SERVICE_HOST",
        "SERVICE_PORT_METRICS",
        "PORT",
        "PORT_10249_TCP_ADDR",
        "METRICS_PORT",
    )
    assert load({}, {**NAME, **{f"IPVSPROXY_{one}": "x" for one in names}}, None).warnings == ()


class TestPrecedence:
    def test_a_flag_goes_before_the_environment_before_the_file_before_the_default(self) -> None:
        file_text = "syncPeriod: 3s\nminSyncPeriod: 1s\nverbosity: 5\n"
        environment = NAME | {"IPVSPROXY_SYNC_PERIOD": "2s", "IPVSPROXY_MIN_SYNC_PERIOD": "500ms"}

        resolved = load({"sync_period": "1m"}, environment, file_text)

        assert resolved.settings.sync_period == 60
        assert resolved.settings.min_sync_period == 0.5
        assert resolved.settings.verbosity == 5
        assert resolved.settings.drain_deadline == 900
        assert resolved.sources["sync_period"] is Source.FLAG
        assert resolved.sources["min_sync_period"] is Source.ENVIRONMENT
        assert resolved.sources["verbosity"] is Source.FILE
        assert resolved.sources["drain_deadline"] is Source.DEFAULT
        assert resolved.sources.keys() == set(Settings.__struct_fields__)

    @pytest.mark.parametrize("file_text", ["bindAddress: '::'", KUBEADM.replace("0.0.0.0", '"::"')])
    def test_with_an_ipv6_bind_address_the_ports_are_where_kube_proxy_has_them(
        self, file_text: str
    ) -> None:
        resolved = load({}, NAME, file_text)
        assert resolved.settings.bind_address is None
        assert resolved.settings.healthz_bind_address == "[::]:10256"
        assert resolved.settings.metrics_bind_address == "[::1]:10249"
        assert resolved.places["metrics_bind_address"].endswith(", bindAddress")
        assert load({}, NAME, converted(resolved)).settings == resolved.settings

        named = settings(flags={"bind_address": "fd00::1", "healthz_bind_address": "0.0.0.0"})
        assert named.healthz_bind_address == "0.0.0.0:10256"
        assert named.metrics_bind_address == "[::1]:10249"

    def test_an_empty_variable_is_as_if_it_were_not_set_but_for_bind_addresses(self) -> None:
        read = settings(IPVSPROXY_DEFAULT_SCHEDULER="", IPVSPROXY_METRICS_BIND_ADDRESS="")

        assert read.default_scheduler is Scheduler.RR
        assert read.metrics_bind_address == ""

    @pytest.mark.parametrize(
        ("flags", "environment", "expected"),
        [
            ({"node_name": "Flag"}, {"IPVSPROXY_NODE_NAME": "x", "NODE_NAME": "y"}, "flag"),
            ({}, {"IPVSPROXY_NODE_NAME": "own", "NODE_NAME": "y"}, "own"),
            ({}, {"NODE_NAME": "node-a"}, "node-a"),
            ({}, {}, "in-file"),
        ],
    )
    def test_the_node_name_comes_from_the_nearest_place(
        self, flags: dict[str, object], environment: dict[str, str], expected: str
    ) -> None:
        read = load(flags, environment, "nodeName: In-File", host_name="host").settings

        assert read.node_name == expected

    def test_without_any_name_it_is_the_host_s(self) -> None:
        assert load({}, {}, None, host_name="Host-1").settings.node_name == "host-1"

    def test_a_node_without_a_name_is_refused_with_the_mend(self) -> None:
        with pytest.raises(ConfigurationError, match="--hostname-override NAME"):
            load({}, {}, None)


class TestOwnFile:
    def of_file_alone(self, file_text: str) -> Settings:
        return load({}, {}, file_text).settings

    def test_every_setting_can_be_set_and_keeps_its_type(self) -> None:
        read = self.of_file_alone(
            "nodeName: n\nmanifests: /m\nkubeconfig: /k\nmaster: https://192.0.2.1:6443/\n"
            "defaultScheduler: wlc\nclusterCIDRs: [10.0.0.0/8, 'fd00::/8']\nmasqueradeAll: true\n"
            "masqueradeBit: 0\nexcludeCIDRs: 192.0.2.0/24\nsyncPeriod: 10\nminSyncPeriod: 1s\n"
            "detectLocalMode: NodeCIDR\npodBridgeInterface: cni0\npodInterfaceNamePrefix: veth\n"
            "nodePortAddresses: [10.0.0.0/8]\nnoLocalEndpoints: reject\nprotectedPorts: [22]\n"
            "watchNodes: never\nwatchPods: true\nstrictARP: true\n"
            "takeOver: true\ndrainDeadline: 0s\nremovedServiceDrain: 5s\n"
            "setHashSize: 64\nsetCapacity: 2048\nsetCapacityLimit: 4096\n"
            "bindAddress: 192.0.2.9\nipvsTcpTimeout: 2h\nipvsTcpFinTimeout: 1m\n"
            "ipvsUdpTimeout: 10s\n"
            "conntrackMaxPerCore: 1\nconntrackMin: 2\nconntrackTcpEstablishedTimeout: 1h\n"
            "conntrackTcpCloseWaitTimeout: 3s\nconntrackTcpBeLiberal: true\n"
            "conntrackUdpTimeout: 4s\nconntrackUdpStreamTimeout: 1m30.9s\noomScoreAdj: -1000\n"
            "iptablesBackend: nft\nhealthzBindAddress: '[::]:1'\nmetricsBindAddress: ''\n"
            "logFormat: json\nverbosity: 9\nendpointMetrics: true\n"
            "healthChecks: false\nhealthCheckNetworks: [192.0.2.0/24]\nhealthCheckNodes: 0\n"
            "healthCheckPanicPercent: 99\nhealthCheckConcurrency: 100000\n"
        )

        assert read.master == "https://192.0.2.1:6443"
        assert read.cluster_cidrs == (Network.parse("10.0.0.0/8"), Network.parse("fd00::/8"))
        assert read.node_port_addresses == NodePortAddresses(
            networks=(Network.parse("10.0.0.0/8"),)
        )
        assert (read.protected_ports, read.strict_arp) == ((22,), True)
        assert read.masquerade_bit == 0
        assert read.drain_deadline == 0
        assert (read.ipvs_tcp_timeout, read.conntrack_udp_stream_timeout) == (7200, 90)
        assert read.bind_address == Address.parse("192.0.2.9")
        assert read.healthz_bind_address == "[::]:1"
        assert read.iptables_backend is IptablesBackend.NFT
        assert read.log_format is LogFormat.JSON
        types = typing.get_type_hints(Settings)
        for name in Settings.__struct_fields__:
            assert getattr(read, name) != getattr(settings(), name), name
            if name not in (
                "cluster_cidrs",
                "exclude_cidrs",
                "node_port_addresses",
                "bind_address",
                "health_check_networks",
            ):
                msgspec.convert(getattr(read, name), types[name], strict=True)

    def test_json_is_read_too(self) -> None:
        assert settings('{"defaultScheduler": "sh"}').default_scheduler is Scheduler.SH

    def test_all_defaults_are_asked_for_by_a_word(self) -> None:
        assert settings("{}") == settings("kind: IpvsproxyConfiguration\n") == settings()

    @pytest.mark.parametrize("text", ["", "\n", "# nothing yet\n", "---\n"])
    def test_an_empty_file_is_half_written_and_no_wish(self, text: str) -> None:
        assert "write {} if all defaults are meant" in error(text)

    @pytest.mark.parametrize(
        ("file_text", "parts"),
        [
            ("verbosity: 1\ndefaultSchedular: rr", ("line 2", "did you mean defaultScheduler")),
            ("nonsense: rr", ("line 1", "`ipvsproxy config show` lists all")),
            ("\ndefaultScheduler: fast", ("line 2", "defaultScheduler", "'fast'", "one of rr,")),
            ("masqueradeBit: 32", ("masqueradeBit: 32", "from 0 to 31")),
            ("masqueradeBit: true", ("masqueradeBit: True", "from 0 to 31")),
            ("masqueradeAll: maybe", ("true or false",)),
            ("clusterCIDRs: [10.0.0.0/33]", ("'10.0.0.0/33' is no network",)),
            ("syncPeriod: 0s", ("of 1s or more",)),
            ("syncPeriod: 1ns", ("of 1s or more",)),
            ("drainDeadline: -1s", ("a duration is needed",)),
            ("setCapacity: 12", ("from 1024",)),
            ("setHashSize: 12", ("from 64",)),
            ("setCapacityLimit: 12", ("from 1024",)),
            ("nodePortAddresses: [primary, 10.0.0.0/8]", ("'primary' and nothing else",)),
            ("nodePortAddresses: all,10.0.0.0/8", ("'all' and nothing else",)),
            ("nodePortAddresses: [primary, primary]", ("'primary' and nothing else",)),
            ("nodePortAddresses: secondary", ("'secondary' is no network",)),
            ("protectedPorts: [22, 65536]", ("65536 is no port; numbers from 1 to 65535",)),
            ("protectedPorts: '22,ssh'", ("'ssh' is no port",)),
            ("protectedPorts: true", ("True is no port",)),
            ("podBridgeInterface: a-name-too-long0", ("1-15 characters",)),
            ("podInterfaceNamePrefix: veth+", ("1-14 characters",)),
            ("podInterfaceNamePrefix: ''", ("1-14 characters",)),
            ("detectLocalMode: clustercidr", ("one of ClusterCIDR, NodeCIDR, BridgeInterface",)),
            ("noLocalEndpoints: ignore", ("one of drop, reject",)),
            ("watchNodes: yes", ("one of auto, always, never",)),
            ("healthzBindAddress: localhost:1", ("'localhost' is no IP address",)),
            ("healthzBindAddress: '10256'", ("'10256': no IP address; ADDRESS:PORT such as",)),
            ("metricsBindAddress: 127.0.0.1:70000", ("'70000' is no port",)),
            ("master: 192.0.2.1", ("https://",)),
            ("master: 'https://[::1'", ("a URL such as",)),
            ("master: 'https://[zz]:6443'", ("a URL such as",)),
            ("master: 'https://h, https://h:99999'", ("a URL such as",)),
            ("master: 'https://:6443'", ("a URL such as",)),
            ("manifests: ''", ("not empty",)),
            ("ipvsTcpTimeout: 1000h", ("at most 2147483s",)),
            ("oomScoreAdj: -1001", ("from -1000 to 1000",)),
            ("bindAddress: node-a", ("an IP address such as",)),
            ("kind: KubeProxyConfiguration\nconntrack: 5", ("line 2, conntrack: fields and",)),
            ("kind: KubeProxyConfiguration\nipvsproxy: 5", ("line 2, ipvsproxy: fields and",)),
            (
                "kind: KubeProxyConfiguration\nipvsproxy: {drainDeadlin: 5s}",
                ("line 2, ipvsproxy.drainDeadlin", "did you mean drainDeadline"),
            ),
            ("a: [", ("line 1", "YAML or JSON")),
            ("verbosity: 1\nmaster: x\nverbosity: 2", ("line 3", "'verbosity' is written twice")),
            (
                "kind: KubeProxyConfiguration\nipvs:\n  scheduler: rr\n  scheduler: lc\n",
                ("line 4", "'scheduler' is written twice"),
            ),
            ("verbosity: 1\n\tmaster: x", ("line 2", "indented by a tab")),
            ("verbosity: 1\n---\nverbosity: 2", ("line 3", "a second document")),
            ("a: \x01", ("YAML or JSON", "unacceptable character")),
            ("a: !!int ''", ("YAML or JSON",)),
            ("[" * 200_000, ("line 1", "more than 100 levels")),
            ("a: " + '{"a": ' * 200_000, ("line 1", "more than 100 levels")),
            ("kind: KubeProxyConfiguration\na: &a {b: *a}", ("line 2", "a.b", "contains itself")),
            ("- a", ("a mapping",)),
            ("kind: Pod", ("KubeProxyConfiguration is needed",)),
            ("kind: ConfigMap", ("line 1, kind", "one text of its data", "config convert")),
        ],
    )
    def test_what_is_wrong_is_named_with_its_place_and_what_would_be_right(
        self, file_text: str, parts: tuple[str, ...]
    ) -> None:
        message = error(file_text)

        assert message.startswith("configuration file")
        for part in parts:
            assert part in message

    def test_all_that_is_wrong_is_told(self) -> None:
        with pytest.raises(ConfigurationError) as caught:
            load({"verbosity": "loud"}, NAME, "syncPeriod: 0s\nnonsense: 1\nmasqueradeBit: 32\n")

        assert [problem.partition(": ")[0] for problem in caught.value.problems] == [
            "configuration file, line 2, nonsense",
            "configuration file, line 3, masqueradeBit",
            "configuration file, line 1, syncPeriod",
            "flag -v",
        ]
        assert str(caught.value).splitlines() == list(caught.value.problems)

    def test_a_wrong_flag_is_named(self) -> None:
        assert error(verbosity="loud").startswith("flag -v: 'loud'")

    def test_a_minimum_above_the_period_is_refused(self) -> None:
        assert "longer than sync-period" in error(sync_period="5s", min_sync_period="6s")

    def test_a_capacity_above_its_limit_is_refused(self) -> None:
        message = error("setCapacity: 2048\nsetCapacityLimit: 1024")
        assert message == "set-capacity 2048 is more than set-capacity-limit 1024: it must not be"

    @pytest.mark.parametrize(
        ("mode", "missing"),
        [
            ("BridgeInterface", "pod-bridge-interface"),
            ("InterfaceNamePrefix", "pod-interface-name-prefix"),
        ],
    )
    def test_a_mode_without_its_interface_is_refused(self, mode: str, missing: str) -> None:
        assert error(f"detectLocalMode: {mode}") == (
            f"detect-local-mode {mode} needs {missing}: set it"
        )

    def test_an_interface_without_its_mode_is_said_to_be_in_vain(self) -> None:
        resolved = load({"pod_bridge_interface": "cni0"}, NAME, None)
        assert resolved.settings.pod_bridge_interface == "cni0"
        assert resolved.warnings == (
            (
                "pod-bridge-interface is without effect: detect-local-mode is ClusterCIDR, "
                "not BridgeInterface"
            ),
        )


class TestNodePortAddresses:
    @pytest.mark.parametrize(
        ("written", "expected"),
        [
            ("primary", NodePortAddresses(primary=True)),
            ("[primary]", NodePortAddresses(primary=True)),
            ("all", NodePortAddresses()),
            ("[]", NodePortAddresses()),
            (
                "[192.0.2.0/24, '2001:db8::1', 192.0.2.7/24]",
                NodePortAddresses(
                    networks=(Network.parse("192.0.2.0/24"), Network.parse("2001:db8::1"))
                ),
            ),
        ],
    )
    def test_are_networks_or_one_word(self, written: str, expected: NodePortAddresses) -> None:
        assert settings(f"nodePortAddresses: {written}").node_port_addresses == expected

    def test_are_read_from_a_flag_and_a_variable_with_commas(self) -> None:
        networks = (Network.parse("10.0.0.0/8"), Network.parse("fd00::/8"))
        by_flag = settings(flags={"node_port_addresses": "10.0.0.0/8,fd00::/8"})
        by_variable = settings(IPVSPROXY_NODE_PORT_ADDRESSES="10.0.0.0/8, fd00::/8")
        assert by_flag.node_port_addresses == NodePortAddresses(networks=networks)
        assert by_variable == by_flag

    def test_a_wrong_flag_is_named_as_kube_proxy_names_it(self) -> None:
        message = error(node_port_addresses="primary,all")
        assert message.startswith("flag --nodeport-addresses: 'primary,all': ")


class TestKubeProxyFile:
    def test_the_file_that_kubeadm_writes_means_the_defaults_and_needs_no_warning(self) -> None:
        resolved = load({}, NAME, KUBEADM)

        assert resolved.warnings == ()
        assert resolved.settings == Settings(
            node_name="node-a",
            kubeconfig="/var/lib/kube-proxy/kubeconfig.conf",
            cluster_cidrs=(Network.parse("10.244.0.0/16"), Network.parse("fd00:10:244::/56")),
            conntrack_max_per_core=32768,
            conntrack_min=131072,
            conntrack_tcp_established_timeout=24 * 3600,
            conntrack_tcp_close_wait_timeout=3600,
            oom_score_adj=-999,
        )

    def test_in_conntrack_a_zero_is_no_default(self) -> None:
        zeros = KUBEADM.replace("maxPerCore: null", "maxPerCore: 0").replace(
            "tcpCloseWaitTimeout: null", "tcpCloseWaitTimeout: 0s"
        )
        resolved = load({}, NAME, zeros)

        read = resolved.settings
        assert (read.conntrack_max_per_core, read.conntrack_tcp_close_wait_timeout) == (0, 0)
        assert resolved.warnings == ()
        assert resolved.places["conntrack_min"] == (
            "KubeProxyConfiguration's default of conntrack.min"
        )
        assert resolved.places["conntrack_max_per_core"].endswith("line 13, conntrack.maxPerCore")

    def test_our_own_section_goes_before_what_means_the_same(self) -> None:
        read = settings(
            "kind: KubeProxyConfiguration\nipvs: {scheduler: lc}\n"
            "ipvsproxy: {drainDeadline: 5m, defaultScheduler: mh}\n"
        )
        assert (read.drain_deadline, read.default_scheduler) == (300, Scheduler.MH)

    def test_a_field_that_kube_proxy_does_not_know_is_passed_over_as_there(self) -> None:
        resolved = load({}, NAME, "kind: KubeProxyConfiguration\nipvs:\n  schedular: ''\nx: null\n")
        assert resolved.warnings == (
            (
                "configuration file, line 3, ipvs.schedular: no field of KubeProxyConfiguration, "
                "and passed over; did you mean ipvs.scheduler?"
            ),
            "configuration file, line 4, x: no field of KubeProxyConfiguration, and passed over",
        )

    @pytest.mark.parametrize("mode", ["iptables", "nftables", "userspace"])
    def test_another_mode_is_a_warning(self, mode: str) -> None:
        (warning,) = load({}, NAME, KUBEADM.replace("mode: ipvs", f"mode: {mode}")).warnings
        assert warning.endswith(f", mode: {mode!r}: this proxy always works as the mode ipvs does")

    @pytest.mark.parametrize("path", [*FIELDS, *WITHOUT_EFFECT])
    def test_every_field_is_used_or_named_with_the_reason(self, path: str) -> None:
        document: object = "1"
        for word in reversed(path.split(".")):
            document = {word: document}
        assert isinstance(document, dict)
        contents = read_file(json.dumps({"kind": KIND} | document))
        if path in FIELDS:
            assert (contents.values[FIELDS[path]].value, contents.warnings) == ("1", ())
        else:
            (warning,) = contents.warnings
            assert f": {path} ({WITHOUT_EFFECT[path]})" in warning
        assert contents.problems == ()

    def test_what_has_an_equal_here_is_used(self) -> None:
        read = load(
            {},
            {},
            "kind: KubeProxyConfiguration\nhostnameOverride: Worker-1\n"
            "ipvs: {scheduler: mh, excludeCIDRs: [192.0.2.0/24], syncPeriod: 1m30s, "
            "strictARP: true}\n"
            "iptables: {masqueradeBit: 0, masqueradeAll: true}\n"
            "healthzBindAddress: 192.0.2.5\nmetricsBindAddress: '::1'\n"
            "logging: {format: json, verbosity: 4}\nnodePortAddresses: [primary]\n"
            "clusterCIDR: 10.244.0.0/16\ndetectLocalMode: InterfaceNamePrefix\n"
            "detectLocal: {interfaceNamePrefix: veth, bridgeInterface: ''}\n",
        ).settings

        assert read.node_name == "worker-1"
        assert read.default_scheduler is Scheduler.MH
        assert read.exclude_cidrs == (Network.parse("192.0.2.0/24"),)
        assert read.sync_period == 90
        assert (read.masquerade_bit, read.masquerade_all) == (0, True)
        assert read.healthz_bind_address == "192.0.2.5:10256"
        assert read.metrics_bind_address == "[::1]:10249"
        assert (read.log_format, read.verbosity) == (LogFormat.JSON, 4)
        assert read.node_port_addresses == NodePortAddresses(primary=True)
        assert read.detect_local_mode is DetectLocalMode.INTERFACE_NAME_PREFIX
        assert (read.pod_interface_name_prefix, read.pod_bridge_interface) == ("veth", None)
        assert read.cluster_cidrs == (Network.parse("10.244.0.0/16"),)
        assert read.strict_arp

    def test_all_of_a_family_is_a_network_as_any_other(self) -> None:
        read = settings("kind: KubeProxyConfiguration\nnodePortAddresses: ['0.0.0.0/0']\n")
        assert read.node_port_addresses.networks == (Network.parse("0.0.0.0/0"),)

    def test_the_bridge_of_the_pods_is_read(self) -> None:
        read = settings(
            "kind: KubeProxyConfiguration\ndetectLocalMode: BridgeInterface\n"
            "detectLocal: {bridgeInterface: cni0}\n"
        )
        assert read.detect_local_mode is DetectLocalMode.BRIDGE_INTERFACE
        assert read.pod_bridge_interface == "cni0"

    def test_what_is_set_and_has_no_effect_is_named_in_one_warning(self) -> None:
        file_text = KUBEADM.replace("enableProfiling: false", "enableProfiling: true")
        file_text += "featureGates: {Topology: true}\nnftables: {masqueradeBit: 14}\n"

        (warning,) = load({}, NAME, file_text).warnings

        assert warning == (
            "without effect here, from KubeProxyConfiguration: enableProfiling (there are no "
            "profiling pages), featureGates.Topology (there are none here)"
        )

    def test_a_wrong_value_is_named_by_its_path_there(self) -> None:
        message = error("kind: KubeProxyConfiguration\nipvs:\n  scheduler: fast\n")

        assert message.startswith("configuration file, line 3, ipvs.scheduler: 'fast'")


class TestValues:
    @pytest.mark.parametrize(
        ("written", "expected"),
        [
            ("1m30s", 90),
            ("1h", 3600),
            ("1.5h", 5400),
            ("100ms", 0.1),
            ("5µs", 5e-6),
            ("0s", 0),
            ("0", 0),
            ("12", 12),
            (2.5, 2.5),
        ],
    )
    def test_durations_are_go_s_or_seconds(self, written: object, expected: float) -> None:
        assert seconds(written) == pytest.approx(expected)

    @pytest.mark.parametrize(
        "written", ["", "s", "1d", "-1s", "1m 30s", "1 m", None, True, -1, "1e3", float("nan")]
    )
    def test_anything_else_is_no_duration(self, written: object) -> None:
        with pytest.raises(ValueError, match="a duration is needed"):
            seconds(written)

    def test_an_address_without_a_port_gets_the_default_one(self) -> None:
        assert bind_address(10249)("::1") == "[::1]:10249"
        assert bind_address(10249)("") == ""
        assert split_bind_address("[::]:10256") == ("::", 10256)

    def test_effective_values_are_plain_and_complete(self) -> None:
        shown = effective(
            settings(flags={"cluster_cidrs": "10.0.0.0/8", "node_port_addresses": "primary"})
        )

        assert shown.keys() == READERS.keys() == set(Settings.__struct_fields__)
        assert shown["cluster_cidrs"] == ["10.0.0.0/8"]
        assert shown["node_port_addresses"] == ["primary"]
        assert shown["protected_ports"] == [22, 6443, 10250, 10256]
        assert shown["default_scheduler"] == "rr"
        assert type(shown["default_scheduler"]) is str
        assert msgspec.json.encode(shown)
