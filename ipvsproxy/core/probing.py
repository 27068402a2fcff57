"""Which endpoints of a Service this node probes, and what follows from what the probes say.

Knows a Service's endpoints, what must never be probed, and verdicts; a verdict is an input, as an
object is. Who probes, and how, this module does not know.

- Only a Service's own endpoints that serve here are probed; each once, by protocol, address and
  port, however many frontends it stands behind.
- Never is an address probed that is no pod's (`probed_addresses`).
- An endpoint counts as healthy until probes have said otherwise: Kubernetes has called it ready.
  The exception is a restart: what the kernel has at weight 0, or, where failing endpoints are
  removed, not at all, was unhealthy, and must rise.
- Before all Nodes are known nobody is probed. Who was unhealthy at a restart stays out meanwhile,
  but not for ever: after `NODES_GIVEN_UP` what Kubernetes says counts again.
- A probe that is wrong must not take a Service down: where more than a set share of a list of
  endpoints fails, what probes say is passed over for that list (Envoy's panic threshold).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from enum import StrEnum
from functools import cached_property
from types import MappingProxyType
from typing import NamedTuple

from ipvsproxy.core.annotations.health_check import HEALTH_CHECK, Check, OnFailure
from ipvsproxy.core.probed_addresses import Guard
from ipvsproxy.core.problem import Problem, ProblemKind, no_effect
from ipvsproxy.core.surroundings import Surroundings
from ipvsproxy.model import (
    Address,
    Protocol,
    RealServer,
    RealServerKey,
    VirtualServerKey,
)
from ipvsproxy.objects import ServiceName

_NO_FRONTS: Mapping[VirtualServerKey, frozenset[Target]] = MappingProxyType({})
NODES_MISSED = 10.0
"""Seconds after a start from which it is said that Nodes are missing: mostly they come at once."""
NODES_GIVEN_UP = 300.0
"""Seconds after a start for which endpoints that cannot be probed for want of Nodes stay out."""
_SHOWN = 3
"""So many endpoints are named in a message; a line must stay one line."""


class Target(NamedTuple):
    """What is probed for one Service."""

    service: ServiceName
    protocol: Protocol
    server: RealServerKey


class Verdict(StrEnum):
    """What the probes of a target have come to."""

    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"


class Standing(NamedTuple):
    """How a target stands, and how many probes in a row have spoken against it."""

    healthy: bool = True
    against: int = 0

    def after(self, *, success: bool, check: Check) -> Standing:
        """Give how it stands after one more probe."""
        if success == self.healthy:
            return Standing(self.healthy)
        needed = check.fall if self.healthy else check.rise
        if self.against + 1 >= needed:
            return Standing(not self.healthy)
        return Standing(self.healthy, self.against + 1)


class Probing(NamedTuple):
    """What is probed for a Service, and how."""

    check: Check | None
    """None: what is asked for was never right, so there are no targets, and suspects stay out."""
    targets: frozenset[Target]
    suspects: frozenset[Target] = frozenset()
    """Targets that were unhealthy when the agent started, and have not risen yet."""
    unhealthy: frozenset[Target] = frozenset()
    """Targets that are unhealthy, whether or not that counts."""
    fronts: Mapping[VirtualServerKey, frozenset[Target]] = _NO_FRONTS
    """Behind which virtual servers the targets stand; empty unless only those are probed that have
    traffic."""

    @property
    def only_with_traffic(self) -> bool:
        """Whether targets without traffic are not probed."""
        return self.check is not None and self.check.only_with_traffic

    def with_traffic(self, busy: Collection[VirtualServerKey]) -> frozenset[Target]:
        """Give the targets that are probed however they stand, where these have traffic.

        The others are probed while they are unhealthy: they would never rise. The traffic of the
        virtual server counts, not that of the real server, which at weight 0 has none.
        """
        if not self.only_with_traffic:
            return self.targets
        return frozenset[Target]().union(
            *(targets for key, targets in self.fronts.items() if key in busy)
        )


class Checked(NamedTuple):
    """What becomes of the real servers of one frontend."""

    real_servers: dict[RealServerKey, RealServer]
    cut: frozenset[RealServerKey] = frozenset()
    """Those that are removed at once, with their connections."""
    urgent: frozenset[RealServerKey] = frozenset()
    """Those that are used though they fail, for too many do: what they can bear is missed now."""


class Checks:
    """The checks of one Service: gathers its targets, and applies what is known of them."""

    def __init__(
        self,
        service: ServiceName,
        check: Check | None,
        *,
        asked: bool,
        verdicts: Mapping[Target, Verdict],
        around: Surroundings,
        previous: Probing | None,
    ) -> None:
        """`previous` is what was probed for the Service until now.

        `asked` without a check: one is asked for, and what is written was never right.
        """
        self._service = service
        self._unclear = asked and check is None and around.settings.health_checks
        self._check = check if around.settings.health_checks else None
        self._verdicts = verdicts
        self._around = around
        self._previous = previous
        self._targets: set[Target] = set()
        self._suspects: set[Target] = set()
        self._fronts: dict[VirtualServerKey, set[Target]] = {}
        self._waits = False
        self._forbidden: dict[Address, str] = {}
        had_suspects = previous is not None and bool(previous.suspects)
        self._may_suspect = around.starting or had_suspects
        self._ignored: dict[str, str] = {}
        self._protocols: set[Protocol] = set()

    def apply(
        self, key: VirtualServerKey, port_name: str, wanted: dict[RealServerKey, RealServer]
    ) -> Checked:
        """Say what becomes of a frontend's real servers, and note them as targets.

        `wanted` is given away: where nothing becomes of them it is what is given back.
        """
        check = self._check
        self._protocols.add(key.protocol)
        of_check = check.protocol if check is not None else Protocol.TCP  # UDP is taken out whole
        if (check is None and not self._unclear) or key.protocol is not of_check:
            return Checked(wanted)
        verdicts, suspects = self._verdicts, self._suspects
        failing = [
            target.server
            for target in self._probed(key, wanted)
            if verdicts.get(target) is Verdict.UNHEALTHY or target in suspects
        ]
        weighing = sum(1 for real in wanted.values() if real.weight)
        share = self._around.settings.health_check_panic_percent
        if not failing or len(failing) * 100 > share * weighing:
            if failing:
                where = f"port {port_name or key.port} (IPv{key.family})"
                self._ignored[where] = f"{len(failing)} of {weighing} endpoints of {where}"
            return Checked(wanted, urgent=frozenset(failing))
        real_servers = dict(wanted)
        if self._cuts(key):
            for member in failing:
                del real_servers[member]
            return Checked(real_servers, frozenset(failing))
        for member in failing:
            real_servers[member] = wanted[member]._replace(weight=0)
        return Checked(real_servers)

    @cached_property
    def _guard(self) -> Guard:
        return Guard(self._around)

    @property
    def probing(self) -> Probing | None:
        """What is to be probed; None: nothing. Ask it when all frontends were applied."""
        if self._check is None and not self._suspects:
            return None
        unhealthy = self._suspects.union(
            target
            for target, verdict in self._verdicts.items()
            if verdict is Verdict.UNHEALTHY and target in self._targets
        )
        return Probing(
            self._check,
            frozenset(self._targets),
            frozenset(self._suspects),
            frozenset(unhealthy),
            {key: frozenset(targets) for key, targets in self._fronts.items()} or _NO_FRONTS,
        )

    @property
    def problems(self) -> Iterator[Problem]:
        """What an operator should know. Ask it when all frontends were applied."""
        check = self._check
        if self._unclear and self._suspects:
            out = _named({one.server.address: "" for one in self._suspects})
            yield Problem(
                ProblemKind.ENDPOINTS_NOT_PROBED,
                f"unhealthy before the restart, and out until {HEALTH_CHECK} is right: {out}",
            )
        if check is not None and self._protocols and check.protocol not in self._protocols:
            why = f"without effect: the Service has no {check.protocol.name} port"
            yield no_effect(HEALTH_CHECK, why)
        if self._waits and self._around.nodes_awaited >= NODES_MISSED:
            out = _named({one.server.address: "" for one in self._suspects})
            yield Problem(
                ProblemKind.NODES_UNKNOWN,
                "no endpoint is probed before all Nodes are known: it could be a node"
                f"{f'; unhealthy before the restart, and out until then: {out}' if out else ''}",
            )
        if self._ignored:
            share = self._around.settings.health_check_panic_percent
            yield Problem(
                ProblemKind.HEALTH_CHECKS_IGNORED,
                f"{'; '.join(self._ignored.values())} fail their health check from this node, "
                f"more than {share}%, so all are used: see whether the check is right "
                f"({HEALTH_CHECK}), and the way from this node to the pods",
            )
        if self._forbidden and check is not None:
            yield Problem(
                ProblemKind.ENDPOINTS_NOT_PROBED,
                f"not probed, and used as Kubernetes says: {_named(self._forbidden)}",
            )

    def _probed(
        self, key: VirtualServerKey, wanted: Mapping[RealServerKey, RealServer]
    ) -> Iterator[Target]:
        """Give those that may be probed and that a verdict matters for, and note all targets."""
        notes = self._around.nodes_known and not self._unclear
        noted: set[Target] = set()
        for member, real in wanted.items():
            reason = self._guard.why_not(member.address)
            if reason is not None:
                self._forbidden[member.address] = reason
                continue
            target = Target(self._service, key.protocol, member)
            noted.add(target)
            if self._may_suspect and self._was_unhealthy(key, target, real):
                self._suspects.add(target)
            if real.weight:
                yield target
        if notes:
            self._note_targets(key, noted)
        elif noted and not self._unclear:
            self._waits = True

    def _note_targets(self, key: VirtualServerKey, targets: set[Target]) -> None:
        self._targets |= targets
        if targets and self._check is not None and self._check.only_with_traffic:
            self._fronts.setdefault(key, set()).update(targets)

    def _cuts(self, key: VirtualServerKey) -> bool:
        """Whether a frontend's failing real servers are removed, not given weight 0."""
        cut = self._check is not None and self._check.on_failure is OnFailure.CUT
        return cut or key.protocol is Protocol.UDP

    def _was_unhealthy(self, key: VirtualServerKey, target: Target, real: RealServer) -> bool:
        """Whether a target was unhealthy before a restart, and nothing has been said of it since.

        A weight of 0 that is asked for says nothing, nor does one of a running agent's own: there
        it is that of a server that was draining and has come back.
        """
        if target in self._verdicts:
            return False
        if self._previous is not None and target in self._previous.suspects:
            around = self._around
            in_time = around.nodes_known or around.nodes_awaited < NODES_GIVEN_UP
            return in_time or self._unclear
        if not self._around.starting or not real.weight:
            return False
        present = self._around.kernel.real_servers.get(key, {})
        found = present.get(target.server)
        if self._cuts(key):
            return found is None and bool(present)
        return found is not None and found.weight == 0


def _named(addresses: Mapping[Address, str]) -> str:
    """Name the first of some addresses, each with what is said of it, and count the others."""
    shown = sorted(addresses.items())[:_SHOWN]
    more = len(addresses) - len(shown)
    named = [f"{address} ({why})" if why else str(address) for address, why in shown]
    return f"{', '.join(named)}{f' and {more} more' if more else ''}"


def stretch(nodes: int, most: int) -> float:
    """Give by how much intervals are longer in a cluster of `nodes`, so that `most` seem to probe.

    1 where there are no more, and where `most` is 0.
    """
    return max(1.0, nodes / most) if most else 1.0
