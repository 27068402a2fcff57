"""Programs: how they end, how long they may take, and who is told."""

from __future__ import annotations

import resource
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from ipvsproxy.core.operations import ForgetFlows
from ipvsproxy.dataplane import DONE, Refusal
from ipvsproxy.kernel import conntrack
from ipvsproxy.kernel.iptables import LOCK_SECONDS
from ipvsproxy.kernel.process import SECONDS, Completed, ProcessError, Processes
from ipvsproxy.model import Address, Protocol, RealServerKey, VirtualServerKey

DNS = VirtualServerKey(Protocol.UDP, Address.parse("10.96.0.10"), 53)
DNS6 = VirtualServerKey(Protocol.UDP, Address.parse("fd00:96::a"), 53)


def test_whatever_a_program_says_comes_back() -> None:
    processes = Processes()
    done = processes.run(("sh", "-c", "cat; echo bad >&2; echo $LC_ALL; exit 3"), "text\n")
    assert done == Completed(3, "text\nC\n", "bad\n")
    assert done.complaint == "bad"
    assert Completed(4, "", "").complaint == "exit status 4"
    assert processes.launched == 1


def test_bytes_that_are_no_text_come_through_and_are_not_told() -> None:
    processes = Processes()
    text = processes.run(("printf", r"\377\r\n")).stdout
    assert processes.run(("cat",), text).stdout == text
    assert processes.run(("od", "-An", "-tx1"), text).stdout.split() == ["ff", "0d", "0a"]
    done = processes.run(("sh", "-c", r"printf '\377' >&2; exit 1"))
    assert done.complaint == "\ufffd"


@pytest.mark.parametrize(
    ("argv", "refusal", "reason"),
    [
        (("sh", "-c", "kill -9 $$"), Refusal.BUSY, r"^sh was ended by signal 9 \(Killed\)$"),
        (("sh", "-c", "sleep 60"), Refusal.BUSY, "gave no answer within 0.2 s and was ended"),
        (("no-such-program",), Refusal.UNSUPPORTED, "is not installed: install the package"),
        (("/dev/null",), Refusal.FORBIDDEN, "may not be run"),
    ],
)
def test_a_program_that_does_not_come_to_its_end_says_why(
    argv: Sequence[str], refusal: Refusal, reason: str
) -> None:
    with pytest.raises(ProcessError, match=reason) as raised:
        Processes(seconds=0.2).run(argv)
    assert raised.value.outcome.refusal is refusal


def test_a_program_that_is_none_fails_for_good(tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.write_bytes(b"\x7fELF")
    broken.chmod(0o755)
    with pytest.raises(ProcessError, match=r"cannot be started: .*Exec format error") as raised:
        Processes(path=str(tmp_path)).run(("broken",))
    assert raised.value.refusal is Refusal.FAILED


def test_what_cannot_be_started_for_lack_of_something_is_passing() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with Path("/dev/null").open("rb") as lowest_that_is_free:
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_that_is_free.fileno() + 1, hard))
        try:
            with pytest.raises(ProcessError, match="cannot be started") as raised:
                Processes().run(("true",))
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert raised.value.refusal is Refusal.BUSY


def test_what_a_program_has_started_is_not_waited_for_beyond_the_limit() -> None:
    began = time.monotonic()
    with pytest.raises(ProcessError, match="gave no answer"):
        Processes(seconds=0.2).run(("sh", "-c", "sleep 5 & sleep 60"))
    assert time.monotonic() - began < 4


def test_the_time_that_a_program_waits_itself_is_well_within_its_limit() -> None:
    assert int(LOCK_SECONDS) < SECONDS / 2


class Conntrack(Processes):
    """Has an answer for each launch of the program, by what it is asked to do."""

    def __init__(self, listed: str = "", failing: int = 1) -> None:
        super().__init__()
        self._listed = listed
        self._failing = failing

    def run(self, argv: Sequence[str], stdin: str = "") -> Completed:
        assert bool(stdin) == ("-R" in argv)
        self.launched += 1
        if self.launched >= self._failing:
            raise ProcessError(Refusal.BUSY, "conntrack gave no answer within 30 s and was ended")
        return Completed(0, self._listed if "-L" in argv else "", "")


@pytest.mark.parametrize(("count", "hangs"), [(3, 1), (30, 1), (30, 2)])
def test_a_program_that_hangs_is_waited_for_once(count: int, hangs: int) -> None:
    members = [RealServerKey(Address((10, 1, 0, number)), 53) for number in range(count)]
    operations = [ForgetFlows(DNS, member) for member in members] + [ForgetFlows(DNS6, None)]
    listed = "".join(
        f"udp 17 29 src=192.0.2.1 dst=10.96.0.10 sport=999 dport=53 "
        f"src={member.address} dst=192.0.2.1 sport=53 dport=999 mark=0 use=1\n"
        for member in members
    )
    processes = Conntrack(listed, failing=hangs)
    outcomes = conntrack.forget(operations, processes)
    assert {outcome.refusal for outcome in outcomes} == {Refusal.BUSY}
    assert processes.launched == hangs


def test_what_was_done_before_a_program_hangs_is_done() -> None:
    operations = [ForgetFlows(DNS, None), ForgetFlows(DNS6, None)]
    done, late = conntrack.forget(operations, Conntrack(failing=2))
    assert (done, late.refusal) == (DONE, Refusal.BUSY)


def test_a_program_that_is_missing_is_missing_for_all(tmp_path: Path) -> None:
    operations = [ForgetFlows(DNS, None), ForgetFlows(DNS6, None)]
    outcomes = conntrack.forget(operations, Processes(path=str(tmp_path)))
    assert [outcome.refusal for outcome in outcomes] == [Refusal.UNSUPPORTED] * 2
