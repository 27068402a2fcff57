"""The annotation that limits the connections to each endpoint (ipvsadm's -x and -y).

Every scheduler but lblc passes a real server over from its upper threshold on, until it has fewer
connections than the lower one. The kernel counts what it remembers, open or not: TCP's until
IPVS has forgotten them (up to two minutes after the last FIN), UDP's until they have been silent
for its timeout (ip_vs_bind_dest, ip_vs_unbind_dest and ip_vs_dest_totalconns in
net/netfilter/ipvs/ip_vs_conn.c). Each node counts its own. Without a lower threshold the kernel
takes three quarters of the upper one.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import NamedTuple

from ipvsproxy.core.annotations.reading import Reader
from ipvsproxy.model import Protocol, Scheduler

CONNECTION_LIMIT = "ipvsproxy.io/connection-limit"

MAX_LIMIT = 1_000_000
"""More than anybody's endpoint has, and far from 2^32/3, from which on the kernel miscounts."""

_WRITTEN = re.compile(r"(0|[1-9][0-9]{0,8})(?:\s*,\s*(0|[1-9][0-9]{0,8}))?")
_HINT = (
    f"write the connections (1-{MAX_LIMIT}) from which on an endpoint gets no more, and perhaps "
    "after a comma those below which it does again: 100,75"
)


class ConnectionLimit(NamedTuple):
    """The thresholds of each real server; 0: none."""

    upper: int = 0
    lower: int = 0


def choose_limit(
    reader: Reader,
    protocols: Collection[Protocol],
    scheduler: str,
    *,
    sticky: bool,
    one_packet: bool,
) -> ConnectionLimit:
    """Give the thresholds; `sticky`: session affinity, `one_packet`: of UDP."""
    limit = reader.read(CONNECTION_LIMIT, read_limit)
    if limit is None:
        return ConnectionLimit()
    if scheduler == Scheduler.LBLC:
        reader.no_effect(
            CONNECTION_LIMIT,
            "the scheduler lblc goes by weights, and does not look at it; choose lblcr or another "
            "by ipvsproxy.io/scheduler",
        )
    if one_packet:
        rest = "" if set(protocols) == {Protocol.UDP} else "; it holds for the other ports"
        reader.no_effect(
            CONNECTION_LIMIT,
            f"single datagrams (ipvsproxy.io/one-packet) are not counted{rest}",
        )
    if sticky:
        reader.no_effect(
            CONNECTION_LIMIT,
            "it holds for new clients only: with session affinity a client goes on getting "
            "connections to its endpoint",
        )
    return limit


def read_limit(text: str) -> ConnectionLimit:
    """Read the annotation: `100`, or `100,75`. Raises ValueError."""
    found = _WRITTEN.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is no number of connections; {_HINT}")
    upper, lower = int(found[1]), int(found[2] or 0)
    if not 1 <= upper <= MAX_LIMIT:
        raise ValueError(f"{upper} is not from 1 to {MAX_LIMIT}; {_HINT}")
    if found[2] is not None and not 1 <= lower <= upper:
        raise ValueError(f"the second number, {lower}, is not from 1 to {upper}; {_HINT}")
    return ConnectionLimit(upper, lower)
