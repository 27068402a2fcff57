from __future__ import annotations

import copy
import json
from collections.abc import Mapping

import msgspec
import pytest

from ipvsproxy.model import Address, Family, Network, Protocol
from ipvsproxy.objects import (
    Contents,
    Endpoint,
    InvalidObject,
    ObjectReference,
    Service,
    ServiceCIDR,
    ServiceName,
    ServicePort,
    SlicePort,
    read_document,
    read_endpoint_slice,
    read_node,
    read_service,
    read_service_cidr,
)

SERVICE: dict[str, object] = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"name": "web", "namespace": "shop"},
    "spec": {"clusterIP": "10.96.0.10", "ports": [{"name": "http", "port": 80}]},
}
SLICE: dict[str, object] = {
    "apiVersion": "discovery.k8s.io/v1",
    "kind": "EndpointSlice",
    "metadata": {
        "name": "web-1",
        "namespace": "shop",
        "labels": {"kubernetes.io/service-name": "web"},
    },
    "addressType": "IPv4",
    "endpoints": [{"addresses": ["10.1.0.1"]}],
    "ports": [{"name": "http", "port": 8080}],
}
NODE: dict[str, object] = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}}


def changed(base: Mapping[str, object], part: str, **fields: object) -> dict[str, object]:
    result = copy.deepcopy(dict(base))
    inner = result.setdefault(part, {})
    assert isinstance(inner, dict)
    inner.update(fields)
    return result


def service(**spec: object) -> dict[str, object]:
    return changed(SERVICE, "spec", **spec)


def service_metadata(**metadata: object) -> dict[str, object]:
    return changed(SERVICE, "metadata", **metadata)


def slice_with(**fields: object) -> dict[str, object]:
    return {**copy.deepcopy(SLICE), **fields}


def refusal_of_service(raw: dict[str, object]) -> InvalidObject:
    """Refuse it, from JSON and from a mapping alike."""
    with pytest.raises(InvalidObject) as from_mapping:
        read_service(raw)
    with pytest.raises(InvalidObject) as from_bytes:
        read_service(json.dumps(raw).encode())
    assert str(from_mapping.value) == str(from_bytes.value)
    assert from_mapping.value.reference == from_bytes.value.reference
    assert "\n" not in str(from_mapping.value)
    assert not from_mapping.value.internal
    return from_mapping.value


def refusal_of_slice(raw: dict[str, object]) -> InvalidObject:
    with pytest.raises(InvalidObject) as refused:
        read_endpoint_slice(raw)
    with pytest.raises(InvalidObject) as from_bytes:
        read_endpoint_slice(json.dumps(raw).encode())
    assert str(refused.value) == str(from_bytes.value)
    assert not refused.value.internal
    return refused.value


class TestService:
    def test_is_read_the_same_from_json_from_a_raw_message_and_from_a_mapping(self) -> None:
        text = json.dumps(SERVICE).encode()
        expected = Service(
            name=ServiceName("shop", "web"),
            cluster_ips=(Address.parse("10.96.0.10"),),
            ports=(ServicePort("http", Protocol.TCP, 80),),
        )
        assert read_service(text) == expected
        assert read_service(msgspec.Raw(text)) == expected
        assert read_service(SERVICE) == expected

    def test_reads_every_field_that_is_kept(self) -> None:
        raw = {
            "metadata": {
                "name": "web",
                "uid": "u-1",
                "creationTimestamp": "2024-01-01T00:00:10Z",
                "labels": {"service.kubernetes.io/service-proxy-name": "other"},
                "annotations": {
                    "kube-router.io/service.scheduler": "lc",
                    "ipvsproxy.io/scheduler": "wrr",
                    "someone.else/x": "y",
                },
            },
            "spec": {
                "type": "NodePort",
                "clusterIP": "10.96.0.10",
                "clusterIPs": ["10.96.0.10", "fd00::a"],
                "ipFamilies": ["IPv4", "IPv6"],
                "ports": [
                    {"name": "a", "port": 53, "protocol": "UDP", "nodePort": 30053},
                    {"name": "b", "port": 53, "protocol": "TCP", "nodePort": 30053},
                    {"name": "c", "port": 7, "protocol": "SCTP", "targetPort": "x"},
                ],
                "sessionAffinity": "ClientIP",
                "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 60}},
                "internalTrafficPolicy": "Local",
                "externalTrafficPolicy": "Local",
            },
        }
        assert read_service(raw) == Service(
            name=ServiceName("default", "web"),
            type="NodePort",
            uid="u-1",
            created=1704067210.0,
            cluster_ips=(Address.parse("10.96.0.10"), Address.parse("fd00::a")),
            ports=(
                ServicePort("a", Protocol.UDP, 53, 30053),
                ServicePort("b", Protocol.TCP, 53, 30053),
                ServicePort("c", Protocol.SCTP, 7),
            ),
            affinity_seconds=60,
            internal_traffic_local=True,
            external_traffic_local=True,
            proxy_name="other",
            annotations=(
                ("ipvsproxy.io/scheduler", "wrr"),
                ("kube-router.io/service.scheduler", "lc"),
            ),
        )

    def test_nulls_are_as_good_as_absent_fields(self) -> None:
        raw = service(sessionAffinity=None, ipFamilies=None, type=None, clusterIPs=None)
        raw["metadata"] = {
            "name": "web",
            "namespace": "shop",
            "creationTimestamp": None,
            "labels": None,
            "annotations": {"other": None},
        }
        assert read_service(raw) == read_service(SERVICE)

    @pytest.mark.parametrize(
        "spec",
        [
            {"clusterIP": "None"},
            {"clusterIP": "None", "clusterIPs": ["None"], "ports": None},
            {"clusterIP": None, "clusterIPs": ["None"]},
            {"type": "ExternalName", "externalName": "x.org", "ports": []},
            {"type": "ExternalName", "clusterIP": "10.96.0.10"},
            {"clusterIP": ""},
            {"clusterIP": None},
        ],
    )
    def test_has_no_address_when_headless_external_or_not_allocated(
        self, spec: dict[str, object]
    ) -> None:
        assert read_service(service(**spec)).cluster_ips == ()

    def test_affinity_has_the_api_default_of_three_hours(self) -> None:
        assert read_service(service(sessionAffinity="ClientIP")).affinity_seconds == 10800
        timeout = {"clientIP": {"timeoutSeconds": 60}}
        assert read_service(service(sessionAffinityConfig=timeout)).affinity_seconds == 0

    @pytest.mark.parametrize(
        ("spec", "reason"),
        [
            ({"ports": []}, "spec.ports: a Service with an address needs at least one port"),
            ({"ports": [{"name": "x"}]}, "spec.ports[0].port: is missing"),
            (
                {"ports": [{"name": "a", "port": 1}, {"name": "b", "port": 70000}]},
                "spec.ports[1].port: 70000 is not a port (1-65535)",
            ),
            ({"ports": [{"port": 0}]}, "spec.ports[0].port: 0 is not a port (1-65535)"),
            ({"ports": [{"port": 2**80}]}, f"spec.ports[0].port: {2**80} is not a port (1-65535)"),
            (
                {"ports": [{"port": "80"}]},
                "spec.ports[0].port: a whole number is needed, not text",
            ),
            ({"ports": {"port": 80}}, "spec.ports: a list is needed, not a mapping"),
            ({"ports": [80]}, "spec.ports[0]: a mapping is needed, not a whole number"),
            (
                {"ports": [{"port": 80, "protocol": "tcp"}]},
                "spec.ports[0].protocol: 'tcp' is none of TCP, UDP, SCTP",
            ),
            (
                {"type": "NodePort", "ports": [{"port": 80, "nodePort": -1}]},
                "spec.ports[0].nodePort: -1 is not a port (1-65535)",
            ),
            (
                {"ports": [{"port": 80}, {"port": 81}]},
                "spec.ports[1].name: several ports need names",
            ),
            (
                {"ports": [{"name": "a", "port": 80}, {"name": "a", "port": 81}]},
                "spec.ports[1].name: 'a' is used twice",
            ),
            (
                {"ports": [{"name": "a", "port": 80}, {"name": "b", "port": 80}]},
                "spec.ports[1].port: TCP 80 is used twice",
            ),
            (
                {
                    "type": "LoadBalancer",
                    "ports": [
                        {"name": "a", "port": 80, "nodePort": 30000},
                        {"name": "b", "port": 81, "nodePort": 30000},
                    ],
                },
                "spec.ports[1].nodePort: TCP 30000 is used twice",
            ),
            ({"clusterIP": "10.96.0.300"}, "spec.clusterIP: '10.96.0.300' is not an address"),
            (
                {"clusterIP": None, "clusterIPs": ["10.96.0.10", "10.96.0.11"]},
                "spec.clusterIPs: 10.96.0.10, 10.96.0.11: at most one of each family",
            ),
            (
                {"clusterIPs": ["10.96.0.11"]},
                "spec.clusterIPs[0]: 10.96.0.11 is not spec.clusterIP, 10.96.0.10",
            ),
            (
                {"ipFamilies": ["IPv6"]},
                "spec.ipFamilies[0]: IPv6, but the address is 10.96.0.10",
            ),
            ({"ipFamilies": ["IPX"]}, "spec.ipFamilies[0]: 'IPX' is none of IPv4, IPv6"),
            (
                {"type": "Cluster"},
                "spec.type: 'Cluster' is none of ClusterIP, NodePort, LoadBalancer, ExternalName",
            ),
            (
                {"sessionAffinity": "Cookie"},
                "spec.sessionAffinity: 'Cookie' is none of None, ClientIP",
            ),
            (
                {"internalTrafficPolicy": "Node"},
                "spec.internalTrafficPolicy: 'Node' is none of Cluster, Local",
            ),
        ],
    )
    def test_names_the_field_that_is_wrong(self, spec: dict[str, object], reason: str) -> None:
        assert str(refusal_of_service(service(**spec))) == reason

    @pytest.mark.parametrize("seconds", [0, -1, 86401])
    def test_refuses_an_affinity_outside_a_day(self, seconds: int) -> None:
        raw = service(
            sessionAffinity="ClientIP",
            sessionAffinityConfig={"clientIP": {"timeoutSeconds": seconds}},
        )
        assert str(refusal_of_service(raw)) == (
            f"spec.sessionAffinityConfig.clientIP.timeoutSeconds: {seconds} is not within 1-86400"
        )

    @pytest.mark.parametrize(
        "address",
        [
            "127.0.0.1",
            "127.255.0.1",
            "0.0.0.0",
            "224.0.0.1",
            "239.1.2.3",
            "255.255.255.255",
            "169.254.1.1",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "fe80::1",
            "febf::1",
            "ff02::1",
        ],
    )
    def test_refuses_an_address_that_is_not_unicast(self, address: str) -> None:
        reason = str(refusal_of_service(service(clusterIP=address)))
        assert reason.startswith(f"spec.clusterIP: {address} is ")
        assert reason.endswith("; a unicast address is needed")

    @pytest.mark.parametrize("address", ["1.0.0.1", "223.0.0.1", "240.0.0.1", "fec0::1", "64::"])
    def test_takes_any_unicast_address(self, address: str) -> None:
        assert read_service(service(clusterIP=address)).cluster_ips == (Address.parse(address),)

    @pytest.mark.parametrize(
        ("metadata", "reason"),
        [
            ({"name": "Web 1"}, "metadata.name: 'Web 1' is not a name"),
            ({"name": "web\n"}, "metadata.name: 'web\\n' is not a name"),
            ({"namespace": "a/b"}, "metadata.namespace: 'a/b' is not a name"),
            ({"creationTimestamp": "today"}, "metadata.creationTimestamp: 'today' is not a time"),
            (
                {"creationTimestamp": "2024-01-01T00:00:00"},
                "metadata.creationTimestamp: '2024-01-01T00:00:00' is not a time",
            ),
            (
                {"annotations": {"a": "b", "ipvsproxy.io/scheduler": False}},
                (
                    "metadata.annotations[ipvsproxy.io/scheduler]: "
                    "text is needed, not true or false (put it in quotes)"
                ),
            ),
        ],
    )
    def test_names_the_metadata_that_is_wrong(
        self, metadata: dict[str, object], reason: str
    ) -> None:
        assert str(refusal_of_service(service_metadata(**metadata))).startswith(reason)

    def test_a_refusal_says_what_could_be_read(self) -> None:
        raw = service(
            ports="none",
            clusterIPs=["10.96.0.10", "None", ""],
            externalIPs=["192.0.2.1"],
        )
        raw["status"] = {"loadBalancer": {"ingress": [{"ip": "192.0.2.2"}, {"hostname": "x"}, 3]}}
        refused = refusal_of_service(raw)
        assert refused.reference == ObjectReference("Service", "shop", "web")
        assert refused.service == ServiceName("shop", "web")
        assert refused.addresses == frozenset(
            Address.parse(text) for text in ("10.96.0.10", "192.0.2.1", "192.0.2.2")
        )

    @pytest.mark.parametrize(
        "fields", [{"clusterIP": "10.96.0.300"}, {"clusterIPs": ["10.96.0.10", "fd00::zz"]}]
    )
    def test_a_service_with_an_address_that_is_none_may_be_anywhere(
        self, fields: dict[str, object]
    ) -> None:
        assert refusal_of_service(service(**fields)).addresses is None

    def test_an_external_address_that_is_none_is_served_nowhere(self) -> None:
        raw = service(ports="none", externalIPs=["192.0.2.001", "192.0.2.300", None])
        assert refusal_of_service(raw).addresses == frozenset(
            Address.parse(text) for text in ("10.96.0.10", "192.0.2.1")
        )

    @pytest.mark.parametrize(
        "raw", [{}, {"metadata": {}}, {"metadata": {"name": 5}}, {"metadata": []}, {"spec": []}]
    )
    def test_one_without_a_name_is_refused_without_a_reference(
        self, raw: dict[str, object]
    ) -> None:
        assert refusal_of_service(raw).reference is None

    @pytest.mark.parametrize("text", [b"", b"{", b"[]", b"nonsense", b'"\xff"', b"[" * 100_000])
    def test_what_is_no_json_object_is_refused(self, text: bytes) -> None:
        with pytest.raises(InvalidObject) as refused:
            read_service(text)
        assert refused.value.reference is None
        assert not refused.value.internal


class TestEndpointSlice:
    def test_reads_endpoints_ports_and_weights(self) -> None:
        raw = slice_with(
            endpoints=[
                {
                    "addresses": ["10.1.0.1", "10.1.0.9"],
                    "nodeName": "n1",
                    "hints": {
                        "forZones": [{"name": "z1"}, {"name": "z2"}, {"name": ""}],
                        "forNodes": [{"name": "n1"}],
                    },
                },
                {"addresses": ["10.1.0.2"], "conditions": {"ready": False, "terminating": True}},
            ],
            ports=[
                {"name": "http", "port": 8080, "protocol": "TCP"},
                {"port": 53, "protocol": "UDP"},
                {"name": "all"},
                {"name": "zero", "port": 0},
            ],
        )
        written = {"ipvsproxy.io/weights": "{}", "a": "b", "ipvsproxy.io/wieghts": "{}"}
        raw = changed(raw, "metadata", annotations=written)
        read = read_endpoint_slice(json.dumps(raw).encode())
        assert read == read_endpoint_slice(raw)
        assert read is not None
        assert read.service == ServiceName("shop", "web")
        assert read.family is Family.IPV4
        assert read.endpoints == (
            Endpoint(
                Address.parse("10.1.0.1"),
                node_name="n1",
                zone_hints=("z1", "z2"),
                node_hints=("n1",),
            ),
            Endpoint(Address.parse("10.1.0.2"), ready=False, serving=True, terminating=True),
        )
        assert read.ports == (
            SlicePort("http", Protocol.TCP, 8080),
            SlicePort("", Protocol.UDP, 53),
        )
        assert read.weights == "{}"
        assert read.strays == ("ipvsproxy.io/wieghts",)

    @pytest.mark.parametrize("value", [None, True])
    def test_absent_conditions_are_ready_serving_and_not_terminating(
        self, value: bool | None
    ) -> None:
        conditions = {"ready": value, "serving": value, "terminating": None}
        read = read_endpoint_slice(
            slice_with(endpoints=[{"addresses": ["10.1.0.1"], "conditions": conditions}])
        )
        assert read is not None
        assert read.endpoints == (Endpoint(Address.parse("10.1.0.1"), True, True, False),)

    @pytest.mark.parametrize("labels", [None, {}, {"kubernetes.io/service-name": ""}])
    def test_one_of_no_service_is_none(self, labels: dict[str, str] | None) -> None:
        assert read_endpoint_slice(changed(SLICE, "metadata", labels=labels)) is None

    def test_host_names_are_no_endpoints(self) -> None:
        raw = slice_with(addressType="FQDN", endpoints=[{"addresses": ["x.org"]}])
        read = read_endpoint_slice(raw)
        assert read is not None
        assert (read.family, read.endpoints) == (None, ())

    @pytest.mark.parametrize("hints", [None, {}, {"forZones": None, "forNodes": []}])
    def test_hints_may_be_absent(self, hints: dict[str, object] | None) -> None:
        read = read_endpoint_slice(
            slice_with(endpoints=[{"addresses": ["10.1.0.1"], "hints": hints}])
        )
        assert read is not None
        assert (read.endpoints[0].zone_hints, read.endpoints[0].node_hints) == ((), ())

    def test_endpoints_share_the_name_of_their_node_and_their_hints(self) -> None:
        hints = {"forZones": [{"name": "a-zone"}]}
        raw = json.dumps(
            slice_with(
                endpoints=[{"addresses": ["10.1.0.1"], "nodeName": "a-node", "hints": hints}]
            )
        ).encode()
        one, other = read_endpoint_slice(raw), read_endpoint_slice(raw)
        assert one is not None
        assert other is not None
        assert one.endpoints[0].node_name is other.endpoints[0].node_name
        assert one.endpoints[0].zone_hints is other.endpoints[0].zone_hints

    @pytest.mark.parametrize(
        ("fields", "reason"),
        [
            ({"addressType": None}, "addressType: is missing: write IPv4 or IPv6"),
            ({"addressType": "IPv5"}, "addressType: 'IPv5' is none of IPv4, IPv6, FQDN"),
            ({"endpoints": [{}]}, "endpoints[0].addresses: an endpoint needs an address"),
            (
                {"endpoints": [{"addresses": ["10.1.0.1"]}, {"addresses": ["pod"]}]},
                "endpoints[1].addresses[0]: 'pod' is not an address",
            ),
            (
                {"endpoints": [{"addresses": ["fd00::1"]}]},
                "endpoints[0].addresses[0]: fd00::1 in a slice of addressType IPv4",
            ),
            (
                {"endpoints": [{"addresses": ["127.0.0.1"]}]},
                (
                    "endpoints[0].addresses[0]: 127.0.0.1 is a loopback address; "
                    "a unicast address is needed"
                ),
            ),
            ({"ports": [{"port": 65536}]}, "ports[0].port: 65536 is not a port (1-65535)"),
            (
                {"ports": [{"port": 1}, {"port": 2}]},
                "ports[1].name: '' for TCP is used twice",
            ),
            (
                {"endpoints": [{"addresses": ["10.1.0.1"], "conditions": {"ready": "yes"}}]},
                "endpoints[0].conditions.ready: true or false is needed, not text",
            ),
        ],
    )
    def test_names_the_field_that_is_wrong(self, fields: dict[str, object], reason: str) -> None:
        refused = refusal_of_slice(slice_with(**fields))
        assert str(refused) == reason
        assert refused.reference == ObjectReference("EndpointSlice", "shop", "web-1")
        assert refused.service == ServiceName("shop", "web")


class TestNode:
    def test_reads_every_field_that_is_kept(self) -> None:
        raw = {
            "metadata": {"name": "n1", "labels": {"topology.kubernetes.io/zone": "z"}},
            "spec": {"podCIDR": "10.1.0.0/24", "podCIDRs": ["10.1.0.0/24", "fd01::/64"]},
            "status": {
                "addresses": [
                    {"type": "Hostname", "address": "n1"},
                    {"type": "InternalIP", "address": "192.0.2.1"},
                    {"type": "InternalIP", "address": "2001:db8::1"},
                ]
            },
        }
        node = read_node(json.dumps(raw).encode())
        assert node == read_node(raw)
        assert node.zone == "z"
        assert node.pod_cidrs == (Network.parse("10.1.0.0/24"), Network.parse("fd01::/64"))
        assert node.addresses == (Address.parse("192.0.2.1"), Address.parse("2001:db8::1"))
        assert not node.leaving

    def test_takes_the_single_range_where_there_is_no_list(self) -> None:
        node = read_node(changed(NODE, "spec", podCIDR="10.1.0.0/24"))
        assert node.pod_cidrs == (Network.parse("10.1.0.0/24"),)

    @pytest.mark.parametrize(
        "raw",
        [
            changed(NODE, "metadata", deletionTimestamp="2024-01-01T00:00:00Z"),
            changed(NODE, "spec", taints=[{"key": "ToBeDeletedByClusterAutoscaler"}]),
        ],
    )
    def test_is_leaving_when_deleted_or_marked_by_the_autoscaler(
        self, raw: dict[str, object]
    ) -> None:
        assert read_node(raw).leaving

    def test_a_refused_node_has_no_namespace(self) -> None:
        with pytest.raises(InvalidObject, match=r"spec\.podCIDRs\[0\]: 'x' is not") as refused:
            read_node(changed(NODE, "spec", podCIDRs=["x"]))
        assert refused.value.reference == ObjectReference("Node", "", "n1")


class TestServiceCIDR:
    """KEP-1880; v1beta1 and v1 are written alike."""

    def test_has_the_networks_that_are_written(self) -> None:
        raw = {"metadata": {"name": "pool"}, "spec": {"cidrs": ["10.96.0.0/12", "fd00:96::/112"]}}
        assert read_service_cidr(json.dumps(raw).encode()) == ServiceCIDR(
            "pool", (Network.parse("10.96.0.0/12"), Network.parse("fd00:96::/112"))
        )

    def test_a_network_that_is_none_is_named_and_it_has_no_namespace(self) -> None:
        with pytest.raises(InvalidObject, match=r"spec\.cidrs\[1\]: 'x' is not") as refused:
            read_service_cidr({"metadata": {"name": "pool"}, "spec": {"cidrs": ["::/64", "x"]}})
        assert refused.value.reference == ObjectReference("ServiceCIDR", "", "pool")


class TestDocuments:
    def test_each_kind_goes_to_its_reader_and_lists_are_taken_apart(self) -> None:
        contents = Contents()
        untyped = {key: SERVICE[key] for key in ("metadata", "spec")}
        read_document({"apiVersion": "v1", "kind": "List", "items": [SERVICE, SLICE]}, contents)
        read_document({"apiVersion": "v1", "kind": "ServiceList", "items": [untyped]}, contents)
        read_document({"apiVersion": "v1", "kind": "NodeList", "items": None}, contents)
        read_document(NODE, contents)
        read_document(None, contents)
        kinds = [type(found).__name__ for found in contents.objects]
        assert kinds == ["Service", "EndpointSlice", "Service", "Node"]
        assert (contents.unnamed, dict(contents.ignored)) == ([], {})

    def test_other_kinds_are_counted_and_endpoints_get_a_hint(self) -> None:
        contents = Contents()
        for version, kind in [
            ("apps/v1", "Deployment"),
            ("apps/v1", "Deployment"),
            ("serving.knative.dev/v1", "Service"),
            ("v1", "Endpoints"),
        ]:
            read_document({"apiVersion": version, "kind": kind}, contents)
        read_document(changed(SLICE, "metadata", labels={}), contents)
        assert dict(contents.ignored) == {
            "apps/v1 Deployment": 2,
            "serving.knative.dev/v1 Service": 1,
            "v1 Endpoints (write discovery.k8s.io/v1 EndpointSlice instead)": 1,
            "EndpointSlice without label kubernetes.io/service-name": 1,
        }
        assert contents.objects == []

    @pytest.mark.parametrize(
        ("version", "kind", "meant"),
        [
            ("v1", "service", "v1 Service"),
            ("V1", "Services", "v1 Service"),
            ("v1", "EndpointSlice", "discovery.k8s.io/v1 EndpointSlice"),
            ("discovery.k8s.io/v1", "Endpointslice", "discovery.k8s.io/v1 EndpointSlice"),
            ("v1", "node", "v1 Node"),
        ],
    )
    def test_a_misspelt_kind_is_not_passed_over(self, version: str, kind: str, meant: str) -> None:
        contents = Contents()
        read_document({"apiVersion": version, "kind": kind}, contents)
        (unnamed,) = contents.unnamed
        assert unnamed.reason == f"{version} {kind}: there is no such kind; write {meant}"
        assert not contents.ignored

    def test_a_forgotten_address_is_refused_and_a_headless_service_is_not(self) -> None:
        contents = Contents()
        read_document(service(clusterIP=None), contents)
        read_document(service(clusterIP="None"), contents)
        refused, headless = contents.objects
        assert isinstance(refused, InvalidObject)
        assert refused.reason.startswith("spec.clusterIP: is missing; write an address")
        assert isinstance(headless, Service)

    def test_what_cannot_be_named_is_not_passed_over(self) -> None:
        contents = Contents()
        inner = {"apiVersion": "v1", "kind": "List"}
        read_document(["a"], contents)
        read_document("text", contents)
        read_document({"knd": "Service"}, contents)
        read_document({"kind": "Service"}, contents)
        read_document({"apiVersion": "v1", "kind": "Service", "metadata": {}}, contents)
        read_document({"apiVersion": "v1", "kind": "List", "items": {}}, contents)
        read_document({"apiVersion": "v1", "kind": "List", "items": [1, inner]}, contents)
        assert [f"{one.place}|{one.reason}" for one in contents.unnamed] == [
            "|an object is needed, not a list",
            "|an object is needed, not 'text'",
            "|an object without kind",
            "|an object without apiVersion",
            "|Service: metadata.name: is missing",
            "items|a list is needed",
            "items[0]|an object is needed, not '1'",
            "items[1]|a list within a list",
        ]
        assert (contents.objects, dict(contents.ignored)) == ([], {})

    def test_of_two_thousand_objects_the_wrong_one_alone_is_refused(self) -> None:
        items = [
            changed(service_metadata(name=f"s{i}"), "spec", clusterIP=f"10.96.{i // 250}.{i % 250}")
            for i in range(2000)
        ]
        items[777] = changed(items[777], "spec", clusterIP="10.96.0.777")
        contents = Contents()
        read_document({"apiVersion": "v1", "kind": "List", "items": items}, contents)
        refused = [one for one in contents.objects if isinstance(one, InvalidObject)]
        assert len(contents.objects) == 2000
        assert [str(one) for one in refused] == ["spec.clusterIP: '10.96.0.777' is not an address"]
        assert refused[0].reference == ObjectReference("Service", "shop", "s777")


def test_a_fault_of_ours_is_a_refusal_that_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("boom")

    monkeypatch.setattr("ipvsproxy.objects.fields.unicast", broken)
    with pytest.raises(InvalidObject) as refused:
        read_service(SERVICE)
    assert refused.value.internal
    assert str(refused.value) == "internal error: ZeroDivisionError: boom"
    assert refused.value.reference == ObjectReference("Service", "shop", "web")
    assert isinstance(refused.value.__cause__, ZeroDivisionError)
