"""What other proxies left, removed from a real kernel, and everybody else's rules untouched."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing

import pytest

from ipvsproxy.core.foreign import NftTable, RemoveInterface, RemoveNftTable, RemoveRules, removals
from ipvsproxy.core.predecessors import Predecessor
from ipvsproxy.kernel import message, nftables
from ipvsproxy.kernel.foreign import Foreign
from ipvsproxy.kernel.iptables_text import SavedTable, parse_tables
from ipvsproxy.kernel.netlink import NETFILTER, NetlinkSocket
from ipvsproxy.kernel.process import Processes
from ipvsproxy.model import Family
from tests.kernel.netfilter import netfilter, unusable
from tests.unit.test_foreign import IPTABLES_MODE

BACKENDS = ("nft", "legacy")


@pytest.fixture
def processes() -> Iterator[Processes]:
    with netfilter() as found:
        yield found


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest, processes: Processes) -> str:
    name = str(request.param)
    if reason := unusable(processes, name):
        pytest.skip(f"iptables-{name} does not work in this kernel: {reason}")
    return name


def load(processes: Processes, backend: str, text: str) -> None:
    done = processes.run((f"iptables-{backend}-restore", "--noflush"), text)
    assert done.returncode == 0, done.complaint


def saved(processes: Processes, backend: str) -> dict[str, SavedTable]:
    done = processes.run((f"iptables-{backend}-save",))
    return {table.name: table for table in parse_tables(done.stdout)}


def clean_up(processes: Processes, backend: str, predecessor: Predecessor) -> int:
    """Remove what a predecessor left; give how many pieces that were."""
    with closing(Foreign(processes, backend)) as foreign:
        pieces = removals(predecessor, foreign.read())
        for piece in pieces:
            outcome = foreign.remove(piece)
            assert outcome.refusal is None, outcome.reason
        assert removals(predecessor, foreign.read()) == ()
    return len(pieces)


TAKEN_OVER = IPTABLES_MODE.replace(
    "-A KUBE-SERVICES -d 10.96.0.1/32 -p tcp -m tcp --dport 443 -j KUBE-SVC-BBBB\n", ""
).replace("-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS\n", "")
"""The same when our chains stand in the place of those that are named alike."""


def test_iptables_mode_goes_and_all_others_stay(processes: Processes, backend: str) -> None:
    load(processes, backend, TAKEN_OVER)
    assert clean_up(processes, backend, Predecessor.KUBE_PROXY_IPTABLES) == 2
    left = saved(processes, backend)
    kept = {"DOCKER", "KUBE-KUBELET-CANARY", "KUBE-MARK-MASQ", "KUBE-POSTROUTING", "KUBE-SERVICES"}
    assert {name for name in left["nat"].chains if not name.isupper() or "-" in name} <= kept
    assert kept <= set(left["nat"].chains)
    assert [chain for chain, _ in left["nat"].rules] == [
        *("PREROUTING", "OUTPUT", "POSTROUTING", "DOCKER", "KUBE-MARK-MASQ"),
    ]
    assert {"KUBE-FIREWALL", "KUBE-FORWARD"} <= set(left["filter"].chains)
    assert [chain for chain, _ in left["filter"].rules] == [
        *("INPUT", "FORWARD", "KUBE-FIREWALL", "KUBE-FORWARD"),
    ]


def test_a_chain_into_which_others_lead_keeps_its_whole_table(
    processes: Processes, backend: str
) -> None:
    load(processes, backend, TAKEN_OVER)
    with closing(Foreign(processes, backend)) as foreign:
        pieces = removals(Predecessor.KUBE_PROXY_IPTABLES, foreign.read())
        (nat,) = (one for one in pieces if isinstance(one, RemoveRules) and one.table == "nat")
        load(processes, backend, "*nat\n-A DOCKER -j KUBE-SVC-BBBB\nCOMMIT\n")
        before = saved(processes, backend)["nat"]
        assert foreign.remove(nat).reason
        assert saved(processes, backend)["nat"] == before


def test_kube_routers_chain_sets_and_interface_go(processes: Processes, backend: str) -> None:
    for name in ("kube-router-svip", "kube-router-svip-prt"):
        kind = "hash:ip,port" if name.endswith("prt") else "hash:ip"
        assert processes.run(("ipset", "create", name, kind, "timeout", "0")).returncode == 0
    load(
        processes,
        backend,
        "*filter\n:KUBE-ROUTER-SERVICES - [0:0]\n:KUBE-ROUTER-INPUT - [0:0]\n"
        "-A INPUT -j KUBE-ROUTER-INPUT\n"
        "-A INPUT -m set --match-set kube-router-svip dst -j KUBE-ROUTER-SERVICES\n"
        "-A KUBE-ROUTER-SERVICES -m set --match-set kube-router-svip-prt dst,dst -j ACCEPT\n"
        "COMMIT\n",
    )
    if "IPVSPROXY_RIG_GUEST" in os.environ:
        made = processes.run(("ip", "link", "add", "kube-dummy-if", "type", "dummy"))
        assert made.returncode == 0, made.complaint
    clean_up(processes, backend, Predecessor.KUBE_ROUTER)
    (only,) = saved(processes, backend)["filter"].rules
    assert only == ("INPUT", ("-j", "KUBE-ROUTER-INPUT"))
    assert "kube-router" not in processes.run(("ipset", "list", "-name")).stdout


def test_an_interface_that_is_gone_already_counts_as_removed(processes: Processes) -> None:
    with closing(Foreign(processes)) as foreign:
        assert foreign.remove(RemoveInterface("kube-dummy-if")).refusal is None


def create_table(socket: NetlinkSocket, table: NftTable) -> bool:
    """Create an empty table; say whether that could be done."""
    answers = socket.exchange(nftables.batch(nftables.NEW_TABLE, table, message.CREATE))
    return not any(answer.error for answer in answers)


def test_nftables_tables_of_that_name_go(processes: Processes) -> None:
    socket = NetlinkSocket(NETFILTER)
    theirs = [NftTable(family, "kube-proxy") for family in Family]
    other = NftTable(Family.IPV4, "other")
    with closing(socket):
        if not create_table(socket, other):
            pytest.skip("this kernel has no nftables")
        for table in theirs:
            assert create_table(socket, table)
        assert nftables.list_tables(socket) == {*theirs, other}
        assert clean_up(processes, "auto", Predecessor.KUBE_PROXY_NFTABLES) == len(theirs)
        assert nftables.list_tables(socket) == {other}
        with closing(Foreign(processes)) as foreign:
            assert foreign.remove(RemoveNftTable(theirs[0])).refusal is None
