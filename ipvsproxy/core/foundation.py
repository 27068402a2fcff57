"""What all Services stand on: sets, chains and kernel settings, whatever the Services are.

Knows which kernel settings IPVS needs as a Service proxy, and why; the sets and chains themselves
are core.firewall's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

from ipvsproxy.config import Settings
from ipvsproxy.core.firewall import ruleset, set_specs
from ipvsproxy.model import Family, Ruleset, SetSpec, State

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
WATCHED_SYSCTLS = (*_ALWAYS, _REUSE_MODE, _KERNEL_RELEASE)
"""What a dataplane has to report in `State.sysctls`, where the kernel has it."""


class Foundation(NamedTuple):
    """Sets, chains and kernel settings; nothing is said of others."""

    sets: Mapping[str, SetSpec]
    rulesets: Mapping[Family, Ruleset]
    sysctls: Mapping[str, str]


def foundation(settings: Settings, state: State) -> Foundation:
    """Say what a node needs before any Service can be served."""
    return _foundation(settings, state.families, state.sysctls.get(_KERNEL_RELEASE, ""))


def shortcomings(settings: Settings, state: State) -> tuple[str, ...]:
    """Say what of the foundation this node cannot have, and what goes without; one line each."""
    absent = sorted(foundation(settings, state).sysctls.keys() - state.sysctls.keys())
    return (
        *(f"{what} cannot be read: {reason}" for what, reason in sorted(state.lacks.items())),
        *(
            f"the kernel has no setting {name}; load the module ip_vs, or use a kernel with it"
            for name in absent
        ),
    )


@lru_cache(maxsize=4)
def _foundation(settings: Settings, families: frozenset[Family], release: str) -> Foundation:
    return Foundation(
        sets=set_specs(families, settings.set_capacity),
        rulesets={
            family: ruleset(
                family,
                local=[cidr for cidr in settings.cluster_cidrs if cidr.family is family],
                masquerade_all=settings.masquerade_all,
                masquerade_bit=settings.masquerade_bit,
            )
            for family in sorted(families)
        },
        sysctls={**_ALWAYS, _REUSE_MODE: "0"} if _reuse_delays_connections(release) else _ALWAYS,
    )


def _reuse_delays_connections(release: str) -> bool:
    """Whether a reused source port costs a client a second (kubernetes #70747; mended in 5.9)."""
    numbers = re.match(r"(\d+)\.(\d+)", release)
    return numbers is not None and (4, 1) <= (int(numbers[1]), int(numbers[2])) < (5, 9)
