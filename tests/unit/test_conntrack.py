"""How many programs it takes to forget UDP flows, and what becomes of a program's refusal."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ipvsproxy.core.operations import ForgetFlows
from ipvsproxy.dataplane import DONE, Refusal
from ipvsproxy.kernel.conntrack import LIST_ABOVE, forget
from ipvsproxy.kernel.process import Completed, Processes
from ipvsproxy.model import Address, Protocol, VirtualServerKey

DONE_WELL = Completed(0, "", "")
ANCIENT = Completed(2, "", "conntrack v1.4.4 (conntrack-tools): unknown option `-R'")
FORBIDDEN = Completed(1, "", "conntrack v1.4.7 (conntrack-tools): Operation not permitted")


class Scripted(Processes):
    """Launches nothing: answers what it is told to, and remembers what was asked."""

    def __init__(self, answer: Callable[[Sequence[str]], Completed]) -> None:
        super().__init__()
        self._answer = answer
        self.asked: list[str] = []

    def run(self, argv: Sequence[str], stdin: str = "") -> Completed:
        self.asked.append(" ".join([*argv, *stdin.splitlines()]))
        return self._answer(argv)


def operations(count: int, first: str = "10.96.0.10") -> list[ForgetFlows]:
    address = Address.parse(first)
    return [
        ForgetFlows(VirtualServerKey(Protocol.UDP, address, 53 + number), None)
        for number in range(count)
    ]


def test_several_are_forgotten_by_one_program() -> None:
    processes = Scripted(lambda _: DONE_WELL)
    assert forget(operations(2), processes) == [DONE, DONE]
    one = "-D -f ipv4 -p udp --orig-dst 10.96.0.10 --orig-port-dst"
    assert processes.asked == [f"conntrack -R - {one} 53 {one} 54"]


def test_each_family_has_its_own() -> None:
    processes = Scripted(lambda _: DONE_WELL)
    assert forget([*operations(2), *operations(2, "fd00:96::a")], processes) == [DONE] * 4
    assert [("ipv6" in one, one.startswith("conntrack -R -")) for one in processes.asked] == [
        (False, True),
        (True, True),
    ]


def test_of_many_only_those_with_entries_and_none_where_there_are_none() -> None:
    entry = "udp 17 29 src=10.0.0.1 dst=10.96.0.10 sport=9 dport={} src=10.1.0.1 dst=10.0.0.1 "
    rows = "".join(f"{entry.format(port)}sport=53 dport=9 mark=0\n" for port in (54, 56))

    def answer(argv: Sequence[str]) -> Completed:
        return Completed(0, rows if "-L" in argv else "", "")

    processes = Scripted(answer)
    many = LIST_ABOVE + 1
    assert forget(operations(many), processes) == [DONE] * many
    listed, deleted = processes.asked
    assert listed == "conntrack -L -f ipv4 -p udp"
    assert deleted.count("--orig-port-dst") == 2
    assert forget(operations(many, "10.96.0.11"), processes) == [DONE] * many
    assert processes.asked[2:] == [listed]


def test_a_program_that_is_too_old_takes_them_one_by_one() -> None:
    processes = Scripted(lambda argv: ANCIENT if "-R" in argv else DONE_WELL)
    assert forget(operations(3), processes) == [DONE] * 3
    assert [one.split()[1] for one in processes.asked] == ["-R", "-D", "-D", "-D"]


def test_what_is_refused_says_so_for_each() -> None:
    processes = Scripted(lambda _: FORBIDDEN)
    for many in (2, LIST_ABOVE + 1):
        outcomes = forget(operations(many), processes)
        assert [one.refusal for one in outcomes] == [Refusal.FORBIDDEN] * many
        assert "Operation not permitted" in outcomes[0].reason
