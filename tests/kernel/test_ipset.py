"""ipsets in a real kernel: what is written, what is read, and what it refuses."""

from __future__ import annotations

import dataclasses
import errno
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from ipvsproxy.core.operations import AddMember, CreateSet, DestroySet, GrowSet, RemoveMember
from ipvsproxy.core.sets import CLUSTER_IP, LEDGER, LOOP_BACK, set_name, set_specs
from ipvsproxy.dataplane import DONE, DataplaneError, Refusal
from ipvsproxy.kernel import ipset_codec
from ipvsproxy.kernel.ipset import REFUSALS_BEFORE_SHARING, Ipsets, SetOperation
from ipvsproxy.kernel.ipset_text import TEMPORARY, growth_text
from ipvsproxy.kernel.netlink import NETFILTER, Answer, NetlinkSocket
from ipvsproxy.kernel.process import Completed, Processes
from ipvsproxy.model import (
    Address,
    Family,
    IpMember,
    IpPortIpMember,
    IpPortMember,
    IpPortNetMember,
    Member,
    Network,
    PortMember,
    Protocol,
    SetSpec,
    SetType,
)
from tests.kernel.namespace import give_up_capability
from tests.kernel.netfilter import netfilter

CAP_NET_ADMIN = 12
V4, V6 = Address.parse("10.96.0.10"), Address.parse("fd00:96::a")
EVERY_KIND: dict[str, tuple[SetSpec, set[Member]]] = {
    "KUBE-A": (
        SetSpec(SetType.HASH_IP_PORT, Family.IPV4, 1000),
        {IpPortMember(V4, protocol, 53) for protocol in Protocol},
    ),
    "KUBE-6-A": (
        SetSpec(SetType.HASH_IP_PORT, Family.IPV6),
        {IpPortMember(V6, Protocol.SCTP, 65535)},
    ),
    "KUBE-B": (
        SetSpec(SetType.HASH_IP_PORT_IP, Family.IPV4),
        {IpPortIpMember(V4, Protocol.TCP, 80, V4)},
    ),
    "KUBE-6-B": (
        SetSpec(SetType.HASH_IP_PORT_IP, Family.IPV6),
        {IpPortIpMember(V6, Protocol.UDP, 53, V6)},
    ),
    "KUBE-C": (SetSpec(SetType.HASH_IP, Family.IPV4), {IpMember(V4)}),
    "IPVSPROXY-C-6": (SetSpec(SetType.HASH_IP, Family.IPV6), {IpMember(V6)}),
    "KUBE-D": (
        SetSpec(SetType.HASH_IP_PORT_NET, Family.IPV4),
        {
            IpPortNetMember(V4, Protocol.TCP, 80, Network.parse(block))
            for block in ("198.51.100.7/32", "198.51.100.0/24", "128.0.0.0/1")
        },
    ),
    "KUBE-6-D": (
        SetSpec(SetType.HASH_IP_PORT_NET, Family.IPV6),
        {
            IpPortNetMember(V6, Protocol.TCP, 80, Network.parse(block))
            for block in ("fd00::7/128", "2001:db8::/32")
        },
    ),
    "KUBE-E": (SetSpec(SetType.BITMAP_PORT, Family.IPV4), {PortMember(30080)}),
    "KUBE-6-E": (SetSpec(SetType.BITMAP_PORT, Family.IPV6), {PortMember(32767)}),
}
SMALL = SetSpec(SetType.HASH_IP_PORT, Family.IPV4, 2)
LARGE = dataclasses.replace(SMALL, maxelem=1000)


def member(number: int) -> IpPortMember:
    return IpPortMember(Address((0x0A600000 + number).to_bytes(4)), Protocol.TCP, 80)


@pytest.fixture
def processes() -> Iterator[Processes]:
    with netfilter() as processes:
        yield processes


@pytest.fixture(params=["netlink", "program"])
def ipsets(processes: Processes, request: pytest.FixtureRequest) -> Iterator[Ipsets]:
    """Ours as they are, and as they are where messages are refused: the outcome is the same."""
    if request.param == "program":
        yield Ipsets(processes)
        return
    netlink = NetlinkSocket(NETFILTER)
    yield Ipsets(processes, netlink)
    netlink.close()


def refusals(ipsets: Ipsets, operations: Sequence[SetOperation]) -> list[Refusal | None]:
    return [outcome.refusal for outcome in ipsets.apply(operations)]


def test_every_kind_of_member_is_read_back_as_it_was_written(
    ipsets: Ipsets, processes: Processes, request: pytest.FixtureRequest
) -> None:
    by_program = "program" in request.node.name
    operations: list[SetOperation] = []
    for name, (spec, members) in EVERY_KIND.items():
        operations.append(CreateSet(name, spec))
        operations += (AddMember(name, one) for one in members)
    assert set(ipsets.apply(operations)) == {DONE}
    assert processes.launched == 1 + by_program
    specs, contents = ipsets.dump()
    assert processes.launched == 1 + 2 * by_program
    assert specs == {name: spec for name, (spec, _) in EVERY_KIND.items()}
    assert contents == {name: found for name, (_, found) in EVERY_KIND.items()}

    removals: list[SetOperation] = [
        RemoveMember(name, one) for name, (_, found) in EVERY_KIND.items() for one in found
    ]
    assert set(ipsets.apply(removals)) == {DONE}
    assert ipsets.dump()[1] == {name: set() for name in EVERY_KIND}
    assert set(ipsets.apply([DestroySet(name) for name in EVERY_KIND])) == {DONE}
    assert ipsets.dump() == ({}, {})


def test_the_sets_that_we_need_can_be_made(ipsets: Ipsets) -> None:
    specs = set_specs(Family, 1048576)
    assert set(ipsets.apply([CreateSet(*item) for item in specs.items()])) == {DONE}
    assert ipsets.dump()[0] == specs


def test_repeating_members_and_removing_what_is_gone_succeed(ipsets: Ipsets) -> None:
    create, add = CreateSet("KUBE-A", SMALL), AddMember("KUBE-A", member(1))
    remove = RemoveMember("KUBE-A", member(1))
    assert refusals(ipsets, [create, add, add, remove, remove]) == [None] * 5
    gone: list[SetOperation] = [RemoveMember("KUBE-GONE", member(1)), DestroySet("KUBE-GONE"), add]
    assert refusals(ipsets, gone) == [None] * 3
    assert ipsets.dump()[1] == {"KUBE-A": {member(1)}}


def test_a_refused_line_holds_up_no_other(ipsets: Ipsets) -> None:
    batch: list[SetOperation] = [
        CreateSet("KUBE-A", SMALL),
        AddMember("KUBE-A", member(1)),
        AddMember("KUBE-GONE", member(1)),
        AddMember("KUBE-A", IpPortMember(V6, Protocol.TCP, 80)),
        AddMember("KUBE-A", member(2)),
        CreateSet("KUBE-A-NAME-THAT-IS-MUCH-TOO-LONG", SMALL),
        CreateSet("KUBE-B", SMALL),
        AddMember("KUBE-B", member(9)),
    ]
    assert refusals(ipsets, batch) == [
        None,
        None,
        Refusal.CONTRADICTED,
        Refusal.INVALID,
        None,
        Refusal.INVALID,
        None,
        None,
    ]
    assert ipsets.dump()[1] == {"KUBE-A": {member(1), member(2)}, "KUBE-B": {member(9)}}


def test_a_full_set_is_said_to_be_full_without_a_process_for_each_member(
    ipsets: Ipsets, processes: Processes
) -> None:
    batch: list[SetOperation] = [CreateSet("KUBE-A", SMALL), CreateSet("KUBE-B", SMALL)]
    batch += (AddMember("KUBE-A", member(number)) for number in range(100))
    batch.append(AddMember("KUBE-B", member(1)))
    found = refusals(ipsets, batch)
    assert found == [None] * 4 + [Refusal.FULL] * 98 + [None]
    assert processes.launched <= 3 + REFUSALS_BEFORE_SHARING
    assert ipsets.dump()[1] == {"KUBE-A": {member(0), member(1)}, "KUBE-B": {member(1)}}


def test_a_set_that_exists_is_not_taken_for_a_new_one(ipsets: Ipsets) -> None:
    """`create -exist` passes silently over a set of the other family."""
    other_family = SetSpec(SetType.HASH_IP_PORT, Family.IPV6, 2)
    assert refusals(ipsets, [CreateSet("KUBE-A", SMALL), AddMember("KUBE-A", member(1))]) == [
        None,
        None,
    ]
    outcomes = ipsets.apply([CreateSet("KUBE-A", other_family), CreateSet("KUBE-A", SMALL)])
    assert [outcome.refusal for outcome in outcomes] == [Refusal.CONTRADICTED] * 2
    assert "hash:ip,port family inet " in outcomes[0].reason
    assert ipsets.dump()[1] == {"KUBE-A": {member(1)}}


def test_a_set_in_use_is_busy(ipsets: Ipsets, processes: Processes) -> None:
    assert refusals(ipsets, [CreateSet("KUBE-A", SMALL)]) == [None]
    in_a_set = "create LIST list:set\nadd LIST KUBE-A\n"
    assert processes.run(("ipset", "restore"), in_a_set).returncode == 0
    outcome = ipsets.apply([DestroySet("KUBE-A")])[0]
    assert outcome.refusal is Refusal.BUSY
    assert "in use" in outcome.reason


def names(processes: Processes) -> list[str]:
    """The sets that there are, by the program itself."""
    return sorted(processes.run(("ipset", "list", "-name")).stdout.split())


def full_and_used(ipsets: Ipsets, processes: Processes) -> None:
    """Make KUBE-A, full with two members, and let a set of sets use it as a rule does."""
    batch: list[SetOperation] = [CreateSet("KUBE-A", SMALL)]
    batch += (AddMember("KUBE-A", member(number)) for number in (1, 2))
    assert refusals(ipsets, batch) == [None] * 3
    in_a_set = "create LIST list:set\nadd LIST KUBE-A\n"
    assert processes.run(("ipset", "restore"), in_a_set).returncode == 0


def used(processes: Processes) -> str:
    """The set that the set of sets has."""
    return processes.run(("ipset", "save", "LIST")).stdout.split()[-1]


def test_a_set_in_use_grows_and_keeps_its_members(ipsets: Ipsets, processes: Processes) -> None:
    full_and_used(ipsets, processes)
    batch: list[SetOperation] = [AddMember("KUBE-A", member(3)), GrowSet("KUBE-A", LARGE)]
    assert refusals(ipsets, batch) == [None, None], "growths come first"
    assert ipsets.dump() == ({"KUBE-A": LARGE}, {"KUBE-A": {member(n) for n in (1, 2, 3)}})
    assert names(processes) == ["KUBE-A", "LIST"]
    assert used(processes) == "KUBE-A"
    assert refusals(ipsets, [DestroySet("KUBE-A")]) == [Refusal.BUSY]


@pytest.mark.parametrize("lines", range(6))
def test_a_growth_that_was_killed_anywhere_is_done_again(
    ipsets: Ipsets, processes: Processes, lines: int
) -> None:
    full_and_used(ipsets, processes)
    saved = processes.run(("ipset", "save", "KUBE-A")).stdout
    rows = growth_text("KUBE-A", LARGE, saved).splitlines(keepends=True)
    assert len(rows) == 5
    assert processes.run(("ipset", "restore"), "".join(rows[:lines])).returncode == 0
    specs, members = ipsets.dump()
    assert specs["KUBE-A"].maxelem in {2, 1000}
    assert members == {"KUBE-A": {member(1), member(2)}}, "what it has left is not told"
    assert refusals(ipsets, [GrowSet("KUBE-A", LARGE)]) == [None]
    assert ipsets.dump() == ({"KUBE-A": LARGE}, {"KUBE-A": {member(1), member(2)}})
    assert names(processes) == ["KUBE-A", "LIST"]
    assert used(processes) == "KUBE-A"


def test_what_a_killed_growth_has_left_goes_with_the_next_change(
    ipsets: Ipsets, processes: Processes
) -> None:
    left = f"create {TEMPORARY} hash:ip timeout 5\n"
    assert processes.run(("ipset", "restore"), left).returncode == 0
    assert ipsets.dump() == ({}, {})
    assert ipsets.ignored == {}
    assert names(processes) == [TEMPORARY], "reading changes nothing"
    assert refusals(ipsets, [CreateSet("KUBE-A", SMALL)]) == [None]
    assert names(processes) == ["KUBE-A"]


@pytest.mark.parametrize(
    ("operation", "refusal"),
    [
        (GrowSet("KUBE-GONE", LARGE), Refusal.CONTRADICTED),
        (GrowSet("KUBE-A", dataclasses.replace(LARGE, family=Family.IPV6)), Refusal.CONTRADICTED),
        (GrowSet("KUBE-A", SetSpec(SetType.HASH_IP, Family.IPV4)), Refusal.CONTRADICTED),
        (GrowSet("KUBE-A", dataclasses.replace(LARGE, maxelem=1)), Refusal.FULL),
        (GrowSet("KUBE-E", SetSpec(SetType.BITMAP_PORT, Family.IPV4)), Refusal.INVALID),
    ],
)
def test_a_growth_that_is_refused_leaves_everything(
    ipsets: Ipsets, processes: Processes, operation: GrowSet, refusal: Refusal
) -> None:
    full_and_used(ipsets, processes)
    assert refusals(ipsets, [CreateSet("KUBE-E", EVERY_KIND["KUBE-E"][0])]) == [None]
    before = ipsets.dump()
    assert refusals(ipsets, [operation]) == [refusal]
    assert ipsets.dump() == before
    assert names(processes) == ["KUBE-A", "KUBE-E", "LIST"]


@pytest.mark.parametrize("name", EVERY_KIND.keys() - {"KUBE-E", "KUBE-6-E"})
def test_every_kind_of_set_grows_but_bitmaps(ipsets: Ipsets, name: str) -> None:
    spec, members = EVERY_KIND[name]
    larger = dataclasses.replace(spec, maxelem=100_000, hashsize=4096)
    batch: list[SetOperation] = [CreateSet(name, spec), *(AddMember(name, one) for one in members)]
    assert set(ipsets.apply(batch)) == {DONE}
    assert ipsets.apply([GrowSet(name, larger)]) == [DONE]
    assert ipsets.dump() == ({name: larger}, {name: members})


def test_a_set_is_made_with_its_buckets_and_read_back_equal_without(
    ipsets: Ipsets, processes: Processes
) -> None:
    spec = dataclasses.replace(LARGE, hashsize=4096)
    assert refusals(ipsets, [CreateSet("KUBE-A", spec)]) == [None]
    assert "hashsize 4096" in processes.run(("ipset", "save", "KUBE-A")).stdout
    assert ipsets.dump()[0] == {"KUBE-A": spec} == {"KUBE-A": LARGE}


def test_sets_of_others_are_not_seen_and_odd_ones_are_named(
    ipsets: Ipsets, processes: Processes
) -> None:
    others = (
        "create felix-all hash:ip\ncreate KUBE-DST-X hash:ip timeout 0\nadd KUBE-DST-X 10.0.0.1\n"
        "create KUBE-LIST list:set\ncreate KUBE-FEW bitmap:port range 0-100\n"
        "create KUBE-A hash:ip,port\nadd KUBE-A 10.0.0.1,icmp:echo-request\n"
        "add KUBE-A 10.0.0.1,udplite:7\nadd KUBE-A 10.0.0.1,tcp:80\n"
    )
    assert processes.run(("ipset", "restore"), others).returncode == 0
    specs, members = ipsets.dump()
    assert list(specs) == ["KUBE-A"]
    assert members == {"KUBE-A": {IpPortMember(Address.parse("10.0.0.1"), Protocol.TCP, 80)}}
    assert set(ipsets.ignored) == {"KUBE-DST-X", "KUBE-LIST", "KUBE-FEW"}


def test_without_the_right_it_is_forbidden(processes: Processes) -> None:
    class Dropping(Processes):
        """Runs programs without CAP_NET_ADMIN."""

        def run(self, argv: Sequence[str], stdin: str = "") -> Completed:
            return super().run(("setpriv", "--bounding-set=-all", "--inh-caps=-all", *argv), stdin)

    weak = Dropping()
    found = refusals(Ipsets(weak), [AddMember("KUBE-A", member(1))] * 10)
    assert found == [Refusal.FORBIDDEN] * 10
    assert weak.launched == 1
    with pytest.raises(DataplaneError, match="NET_ADMIN"):
        Ipsets(weak).dump()
    assert processes.launched == 0


@pytest.mark.usefixtures("processes")
def test_without_the_right_every_message_of_a_batch_is_refused_at_once() -> None:
    messages = [ipset_codec.additions("KUBE-A", [IpMember(V4)]) for _ in range(3)]

    def ask() -> list[Answer]:
        netlink = NetlinkSocket(NETFILTER)
        assert netlink.exchange(messages) == [Answer(errno.ENOENT)] * 3
        netlink.close()
        give_up_capability(CAP_NET_ADMIN)
        try:
            return netlink.exchange(messages)
        finally:
            netlink.close()

    with ThreadPoolExecutor(max_workers=1) as thread:
        assert thread.submit(ask).result() == [Answer(errno.EPERM)] * 3


def test_members_launch_nothing_and_the_program_reads_the_same(processes: Processes) -> None:
    netlink = NetlinkSocket(NETFILTER)
    ipsets, others = Ipsets(processes, netlink), Ipsets(processes)
    create = [CreateSet(name, spec) for name, (spec, _) in EVERY_KIND.items()]
    assert set(ipsets.apply(create)) == {DONE}
    launched = processes.launched
    adds = [AddMember(name, one) for name, (_, found) in EVERY_KIND.items() for one in found]
    assert set(ipsets.apply(adds)) == {DONE}
    whole = ipsets.dump()
    assert processes.launched == launched
    assert whole == others.dump()
    assert whole[1] == {name: found for name, (_, found) in EVERY_KIND.items()}
    removals = [RemoveMember(one.name, one.member) for one in adds]
    launched = processes.launched
    assert set(ipsets.apply([*removals, *removals])) == {DONE}
    assert processes.launched == launched
    assert ipsets.dump() == others.dump()
    netlink.close()


def test_a_large_table_takes_one_process_or_two(
    ipsets: Ipsets, processes: Processes, request: pytest.FixtureRequest
) -> None:
    names = [set_name(base, Family.IPV4) for base in (CLUSTER_IP, LEDGER)]
    specs = set_specs([Family.IPV4], 65536)
    batch: list[SetOperation] = [CreateSet(name, specs[name]) for name in names]
    batch += (AddMember(name, member(number)) for name in names for number in range(5000))
    started = time.perf_counter()
    assert set(ipsets.apply(batch)) == {DONE}
    assert time.perf_counter() - started < 30
    assert processes.launched == 1 + ("program" in request.node.name)
    members = ipsets.dump()[1]
    assert {name: len(found) for name, found in members.items()} == dict.fromkeys(names, 5000)
    assert LOOP_BACK not in members
