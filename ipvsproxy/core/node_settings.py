"""What is asked of the kernel beyond the tables: connection tracking's limits, IPVS's timeouts.

Knows kube-proxy's rules for them (setupConntrack in cmd/kube-proxy/app/server_linux.go). Nothing is
asked that was not set; what is asked follows from what the kernel has, so that what is right, or
larger than it has to be, is left as it is.
"""

from __future__ import annotations

from collections.abc import Iterator

from ipvsproxy.config import Settings
from ipvsproxy.model import State, Timeouts

_MAXIMUM = "net/netfilter/nf_conntrack_max"
_BUCKETS = "net/netfilter/nf_conntrack_buckets"
_TCP_ESTABLISHED = "net/netfilter/nf_conntrack_tcp_timeout_established"
_TCP_CLOSE_WAIT = "net/netfilter/nf_conntrack_tcp_timeout_close_wait"
_TCP_BE_LIBERAL = "net/netfilter/nf_conntrack_tcp_be_liberal"
_UDP = "net/netfilter/nf_conntrack_udp_timeout"
_UDP_STREAM = "net/netfilter/nf_conntrack_udp_timeout_stream"
CONNTRACK_SYSCTLS = (
    _MAXIMUM,
    _BUCKETS,
    _TCP_ESTABLISHED,
    _TCP_CLOSE_WAIT,
    _TCP_BE_LIBERAL,
    _UDP,
    _UDP_STREAM,
)
_BUCKETS_OF_A_PAGE = 512
"""The kernel rounds up to whole pages of buckets (nf_ct_alloc_hashtable), 8 bytes each."""


def conntrack_sysctls(settings: Settings, state: State) -> dict[str, str]:
    """Give the settings of connection tracking that are asked for, by path below /proc/sys."""
    asked = {
        _TCP_ESTABLISHED: settings.conntrack_tcp_established_timeout,
        _TCP_CLOSE_WAIT: settings.conntrack_tcp_close_wait_timeout,
        _TCP_BE_LIBERAL: int(settings.conntrack_tcp_be_liberal),
        _UDP: settings.conntrack_udp_timeout,
        _UDP_STREAM: settings.conntrack_udp_stream_timeout,
    }
    wanted = {name: str(value) for name, value in asked.items() if value}
    return wanted | dict(_sizes(settings, state))


def timeouts(settings: Settings, state: State) -> Timeouts:
    """Give IPVS's timeouts as they are to be; what is not asked for is as it is.

    So is what the kernel has no timeout of: it does not balance that protocol.
    """
    asked = (settings.ipvs_tcp_timeout, settings.ipvs_tcp_fin_timeout, settings.ipvs_udp_timeout)
    return Timeouts(
        *(
            wanted if wanted and present else present
            for wanted, present in zip(asked, state.timeouts, strict=True)
        )
    )


def _sizes(settings: Settings, state: State) -> Iterator[tuple[str, str]]:
    """Raise the number of flows, and the hash table to a quarter of it; never lower them.

    kube-proxy writes the hash table's size to the module's parameter; the sysctl is the same number
    (nf_conntrack_hash_resize), and has been writable since Linux 4.8.
    """
    if not settings.conntrack_max_per_core:
        return
    flows = max(settings.conntrack_max_per_core * state.processors, settings.conntrack_min or 0)
    buckets = -(-flows // 4 // _BUCKETS_OF_A_PAGE) * _BUCKETS_OF_A_PAGE
    for name, least in ((_MAXIMUM, flows), (_BUCKETS, buckets)):
        found = state.sysctls.get(name, "")
        yield name, found if found.isdecimal() and int(found) >= least else str(least)
