"""What is another proxy's to be removed, what is not, and when it is too early."""

from __future__ import annotations

from contextlib import closing

import pytest

from ipvsproxy.config import Settings
from ipvsproxy.core.foreign import (
    NftTable,
    Removal,
    RemoveInterface,
    RemoveNftTable,
    RemoveRules,
    RemoveSet,
    RuleTable,
    Traces,
    describe,
    obstacle,
    removals,
)
from ipvsproxy.core.foundation import foundation
from ipvsproxy.core.predecessors import Predecessor, are_others, serves_without_ipvs
from ipvsproxy.core.sets import frontend_member
from ipvsproxy.dataplane import DataplaneError
from ipvsproxy.kernel.fake import fresh_state
from ipvsproxy.kernel.foreign import Foreign
from ipvsproxy.kernel.iptables_text import parse_save, parse_tables, removal_text
from ipvsproxy.model import Address, Family, Protocol, State, VirtualServer, VirtualServerKey
from tests.unit.test_iptables_text import Scripted, failed

KEY = VirtualServerKey(Protocol.TCP, Address.parse("10.96.0.1"), 443)

IPTABLES_MODE = """\
*nat
:PREROUTING ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:DOCKER - [0:0]
:KUBE-KUBELET-CANARY - [0:0]
:KUBE-MARK-MASQ - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-POSTROUTING - [0:0]
:KUBE-PROXY-CANARY - [0:0]
:KUBE-SEP-AAAA - [0:0]
:KUBE-SERVICES - [0:0]
:KUBE-SVC-BBBB - [0:0]
-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A OUTPUT -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A POSTROUTING -m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING
-A DOCKER -i docker0 -j RETURN
-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000
-A KUBE-SEP-AAAA -p tcp -m tcp -j DNAT --to-destination 10.244.1.5:6443
-A KUBE-SERVICES -d 10.96.0.1/32 -p tcp -m tcp --dport 443 -j KUBE-SVC-BBBB
-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS
-A KUBE-SVC-BBBB ! -s 10.244.0.0/16 -d 10.96.0.1/32 -p tcp -m tcp --dport 443 -j KUBE-MARK-MASQ
-A KUBE-SVC-BBBB -j KUBE-SEP-AAAA
COMMIT
*filter
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:KUBE-EXTERNAL-SERVICES - [0:0]
:KUBE-FIREWALL - [0:0]
:KUBE-FORWARD - [0:0]
:KUBE-SERVICES - [0:0]
-A INPUT -m conntrack --ctstate NEW -j KUBE-EXTERNAL-SERVICES
-A INPUT -j KUBE-FIREWALL
-A FORWARD -m comment --comment "kubernetes forwarding rules" -j KUBE-FORWARD
-A OUTPUT -m conntrack --ctstate NEW -j KUBE-SERVICES
-A KUBE-FIREWALL -m mark --mark 0x8000/0x8000 -j DROP
-A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT
-A KUBE-SERVICES -d 10.96.0.9/32 -p tcp -m tcp --dport 80 -j REJECT
COMMIT
"""
KUBE_ROUTER = """\
*filter
:INPUT ACCEPT [0:0]
:KUBE-ROUTER-INPUT - [0:0]
:KUBE-ROUTER-SERVICES - [0:0]
-A INPUT -m comment --comment "kube-router netpol" -j KUBE-ROUTER-INPUT
-A INPUT -m set --match-set kube-router-svip dst -j KUBE-ROUTER-SERVICES
-A KUBE-ROUTER-SERVICES -m set --match-set kube-router-svip-prt dst,dst -j ACCEPT
COMMIT
*nat
:POSTROUTING ACCEPT [0:0]
-A POSTROUTING ! -s 10.244.0.0/24 -m ipvs --vdir ORIGINAL --vmethod MASQ -j SNAT --to-source 192.168.50.11
-A POSTROUTING -s 10.244.0.0/24 -j MASQUERADE
COMMIT
"""  # noqa: E501 - as iptables-save prints it


def tables(text: str, *, in_use: bool = True, backend: str = "nft") -> Traces:
    saved = parse_tables(text)
    return Traces(tuple(RuleTable(backend, in_use, Family.IPV4, *one) for one in saved))


def rules_of(found: tuple[Removal, ...]) -> dict[str, RemoveRules]:
    return {one.table: one for one in found if isinstance(one, RemoveRules)}


def taken_over() -> State:
    """A node on which the agent has made all it needs, and serves."""
    state = fresh_state()
    state.rulesets = dict(foundation(Settings(node_name="n"), state).rulesets)
    state.virtual_servers[KEY] = VirtualServer("rr")
    state.members["IPVSPROXY-OWN"] = {frontend_member(KEY)}
    return state


def test_of_iptables_mode_goes_what_is_that_modes_alone() -> None:
    found = rules_of(removals(Predecessor.KUBE_PROXY_IPTABLES, tables(IPTABLES_MODE)))
    assert found["nat"].chains == (
        *("KUBE-NODEPORTS", "KUBE-PROXY-CANARY", "KUBE-SEP-AAAA", "KUBE-SVC-BBBB"),
    )
    assert found["filter"].chains == ("KUBE-EXTERNAL-SERVICES", "KUBE-SERVICES")
    assert [chain for chain, _ in found["filter"].rules] == ["INPUT", "OUTPUT"]


def test_in_the_backend_that_is_not_ours_nobody_else_takes_its_chains_over() -> None:
    traces = tables(IPTABLES_MODE, in_use=False, backend="legacy")
    found = rules_of(removals(Predecessor.KUBE_PROXY_IPTABLES, traces))
    assert {"KUBE-SERVICES", "KUBE-POSTROUTING", "KUBE-MARK-MASQ"} <= set(found["nat"].chains)
    assert [chain for chain, _ in found["nat"].rules] == ["PREROUTING", "OUTPUT", "POSTROUTING"]
    assert not {"DOCKER", "KUBE-KUBELET-CANARY"} & set(found["nat"].chains)
    assert "KUBE-FIREWALL" not in found["filter"].chains


def test_kube_routers_network_policies_stay() -> None:
    there = frozenset({"kube-router-svip", "inet6:kube-router-svip-prt", "KUBE-SRC-XYZ"})
    links = frozenset({"eth0", "kube-dummy-if", "kube-bridge"})
    traces = Traces(tables(KUBE_ROUTER).tables, there, links)
    found = removals(Predecessor.KUBE_ROUTER, traces)
    rules = rules_of(found)
    assert rules["filter"].chains == ("KUBE-ROUTER-SERVICES",)
    assert [rule[-1] for _, rule in rules["filter"].rules] == ["KUBE-ROUTER-SERVICES"]
    assert [rule[-1] for _, rule in rules["nat"].rules] == ["192.168.50.11"]
    assert found[-3:] == (
        RemoveInterface("kube-dummy-if"),
        RemoveSet("inet6:kube-router-svip-prt"),
        RemoveSet("kube-router-svip"),
    )


def test_of_nftables_mode_go_its_two_tables() -> None:
    there = [NftTable(family, "kube-proxy") for family in Family]
    others = NftTable(Family.IPV4, "filter")
    found = removals(
        Predecessor.KUBE_PROXY_NFTABLES, Traces(nft_tables=frozenset((*there, others)))
    )
    assert found == tuple(map(RemoveNftTable, there))
    assert describe(found[1]) == "delete nftables table ip6 kube-proxy"


@pytest.mark.parametrize("predecessor", Predecessor)
def test_on_a_clean_node_there_is_nothing(predecessor: Predecessor) -> None:
    assert removals(predecessor, tables("*nat\n:OUTPUT ACCEPT [0:0]\nCOMMIT\n")) == ()


@pytest.mark.parametrize("predecessor", Predecessor)
def test_nothing_goes_before_ours_stands(predecessor: Predecessor) -> None:
    assert obstacle(predecessor, taken_over()) == ""
    without_chains = taken_over()
    without_chains.rulesets = fresh_state().rulesets
    assert "do not stand" in obstacle(predecessor, without_chains)
    without_ledger = taken_over()
    without_ledger.members.clear()
    assert "serves nothing here" in obstacle(predecessor, without_ledger)


def test_iptables_mode_is_known_by_where_its_rules_lead() -> None:
    found = parse_save(IPTABLES_MODE)
    assert serves_without_ipvs(found)
    assert are_others(found)
    state = taken_over()
    state.rulesets[Family.IPV6] = found
    assert "still serve" in obstacle(Predecessor.KUBE_PROXY_IPTABLES, state)
    assert not any(map(serves_without_ipvs, taken_over().rulesets.values()))


def test_a_virtual_server_of_kube_routers_that_is_not_ours_is_in_the_way() -> None:
    state = taken_over()
    state.members["kube-router-svip-prt"] = {frontend_member(KEY)}
    assert obstacle(Predecessor.KUBE_ROUTER, state) == ""
    other = KEY._replace(port=80)
    state.virtual_servers[other] = VirtualServer("rr")
    state.members["kube-router-svip-prt"].add(frontend_member(other))
    assert obstacle(Predecessor.KUBE_ROUTER, state).startswith("1 of its virtual servers")


def test_a_table_changes_as_a_whole_with_the_chains_emptied_first() -> None:
    removal = rules_of(removals(Predecessor.KUBE_ROUTER, tables(KUBE_ROUTER)))["filter"]
    assert removal_text(removal.table, removal.rules, removal.chains).splitlines() == [
        "*filter",
        ":KUBE-ROUTER-SERVICES - [0:0]",
        "-D INPUT -m set --match-set kube-router-svip dst -j KUBE-ROUTER-SERVICES",
        "-X KUBE-ROUTER-SERVICES",
        "COMMIT",
    ]
    assert describe(removal) == (
        "remove from IPv4 iptables-nft filter: 1 rules and the chains KUBE-ROUTER-SERVICES"
    )


def test_sets_that_cannot_be_listed_are_an_error() -> None:
    processes = Scripted({"ipset": failed("Kernel error received: Operation not permitted")})
    with (
        closing(Foreign(processes, "nft")) as foreign,
        pytest.raises(DataplaneError, match="Operation not permitted"),
    ):
        foreign.read()
