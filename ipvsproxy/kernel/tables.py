"""Whether there can be anything for `iptables-save` to print, asked without launching it.

A family that has no table in a backend has no chain of ours there, and its listing is empty. At a
start all four listings are wanted to choose a backend, and mostly at least two of them are empty; a
launch is 2 ms, and dozens in a guest.

Knows where the kernel names the tables of each backend: legacy's in a file of /proc, which its own
`iptables-save` goes by (for_each_table in iptables/iptables-save.c: no file, nothing to list);
those of nf_tables by netlink. Knows neither chains nor programs. Where the kernel does not say,
there may be something.
"""

from __future__ import annotations

from pathlib import Path

from ipvsproxy.kernel import nftables
from ipvsproxy.kernel.message import CodecError
from ipvsproxy.kernel.netlink import NetlinkSocket
from ipvsproxy.model import Family

__all__ = ["Tables"]

_PROC = Path("/proc/thread-self/net")
_LEGACY = {Family.IPV4: "ip_tables_names", Family.IPV6: "ip6_tables_names"}


class Tables:
    """The tables of iptables' backends in this network namespace, looked at when asked for."""

    def __init__(self, netfilter: NetlinkSocket, proc: Path = _PROC) -> None:
        """Use a socket of NETFILTER, and `proc` in the place of /proc/thread-self/net."""
        self._netfilter = netfilter
        self._proc = proc

    def may_be_of_nft(self, family: Family) -> bool:
        """Whether nf_tables has a table of a family; those of others count too.

        A kernel without nf_tables does not say that it has none, and the program says what is
        missing.
        """
        try:
            return bool(nftables.tables_of(self._netfilter, family))
        except (OSError, CodecError):
            return True

    def may_be_of_legacy(self, family: Family) -> bool:
        """Whether a legacy table of a family is loaded; it may be empty."""
        try:
            return bool((self._proc / _LEGACY[family]).read_bytes().strip())
        except FileNotFoundError:
            return False
        except OSError:
            return True
