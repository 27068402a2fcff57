"""How a Service is reached from outside the cluster, as its object says."""

from __future__ import annotations

import json

import pytest

from ipvsproxy.model import Address, Family, Network
from ipvsproxy.objects import InvalidObject, Service, read_service


def read(
    service_type: str | None = "LoadBalancer",
    ingress: list[dict[str, object]] | None = None,
    **spec: object,
) -> Service:
    """Read a Service, from JSON and from a mapping alike."""
    raw = {
        "metadata": {"name": "web", "namespace": "shop"},
        "spec": {
            "type": service_type,
            "clusterIP": "10.96.0.10",
            "ports": [{"port": 80, "nodePort": 30080}],
            **spec,
        },
        "status": {"loadBalancer": {"ingress": ingress}},
    }
    found = read_service(raw)
    assert found == read_service(json.dumps(raw).encode())
    return found


def addresses(*texts: str) -> tuple[Address, ...]:
    return tuple(map(Address.parse, texts))


def networks(*texts: str) -> tuple[Network, ...]:
    return tuple(map(Network.parse, texts))


def test_reads_every_field_that_is_kept() -> None:
    found = read(
        externalIPs=["192.0.2.9", "2001:db8::9", "192.0.2.9"],
        loadBalancerSourceRanges=["198.51.100.0/24", "2001:db8:1::/48"],
        externalTrafficPolicy="Local",
        healthCheckNodePort=31000,
        ingress=[{"ip": "203.0.113.5", "ipMode": "VIP"}, {"ip": "203.0.113.6", "ipMode": None}],
    )

    assert found.external_ips == addresses("192.0.2.9", "2001:db8::9")
    assert found.ingress_ips == addresses("203.0.113.5", "203.0.113.6")
    assert found.source_ranges == networks("198.51.100.0/24", "2001:db8:1::/48")
    assert (found.external_traffic_local, found.health_check_node_port) == (True, 31000)
    assert found.ports[0].node_port == 30080
    assert (found.closed_families, found.remarks) == ((), ())


EVERYTHING: dict[str, object] = {
    "ingress": [{"ip": "203.0.113.5"}],
    "loadBalancerSourceRanges": ["198.51.100.0/24"],
    "externalTrafficPolicy": "Local",
    "healthCheckNodePort": 31000,
}


class TestType:
    """A field that is not of the Service's type says nothing, whatever is left in the object."""

    @pytest.mark.parametrize("service_type", [None, "ClusterIP"])
    def test_a_cluster_ip_has_none_of_them(self, service_type: str | None) -> None:
        assert read(service_type, **EVERYTHING) == read(service_type)  # type: ignore[arg-type]
        assert read(service_type).ports[0].node_port == 0

    def test_a_node_port_has_its_port_and_the_policy(self) -> None:
        found = read("NodePort", **EVERYTHING)  # type: ignore[arg-type]
        assert found == read("NodePort", externalTrafficPolicy="Local")
        assert (found.external_traffic_local, found.ports[0].node_port) == (True, 30080)

    def test_external_addresses_go_with_any_type_and_bring_the_policy(self) -> None:
        found = read(None, externalIPs=["192.0.2.9"], externalTrafficPolicy="Local")
        assert found.external_ips == addresses("192.0.2.9")
        assert found.external_traffic_local
        assert not read(
            None, externalIPs=["x"], externalTrafficPolicy="Local"
        ).external_traffic_local

    def test_a_health_check_port_is_of_a_local_load_balancer_only(self) -> None:
        assert read(healthCheckNodePort=31000).health_check_node_port == 0

    def test_without_a_cluster_ip_there_is_nothing_to_reach(self) -> None:
        for fields in ({"clusterIP": "None"}, {"type": "ExternalName"}):
            found = read(**{**EVERYTHING, **fields}, externalIPs=["192.0.2.9"])  # type: ignore[arg-type]
            assert (found.external_ips, found.ingress_ips) == ((), ())
            assert not found.external_traffic_local

    def test_a_policy_that_is_none_is_refused_as_before(self) -> None:
        with pytest.raises(InvalidObject, match=r"spec\.externalTrafficPolicy: 'Node' is none of"):
            read(externalTrafficPolicy="Node")


class TestAddresses:
    @pytest.mark.parametrize(
        ("text", "reason"),
        [
            ("192.0.2.300", "'192.0.2.300' is not an address"),
            ("", "'' is not an address"),
            ("127.0.0.1", "127.0.0.1 is a loopback address; a unicast address is needed"),
            ("fe80::1%eth0", "'fe80::1%eth0' is not an address"),
            ("224.0.0.1", "224.0.0.1 is a multicast address; a unicast address is needed"),
        ],
    )
    def test_one_that_cannot_be_served_is_passed_over_with_a_remark(
        self, text: str, reason: str
    ) -> None:
        found = read(externalIPs=[text, "192.0.2.9"])
        assert found.external_ips == addresses("192.0.2.9")
        assert found.remarks == (f"spec.externalIPs[0]: {reason}; passed over",)

    def test_an_old_spelling_is_the_address_that_kube_proxy_takes_it_for(self) -> None:
        found = read(externalIPs=["192.0.2.010"], ingress=[{"ip": "203.000.113.005"}])
        assert found.external_ips == addresses("192.0.2.10")
        assert found.ingress_ips == addresses("203.0.113.5")

    def test_an_ingress_of_a_proxy_or_of_a_host_name_alone_is_ignored(self) -> None:
        found = read(
            ingress=[
                {"ip": "203.0.113.5", "ipMode": "Proxy"},
                {"hostname": "lb.example.org"},
                {"ip": "203.0.113.6", "hostname": "lb.example.org"},
                {"ip": "proxy", "ipMode": "Proxy"},
            ]
        )
        assert found.ingress_ips == addresses("203.0.113.6")
        assert found.remarks == ()

    @pytest.mark.parametrize("status", [None, {}, {"loadBalancer": None}, {"loadBalancer": {}}])
    def test_a_balancer_may_have_no_address_yet(self, status: dict[str, object] | None) -> None:
        raw = {
            "metadata": {"name": "web"},
            "spec": {"type": "LoadBalancer", "clusterIP": "10.96.0.10", "ports": [{"port": 80}]},
            "status": status,
        }
        assert read_service(raw).ingress_ips == ()

    def test_a_wrong_ingress_or_health_check_port_is_passed_over_with_a_remark(self) -> None:
        found = read(
            ingress=[{"ip": "203.0.113"}, {"ip": "203.0.113.5", "ipMode": "Vip"}],
            externalTrafficPolicy="Local",
            healthCheckNodePort=70000,
        )
        assert (found.ingress_ips, found.health_check_node_port) == ((), 0)
        assert found.remarks == (
            "status.loadBalancer.ingress[0].ip: '203.0.113' is not an address; passed over",
            "status.loadBalancer.ingress[1].ipMode: 'Vip' is none of VIP, Proxy; passed over",
            "spec.healthCheckNodePort: 70000 is not a port (1-65535); passed over",
        )


class TestSourceRanges:
    @pytest.mark.parametrize(
        ("written", "expected"),
        [
            ([" 198.51.100.0/24 ", "198.51.100.0/24"], ["198.51.100.0/24"]),
            (["198.51.100.77/24"], ["198.51.100.0/24"]),
            (["0.0.0.0/0", "::/0"], ["0.0.0.0/0", "::/0"]),
            (["198.51.100.7/32"], ["198.51.100.7/32"]),
            (["198.051.100.007"], ["198.51.100.7/32"]),
            ([], []),
            (None, []),
        ],
    )
    def test_are_trimmed_and_lose_their_host_bits(
        self, written: list[str] | None, expected: list[str]
    ) -> None:
        found = read(loadBalancerSourceRanges=written)
        assert found.source_ranges == networks(*expected)
        assert (found.closed_families, found.remarks) == ((), ())

    def test_of_one_family_say_nothing_of_the_other_one(self) -> None:
        found = read(loadBalancerSourceRanges=["198.51.100.0/24"])
        assert found.allowed(Family.IPV4) == networks("198.51.100.0/24")
        assert found.allowed(Family.IPV6) is None
        assert read().allowed(Family.IPV4) is None

    def test_one_that_cannot_be_read_is_passed_over_beside_one_that_can(self) -> None:
        found = read(loadBalancerSourceRanges=["198.51.100.0/24", "198.51.100.0/33"])
        assert found.allowed(Family.IPV4) == networks("198.51.100.0/24")
        assert found.remarks == (
            (
                "spec.loadBalancerSourceRanges[1]: '198.51.100.0/33' is not a network "
                "(address/length); passed over"
            ),
        )

    @pytest.mark.parametrize(
        ("written", "closed"),
        [
            (["198.51.100.0/33"], {Family.IPV4}),
            (["fd00:/8"], {Family.IPV6}),
            (["office"], {Family.IPV4, Family.IPV6}),
            ([""], {Family.IPV4, Family.IPV6}),
            (["::ffff:10.0.0.0/104"], {Family.IPV4, Family.IPV6}),
            (["198.51.100.0/24", "office"], {Family.IPV6}),
        ],
    )
    def test_where_none_of_a_family_can_be_read_nobody_of_it_is_let_in(
        self, written: list[str], closed: set[Family]
    ) -> None:
        found = read(loadBalancerSourceRanges=written)
        assert {family for family in Family if found.allowed(family) == ()} == closed
        assert found.remarks[-1].startswith("spec.loadBalancerSourceRanges: no IPv")
        assert found.remarks[-1].endswith(" client is let in")
