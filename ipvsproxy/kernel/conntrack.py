"""Forgetting UDP flows that lead to a real server that has left, or are to be balanced anew.

Knows the `conntrack` program. A UDP client that goes on sending from one port never opens a new
connection: its conntrack entry, and with it the translation to a server that is gone, would live
for as long as it sends. TCP needs none of this: its connections end by themselves.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from typing import TypeAlias

from ipvsproxy.core.operations import ForgetFlows
from ipvsproxy.dataplane import DONE, Outcome, Refusal
from ipvsproxy.kernel.process import Completed, ProcessError, Processes
from ipvsproxy.model import Family

_FAMILIES = {Family.IPV4: "ipv4", Family.IPV6: "ipv6"}
_NOTHING_FOUND = "0 flow entries"
"""What conntrack says, with exit status 1, when no entry matches."""

_REFUSALS = (
    ("Operation not permitted", Refusal.FORBIDDEN),
    ("Operation not supported", Refusal.UNSUPPORTED),
    ("Protocol not supported", Refusal.UNSUPPORTED),
    ("Device or resource busy", Refusal.BUSY),
    ("No buffer space", Refusal.BUSY),
)


Flow: TypeAlias = tuple[str, str, str, str]
"""Address and port that a client asked for, address and port that answer it."""

LIST_ABOVE = 4
"""Operations of one family above which the table is listed first: each deletion reads it whole."""
_FROM_STDIN = ("conntrack", "-R", "-")
"""Carries out command lines, one after the other; since conntrack-tools 1.4.7."""


def forget(operations: Sequence[ForgetFlows], processes: Processes) -> list[Outcome]:
    """Delete the entries of each operation's frontend: those that its real server answers, or all.

    One process for the operations of a family; where there are many, one more that lists the table
    before. A program that takes one deletion at a time, or one that was refused, makes it a process
    for each. None found is success. What cannot be run to its end is not started again: the rest
    has the same outcome. Where the program is missing, a flow ends with its own timeout
    (net.netfilter.nf_conntrack_udp_timeout_stream, 120 s by default, after the client's last
    packet).
    """
    outcomes: dict[int, Outcome] = {}
    rest = DONE
    try:
        for family in Family:
            part = {i: one for i, one in enumerate(operations) if one.key.family is family}
            outcomes.update(_forget_family(family, part, processes))  # those before an error stay
    except ProcessError as error:
        rest = error.outcome
    return [outcomes.get(index, rest) for index in range(len(operations))]


def arguments(operation: ForgetFlows) -> tuple[str, ...]:
    """Command line that deletes the entries: what was asked for, and who answers."""
    key, member = operation.key, operation.member
    kind = ("-f", _FAMILIES[key.family], "-p", key.protocol.name.lower())
    asked = ("--orig-dst", str(key.address), "--orig-port-dst", str(key.port))
    if member is None:
        return ("conntrack", "-D", *kind, *asked)
    answers = ("--reply-src", str(member.address), "--reply-port-src", str(member.port))
    return ("conntrack", "-D", *kind, *asked, *answers)


def parse_flows(text: str) -> set[Flow]:
    """Read what `conntrack -L` prints: the request's words come first, then the answer's."""
    flows: set[Flow] = set()
    for line in text.splitlines():
        fields: dict[str, list[str]] = {"src": [], "dst": [], "sport": [], "dport": []}
        for word in line.split():
            name, _, value = word.partition("=")
            if name in fields:
                fields[name].append(value)
        if all(len(values) == 2 for values in fields.values()):  # noqa: PLR2004 - both directions
            asked = fields["dst"][0], fields["dport"][0]
            flows.add((*asked, fields["src"][1], fields["sport"][1]))
    return flows


def _forget_family(
    family: Family, operations: Mapping[int, ForgetFlows], processes: Processes
) -> Iterator[tuple[int, Outcome]]:
    """Forget what has entries; few operations are not looked for before. Raises ProcessError."""
    there = operations
    if len(operations) > LIST_ABOVE:
        done = processes.run(("conntrack", "-L", "-f", _FAMILIES[family], "-p", "udp"))
        if done.returncode:
            yield from dict.fromkeys(operations, _refused(done)).items()
            return
        flows = parse_flows(done.stdout)
        asked = {flow[:2] for flow in flows}
        there = {i: one for i, one in operations.items() if _has_entries(one, flows, asked)}
        yield from dict.fromkeys(operations.keys() - there.keys(), DONE).items()
    if len(there) > 1 and _forget_at_once(there.values(), processes):
        yield from dict.fromkeys(there, DONE).items()
        return
    for index, one in there.items():
        yield index, _forget(one, processes)


def _forget_at_once(operations: Iterable[ForgetFlows], processes: Processes) -> bool:
    """Delete the entries of several; say whether all went well. Raises ProcessError."""
    lines = (" ".join(arguments(one)[1:]) for one in operations)
    return processes.run(_FROM_STDIN, "".join(f"{line}\n" for line in lines)).returncode == 0


def _has_entries(
    operation: ForgetFlows, flows: Container[Flow], asked: Container[tuple[str, str]]
) -> bool:
    key, member = operation.key, operation.member
    frontend = str(key.address), str(key.port)
    if member is None:
        return frontend in asked
    return (*frontend, str(member.address), str(member.port)) in flows


def _forget(operation: ForgetFlows, processes: Processes) -> Outcome:
    """Delete entries. Raises ProcessError."""
    done = processes.run(arguments(operation))
    if done.returncode == 0 or _NOTHING_FOUND in done.stderr:
        return DONE
    return _refused(done)


def _refused(done: Completed) -> Outcome:
    for text, refusal in _REFUSALS:
        if text in done.stderr:
            return Outcome(refusal, done.complaint)
    return Outcome(Refusal.FAILED, done.complaint)
