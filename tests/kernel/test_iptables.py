"""Our chains in a real kernel, with each backend that works there; and what we leave alone."""

from __future__ import annotations

import dataclasses
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import closing

import pytest

from ipvsproxy.core.firewall import OUT_FILTER, ruleset
from ipvsproxy.core.operations import AddMember, CreateSet, GrowSet, ReplaceChains
from ipvsproxy.core.sets import set_specs
from ipvsproxy.dataplane import DONE, Refusal
from ipvsproxy.kernel.ipset import Ipsets
from ipvsproxy.kernel.iptables import Backend, Iptables
from ipvsproxy.kernel.iptables_text import BUILT_IN_CHAINS
from ipvsproxy.kernel.netlink import NETFILTER, NetlinkSocket
from ipvsproxy.kernel.process import Completed, Processes
from ipvsproxy.kernel.tables import Tables
from ipvsproxy.model import (
    Address,
    Chain,
    Family,
    IpPortMember,
    Jump,
    Protocol,
    Rule,
    Ruleset,
    SetSpec,
    SetType,
)
from tests.kernel.netfilter import netfilter, unusable
from tests.unit.builders import pods_in

FOREIGN = """*nat
:CNI-HOSTPORT-SETMARK - [0:0]
:KUBE-MARK-MASQ - [0:0]
-A CNI-HOSTPORT-SETMARK -m comment --comment "it's \\"quoted\\"" -j KUBE-MARK-MASQ
-A PREROUTING -p tcp -m tcp --dport 81 -j ACCEPT
COMMIT
*filter
:KUBE-FIREWALL - [0:0]
-A KUBE-FIREWALL -m mark --mark 0x8000/0x8000 -j DROP
-A INPUT -j KUBE-FIREWALL
-A OUTPUT -j KUBE-FIREWALL
COMMIT
"""
PREDECESSOR = """*filter
:KUBE-NODE-PORT - [0:0]
:KUBE-IPVS-FILTER - [0:0]
-A KUBE-IPVS-FILTER -j KUBE-NODE-PORT
-A INPUT -m comment --comment "kubernetes health check rules" -j KUBE-NODE-PORT
-A INPUT -m comment --comment "kubernetes ipvs access filter" -j KUBE-IPVS-FILTER
-A INPUT -m comment --comment "kubernetes ipvs access filter" -j KUBE-IPVS-FILTER
COMMIT
"""
HELD = """*filter
:KUBE-PROXY-FIREWALL - [0:0]
:KUBE-SOURCE-RANGES-FIREWALL - [0:0]
:FOREIGN - [0:0]
-A KUBE-PROXY-FIREWALL -j KUBE-SOURCE-RANGES-FIREWALL
-A KUBE-SOURCE-RANGES-FIREWALL -j DROP
-A FOREIGN -j KUBE-NODE-PORT
-A FOREIGN -j KUBE-PROXY-FIREWALL
COMMIT
"""
HELD_CHAINS = [("filter", "KUBE-NODE-PORT"), ("filter", "KUBE-PROXY-FIREWALL")]
NOTHING = Ruleset()
FORM_SETS = {
    "KUBE-A": SetType.HASH_IP_PORT,
    "KUBE-B": SetType.HASH_IP_PORT_NET,
    "KUBE-C": SetType.HASH_IP_PORT_IP,
    "KUBE-L": SetType.HASH_IP,
    "KUBE-P": SetType.BITMAP_PORT,
}
NAT_FORMS = """\
-d {frontend} -p tcp -m tcp --dport 80 -j DNAT --to-destination {cluster_ip}
-d {frontend} -p udp -m udp --dport 80 -j DNAT --to-destination {cluster_ip}
-d {frontend} -p sctp -m sctp --dport 80 -j DNAT --to-destination {cluster_ip}
-p tcp -m tcp --dport 30080 -j DNAT --to-destination {cluster_ip}
-p udp -m udp --dport 30080 -j DNAT --to-destination {cluster_ip}
-p sctp -m sctp --dport 30080 -j DNAT --to-destination {cluster_ip}
-m set --match-set KUBE-A dst,dst -m set ! --match-set KUBE-B dst,dst,src \
-m set ! --match-set KUBE-C dst,dst,src -j RETURN
-m addrtype --src-type LOCAL -m set --match-set KUBE-A dst,dst -j KUBE-MARK-MASQ
-m addrtype ! --src-type LOCAL -m set --match-set KUBE-A dst,dst -j KUBE-MARK-MASQ
-p tcp -m set --match-set KUBE-P dst -j ACCEPT
-p udp -m set --match-set KUBE-P dst -j ACCEPT
-p sctp -m set --match-set KUBE-P dst -j ACCEPT
-i cali+ -j RETURN
! -i cali+ -m set --match-set KUBE-A dst,dst -j KUBE-MARK-MASQ
! -i cbr0 -j KUBE-MARK-MASQ
-i eth0 -j KUBE-MARK-MASQ
! -s {pods} -m set --match-set KUBE-A dst,dst -j KUBE-MARK-MASQ
-s {pods} -m set --match-set KUBE-A dst,dst -m set --match-set KUBE-L dst -j ACCEPT
-s {pods} -i cali+ -p tcp -m set --match-set KUBE-A dst,dst -j ACCEPT
"""
FILTER_FORMS = """\
-m set --match-set KUBE-A dst,dst -m set ! --match-set KUBE-B dst,dst,src \
-m set ! --match-set KUBE-C dst,dst,src -j DROP
-m conntrack --ctstate NEW -m set --match-set KUBE-A dst,dst -j DROP
-m conntrack --ctstate NEW -m set --match-set KUBE-A dst,dst -j REJECT --reject-with {unreachable}
-p tcp -m set --match-set KUBE-P dst -j ACCEPT
-p tcp -j REJECT --reject-with tcp-reset
"""
FORM_WORDS = {
    Family.IPV4: {
        "frontend": "203.0.113.10/32",
        "cluster_ip": "10.96.0.10:80",
        "pods": "10.244.0.0/16",
        "unreachable": "icmp-port-unreachable",
    },
    Family.IPV6: {
        "frontend": "2001:db8::10/128",
        "cluster_ip": "[fd00::1]:80",
        "pods": "fd00:10:244::/56",
        "unreachable": "icmp6-port-unreachable",
    },
}


def forms(text: str, family: Family) -> tuple[Rule, ...]:
    return tuple(tuple(row.split()) for row in text.format(**FORM_WORDS[family]).splitlines())


def wanted(family: Family, *local: str, masquerade_all: bool = False) -> Ruleset:
    return ruleset(family, pods=pods_in(family, *local), masquerade_all=masquerade_all)


WANTED = [
    wanted(Family.IPV4),
    wanted(Family.IPV4, "10.244.0.0/16"),
    wanted(Family.IPV4, "10.244.0.0/16", "10.245.7.1/32"),
    wanted(Family.IPV4, "0.0.0.0/0"),
    wanted(Family.IPV4, masquerade_all=True),
    wanted(Family.IPV6),
    wanted(Family.IPV6, "fd00:10:244::/56"),
    wanted(Family.IPV6, "fd00:10:244::/56", "fd00:0:0:1::/64"),
    wanted(Family.IPV6, masquerade_all=True),
]


def family_of(ruleset_: Ruleset) -> Family:
    return Family.IPV6 if "::1/128" in str(ruleset_) else Family.IPV4


@pytest.fixture
def processes() -> Iterator[Processes]:
    with netfilter() as processes:
        specs = set_specs(Family, 65536)
        creations = [CreateSet(name, spec) for name, spec in specs.items()]
        assert set(Ipsets(processes).apply(creations)) == {DONE}
        yield processes


@pytest.fixture
def tables(processes: Processes) -> Iterator[Tables]:
    assert processes is not None, "it makes the namespace in which the socket is opened"
    with closing(NetlinkSocket(NETFILTER)) as netfilter_socket:
        yield Tables(netfilter_socket)


@pytest.fixture(params=["nft", "legacy"])
def iptables(request: pytest.FixtureRequest, processes: Processes, tables: Tables) -> Iptables:
    """Both backends, each where this kernel has it; user-mode Linux lacks nft for IPv4."""
    backend = str(request.param)
    reason = unusable(processes, backend)
    if reason:
        pytest.skip(f"this kernel has no iptables-{backend}: {reason}")
    return Iptables(processes, backend, tables)


def save(processes: Processes, iptables: Iptables, family: Family = Family.IPV4) -> list[str]:
    """All rules and further chains, by the program itself; which tables are empty is no matter."""
    name = "iptables" if family is Family.IPV4 else "ip6tables"
    text = processes.run((f"{name}-{iptables.backend}-save",)).stdout
    return [
        line
        for line in text.splitlines()
        if line.startswith(("-A", ":")) and line[1:].split(" ")[0] not in BUILT_IN_CHAINS
    ]


def restore(processes: Processes, iptables: Iptables, text: str) -> None:
    done = processes.run((f"iptables-{iptables.backend}-restore", "--noflush"), text)
    assert done.returncode == 0, done.complaint


def without(ruleset: Ruleset, chains: set[str]) -> Ruleset:
    """Leave out chains of the table filter, and the jumps into them."""
    gone = {("filter", name) for name in chains}
    return Ruleset(
        tuple(chain for chain in ruleset.chains if chain[:2] not in gone),
        tuple(jump for jump in ruleset.jumps if (jump.table, jump.rule[-1]) not in gone),
    )


def found(iptables: Iptables, family: Family) -> Ruleset:
    dumped = iptables.dump(family)
    assert dumped is not None, iptables.unusable
    return dumped


@pytest.mark.parametrize("meant", WANTED)
def test_what_was_written_is_read_back_equal(iptables: Iptables, meant: Ruleset) -> None:
    family = family_of(meant)
    assert found(iptables, family) == NOTHING
    assert iptables.apply(ReplaceChains(family, meant, NOTHING)) == DONE
    assert found(iptables, family) == meant


@pytest.mark.parametrize("family", Family)
def test_every_form_of_rule_is_printed_as_it_was_written(
    iptables: Iptables, processes: Processes, family: Family
) -> None:
    """Else a restart, which compares what is printed with what is wanted, would write."""
    creations = [CreateSet(name, SetSpec(kind, family)) for name, kind in FORM_SETS.items()]
    assert set(Ipsets(processes).apply(creations)) == {DONE}
    meant = Ruleset(
        (
            Chain("filter", "KUBE-PROXY-FIREWALL", forms(FILTER_FORMS, family)),
            Chain("nat", "KUBE-MARK-MASQ", (("-j", "MARK", "--set-xmark", "0x4000/0x4000"),)),
            Chain("nat", "KUBE-SERVICES", forms(NAT_FORMS, family)),
        )
    )
    assert iptables.apply(ReplaceChains(family, meant, NOTHING)) == DONE
    assert found(iptables, family) == meant
    printed = [row for row in save(processes, iptables, family) if row.startswith("-A KUBE-")]
    assert sorted(printed) == sorted(
        f"-A {chain.name} {' '.join(rule)}" for chain in meant.chains for rule in chain.rules
    )


@pytest.mark.parametrize("family", Family)
def test_chains_of_the_mangle_table_are_read_and_written_like_all_others(
    iptables: Iptables, family: Family
) -> None:
    comment = ("-m", "comment", "--comment", "kubernetes ipvs access filter")
    meant = Ruleset(
        (
            Chain("mangle", OUT_FILTER, (("-j", "MARK", "--set-xmark", "0x4000/0x4000"),)),
            Chain("nat", "KUBE-SERVICES", (("-j", "RETURN"),)),
        ),
        (
            Jump("mangle", "OUTPUT", (*comment, "-j", OUT_FILTER)),
            Jump("nat", "OUTPUT", (*comment, "-j", "KUBE-SERVICES")),
        ),
    )
    assert found(iptables, family) == NOTHING, "the table may not be there at all"
    assert iptables.apply(ReplaceChains(family, meant, NOTHING)) == DONE
    assert found(iptables, family) == meant
    assert iptables.apply(ReplaceChains(family, NOTHING, meant)) == DONE
    assert found(iptables, family) == NOTHING
    assert iptables.leftovers == {family: []}


def test_a_change_replaces_rules_and_keeps_the_jumps(
    iptables: Iptables, processes: Processes
) -> None:
    first, second = WANTED[0], WANTED[1]
    assert iptables.apply(ReplaceChains(Family.IPV4, first, NOTHING)) == DONE
    launched = processes.launched
    assert iptables.apply(ReplaceChains(Family.IPV4, second, first)) == DONE
    assert processes.launched == launched + 1
    assert found(iptables, Family.IPV4) == second


def test_rules_and_chains_of_others_survive(iptables: Iptables, processes: Processes) -> None:
    restore(processes, iptables, FOREIGN)
    before = save(processes, iptables)
    there = found(iptables, Family.IPV4)
    assert iptables.apply(ReplaceChains(Family.IPV4, WANTED[1], there)) == DONE
    during = save(processes, iptables)
    assert [line for line in before if line.startswith(("-A", ":CNI", ":KUBE-F"))] == [
        line for line in during if line in before and line.startswith(("-A", ":CNI", ":KUBE-F"))
    ]
    there = found(iptables, Family.IPV4)
    assert there == WANTED[1]

    # The CNI plugin's chain still leads into KUBE-MARK-MASQ, so that one stays, and is empty.
    assert iptables.apply(ReplaceChains(Family.IPV4, NOTHING, there)) == DONE
    assert found(iptables, Family.IPV4) == NOTHING
    assert iptables.leftovers == {Family.IPV4: [("nat", "KUBE-MARK-MASQ")]}
    assert [line for line in save(processes, iptables) if "KUBE-MARK-MASQ" in line] == [
        line for line in before if "KUBE-MARK-MASQ" in line
    ]
    restore(processes, iptables, "*nat\n-F CNI-HOSTPORT-SETMARK\nCOMMIT\n")
    assert iptables.apply(ReplaceChains(Family.IPV4, NOTHING, NOTHING)) == DONE
    assert iptables.leftovers == {Family.IPV4: []}
    after = save(processes, iptables)
    gone = (":KUBE-MARK-MASQ", "-A CNI-HOSTPORT-SETMARK")
    assert after == [line for line in before if not line.startswith(gone)]


def test_a_chain_that_somebody_else_still_leads_into_holds_up_nothing(
    iptables: Iptables, processes: Processes
) -> None:
    few = without(WANTED[0], {name for _, name in HELD_CHAINS} | {"KUBE-SOURCE-RANGES-FIREWALL"})
    restore(processes, iptables, PREDECESSOR + HELD)
    there = found(iptables, Family.IPV4)
    assert iptables.apply(ReplaceChains(Family.IPV4, few, there)) == DONE
    assert iptables.leftovers == {Family.IPV4: HELD_CHAINS}

    again = Iptables(processes, str(iptables.backend))
    assert again.dump(Family.IPV4) == few, "so that a restart writes nothing"
    assert again.leftovers == {Family.IPV4: HELD_CHAINS}
    text = save(processes, iptables)
    assert ":KUBE-SOURCE-RANGES-FIREWALL - [0:0]" not in text, "the others are gone"
    assert "-A FOREIGN -j KUBE-NODE-PORT" in text

    # One of them is wanted again, and the other is let go.
    more = few._replace(
        chains=(Chain("filter", "KUBE-NODE-PORT", (("-j", "RETURN"),)), *few.chains)
    )
    restore(processes, iptables, "*filter\n-D FOREIGN -j KUBE-PROXY-FIREWALL\nCOMMIT\n")
    assert again.apply(ReplaceChains(Family.IPV4, more, few)) == DONE
    dumped = found(again, Family.IPV4)
    assert (sorted(dumped.chains), dumped.jumps) == (sorted(more.chains), more.jumps)
    assert again.leftovers == {Family.IPV4: []}


def test_a_predecessors_chains_and_double_jumps_are_taken_away(
    iptables: Iptables, processes: Processes
) -> None:
    restore(processes, iptables, PREDECESSOR)
    there = found(iptables, Family.IPV4)
    assert {chain.name for chain in there.chains} == {"KUBE-IPVS-FILTER"}
    assert iptables.leftovers == {Family.IPV4: [("filter", "KUBE-NODE-PORT")]}
    assert len(there.jumps) == 3
    assert iptables.apply(ReplaceChains(Family.IPV4, WANTED[0], there)) == DONE
    assert found(iptables, Family.IPV4) == WANTED[0]
    assert iptables.leftovers == {Family.IPV4: []}


def test_a_jump_of_others_goes_whatever_its_comment(
    iptables: Iptables, processes: Processes
) -> None:
    program = f"iptables-{iptables.backend}"
    assert iptables.apply(ReplaceChains(Family.IPV4, WANTED[0], NOTHING)) == DONE
    target = next(chain.name for chain in WANTED[0].chains if chain.table == "filter")
    comments = (
        "it's",
        'a "b" c',
        "back\\slash",
        "",
        "-j",
        "sepa\u2028rated",
        "100%; #1",
        "\udcff",
        "a\rb",
    )
    for comment in comments:
        words = ("-I", "INPUT", "-m", "comment", "--comment", comment, "-j", target)
        done = processes.run((program, *words))
        assert done.returncode == 0, done.complaint
    there = found(iptables, Family.IPV4)
    assert len(there.jumps) == len(WANTED[0].jumps) + len(comments)
    assert iptables.apply(ReplaceChains(Family.IPV4, WANTED[0], there)) == DONE
    assert found(iptables, Family.IPV4) == WANTED[0]


def test_removal_leaves_the_tables_as_they_were(iptables: Iptables, processes: Processes) -> None:
    restore(
        processes,
        iptables,
        FOREIGN.replace(":KUBE-MARK-MASQ - [0:0]\n", "").replace("KUBE-MARK-MASQ", "RETURN"),
    )
    before = save(processes, iptables)
    assert iptables.apply(ReplaceChains(Family.IPV4, WANTED[2], NOTHING)) == DONE
    assert iptables.apply(ReplaceChains(Family.IPV4, NOTHING, WANTED[2])) == DONE
    assert save(processes, iptables) == before


def test_a_missing_set_changes_nothing_and_is_named(
    iptables: Iptables, processes: Processes
) -> None:
    assert processes.run(("ipset", "destroy", "KUBE-IPVS-IPS")).returncode == 0
    outcome = iptables.apply(ReplaceChains(Family.IPV4, WANTED[0], NOTHING))
    assert outcome.refusal is Refusal.CONTRADICTED
    assert "KUBE-IPVS-IPS" in outcome.reason


def test_a_rule_goes_on_asking_a_set_that_has_grown(
    iptables: Iptables, processes: Processes
) -> None:
    def is_dropped(port: int) -> bool:
        try:
            client.sendto(b"datagram", ("127.0.0.1", port))
        except PermissionError:  # what a sender hears of DROP in OUTPUT
            return True
        return False

    def member(port: int) -> AddMember:
        return AddMember("KUBE-A", IpPortMember(loopback, Protocol.UDP, port))

    loopback = Address.parse("127.0.0.1")
    ipsets = Ipsets(processes)
    small = SetSpec(SetType.HASH_IP_PORT, Family.IPV4, 1)
    assert ipsets.apply([CreateSet("KUBE-A", small), member(53)]) == [DONE] * 2
    rule = "-A OUTPUT -m set --match-set KUBE-A dst,dst -j DROP"
    restore(processes, iptables, f"*filter\n{rule}\nCOMMIT\n")
    assert processes.run(("ip", "link", "set", "lo", "up")).returncode == 0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        assert (is_dropped(53), is_dropped(54)) == (True, False)
        grow = GrowSet("KUBE-A", dataclasses.replace(small, maxelem=2))
        assert ipsets.apply([grow]) == [DONE]
        assert (is_dropped(53), is_dropped(54)) == (True, False)
        assert ipsets.apply([member(54)]) == [DONE]
        assert (is_dropped(53), is_dropped(54), is_dropped(55)) == (True, True, False)
    assert rule in save(processes, iptables)


def test_a_jump_that_is_gone_contradicts_the_picture(iptables: Iptables) -> None:
    assert iptables.apply(ReplaceChains(Family.IPV4, NOTHING, WANTED[0])).refusal is (
        Refusal.CONTRADICTED
    )


def test_the_hint_of_the_node_decides_the_backend(iptables: Iptables, processes: Processes) -> None:
    """kubelet's chain in one backend, however much stands in the other."""
    hint = "*mangle\n:KUBE-IPTABLES-HINT - [0:0]\nCOMMIT\n"
    restore(processes, iptables, hint)
    assert Iptables(processes, "auto").backend is iptables.backend


def test_without_a_hint_the_backend_of_our_chains_is_used_again(
    iptables: Iptables, processes: Processes
) -> None:
    assert iptables.apply(ReplaceChains(Family.IPV4, WANTED[0], NOTHING)) == DONE
    again = Iptables(processes, "auto")
    assert again.backend is iptables.backend
    assert again.dump(Family.IPV4) == WANTED[0]


def test_a_listing_without_a_table_launches_nothing_and_one_with_a_table_is_read(
    iptables: Iptables, processes: Processes
) -> None:
    asked = Iptables(processes, str(iptables.backend))
    assert asked.dump(Family.IPV6) == NOTHING
    before = processes.launched
    assert iptables.dump(Family.IPV6) == NOTHING
    assert processes.launched == before
    wanted_ = WANTED[-1]
    assert family_of(wanted_) is Family.IPV6
    assert iptables.apply(ReplaceChains(Family.IPV6, wanted_, NOTHING)) == DONE
    assert iptables.dump(Family.IPV6) == asked.dump(Family.IPV6) == wanted_


def test_auto_finds_a_backend_that_this_kernel_has(processes: Processes, tables: Tables) -> None:
    automatic = Iptables(processes, "auto", tables)
    there = found(automatic, Family.IPV4)
    assert automatic.apply(ReplaceChains(Family.IPV4, WANTED[0], there)) == DONE
    assert automatic.backend in (Backend.NFT, Backend.LEGACY)
    assert automatic.dump(Family.IPV4) == WANTED[0]


def test_without_the_right_it_is_forbidden(iptables: Iptables) -> None:
    class Dropping(Processes):
        """Runs programs without CAP_NET_ADMIN."""

        def run(self, argv: Sequence[str], stdin: str = "") -> Completed:
            return super().run(("setpriv", "--bounding-set=-all", "--inh-caps=-all", *argv), stdin)

    weak = Iptables(Dropping(), iptables.backend)
    assert weak.dump(Family.IPV4) is None
    assert "ermission denied" in weak.unusable[Family.IPV4]
    outcome = weak.apply(ReplaceChains(Family.IPV4, WANTED[0], NOTHING))
    # The legacy program says only that it cannot initialize the table.
    assert outcome.refusal in (Refusal.FORBIDDEN, Refusal.UNSUPPORTED)


def test_the_programs_version_is_one_that_has_random_fully() -> None:
    said = subprocess.run(
        ["iptables", "--version"], capture_output=True, text=True, check=True
    ).stdout
    version = tuple(int(part) for part in said.split()[1].lstrip("v").split("."))
    assert version >= (1, 6, 2)
