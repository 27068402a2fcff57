"""Whether a live node is ready to be switched over: what there is of a predecessor, as checks.

Reads the kernel and writes nothing. What the agent itself needs of a node is kernel.preflight's;
whether a predecessor still runs, `cli.preflight` asks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import closing

from ipvsproxy.config import Settings
from ipvsproxy.core.firewall import SERVICES
from ipvsproxy.core.foreign import RuleTable, Traces
from ipvsproxy.core.foundation import WATCHED_SYSCTLS
from ipvsproxy.core.predecessors import Predecessor
from ipvsproxy.core.take_over import lost_node_port_addresses, of_others, predecessors
from ipvsproxy.dataplane import DataplaneError
from ipvsproxy.kernel.foreign import Foreign
from ipvsproxy.kernel.linux import LinuxDataplane
from ipvsproxy.kernel.process import Processes
from ipvsproxy.model import State
from ipvsproxy.telemetry import Check, Verdict

_MOST_NAMED = 5
"""Of virtual servers and addresses, so that a line stays one."""
_FATES = {
    Predecessor.KUBE_PROXY_IPVS: "taken over as it stands",
    Predecessor.KUBE_ROUTER: "its virtual servers are taken over as they stand; afterwards remove "
    "the rest with ipvsproxy cleanup --foreign kube-router",
    Predecessor.KUBE_PROXY_IPTABLES: "serves until ours stands; afterwards remove the rest with "
    "ipvsproxy cleanup --foreign kube-proxy-iptables",
    Predecessor.KUBE_PROXY_NFTABLES: "serves until it is removed, when ours stands, with ipvsproxy "
    "cleanup --foreign kube-proxy-nftables",
}


async def readiness(settings: Settings) -> tuple[Check, ...]:
    """Check what a predecessor has left on this node, and what stands in the way."""
    dataplane = LinuxDataplane(WATCHED_SYSCTLS, settings.iptables_backend)
    try:
        state = await dataplane.dump()
        with closing(Foreign(Processes(), settings.iptables_backend)) as foreign:
            traces = await asyncio.to_thread(foreign.read)
    except DataplaneError as error:
        return (Check("predecessor", Verdict.WARN, f"cannot be looked for: {error}"),)
    finally:
        await dataplane.close()
    return tuple(readiness_checks(settings, state, traces))


def readiness_checks(settings: Settings, state: State, traces: Traces) -> Iterator[Check]:
    """Judge what was found."""
    found = predecessors(state, traces)
    for one in found:
        yield Check("predecessor", Verdict.OK, f"{one}: {_FATES[one]}")
    if not found:
        yield Check("predecessor", Verdict.OK, "none: no other proxy's rules or addresses")
    yield from _other_backend(traces)
    if others := of_others(state):
        finding = f"{len(others)} are others' and stay as they are: {_named(others)}"
        mend = "a Service at one of these is not served (ForeignVirtualServer, see ipvsproxy plan)"
        yield Check("other virtual servers", Verdict.WARN, finding, mend)
    if lost := lost_node_port_addresses(settings, state, None):
        finding = f"NodePorts will no longer be served on {_named(lost)}"
        yield Check("NodePort addresses", Verdict.WARN, finding, "see nodePortAddresses")
    elif settings.node_port_addresses.primary and found:
        finding = "NodePorts will be served on the Node's InternalIPs only"
        mend = "ipvsproxy plan names the addresses that are lost; or set nodePortAddresses"
        yield Check("NodePort addresses", Verdict.WARN, finding, mend)


def _other_backend(traces: Traces) -> Iterator[Check]:
    """Find Service rules in the iptables backend that we shall not use."""
    for backend in sorted({one.backend for one in traces.tables if _unused(one)}):
        finding = f"KUBE-SERVICES has rules in iptables-{backend}, and ours would stand elsewhere"
        mend = f"start with --iptables-backend {backend}, as the predecessor did"
        yield Check("iptables backend", Verdict.FAIL, finding, mend)


def _unused(table: RuleTable) -> bool:
    return not table.in_use and any(chain == SERVICES for chain, _ in table.rules)


def _named(values: tuple[object, ...]) -> str:
    text = ", ".join(map(str, values[:_MOST_NAMED]))
    return f"{text}, ..." if len(values) > _MOST_NAMED else text
