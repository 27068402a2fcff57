"""What `explain` shows: what happens to a packet, and why, in words.

Can be written as JSON by msgspec as it stands; field names are part of the interface. What the
kernel does is said by `core.trace`; which Service a virtual server belongs to is known to the
running agent, and left open where none answers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import assert_never

import msgspec

from ipvsproxy.config import Settings
from ipvsproxy.core.firewall import OUT_FILTER, SOURCE_RANGES
from ipvsproxy.core.packet import (
    Balanced,
    Candidate,
    Dropped,
    Fate,
    Forwarded,
    Kept,
    Local,
    Masqueraded,
    NotUnderstood,
    Refused,
    SenderKind,
    Step,
    Stopped,
    Trace,
    place_text,
)
from ipvsproxy.core.question import Place, Who, packet_of, parse_place
from ipvsproxy.core.sets import IPVS_IPS, NO_LOCAL
from ipvsproxy.core.trace import trace
from ipvsproxy.model import State, VirtualServer, VirtualServerKey
from ipvsproxy.telemetry.reports import AgentStatus

NO_AGENT = "no agent answers on this node, so its addresses are not known; give --to ADDRESS:PORT"
NO_FRONTEND = "the agent knows no frontend of it; see ipvsproxy status"

_OUT_OF_RANGE = "the sender is in none of the Service's loadBalancerSourceRanges"
_MEANINGS = {
    NO_LOCAL: "externalTrafficPolicy is Local, and no endpoint is on this node",
    SOURCE_RANGES: _OUT_OF_RANGE,
    OUT_FILTER: _OUT_OF_RANGE,
    IPVS_IPS: "it is a service address, and no Service has this port",
}
"""Why rules refuse, by the set or chain that they are known by."""


class StepRow(msgspec.Struct, frozen=True, kw_only=True):
    """Something that decided on the packet, as in `core.packet.Step`."""

    hook: str
    table: str = ""
    chain: str = ""
    rule: str = ""
    because: tuple[str, ...] = ()
    verdict: str = ""


class CandidateRow(msgspec.Struct, frozen=True, kw_only=True):
    """A real server that may be chosen."""

    address: str
    """ADDRESS:PORT."""
    weight: int
    source: str | None
    """The source address that it sees; None: an address of this node, which is masqueraded."""
    masqueraded: bool = False
    stopped: bool = False
    """A rule lets nothing through to it."""
    by: StepRow | None = None
    """What masquerades or stops it."""


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """What happens to one packet."""

    sender: str
    """outside, pod or node."""
    source: str
    interface: str | None
    """The interface that it comes in by; None: the node itself sends it."""
    destination: str
    """ADDRESS:PORT/PROTOCOL, or ADDRESS/ICMP."""
    fate: str
    """balanced, refused, dropped, local, forwarded or not understood."""
    served: bool
    """Whether somebody answers."""
    reason: str
    """The fate in a sentence."""
    steps: tuple[StepRow, ...] = ()
    virtual_server: str = ""
    """The one that decides; empty: none does."""
    service: str = ""
    """NAMESPACE/NAME whose virtual server it is; empty: not known."""
    port: str = ""
    """The Service port's name, or its number where it has none."""
    scheduler: str = ""
    persistence: int = 0
    """Seconds for which a client keeps the real server that it was given; 0: none."""
    candidates: tuple[CandidateRow, ...] = ()
    resting: tuple[str, ...] = ()
    """Real servers of weight 0."""
    unhealthy: tuple[str, ...] = ()
    """Real servers of the virtual server that fail their health check from this node."""


class ExplainReport(msgspec.Struct, frozen=True, kw_only=True):
    """What `explain` shows."""

    explanations: tuple[Explanation, ...] = ()
    problems: tuple[str, ...] = ()
    """What could not be explained, one line each."""


def explain_report(
    state: State,
    settings: Settings,
    who: Who | None,
    target: Place | str,
    agent: AgentStatus | None,
) -> ExplainReport:
    """Say what happens to packets in a kernel that holds `state`.

    `who` None: one from outside, one from a pod, one from the node. `target` is a place, or the
    NAMESPACE/NAME of a Service: then all frontends that the agent has for it, those of the other
    family than a given sender left out.
    """
    explanations: list[Explanation] = []
    problems: list[str] = []
    places = (target,) if isinstance(target, Place) else _frontends(target, who, agent)
    if not places:
        problems.append(f"{target}: {NO_AGENT if agent is None else NO_FRONTEND}")
    for place in places:
        for one in (who,) if who is not None else map(Who, SenderKind):
            try:
                packet = packet_of(one, place, settings, state)
            except ValueError as error:
                problems.append(str(error))
                continue
            explanations.append(explanation(trace(state, packet), state.virtual_servers, agent))
    return ExplainReport(explanations=tuple(explanations), problems=tuple(dict.fromkeys(problems)))


def explanation(
    found: Trace,
    virtual_servers: Mapping[VirtualServerKey, VirtualServer],
    agent: AgentStatus | None,
) -> Explanation:
    """Put a trace into words."""
    sender = found.packet.sender
    key = _key(found.fate)
    server = virtual_servers.get(key) if key is not None else None
    service, port = _whose(key, agent)
    name, reason = _told(found)
    balanced = found.fate if isinstance(found.fate, Balanced) else None
    return Explanation(
        sender=sender.kind,
        source=str(found.source),
        interface=sender.interface,
        destination=place_text(found.packet),
        fate=name,
        served=_served(found),
        reason=reason,
        steps=tuple(map(_row, found.steps)),
        virtual_server=str(key) if key is not None else "",
        service=service,
        port=port,
        scheduler=server.scheduler if server is not None else "",
        persistence=server.persistence if server is not None else 0,
        candidates=tuple(map(_candidate, balanced.candidates)) if balanced else (),
        resting=tuple(map(str, balanced.resting)) if balanced else (),
        unhealthy=_unhealthy(key, agent),
    )


def _frontends(service: str, who: Who | None, agent: AgentStatus | None) -> tuple[Place, ...]:
    services = agent.services if agent is not None else ()
    found = (one.frontends for one in services if one.name == service)
    places = [parse_place(one.virtual_server) for frontends in found for one in frontends]
    if who is not None and who.address is not None:
        return tuple(one for one in places if one.address.family is who.address.family)
    return tuple(places)


def _told(found: Trace) -> tuple[str, str]:  # noqa: PLR0911 - one case for each fate
    """Give the fate's name, and a sentence."""
    fate = found.fate
    match fate:
        case Balanced(key, candidates):
            number = len(candidates)
            servers = "1 real server" if number == 1 else f"one of {number} real servers"
            return "balanced", f"virtual server {key} sends it to {servers}"
        case Refused(by, None):
            return "refused", f"rejected by {_where(by)}{_meaning(by)}"
        case Refused(by, key):
            return "refused", f"port unreachable: virtual server {key}: {by.because[-1]}"
        case Dropped(by):
            return "dropped", f"dropped by {_where(by)}{_meaning(by)}"
        case Local(listeners):
            return "local", _delivered(found, len(listeners))
        case Forwarded(destination):
            return "forwarded", f"not balanced, and {destination} is no address of this node"
        case NotUnderstood(by, what):
            return "not understood", f"it cannot be said: {what}; at {_where(by)}"
        case _:
            assert_never(fate)


def _delivered(found: Trace, listeners: int) -> str:
    if found.packet.protocol is None:
        return "the node itself answers the ping"
    if listeners:
        return "not balanced: the node itself takes it, where something listens at this port"
    return "not balanced: for the node itself, where nothing is known to listen at this port"


def _served(found: Trace) -> bool:
    match found.fate:
        case Balanced(_, candidates):
            return any(not isinstance(one.seen, Stopped) for one in candidates)
        case Local(listeners):
            return bool(listeners) or found.packet.protocol is None
        case _:
            return False


def _key(fate: Fate) -> VirtualServerKey | None:
    match fate:
        case Balanced(key):
            return key
        case Refused(_, key):
            return key
        case _:
            return None


def _whose(key: VirtualServerKey | None, agent: AgentStatus | None) -> tuple[str, str]:
    if key is None or agent is None:
        return "", ""
    for service in agent.services:
        for frontend in service.frontends:
            if frontend.virtual_server == str(key):
                return service.name, frontend.port
    return "", ""


def _unhealthy(key: VirtualServerKey | None, agent: AgentStatus | None) -> tuple[str, ...]:
    frontends = (one for service in agent.services for one in service.frontends) if agent else ()
    return next((one.unhealthy for one in frontends if one.virtual_server == str(key)), ())


def _candidate(candidate: Candidate) -> CandidateRow:
    address, weight = str(candidate.member), candidate.weight
    match candidate.seen:
        case Kept(source):
            return CandidateRow(address=address, weight=weight, source=str(source))
        case Masqueraded(by):
            row = _row(by)
            return CandidateRow(
                address=address, weight=weight, source=None, masqueraded=True, by=row
            )
        case Stopped(by):
            row = _row(by)
            return CandidateRow(address=address, weight=weight, source=None, stopped=True, by=row)
        case _:
            assert_never(candidate.seen)


def _row(step: Step) -> StepRow:
    return StepRow(
        hook=step.hook,
        table=step.table,
        chain=step.chain,
        rule=step.rule,
        because=step.because,
        verdict=step.verdict,
    )


def _meaning(step: Step) -> str:
    """Say what an operator has to know of the rule that refuses."""
    words = f"{step.chain} {step.rule}".replace("KUBE-6-", "KUBE-")
    found = (meaning for name, meaning in _MEANINGS.items() if name in words)
    meaning = next(found, "")
    return f" ({meaning})" if meaning else ""


def _where(step: Step) -> str:
    place = f"{step.table} {step.chain}".strip() or step.hook
    return f"{place}: {step.rule}" if step.rule else place
