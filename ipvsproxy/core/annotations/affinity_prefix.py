"""The annotation that makes whole networks one client for session affinity.

It is the netmask of a persistent virtual server (ipvsadm's -M): clients whose addresses begin with
the same bits go to the same real server (ip_vs_sched_persist in net/netfilter/ipvs/ip_vs_core.c).
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import NamedTuple

from ipvsproxy.core.annotations.reading import Reader
from ipvsproxy.model import Family

AFFINITY_PREFIX = "ipvsproxy.io/affinity-prefix"

_WRITTEN = re.compile(r"(0|[1-9][0-9]{0,3})(?:\s*,\s*(0|[1-9][0-9]{0,3}))?")
_HINT = "write the prefix length for IPv4 (1-32), and after a comma that for IPv6 (1-128): 24,64"


class Prefixes(NamedTuple):
    """The prefix lengths that make clients one client, by family."""

    ipv4: int = Family.IPV4.host_prefix
    ipv6: int = Family.IPV6.host_prefix

    def of(self, family: Family) -> int:
        """Give the prefix length of a family."""
        return self.ipv4 if family is Family.IPV4 else self.ipv6


def choose_prefixes(reader: Reader, families: Collection[Family], *, sticky: bool) -> Prefixes:
    """Give the prefix lengths; `families` are those of the Service, `sticky`: session affinity."""
    prefixes = reader.read(AFFINITY_PREFIX, read_prefixes)
    if prefixes is None:
        return Prefixes()
    if not sticky:
        reader.no_effect(
            AFFINITY_PREFIX,
            "the Service has no session affinity; set sessionAffinity: ClientIP or take it away",
        )
        return Prefixes()
    if Family.IPV4 not in families and prefixes.ipv6 == Prefixes().ipv6:
        reader.no_effect(
            AFFINITY_PREFIX,
            "it is for IPv4, and the Service is IPv6 only; write the prefix length for IPv6 "
            f"after a comma: 32,{min(prefixes.ipv4 * 2, 64)}",
        )
    return prefixes


def read_prefixes(text: str) -> Prefixes:
    """Read the annotation: `24`, or `24,64` for both families. Raises ValueError."""
    found = _WRITTEN.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is no prefix length; {_HINT}")
    prefixes = Prefixes(*(int(number) for number in found.groups() if number is not None))
    for family in Family:
        if not 1 <= prefixes.of(family) <= family.host_prefix:
            raise ValueError(f"IPv{family} has no networks of {prefixes.of(family)} bits; {_HINT}")
    return prefixes
