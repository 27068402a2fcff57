"""What other service proxies left on this node: read, and removed piece by piece.

Knows the adapters and programs that reach it; what is whose is for core.foreign to say. Blocks.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import assert_never

from ipvsproxy.core.foreign import (
    Removal,
    RemoveInterface,
    RemoveNftTable,
    RemoveRules,
    RemoveSet,
    RuleTable,
    Traces,
)
from ipvsproxy.core.operations import DestroySet
from ipvsproxy.dataplane import DataplaneError, Outcome
from ipvsproxy.kernel import iptables, nftables, rtnetlink
from ipvsproxy.kernel.ipset import Ipsets
from ipvsproxy.kernel.iptables import Backend, Iptables
from ipvsproxy.kernel.iptables_text import removal_text
from ipvsproxy.kernel.link import remove_interface
from ipvsproxy.kernel.netlink import NETFILTER, NetlinkSocket
from ipvsproxy.kernel.process import ProcessError, Processes
from ipvsproxy.model import Family

_BACKENDS = (Backend.NFT, Backend.LEGACY)


class Foreign:
    """The traces of other proxies in the network namespace in which it is made."""

    def __init__(self, processes: Processes, backend: str = "auto") -> None:
        """Take `backend` as `Iptables` does, to know in which one ours stand."""
        self._processes = processes
        self._iptables = Iptables(processes, backend)
        self._netfilter = NetlinkSocket(NETFILTER)
        self._route = NetlinkSocket(rtnetlink.PROTOCOL)

    def read(self) -> Traces:
        """Read what is there. Raises DataplaneError when that is not possible."""
        try:
            sets = self._processes.run(("ipset", "list", "-name"))
            if sets.returncode:
                raise DataplaneError(f"what others left cannot be read: ipset: {sets.complaint}")
            return Traces(
                tables=tuple(self._tables()),
                sets=frozenset(sets.stdout.split()),
                interfaces=frozenset(name for _, name in socket.if_nameindex()),
                nft_tables=nftables.list_tables(self._netfilter),
            )
        except (OSError, ProcessError) as error:
            raise DataplaneError(f"what others left cannot be read: {error}") from error

    def remove(self, removal: Removal) -> Outcome:
        """Remove one piece; one that is gone already counts too."""
        match removal:
            case RemoveRules():
                return self._remove_rules(removal)
            case RemoveInterface(name):
                return remove_interface(self._route, name)
            case RemoveSet(name):
                (outcome,) = Ipsets(self._processes).apply([DestroySet(name)])
                return outcome
            case RemoveNftTable(table):
                return nftables.delete_table(self._netfilter, table)
            case _:
                assert_never(removal)

    def close(self) -> None:
        """Release the sockets."""
        self._netfilter.close()
        self._route.close()

    def _tables(self) -> Iterator[RuleTable]:
        in_use = self._iptables.backend
        backends = [in_use] if in_use is Backend.PLAIN else _BACKENDS
        for backend in backends:
            for family in Family:
                for table in iptables.read_tables(self._processes, backend, family):
                    yield RuleTable(backend, backend is in_use, family, *table)

    def _remove_rules(self, removal: RemoveRules) -> Outcome:
        text = removal_text(removal.table, removal.rules, removal.chains)
        backend = Backend(removal.backend)
        return iptables.restore(self._processes, backend, removal.family, text)
