"""ipset's language: what is written to restore, read from save, and made of its complaints."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from ipvsproxy.core.operations import AddMember, CreateSet, DestroySet, GrowSet, RemoveMember
from ipvsproxy.dataplane import DONE, DataplaneError, Outcome, Refusal
from ipvsproxy.kernel.ipset import MOST_RUNS, Ipsets
from ipvsproxy.kernel.ipset_text import (
    TEMPORARY,
    LineOperation,
    growth_text,
    line,
    parse_save,
)
from ipvsproxy.kernel.process import Completed, ProcessError, Processes
from ipvsproxy.model import (
    Address,
    Family,
    IpMember,
    IpPortMember,
    IpPortNetMember,
    Network,
    PortMember,
    Protocol,
    SetSpec,
    SetType,
)

ADDRESS = Address.parse("10.96.0.10")
MEMBER = IpPortMember(ADDRESS, Protocol.TCP, 80)


def member(number: int) -> IpPortMember:
    return IpPortMember(ADDRESS, Protocol.TCP, number)


class Scripted(Processes):
    """Stands for ipset: refuses the lines that match a pattern, with a text."""

    def __init__(self, refused: dict[str, str] | None = None, headers: str = "") -> None:
        super().__init__()
        self.texts: list[list[str]] = []
        self._refused = refused or {}
        self._headers = headers

    def run(self, argv: Sequence[str], stdin: str = "") -> Completed:
        self.launched += 1
        if argv[1] == "list":
            return Completed(0, self._headers, "")
        assert tuple(argv) == ("ipset", "restore", "-exist")
        rows = stdin.splitlines()
        self.texts.append(rows)
        for number, row in enumerate(rows, start=1):
            for pattern, said in self._refused.items():
                if re.search(pattern, row):
                    return Completed(1, "", f"ipset v7.17: Error in line {number}: {said}\n")
        return Completed(0, "", "")


class Silent(Processes):
    """Stands for an ipset that fails without naming a line."""

    def __init__(self, answer: Completed | ProcessError) -> None:
        super().__init__()
        self._answer = answer

    def run(self, argv: Sequence[str], stdin: str = "") -> Completed:
        assert argv[0] == "ipset"
        assert stdin == "" or stdin.endswith("\n")
        if isinstance(self._answer, ProcessError):
            raise self._answer
        return self._answer


@pytest.mark.parametrize(
    ("operation", "text"),
    [
        (
            CreateSet("KUBE-A", SetSpec(SetType.HASH_IP_PORT, Family.IPV4, 9)),
            "create KUBE-A hash:ip,port family inet hashsize 1024 maxelem 9",
        ),
        (
            CreateSet("KUBE-A", SetSpec(SetType.HASH_IP_PORT_NET, Family.IPV4, 9, 64)),
            "create KUBE-A hash:ip,port,net family inet hashsize 64 maxelem 9",
        ),
        (
            CreateSet("KUBE-6-A", SetSpec(SetType.HASH_IP, Family.IPV6)),
            "create KUBE-6-A hash:ip family inet6 hashsize 1024 maxelem 65536",
        ),
        (
            CreateSet("KUBE-P", SetSpec(SetType.BITMAP_PORT, Family.IPV6)),
            "create KUBE-P bitmap:port range 0-65535",
        ),
        (DestroySet("KUBE-A"), "destroy KUBE-A"),
        (AddMember("KUBE-A", MEMBER), "add KUBE-A 10.96.0.10,tcp:80"),
        (RemoveMember("KUBE-P", PortMember(80)), "del KUBE-P 80"),
    ],
)
def test_an_operation_is_one_line(operation: LineOperation, text: str) -> None:
    assert line(operation) == text


def test_save_is_read_and_what_is_odd_is_left_out_with_its_reason() -> None:
    text = """\
create KUBE-A hash:ip,port family inet hashsize 1024 maxelem 2 bucketsize 12 initval 0xc7880ff7
add KUBE-A 10.96.0.10,tcp:80
add KUBE-A 10.96.0.10,icmp:echo-request
add KUBE-A 10.96.0.10,0:0
add KUBE-A nonsense
create KUBE-6-N hash:ip,port,net family inet6 hashsize 1024 maxelem 65536
add KUBE-6-N fd00::a,tcp:80,fd00::/16
add KUBE-6-N fd00::a,tcp:80,fd01::/16 nomatch
create KUBE-6-B bitmap:port range 0-65535
add KUBE-6-B 30080
create KUBE-T hash:ip family inet hashsize 1024 maxelem 65536 timeout 5
add KUBE-T 10.0.0.1 timeout 0
create KUBE-C hash:ip family inet hashsize 1024 maxelem 65536 counters
create KUBE-M hash:mac hashsize 1024 maxelem 65536
create OTHER hash:ip family inet hashsize 1024 maxelem 65536
add OTHER 10.0.0.1
garbage
"""
    specs, members, ignored = parse_save(text)
    assert specs == {
        "KUBE-A": SetSpec(SetType.HASH_IP_PORT, Family.IPV4, 2),
        "KUBE-6-N": SetSpec(SetType.HASH_IP_PORT_NET, Family.IPV6, 65536),
        "KUBE-6-B": SetSpec(SetType.BITMAP_PORT, Family.IPV6),
    }
    network = Network.parse("fd00::/16")
    inside = IpPortNetMember(Address.parse("fd00::a"), Protocol.TCP, 80, network)
    assert members == {"KUBE-A": {MEMBER}, "KUBE-6-N": {inside}, "KUBE-6-B": {PortMember(30080)}}
    assert set(ignored) == {"KUBE-T", "KUBE-C", "KUBE-M"}
    assert "timeout 5" in ignored["KUBE-T"]


SAVED = """\
create KUBE-A hash:ip,port family inet hashsize 1024 maxelem 2 bucketsize 12 initval 0x12345678
add KUBE-A 10.96.0.10,tcp:80
add KUBE-A 10.96.0.10,icmp:echo-request
"""
GROW = GrowSet("KUBE-A", SetSpec(SetType.HASH_IP_PORT, Family.IPV4, 9))


def test_a_growth_is_one_text_that_copies_members_as_they_stand() -> None:
    assert growth_text("KUBE-A", GROW.spec, SAVED).splitlines() == [
        "create IPVSPROXY-GROW hash:ip,port family inet hashsize 1024 maxelem 9",
        "add IPVSPROXY-GROW 10.96.0.10,tcp:80",
        "add IPVSPROXY-GROW 10.96.0.10,icmp:echo-request",
        "swap IPVSPROXY-GROW KUBE-A",
        "destroy IPVSPROXY-GROW",
    ]


class Growing(Processes):
    """Stands for ipset where a set is grown; the restore of it is answered as told."""

    def __init__(self, answer: Completed | ProcessError) -> None:
        super().__init__()
        self.asked: list[str] = []
        self._answer = answer

    def run(self, argv: Sequence[str], stdin: str = "") -> Completed:
        self.asked.append(" ".join(argv[1:]))
        assert bool(stdin) == (argv[1] == "restore")
        if argv[1] == "save":
            return Completed(0, SAVED, "")
        if argv[1] == "destroy":
            return Completed(1, "", "ipset v7.17: The set with the given name does not exist")
        if isinstance(self._answer, ProcessError):
            raise self._answer
        return self._answer


@pytest.mark.parametrize(
    ("answer", "refusal"),
    [
        (ProcessError(Refusal.BUSY, "ipset gave no answer"), Refusal.BUSY),
        (Completed(1, "", "ipset v7.17: Error in line 2: Hash is full"), Refusal.FULL),
        (
            Completed(1, "", "ipset v7.17: Kernel error received: Cannot allocate memory"),
            Refusal.BUSY,
        ),
    ],
)
def test_a_growth_that_fails_says_why_and_destroys_what_it_has_made(
    answer: Completed | ProcessError, refusal: Refusal
) -> None:
    processes = Growing(answer)
    ipsets = Ipsets(processes)
    assert ipsets.apply([GROW])[0].refusal is refusal
    ipsets.apply([AddMember("KUBE-A", MEMBER)])
    destroy = f"destroy {TEMPORARY}"
    assert processes.asked == [
        *("save KUBE-A", destroy, "restore", destroy, "restore -exist"),
    ]


def test_nothing_to_do_starts_nothing() -> None:
    processes = Scripted()
    assert Ipsets(processes).apply([]) == []
    assert processes.launched == 0


def test_all_operations_go_to_one_process_in_their_order() -> None:
    processes = Scripted()
    batch = [AddMember("KUBE-A", member(number)) for number in range(1, 50)]
    assert Ipsets(processes).apply(batch) == [DONE] * 49
    assert processes.texts == [[line(one) for one in batch]]


@pytest.mark.parametrize(
    ("said", "refusal"),
    [
        ("Hash is full, cannot add more elements", Refusal.FULL),
        ("The set with the given name does not exist", Refusal.CONTRADICTED),
        ("Kernel error received: set type not supported", Refusal.UNSUPPORTED),
        ("Syntax error: typename 'hash:frob' is unknown", Refusal.UNSUPPORTED),
        ("Syntax error: cannot parse fd00::1: resolving to IPv4 address failed", Refusal.INVALID),
        ("Kernel error received: Operation not permitted", Refusal.FORBIDDEN),
        ("Kernel error received: Cannot allocate memory", Refusal.BUSY),
        ("Kernel error received: Numerical result out of range", Refusal.FAILED),
    ],
)
def test_a_complaint_is_told_apart_and_kept(said: str, refusal: Refusal) -> None:
    outcome = Ipsets(Scripted({"add": said})).apply([AddMember("KUBE-A", MEMBER)])[0]
    assert outcome.refusal is refusal
    assert said in outcome.reason


def test_refused_lines_are_left_out_and_all_else_is_sent_again() -> None:
    processes = Scripted({"KUBE-GONE": "The set with the given name does not exist"})
    batch: list[LineOperation] = [
        AddMember("KUBE-A", MEMBER),
        AddMember("KUBE-GONE", MEMBER),
        RemoveMember("KUBE-GONE", MEMBER),
        DestroySet("KUBE-GONE"),
        AddMember("KUBE-B", MEMBER),
    ]
    outcomes = Ipsets(processes).apply(batch)
    assert [outcome.refusal for outcome in outcomes] == [
        *(None, Refusal.CONTRADICTED, None, None, None)
    ]
    assert processes.texts[-1] == [line(batch[0]), line(batch[4])]


def test_what_stands_before_a_full_sets_third_refusal_is_sent_again_not_refused() -> None:
    """Lines before a refused one may be lost, so they are not taken for done nor for refused."""
    processes = Scripted({r":(3|4|5|6|7)$": "Hash is full, cannot add more elements"})
    batch = [AddMember("KUBE-A", member(number)) for number in range(1, 8)]
    outcomes = Ipsets(processes).apply(batch)
    assert [outcome.refusal for outcome in outcomes] == [None] * 2 + [Refusal.FULL] * 5
    assert processes.texts[-1] == [line(one) for one in batch[:2]]
    assert processes.launched == 4


def test_bad_members_do_not_share_their_fate_and_the_processes_are_bounded() -> None:
    processes = Scripted({r":\d*[13579]$": "Syntax error: bad"})
    batch = [AddMember("KUBE-A", member(number)) for number in range(100)]
    refusals = [outcome.refusal for outcome in Ipsets(processes).apply(batch)]
    assert processes.launched == MOST_RUNS
    assert refusals.count(Refusal.INVALID) == MOST_RUNS
    assert refusals.count(Refusal.BUSY) == 100 - MOST_RUNS


def test_a_network_of_length_0_is_refused_before_ipset_sees_it() -> None:
    processes = Scripted()
    everyone = IpPortNetMember(ADDRESS, Protocol.TCP, 80, Network.parse("0.0.0.0/0"))
    outcomes = Ipsets(processes).apply([AddMember("KUBE-N", everyone), AddMember("KUBE-A", MEMBER)])
    assert outcomes[0] == Outcome(
        Refusal.INVALID, "set KUBE-N cannot hold 0.0.0.0/0: halve the network"
    )
    assert outcomes[1] == DONE
    assert processes.texts == [["add KUBE-A 10.96.0.10,tcp:80"]]


def test_a_set_that_exists_contradicts_whatever_its_type() -> None:
    headers = "Name: KUBE-A\nType: hash:ip\nRevision: 6\nHeader: family inet6 hashsize 1024\n\n"
    processes = Scripted(headers=headers)
    spec = SetSpec(SetType.HASH_IP, Family.IPV6)
    outcomes = Ipsets(processes).apply([CreateSet("KUBE-A", spec), CreateSet("KUBE-B", spec)])
    assert outcomes[0].refusal is Refusal.CONTRADICTED
    assert "hash:ip family inet6" in outcomes[0].reason
    assert outcomes[1] == DONE
    assert processes.texts == [["create KUBE-B hash:ip family inet6 hashsize 1024 maxelem 65536"]]


@pytest.mark.parametrize(
    ("answer", "refusal"),
    [
        (ProcessError(Refusal.BUSY, "ipset gave no answer"), Refusal.BUSY),
        (Completed(1, "", "ipset v7.17: Cannot open session to kernel.\n"), Refusal.UNSUPPORTED),
        (Completed(1, "", ""), Refusal.FAILED),
        (Completed(1, "", "ipset v7.17: Error in line 9: beyond the end"), Refusal.FAILED),
    ],
)
def test_a_failure_of_no_line_is_that_of_every_operation(
    answer: Completed | ProcessError, refusal: Refusal
) -> None:
    outcomes = Ipsets(Silent(answer)).apply([AddMember("KUBE-A", MEMBER), DestroySet("KUBE-B")])
    assert [outcome.refusal for outcome in outcomes] == [refusal, refusal]
    with pytest.raises(DataplaneError):
        Ipsets(Silent(answer)).dump()


def test_a_missing_ipset_is_named_with_the_mend(tmp_path: Path) -> None:
    ipsets = Ipsets(Processes(path=str(tmp_path)))
    with pytest.raises(DataplaneError, match="install the package ipset"):
        ipsets.dump()


def test_a_program_that_hangs_is_ended_and_called_busy() -> None:
    processes = Processes(seconds=0.05)
    with pytest.raises(ProcessError, match=r"no answer within 0\.05 s") as caught:
        processes.run(("sleep", "30"))
    assert caught.value.refusal is Refusal.BUSY
    assert processes.launched == 1


def test_reading_20_000_members_is_quick() -> None:
    rows = ["create KUBE-A hash:ip,port family inet hashsize 1024 maxelem 65536"]
    rows += (f"add KUBE-A 10.96.{n >> 8}.{n & 255},tcp:{n % 7 + 80}" for n in range(20_000))
    rows += ["create KUBE-I hash:ip family inet6 hashsize 1024 maxelem 65536", "add KUBE-I fd00::1"]
    text = "\n".join(rows)
    started = time.process_time()
    members = parse_save(text)[1]
    assert time.process_time() - started < 1.0  # 0.04 s on an idle machine
    assert len(members["KUBE-A"]) == 20_000
    assert members["KUBE-I"] == {IpMember(Address.parse("fd00::1"))}
