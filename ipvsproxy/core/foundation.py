"""What all Services stand on: sets, chains and kernel settings, whatever the Services are.

Knows which kernel settings IPVS needs as a Service proxy, and why; the sets are core.sets', the
chains core.firewall's. One part of the chains is the Services' after all: the redirections.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import NamedTuple

from ipvsproxy.config import Settings
from ipvsproxy.core.detect_local import LocalPods, local_pods
from ipvsproxy.core.firewall import ruleset
from ipvsproxy.core.node_settings import CONNTRACK_SYSCTLS, conntrack_sysctls, timeouts
from ipvsproxy.core.redirect import Redirect
from ipvsproxy.core.sets import set_specs
from ipvsproxy.model import KERNEL_TIMEOUTS, Family, Ruleset, SetSpec, State, Timeouts
from ipvsproxy.objects import Node

_KERNEL_RELEASE = "kernel/osrelease"
_REUSE_MODE = "net/ipv4/vs/conn_reuse_mode"
_ALWAYS = {
    # Masquerading happens in netfilter, so it must see IPVS connections (ip_vs sysctl conntrack).
    "net/ipv4/vs/conntrack": "1",
    # A packet of a connection whose real server is gone ends it; else it is dropped for ever.
    "net/ipv4/vs/expire_nodest_conn": "1",
    # A persistence template that leads to a server of weight 0 ends (kubernetes #71809).
    "net/ipv4/vs/expire_quiescent_template": "1",
    "net/ipv4/ip_forward": "1",
}
_STRICT_ARP = {
    # Nobody answers for a service address on a network where it does not live (#59976).
    "net/ipv4/conf/all/arp_ignore": "1",
    "net/ipv4/conf/all/arp_announce": "2",
}
WATCHED_SYSCTLS = (*_ALWAYS, *_STRICT_ARP, _REUSE_MODE, *CONNTRACK_SYSCTLS, _KERNEL_RELEASE)
"""What a dataplane has to report in `State.sysctls`, where the kernel has it."""


class Foundation(NamedTuple):
    """Sets, chains and kernel settings; nothing is said of others."""

    sets: Mapping[str, SetSpec]
    rulesets: Mapping[Family, Ruleset]
    sysctls: Mapping[str, str]
    capacity_limit: int
    """Most members that a set may grow to."""
    timeouts: Timeouts = KERNEL_TIMEOUTS
    """Of IPVS's connections; as they are where nothing is asked."""


def foundation(
    settings: Settings,
    state: State,
    node: Node | None = None,
    redirects: tuple[Redirect, ...] = (),
) -> Foundation:
    """Say what a node needs before any Service can be served."""
    pods = tuple(
        (family, local_pods(family, settings, node, state.network))
        for family in sorted(state.families)
    )
    release = state.sysctls.get(_KERNEL_RELEASE, "")
    fixed = _foundation(settings, pods, release, redirects)
    return fixed._replace(
        sysctls={**fixed.sysctls, **conntrack_sysctls(settings, state)},
        timeouts=timeouts(settings, state),
    )


def needed_sets(settings: Settings, families: Iterable[Family]) -> dict[str, SetSpec]:
    """Give every set that must exist, by name."""
    return set_specs(families, settings.set_capacity, settings.set_hash_size)


def shortcomings(settings: Settings, state: State) -> tuple[str, ...]:
    """Say what of the foundation this node cannot have, and what goes without; one line each."""
    absent = sorted(foundation(settings, state).sysctls.keys() - state.sysctls.keys())
    return (
        *(f"{what} cannot be read: {reason}" for what, reason in sorted(state.lacks.items())),
        *(
            f"the kernel has no setting {name}; load the module "
            f"{'nf_conntrack' if name in CONNTRACK_SYSCTLS else 'ip_vs'}, or use a kernel with it"
            for name in absent
        ),
    )


@lru_cache(maxsize=4)
def _foundation(
    settings: Settings,
    pods: tuple[tuple[Family, LocalPods], ...],
    release: str,
    redirects: tuple[Redirect, ...],
) -> Foundation:
    sysctls = dict(_ALWAYS)
    if settings.strict_arp:
        sysctls |= _STRICT_ARP
    if _reuse_delays_connections(release):
        sysctls[_REUSE_MODE] = "0"
    return Foundation(
        sets=needed_sets(settings, (family for family, _ in pods)),
        rulesets={
            family: ruleset(
                family,
                pods=matches,
                masquerade_all=settings.masquerade_all,
                masquerade_bit=settings.masquerade_bit,
                no_local=settings.no_local_endpoints,
                redirects=[one for one in redirects if one.target.family is family],
            )
            for family, matches in pods
        },
        sysctls=sysctls,
        capacity_limit=settings.set_capacity_limit,
    )


def _reuse_delays_connections(release: str) -> bool:
    """Whether a reused source port costs a client a second (kubernetes #70747; mended in 5.9)."""
    numbers = re.match(r"(\d+)\.(\d+)", release)
    return numbers is not None and (4, 1) <= (int(numbers[1]), int(numbers[2])) < (5, 9)
