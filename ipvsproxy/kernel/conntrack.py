"""Forgetting UDP flows that lead to a real server that has left.

Knows the `conntrack` program. A UDP client that goes on sending from one port never opens a new
connection: its conntrack entry, and with it the translation to a server that is gone, would live
for as long as it sends. TCP needs none of this: its connections end by themselves.
"""

from __future__ import annotations

from collections.abc import Sequence

from ipvsproxy.core.operations import ForgetFlows
from ipvsproxy.dataplane import DONE, Outcome, Refusal
from ipvsproxy.kernel.process import ProcessError, Processes
from ipvsproxy.model import Family

_NOTHING_FOUND = "0 flow entries"
"""What conntrack says, with exit status 1, when no entry matches."""

_REFUSALS = (
    ("Operation not permitted", Refusal.FORBIDDEN),
    ("Operation not supported", Refusal.UNSUPPORTED),
    ("Protocol not supported", Refusal.UNSUPPORTED),
    ("Device or resource busy", Refusal.BUSY),
    ("No buffer space", Refusal.BUSY),
)


def forget(operations: Sequence[ForgetFlows], processes: Processes) -> list[Outcome]:
    """Delete the entries of each operation's frontend that its real server answers.

    One process for each operation; none found is success. Where the program is missing, a flow
    ends with its own timeout (net.netfilter.nf_conntrack_udp_timeout_stream, 120 s by default,
    after the client's last packet).
    """
    return [_forget(operation, processes) for operation in operations]


def arguments(operation: ForgetFlows) -> tuple[str, ...]:
    """Command line that deletes the entries: what was asked for, and who answers."""
    key, member = operation
    family = "ipv4" if key.family is Family.IPV4 else "ipv6"
    asked = ("--orig-dst", str(key.address), "--orig-port-dst", str(key.port))
    answers = ("--reply-src", str(member.address), "--reply-port-src", str(member.port))
    return ("conntrack", "-D", "-f", family, "-p", key.protocol.name.lower(), *asked, *answers)


def _forget(operation: ForgetFlows, processes: Processes) -> Outcome:
    try:
        done = processes.run(arguments(operation))
    except ProcessError as error:
        return error.outcome
    if done.returncode == 0 or _NOTHING_FOUND in done.stderr:
        return DONE
    for text, refusal in _REFUSALS:
        if text in done.stderr:
            return Outcome(refusal, done.complaint)
    return Outcome(Refusal.FAILED, done.complaint)
