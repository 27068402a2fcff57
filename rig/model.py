"""The nouns of the rig: a job, the kinds of machine, what was found out about one, errors.

Knows nothing about how a machine is started.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

# Exit statuses of `rig run` that are not the command's own.
NO_KERNEL = 98
GUEST_DIED = 99
TIMED_OUT = 124

MODULES = (
    *("dummy", "veth", "bridge", "br_netfilter", "ipv6", "sctp"),
    *("ip_vs", "ip_vs_rr", "ip_vs_wrr", "ip_vs_lc", "ip_vs_wlc", "ip_vs_sh", "ip_vs_dh"),
    *("ip_vs_mh", "ip_vs_sed", "ip_vs_nq", "ip_vs_lblc", "ip_vs_lblcr", "ip_vs_fo", "ip_vs_ovf"),
    *("ip_set", "ip_set_hash_ip", "ip_set_hash_ipport", "ip_set_hash_ipportip"),
    *("ip_set_hash_ipportnet", "ip_set_hash_net", "ip_set_bitmap_port"),
    *("nf_conntrack", "nf_conntrack_netlink", "nf_tables", "nft_compat"),
    *("iptable_nat", "iptable_filter", "iptable_mangle"),
    *("ip6table_nat", "ip6table_filter", "ip6table_mangle"),
    *("xt_set", "xt_mark", "xt_MASQUERADE", "xt_comment", "xt_conntrack", "xt_ipvs"),
    *("xt_addrtype", "xt_physdev", "xt_nat", "xt_statistic", "xt_tcpudp", "xt_multiport"),
    *("ipt_REJECT", "ip6t_REJECT"),
)
"""Loaded before the command starts, because a guest should not look for modules while it is timed.

A kernel that lacks some of them (twos is too new, nft_compat is not built for user-mode Linux) is
still good; `ESSENTIAL` names those without which nothing works.
"""

ESSENTIAL = ("ip_vs", "ip_vs_rr", "ip_set", "ip_set_hash_ipport", "dummy", "veth", "nf_conntrack")


class Kind(StrEnum):
    """The kinds of machine, in order of preference."""

    NATIVE = "native"
    UML = "uml"
    QEMU = "qemu"


ANY = (Kind.NATIVE, Kind.UML)
"""What is used where nobody asks for a kind: the emulated machine is evenly slow."""
WITH_NFTABLES = (Kind.NATIVE, Kind.QEMU)
"""What is used for programs that need nftables: Debian's user-mode Linux has none for IPv4."""


class RigError(Exception):
    """Something the caller has to mend; the text is one line that says what to do."""


class SetupError(RigError):
    """Setting up failed, although a kernel would be possible here."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found out about one kind of machine here."""

    kind: Kind
    possible: bool
    reason: str
    """Why it is possible, or why not."""
    missing: tuple[str, ...] = ()
    """What `rig setup` has to add before it can be used."""
    mend: str | None = None
    """What a person can do about it, where `rig setup` cannot."""

    @property
    def usable(self) -> bool:
        """Whether a command can be run right now."""
        return self.possible and not self.missing


@dataclass(frozen=True, slots=True)
class Job:
    """A command to run in a machine."""

    command: tuple[str, ...]
    directory: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    memory: int = 2 << 30
    timeout: float = 300.0
    terminal: bool = False
