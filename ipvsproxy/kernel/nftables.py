"""Whole tables of nftables, listed and deleted by netlink (linux/netfilter/nf_tables.h).

For the tables of kube-proxy's nftables mode, which nothing but their name has to be known of; so
the program `nft` is not needed. iptables' nft backend has tables of its own, with other names.
"""

from __future__ import annotations

import errno
import struct

from ipvsproxy.core.foreign import NftTable
from ipvsproxy.dataplane import DONE, Outcome
from ipvsproxy.kernel import message
from ipvsproxy.kernel.netlink import NetlinkSocket, Request
from ipvsproxy.kernel.refusals import refused
from ipvsproxy.model import Family

_SUBSYSTEM = 10  # NFNL_SUBSYS_NFTABLES
NEW_TABLE, _LIST_TABLES, _DELETE_TABLE = (_SUBSYSTEM << 8 | kind for kind in range(3))
_BATCH_BEGIN, _BATCH_END = 0x10, 0x11  # NFNL_MSG_*
_HEADER = struct.Struct(">BBH")  # struct nfgenmsg: family, version, subsystem of a batch
_NAME = 1  # NFTA_TABLE_NAME
_FAMILIES = {Family.IPV4: 2, Family.IPV6: 10}  # NFPROTO_*
_ABSENT = frozenset({errno.EINVAL, errno.EOPNOTSUPP, errno.EPROTONOSUPPORT})
"""What a kernel without nftables answers (EINVAL: no such subsystem, net/netfilter/nfnetlink.c)."""


def list_tables(netlink: NetlinkSocket) -> frozenset[NftTable]:
    """List the tables of IPv4 and IPv6; none where this kernel has no nftables. Raises OSError."""
    found: set[NftTable] = set()
    for family in _FAMILIES:
        try:
            found |= tables_of(netlink, family)
        except OSError as error:
            if error.errno not in _ABSENT:
                raise
    return frozenset(found)


def tables_of(netlink: NetlinkSocket, family: Family) -> frozenset[NftTable]:
    """List the tables of one family. Raises OSError, also where this kernel has no nftables."""
    number = _FAMILIES[family]
    found: set[NftTable] = set()
    for payload in netlink.dump(Request(_LIST_TABLES, _HEADER.pack(number, 0, 0))):
        name = message.attributes(payload, _HEADER.size).get(_NAME, b"")
        if payload[0] == number:
            found.add(NftTable(family, name.rstrip(b"\0").decode(errors="replace")))
    return frozenset(found)


def delete_table(netlink: NetlinkSocket, table: NftTable) -> Outcome:
    """Delete a table with all that is in it, in one step; one that is gone already counts too."""
    begun, answer, ended = netlink.exchange(batch(_DELETE_TABLE, table))
    error = begun.error or ended.error or answer.error
    return DONE if error in (0, errno.ENOENT) else refused(error)


def batch(kind: int, table: NftTable, flags: int = 0) -> list[Request]:
    """Give the messages that change one table: the change, framed as a transaction."""
    whole = _HEADER.pack(0, 0, _SUBSYSTEM)
    name = message.attribute(_NAME, table.name.encode() + b"\0")
    payload = _HEADER.pack(_FAMILIES[table.family], 0, 0) + name
    # The frame of a batch is acknowledged since Linux 6.10 only (net/netfilter/nfnetlink.c).
    return [
        Request(_BATCH_BEGIN, whole, acknowledged=False),
        Request(kind, payload, flags),
        Request(_BATCH_END, whole, acknowledged=False),
    ]
