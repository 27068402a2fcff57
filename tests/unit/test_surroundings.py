"""How pods are told from others, and which addresses of the node NodePorts are served on."""

from __future__ import annotations

import msgspec
import pytest

from ipvsproxy.config import DetectLocalMode, NodePortAddresses, Settings
from ipvsproxy.core.detect_local import LocalPods, local_pods
from ipvsproxy.core.endpoints import Whereabouts
from ipvsproxy.core.surroundings import Surroundings, node_port_addresses
from ipvsproxy.kernel.fake import fresh_state
from ipvsproxy.model import Address, Family, Network, NodeNetwork, Rule
from ipvsproxy.objects import Node

NETWORK = NodeNetwork(
    {
        "lo": frozenset(map(Address.parse, ("127.0.0.1", "127.1.2.3", "::1"))),
        "eth0": frozenset(map(Address.parse, ("192.0.2.10", "2001:db8::10", "fe80::10"))),
        "eth1": frozenset(map(Address.parse, ("198.51.100.10", "192.0.2.11"))),
        "cbr0": frozenset(map(Address.parse, ("10.244.1.1", "febf::1", "fec0::1"))),
    }
)
NODE = Node(
    "here",
    zone="z",
    pod_cidrs=(Network.parse("10.244.1.0/24"), Network.parse("fd00:1::/64")),
    addresses=tuple(map(Address.parse, ("192.0.2.10", "2001:db8::10", "203.0.113.77"))),
)
SETTINGS = Settings(node_name="here")


def networks(*texts: str) -> tuple[Network, ...]:
    return tuple(map(Network.parse, texts))


class TestLocalPods:
    @pytest.mark.parametrize(
        ("family", "blocks", "matches", "from_afar"),
        [
            pytest.param(4, (), (), (), id="nothing is known"),
            pytest.param(
                4,
                ("10.244.0.0/16", "fd00::/48"),
                (("-s", "10.244.0.0/16"),),
                (("-s", "10.244.0.0/16", "-i", "eth0"),),
                id="of its family",
            ),
            pytest.param(
                6,
                ("10.244.0.0/16", "fd00::/48"),
                (("-s", "fd00::/48"),),
                (("-s", "fd00::/48", "-i", "eth0"),),
                id="IPv6",
            ),
            pytest.param(
                4,
                ("10.245.0.0/16", "10.244.0.0/16", "10.244.0.0/16"),
                (("-s", "10.244.0.0/16"), ("-s", "10.245.0.0/16")),
                (
                    ("-s", "10.244.0.0/16", "-i", "eth0"),
                    ("-s", "10.245.0.0/16", "-i", "eth0"),
                ),
                id="several, in order, each once",
            ),
            pytest.param(4, ("0.0.0.0/0",), ((),), (("-i", "eth0"),), id="everybody"),
            pytest.param(4, ("fd00::/48",), (), (), id="of the other family only"),
        ],
    )
    def test_by_networks_of_the_cluster(
        self,
        family: int,
        blocks: tuple[str, ...],
        matches: tuple[Rule, ...],
        from_afar: tuple[Rule, ...],
    ) -> None:
        settings = msgspec.structs.replace(SETTINGS, cluster_cidrs=networks(*blocks))
        found = local_pods(Family(family), settings, NODE, NETWORK)
        assert found == LocalPods(matches, from_afar)
        assert found.known == bool(matches)

    def test_without_a_node_nobody_is_known_to_come_from_afar(self) -> None:
        settings = msgspec.structs.replace(SETTINGS, cluster_cidrs=networks("10.244.0.0/16"))
        assert local_pods(Family.IPV4, settings, None, NETWORK).from_afar == ()

    def test_by_networks_of_the_node(self) -> None:
        settings = msgspec.structs.replace(SETTINGS, detect_local_mode=DetectLocalMode.NODE_CIDR)
        found = {family: local_pods(family, settings, NODE, NETWORK) for family in Family}
        assert found[Family.IPV4] == LocalPods((("-s", "10.244.1.0/24"),))
        assert found[Family.IPV6] == LocalPods((("-s", "fd00:1::/64"),))
        assert not local_pods(Family.IPV4, settings, None, NETWORK).known

    @pytest.mark.parametrize("family", Family)
    def test_by_interface(self, family: Family) -> None:
        bridge = msgspec.structs.replace(
            SETTINGS,
            detect_local_mode=DetectLocalMode.BRIDGE_INTERFACE,
            pod_bridge_interface="cbr0",
        )
        prefix = msgspec.structs.replace(
            SETTINGS,
            detect_local_mode=DetectLocalMode.INTERFACE_NAME_PREFIX,
            pod_interface_name_prefix="cali",
        )
        assert local_pods(family, bridge, None, NETWORK) == LocalPods((("-i", "cbr0"),))
        assert local_pods(family, prefix, None, NETWORK) == LocalPods((("-i", "cali+"),))


class TestNodePortAddresses:
    """As TestGetNodeIPs of kube-proxy has it, and what it lacks."""

    @pytest.mark.parametrize(
        ("wanted", "ipv4", "ipv6"),
        [
            pytest.param(
                NodePortAddresses(),
                "10.244.1.1 192.0.2.10 192.0.2.11 198.51.100.10",
                "2001:db8::10 fec0::1",
                id="all",
            ),
            pytest.param(
                NodePortAddresses(primary=True),
                "192.0.2.10",
                "2001:db8::10",
                id="primary: InternalIPs that an interface has",
            ),
            pytest.param(
                NodePortAddresses(networks=networks("192.0.2.0/24", "2001:db8::/32")),
                "192.0.2.10 192.0.2.11",
                "2001:db8::10",
                id="networks",
            ),
            pytest.param(
                NodePortAddresses(networks=networks("192.0.2.0/24")),
                "192.0.2.10 192.0.2.11",
                "2001:db8::10 fec0::1",
                id="networks of one family say nothing of the other",
            ),
            pytest.param(
                NodePortAddresses(networks=networks("0.0.0.0/0", "::/0")),
                "10.244.1.1 192.0.2.10 192.0.2.11 198.51.100.10",
                "2001:db8::10 fec0::1",
                id="zero prefixes",
            ),
            pytest.param(
                NodePortAddresses(networks=networks("127.0.0.0/8", "fe80::/10")),
                "",
                "",
                id="loopback and link-local never count",
            ),
            pytest.param(
                NodePortAddresses(networks=networks("10.96.0.0/12", "fd00::/8")),
                "",
                "",
                id="nor does what no interface has, such as the dummy one's",
            ),
        ],
    )
    def test_which_they_are(self, wanted: NodePortAddresses, ipv4: str, ipv6: str) -> None:
        found = {
            family: " ".join(
                sorted(map(str, node_port_addresses(wanted, family, NETWORK, NODE)), key=str)
            )
            for family in Family
        }
        assert found == {Family.IPV4: ipv4, Family.IPV6: ipv6}

    def test_primary_ones_of_a_node_that_is_not_known_are_none(self) -> None:
        wanted = NodePortAddresses(primary=True)
        assert not node_port_addresses(wanted, Family.IPV4, NETWORK, None)

    def test_health_checks_answer_everywhere_unless_addresses_were_chosen(self) -> None:
        state = fresh_state()
        state.network = NETWORK
        assert Surroundings(SETTINGS, state, node=NODE).health_check_addresses is None
        settings = msgspec.structs.replace(
            SETTINGS, node_port_addresses=NodePortAddresses(primary=True)
        )
        chosen = Surroundings(settings, state, node=NODE).health_check_addresses or frozenset()
        assert chosen == {Address.parse("192.0.2.10"), Address.parse("2001:db8::10")}


def test_where_the_node_is_and_which_address_stands_for_it() -> None:
    state = fresh_state()
    state.network = NETWORK
    known, unknown = Surroundings(SETTINGS, state, node=NODE), Surroundings(SETTINGS, state)
    assert (known.here, unknown.here) == (Whereabouts("here", "z"), Whereabouts("here", None))
    assert list(known.primary_addresses(Family.IPV4)) == [Address.parse("192.0.2.10")]
    assert Address.parse("198.51.100.10") in unknown.primary_addresses(Family.IPV4)
    assert Address.parse("203.0.113.77") in known.own_addresses, "no interface has it just now"
