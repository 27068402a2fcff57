"""At which addresses a Service is to be reached, and what that puts into the sets."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import msgspec
import pytest

from ipvsproxy.config import NodePortAddresses, Settings
from ipvsproxy.core.frontends import Kind, Places, places
from ipvsproxy.core.members import SetMember, frontend_members, service_members
from ipvsproxy.core.operations import member_text
from ipvsproxy.core.problem import ProblemKind
from ipvsproxy.core.redirect import Redirect
from ipvsproxy.core.sets import LEDGER, frontend_member
from ipvsproxy.core.surroundings import Surroundings
from ipvsproxy.core.translate import Fragment, Frontend, Inputs, translate
from ipvsproxy.kernel.fake import fresh_state
from ipvsproxy.model import (
    Address,
    Family,
    Listener,
    Network,
    NodeNetwork,
    Protocol,
    RealServerKey,
    State,
    VirtualServer,
    VirtualServerKey,
)
from ipvsproxy.objects import (
    Endpoint,
    EndpointSlice,
    Node,
    Service,
    ServiceName,
    ServicePort,
    SlicePort,
)

TCP, UDP, SCTP = Protocol.TCP, Protocol.UDP, Protocol.SCTP
OWN, CLUSTER, EXTERNAL, OTHER = map(
    Address.parse, ("192.0.2.10", "10.96.0.10", "203.0.113.5", "203.0.113.6")
)
OWN6, CLUSTER6, EXTERNAL6 = map(Address.parse, ("2001:db8::10", "fd00:96::10", "2001:db8:f::5"))
NODE = Node("here", addresses=(OWN, OWN6))
SETTINGS = Settings(
    node_name="here", node_port_addresses=NodePortAddresses(primary=True), protected_ports=(22,)
)
NAME = ServiceName("shop", "web")
LOCAL_POD, REMOTE_POD = map(Address.parse, ("10.244.1.5", "10.244.2.5"))


def kernel(*listeners: Listener) -> State:
    state = fresh_state()
    state.network = NodeNetwork({"eth0": frozenset({OWN, OWN6})}, frozenset(), frozenset(listeners))
    return state


def service(**fields: object) -> Service:
    port = ServicePort("http", TCP, 80)
    return msgspec.structs.replace(Service(NAME, cluster_ips=(CLUSTER,), ports=(port,)), **fields)


def around(state: State | None = None, **fields: object) -> Surroundings:
    found = Surroundings(SETTINGS, state or kernel(), node=NODE)
    return Surroundings(**{**found.__dict__, **fields})


def found(what: Service, where: Surroundings | None = None, *served: VirtualServerKey) -> Places:
    return places(what, where or around(), frozenset(served))


def told(places: Places) -> dict[str, tuple[tuple[Kind, ...], bool]]:
    return {str(place.key): (place.kinds, place.bind) for place in places.places}


def a_slice(*nodes: str) -> EndpointSlice:
    pods = {"here": LOCAL_POD, "there": REMOTE_POD}
    endpoints = tuple(Endpoint(pods[node], node_name=node) for node in nodes)
    port = SlicePort("http", TCP, 8080)
    return EndpointSlice("shop", "web-1", NAME, Family.IPV4, endpoints, (port,))


def translated(what: Service, *nodes: str, where: Surroundings | None = None) -> Fragment:
    return translate(Inputs(what, [a_slice(*nodes)], whole=True), where or around(), None)


def frontend_of(fragment: Fragment, key: VirtualServerKey) -> Frontend:
    (frontend,) = [one for one in fragment.frontends if one.key == key]
    return frontend


def texts(members: Collection[SetMember]) -> set[str]:
    return {f"{name} {member_text(member)}" for name, member in members if LEDGER not in name}


class TestPlaces:
    def test_every_kind(self) -> None:
        what = service(
            external_ips=(EXTERNAL,),
            ingress_ips=(OTHER,),
            ports=(ServicePort("http", TCP, 80, 30080), ServicePort("dns", UDP, 53)),
        )
        places = found(what)
        assert told(places) == {
            "10.96.0.10:80/TCP": ((Kind.CLUSTER_IP,), True),
            "10.96.0.10:53/UDP": ((Kind.CLUSTER_IP,), True),
            "203.0.113.5:80/TCP": ((Kind.EXTERNAL_IP,), True),
            "203.0.113.5:53/UDP": ((Kind.EXTERNAL_IP,), True),
            "203.0.113.6:80/TCP": ((Kind.LOAD_BALANCER,), True),
            "203.0.113.6:53/UDP": ((Kind.LOAD_BALANCER,), True),
            "192.0.2.10:30080/TCP": ((Kind.NODE_PORT,), False),
        }
        assert places.problems == ()
        clusters = {place.cluster for place in places.places if place.key.port != 53}
        assert clusters == {VirtualServerKey(TCP, CLUSTER, 80)}

    def test_each_family_is_the_one_of_its_cluster_ip(self) -> None:
        both = service(
            cluster_ips=(CLUSTER, CLUSTER6),
            external_ips=(EXTERNAL, EXTERNAL6),
            ports=(ServicePort("http", TCP, 80, 30080),),
        )
        assert told(found(both)).keys() == {
            *("10.96.0.10:80/TCP", "203.0.113.5:80/TCP", "192.0.2.10:30080/TCP"),
            *("[fd00:96::10]:80/TCP", "[2001:db8:f::5]:80/TCP", "[2001:db8::10]:30080/TCP"),
        }
        one = msgspec.structs.replace(both, cluster_ips=(CLUSTER6,))
        assert {place.key.family for place in found(one).places} == {Family.IPV6}

    def test_of_a_family_that_the_kernel_lacks_there_is_none(self) -> None:
        state = kernel()
        state.families = frozenset({Family.IPV4})
        places = found(service(cluster_ips=(CLUSTER, CLUSTER6)), around(state))
        assert told(places).keys() == {"10.96.0.10:80/TCP"}

    @pytest.mark.parametrize(
        "what",
        [service(cluster_ips=(), external_ips=(EXTERNAL,)), service(proxy_name="cilium")],
        ids=["headless", "another proxy's"],
    )
    def test_who_has_none(self, what: Service) -> None:
        assert found(what) == Places((), ())

    def test_an_address_of_two_kinds_is_one_place_of_the_first(self) -> None:
        what = service(external_ips=(EXTERNAL, CLUSTER), ingress_ips=(EXTERNAL,))
        assert told(found(what)) == {
            "10.96.0.10:80/TCP": ((Kind.CLUSTER_IP, Kind.EXTERNAL_IP), True),
            "203.0.113.5:80/TCP": ((Kind.EXTERNAL_IP, Kind.LOAD_BALANCER), True),
        }

    def test_an_external_address_that_is_the_cluster_ip_keeps_its_policy(self) -> None:
        what = service(external_ips=(CLUSTER,), external_traffic_local=True)
        (place,) = found(what).places
        assert not place.external


class TestAddressesOfTheNode:
    """Complaint: an externalIP that is the node's own takes the node's ports away."""

    KEY = VirtualServerKey(TCP, OWN, 80)

    @pytest.mark.parametrize("field", ["external_ips", "ingress_ips"])
    def test_it_is_served_and_never_bound(self, field: str) -> None:
        places = found(service(**{field: (OWN,)}))
        assert told(places)["192.0.2.10:80/TCP"][1] is False
        assert places.problems == ()

    def test_a_cluster_ip_that_is_the_nodes_is_not_bound_either(self) -> None:
        assert told(found(service(cluster_ips=(OWN,))))["192.0.2.10:80/TCP"][1] is False

    def test_a_protected_port_is_not_served(self) -> None:
        ports = (ServicePort("ssh", TCP, 22), ServicePort("http", TCP, 80))
        places = found(service(external_ips=(OWN, EXTERNAL), ports=ports))
        assert "192.0.2.10:22/TCP" not in told(places)
        assert {"192.0.2.10:80/TCP", "203.0.113.5:22/TCP"} <= told(places).keys()
        (problem,) = places.problems
        assert problem.kind is ProblemKind.RESERVED_ADDRESS
        assert "192.0.2.10:22/TCP is a port of this node that protectedPorts" in problem.message

    @pytest.mark.parametrize(
        ("listener", "heard"),
        [
            pytest.param(Listener(TCP, OWN, 80), True, id="there"),
            pytest.param(Listener(TCP, Address(bytes(4)), 80), True, id="at every address"),
            pytest.param(Listener(TCP, Address(bytes(16)), 80), True, id="of both families"),
            pytest.param(Listener(TCP, EXTERNAL, 80), False, id="at another address"),
            pytest.param(Listener(TCP, OWN, 81), False, id="at another port"),
            pytest.param(Listener(UDP, OWN, 80), False, id="another protocol"),
        ],
    )
    def test_a_port_at_which_something_listens_is_not_served(
        self, listener: Listener, heard: bool
    ) -> None:
        places = found(service(external_ips=(OWN,)), around(kernel(listener)))
        assert ("192.0.2.10:80/TCP" not in told(places)) == heard
        assert bool(places.problems) == heard

    def test_a_listener_of_ipv4_does_not_hear_ipv6(self) -> None:
        where = around(kernel(Listener(TCP, Address(bytes(4)), 80)))
        places = found(service(cluster_ips=(CLUSTER6,), external_ips=(OWN6,)), where)
        assert "[2001:db8::10]:80/TCP" in told(places)

    def test_what_was_served_before_goes_on_whoever_listens(self) -> None:
        what, listener = service(external_ips=(OWN,)), Listener(TCP, OWN, 80)
        assert "192.0.2.10:80/TCP" in told(found(what, around(kernel(listener)), self.KEY))
        state = kernel(listener)
        state.virtual_servers[self.KEY] = VirtualServer("rr")
        assert "192.0.2.10:80/TCP" not in told(found(what, around(state))), "somebody else's"
        state.members[LEDGER] = {frontend_member(self.KEY)}
        assert "192.0.2.10:80/TCP" in told(found(what, around(state))), "ours, before a restart"

    def test_a_protected_port_is_not_served_though_it_was(self) -> None:
        ports = (ServicePort("ssh", TCP, 22),)
        key = VirtualServerKey(TCP, OWN, 22)
        assert str(key) not in told(found(service(external_ips=(OWN,), ports=ports), None, key))


class TestAddressesOfOthers:
    @pytest.mark.parametrize("field", ["external_ips", "ingress_ips"])
    def test_what_others_have_is_neither_served_nor_bound(self, field: str) -> None:
        where = around(taken={EXTERNAL: "the address of node b"})
        places = found(service(**{field: (EXTERNAL, OTHER)}), where)
        assert told(places).keys() == {"10.96.0.10:80/TCP", "203.0.113.6:80/TCP"}
        (problem,) = places.problems
        assert problem.kind is ProblemKind.RESERVED_ADDRESS
        assert "203.0.113.5:80/TCP is the address of node b" in problem.message

    def test_external_ips_wait_for_the_nodes_and_load_balancers_do_not(self) -> None:
        what = service(external_ips=(EXTERNAL,), ingress_ips=(OTHER,))
        places = found(what, around(nodes_known=False))
        assert told(places).keys() == {"10.96.0.10:80/TCP", "203.0.113.6:80/TCP"}
        (problem,) = places.problems
        assert problem.kind is ProblemKind.NODES_UNKNOWN
        assert "203.0.113.5:80/TCP" in problem.message
        served = found(what, around(nodes_known=False), VirtualServerKey(TCP, EXTERNAL, 80))
        assert "203.0.113.5:80/TCP" in told(served)
        assert served.problems == ()


EVERYTHING = service(
    external_ips=(EXTERNAL,), ingress_ips=(OTHER,), ports=(ServicePort("http", TCP, 80, 30080),)
)
AT = {
    "cluster": VirtualServerKey(TCP, CLUSTER, 80),
    "external": VirtualServerKey(TCP, EXTERNAL, 80),
    "ingress": VirtualServerKey(TCP, OTHER, 80),
    "node": VirtualServerKey(TCP, OWN, 30080),
}


class TestMembers:
    @pytest.mark.parametrize(
        ("at", "local", "members"),
        [
            ("cluster", False, {"CLUSTER-IP 10.96.0.10,tcp:80", "IPVS-IPS 10.96.0.10"}),
            ("cluster", True, {"CLUSTER-IP 10.96.0.10,tcp:80", "IPVS-IPS 10.96.0.10"}),
            ("external", False, {"EXTERNAL-IP 203.0.113.5,tcp:80", "IPVS-IPS 203.0.113.5"}),
            (
                "external",
                True,
                {
                    "EXTERNAL-IP-LOCAL 203.0.113.5,tcp:80",
                    "IPVS-IPS 203.0.113.5",
                    "SPLIT 203.0.113.5,tcp:80",
                },
            ),
            ("ingress", False, {"LOAD-BALANCER 203.0.113.6,tcp:80", "IPVS-IPS 203.0.113.6"}),
            (
                "ingress",
                True,
                {
                    "LOAD-BALANCER 203.0.113.6,tcp:80",
                    "LOAD-BALANCER-LOCAL 203.0.113.6,tcp:80",
                    "IPVS-IPS 203.0.113.6",
                    "SPLIT 203.0.113.6,tcp:80",
                },
            ),
            ("node", False, {"NODE-PORT-TCP 30080", "NODE-IP 192.0.2.10"}),
            (
                "node",
                True,
                {
                    "NODE-PORT-TCP 30080",
                    "NODE-PORT-LOCAL-TCP 30080",
                    "NODE-IP 192.0.2.10",
                    "SPLIT 192.0.2.10,tcp:30080",
                },
            ),
        ],
    )
    def test_what_each_kind_needs(self, at: str, local: bool, members: set[str]) -> None:
        what = msgspec.structs.replace(EVERYTHING, external_traffic_local=local)
        frontend = frontend_of(translated(what, "here", "there"), AT[at])
        assert texts(frontend.members) == {f"KUBE-{one}" for one in members}
        assert (LEDGER, frontend_member(AT[at])) in frontend.members
        assert (frontend.redirect is not None) == (local and at != "cluster")

    def test_a_node_port_of_sctp_has_its_address_in_the_set(self) -> None:
        what = service(ports=(ServicePort("http", SCTP, 80, 30080),), external_traffic_local=True)
        key = VirtualServerKey(SCTP, OWN, 30080)
        assert texts(frontend_of(translated(what), key).members) == {
            "KUBE-NODE-PORT-SCTP-HASH 192.0.2.10,sctp:30080",
            "KUBE-NODE-PORT-LOCAL-SCTP-HASH 192.0.2.10,sctp:30080",
            "KUBE-NODE-IP 192.0.2.10",
            "KUBE-SPLIT 192.0.2.10,sctp:30080",
        }

    def test_of_two_kinds_it_needs_what_both_need(self) -> None:
        what = service(external_ips=(EXTERNAL,), ingress_ips=(EXTERNAL,))
        frontend = frontend_of(translated(what), AT["external"])
        names = {name for name, _ in frontend.members}
        assert {"KUBE-EXTERNAL-IP", "KUBE-LOAD-BALANCER"} <= names

    @pytest.mark.parametrize(
        ("nodes", "shut_out"),
        [(("here", "there"), False), (("there",), True), ((), False)],
        ids=["one is here", "only elsewhere", "nowhere"],
    )
    def test_the_outside_is_shut_out_where_endpoints_are_elsewhere_only(
        self, nodes: tuple[str, ...], shut_out: bool
    ) -> None:
        what = msgspec.structs.replace(EVERYTHING, external_traffic_local=True)
        fragment = translated(what, *nodes)
        for at in ("external", "ingress", "node"):
            members = texts(frontend_of(fragment, AT[at]).members)
            assert any(one.startswith("KUBE-NO-LOCAL") for one in members) == shut_out
        assert not any("NO-LOCAL" in one for one in texts(fragment.frontends[0].members))
        assert fragment.without_local == ({"external"} if shut_out else set())

    def test_redirections_lead_to_the_cluster_ip_of_the_port(self) -> None:
        what = msgspec.structs.replace(EVERYTHING, external_traffic_local=True)
        fragment = translated(what, "here")
        assert {one.key: one.redirect for one in fragment.frontends} == {
            AT["cluster"]: None,
            AT["external"]: Redirect(TCP, EXTERNAL, 80, AT["cluster"]),
            AT["ingress"]: Redirect(TCP, OTHER, 80, AT["cluster"]),
            AT["node"]: Redirect(TCP, None, 30080, AT["cluster"]),
        }

    @pytest.mark.parametrize("external", [False, True])
    @pytest.mark.parametrize("internal", [False, True])
    def test_each_policy_governs_its_own_frontends(self, external: bool, internal: bool) -> None:
        what = msgspec.structs.replace(
            EVERYTHING, external_traffic_local=external, internal_traffic_local=internal
        )
        fragment = translated(what, "here", "there")
        here, there = RealServerKey(LOCAL_POD, 8080), RealServerKey(REMOTE_POD, 8080)
        for frontend in fragment.frontends:
            local = internal if frontend.key == AT["cluster"] else external
            assert frontend.real_servers.keys() == ({here} if local else {here, there})

    def test_hairpins_and_health_checks_are_the_services(self) -> None:
        what = service(health_check_node_port=32080, cluster_ips=(CLUSTER, CLUSTER6))
        port = what.ports[0]
        fragment = translated(what, "here", "there")
        assert texts(fragment.members) == {
            "KUBE-LOOP-BACK 10.244.1.5,tcp:8080,10.244.1.5",
            "KUBE-HEALTH-CHECK-NODE-PORT 32080",
            "KUBE-6-HEALTH-CHECK-NODE-PORT 32080",
        }
        assert service_members(service(), [(port, {})], around()) == frozenset()


class TestSourceRanges:
    RANGES: Mapping[str, tuple[str, ...]] = {
        "none": (),
        "one": ("198.51.100.0/24",),
        "two, one of a single host": ("198.51.100.0/24", "203.0.113.9/32"),
        "with the node": ("192.0.2.0/24",),
        "of the other family": ("2001:db8::/32",),
        "everybody": ("198.51.100.0/24", "0.0.0.0/0"),
    }

    @pytest.mark.parametrize(
        ("ranges", "closed", "cidrs", "node"),
        [
            ("none", False, (), False),
            ("one", True, ("198.51.100.0/24",), False),
            ("two, one of a single host", True, ("198.51.100.0/24", "203.0.113.9/32"), False),
            ("with the node", True, ("192.0.2.0/24",), True),
            ("of the other family", False, (), False),
            ("everybody", False, (), False),
        ],
    )
    def test_what_they_put_into_the_sets(
        self, ranges: str, closed: bool, cidrs: tuple[str, ...], node: bool
    ) -> None:
        networks = tuple(map(Network.parse, self.RANGES[ranges]))
        what = msgspec.structs.replace(EVERYTHING, source_ranges=networks)
        for place in found(what).places:
            members = texts(frontend_members(place, what, around(), shut_out=False))
            key = "203.0.113.6,tcp:80"
            expected = {f"KUBE-LOAD-BALANCER-FW {key}"} if closed else set()
            expected |= {f"KUBE-LOAD-BALANCER-SOURCE-CIDR {key},{one}" for one in cidrs}
            expected |= {f"KUBE-LOAD-BALANCER-SOURCE-IP {key},203.0.113.6"} if node else set()
            closing = {one for one in members if "-FW" in one or "SOURCE" in one}
            assert closing == (expected if place.kinds == (Kind.LOAD_BALANCER,) else set())

    def test_a_family_whose_ranges_are_all_nonsense_is_closed_to_everybody(self) -> None:
        what = msgspec.structs.replace(EVERYTHING, closed_families=(Family.IPV4,))
        members = frontend_of(translated(what), AT["ingress"]).members
        assert {one for one in texts(members) if "-FW" in one or "SOURCE" in one} == {
            "KUBE-LOAD-BALANCER-FW 203.0.113.6,tcp:80"
        }

    def test_without_a_node_any_of_its_addresses_lets_it_in(self) -> None:
        what = msgspec.structs.replace(EVERYTHING, source_ranges=(Network.parse("192.0.2.0/24"),))
        members = frontend_of(translated(what, where=around(node=None)), AT["ingress"]).members
        assert any("SOURCE-IP" in name for name, _ in members)
