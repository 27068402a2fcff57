"""What one Service wants in the kernel: a Service, its slices and the node become a `Fragment`.

This is where Kubernetes' words end. A Service is a set of places where it is to be reached
(core.frontends); each becomes a frontend: one virtual server with its real servers, whether its
address is bound to the dummy interface, the set members that let its traffic work, and where
clients inside the cluster are sent instead. A fragment knows nothing of other Services, and of
what the kernel holds only what outlives a restart: the last good value of a wrong annotation, the
weights in force, who was unhealthy, and whether an address in doubt was served.

Pure: the same inputs give an equal fragment, and an equal fragment touches nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple, TypeAlias

from ipvsproxy.core.annotations import (
    HEALTH_CHECK,
    Reader,
    Steering,
    choose_scheduler,
    kept_by,
    read_check,
    steer,
    unknown_annotation,
)
from ipvsproxy.core.annotations.strays import strays
from ipvsproxy.core.endpoints import Policy, Selection
from ipvsproxy.core.frontends import Kind, Place, places
from ipvsproxy.core.gathering import Gathered, Parts, gather_all
from ipvsproxy.core.health_check import HealthCheck, local_endpoints
from ipvsproxy.core.members import SetMember, frontend_members, service_members
from ipvsproxy.core.probing import Checks, Probing, Target, Verdict
from ipvsproxy.core.problem import Problem, ProblemKind
from ipvsproxy.core.redirect import Redirect
from ipvsproxy.core.surroundings import Surroundings
from ipvsproxy.core.weights.keeping import Kept
from ipvsproxy.core.weights.shaping import UNSHAPED, Shaping
from ipvsproxy.core.weights.weighing import Weighing
from ipvsproxy.model import (
    Family,
    RealServer,
    RealServerKey,
    Scheduler,
    VirtualServer,
    VirtualServerKey,
)
from ipvsproxy.objects import EndpointSlice, Service, ServiceName, ServicePort

NOTHING_WRITTEN: Mapping[str, str] = MappingProxyType({})
_NO_POLICIES: frozenset[str] = frozenset()
NO_VERDICTS: Mapping[Target, Verdict] = MappingProxyType({})


class Frontend(NamedTuple):
    """One virtual server as one Service wants it."""

    key: VirtualServerKey
    kind: Kind
    server: VirtualServer
    real_servers: Mapping[RealServerKey, RealServer]
    """In rotation, and those that an annotation has given weight 0. Weights as they are wanted, of
    any size: `shaping` makes of them what the kernel is given."""
    displaced: frozenset[RealServerKey]
    """Ready, but not for this frontend: goes when its replacements stand."""
    retiring: frozenset[RealServerKey]
    """Still in a slice, but not to be used: no deadline for its open connections."""
    bind: bool
    """Whether the address is put on the dummy interface."""
    members: Collection[SetMember]
    """Each once."""
    whole: bool
    """False: slices of this Service may be missing from the picture, so no real server is gone."""
    redirect: Redirect | None = None
    """Where clients inside the cluster are sent instead."""
    drain_deadline: float | None = None
    """Seconds that a real server which has left may finish its connections; None: the setting."""
    shaping: Shaping = UNSHAPED
    cut: frozenset[RealServerKey] = frozenset()
    """Goes at once, with its connections: it fails its health check."""
    urgent: frozenset[RealServerKey] = frozenset()
    """Has its whole weight at once, without a slow start: its failing check is passed over."""


class Fragment(NamedTuple):
    """What one Service wants; and the good values that outlive a wrong annotation."""

    name: ServiceName
    created: float | None
    frontends: tuple[Frontend, ...]
    problems: tuple[Problem, ...]
    annotated: bool
    """Whether an annotation chooses the scheduler."""
    asked: str
    """The scheduler that was asked for, by annotation or by default."""
    scheduler: str
    """The scheduler in force: the last good one where the other cannot be had."""
    kept: Kept
    """Weights that were found in the kernel, and count because nothing better is known."""
    members: frozenset[SetMember] = frozenset()
    """Set members that are needed whichever of its frontends the Service holds."""
    health_check: HealthCheck | None = None
    """What is answered on its health check node port."""
    without_local: frozenset[str] = frozenset()
    """Traffic policies, internal and external, that are Local and find no endpoint on this node
    though there is one elsewhere."""
    good: Mapping[str, str] = NOTHING_WRITTEN
    """The annotations in force, as written: the last good text where the present one is wrong."""
    probing: Probing | None = None
    """Which of its endpoints this node probes, and how; None: it does not."""


class Inputs(NamedTuple):
    """Everything that a Service's translation depends on."""

    service: Service
    slices: Sequence[EndpointSlice]
    whole: bool
    """Whether everything that the source describes could be read."""
    sound: bool = True
    """Whether no slice of this Service is nonsense without a good state that stands for it."""
    verdicts: Mapping[Target, Verdict] = NO_VERDICTS
    """What its probes have come to."""

    def knows_endpoints(self, family: Family) -> bool:
        """Whether no slice of a family can be missing; see `Frontend.whole`.

        A slice that was read counts as all there are: endpoints are withdrawn though another file
        is broken.
        """
        return self.sound and (self.whole or any(one.family is family for one in self.slices))


MayBeIts: TypeAlias = Callable[[VirtualServerKey], bool]
"""Whether what the kernel has of a virtual server may have been made for a Service: what is
another's, or none of ours, says nothing of what was good for this one."""


def translate(
    inputs: Inputs,
    around: Surroundings,
    previous: Fragment | None,
    its: MayBeIts = lambda _: True,
    *,
    parts: Parts | None = None,
) -> Fragment:
    """Say what a Service wants, given what it wanted before (None: new, or after a restart).

    `parts`: what its slices gave then, which only saves time.
    """
    service = inputs.service
    served = frozenset(one.key for one in previous.frontends) if previous else frozenset()
    found = places(service, around, served)
    annotations = dict(service.annotations)
    keys = [one.key for one in found.places if its(one.key)]
    reader = Reader(annotations, previous.good if previous else kept_by(around.kernel, keys))
    kept = previous.kept if previous else None
    weighing = Weighing(annotations, inputs.slices, around, reader, kept=kept, keys=keys)
    choice = choose_scheduler(
        annotations,
        default=weighing.default_scheduler(around.settings.default_scheduler),
        previous=_last_good_scheduler(keys, around, previous),
        unavailable=around.unavailable,
    )
    masquerade_all = around.settings.masquerade_all
    steering = steer(reader, service, choice.scheduler, masquerade_all=masquerade_all)
    checks = _checks(inputs, reader, around, previous, asked=HEALTH_CHECK in annotations)
    builder = _Frontends(inputs, around, steering, weighing, checks, parts=parts)
    frontends = builder.frontends(found.places, choice.scheduler)
    said = (
        choice.problem,
        unknown_annotation(annotations),
        *strays(inputs.slices),
        *reader.problems,
        *weighing.problems,
        *checks.problems,
        *found.problems,
    )
    return Fragment(
        service.name,
        service.created,
        frontends,
        (*_remarks(service), *(problem for problem in said if problem is not None)),
        choice.annotated,
        choice.asked,
        choice.scheduler,
        weighing.kept,
        service_members(service, builder.local(), around) if frontends else frozenset(),
        _health_check(inputs, around) if frontends else None,
        frozenset(builder.without_local) if builder.without_local else _NO_POLICIES,
        reader.good or NOTHING_WRITTEN,
        checks.probing,
    )


def _checks(
    inputs: Inputs,
    reader: Reader,
    around: Surroundings,
    previous: Fragment | None,
    *,
    asked: bool,
) -> Checks:
    return Checks(
        inputs.service.name,
        read_check(reader),
        asked=asked,
        verdicts=inputs.verdicts,
        around=around,
        previous=previous.probing if previous else None,
    )


def _remarks(service: Service) -> tuple[Problem, ...]:
    return tuple(Problem(ProblemKind.IGNORED_FIELD, remark) for remark in service.remarks)


def _health_check(inputs: Inputs, around: Surroundings) -> HealthCheck | None:
    service = inputs.service
    if not service.health_check_node_port:
        return None
    count = local_endpoints(inputs.slices, around.settings.node_name)
    return HealthCheck(service.name, service.health_check_node_port, count, service.created)


class _Frontends:
    """Makes frontends of places; what several of them share is worked out once."""

    def __init__(
        self,
        inputs: Inputs,
        around: Surroundings,
        steering: Steering,
        weighing: Weighing,
        checks: Checks,
        *,
        parts: Parts | None,
    ) -> None:
        self._inputs = inputs
        self._around = around
        self._steering = steering
        self._weighing = weighing
        self._checks = checks
        self._parts = parts
        if parts is not None:
            parts.begin()
        self.without_local: set[str] = set()
        self._gathered: dict[tuple[ServicePort, Family], Gathered] = {}
        self._selected: dict[tuple[ServicePort, Family, Policy], Selection] = {}

    def local(self) -> list[tuple[ServicePort, Collection[RealServerKey]]]:
        """Give the endpoints of this node, of each port and family that has a frontend."""
        return [(port, found.local()) for (port, _), found in self._gathered.items()]

    def frontends(self, found: Iterable[Place], scheduler: str) -> tuple[Frontend, ...]:
        """Say what the virtual servers of all places look like; `scheduler` is the one in force."""
        made = tuple(map(self.frontend, found))
        self._weighing.remark(scheduler, [len(one.real_servers) for one in made])
        return made

    def frontend(self, place: Place) -> Frontend:
        """Say what the virtual server of a place looks like."""
        service, key = self._inputs.service, place.key
        policy = self._policy(place)
        selection = self._select(place, policy)
        redirected = place.external and policy is Policy.LOCAL
        nobody_here = (
            policy is Policy.LOCAL
            and not selection.serving
            and bool(self._select(place, Policy.CLUSTER).serving)
        )
        if nobody_here:
            self.without_local.add("external" if place.external else "internal")
        real_servers, shaping = self._weigh(place, policy, selection)
        checked = self._checks.apply(key, place.port.name, real_servers)
        return Frontend(
            key=key,
            kind=place.kinds[0],
            server=self._steering.virtual_server(place),
            real_servers=checked.real_servers,
            displaced=selection.displaced,
            retiring=selection.retiring,
            bind=place.bind,
            members=frontend_members(
                place, service, self._around, shut_out=redirected and nobody_here
            ),
            whole=self._inputs.knows_endpoints(key.family),
            redirect=_redirect(place) if redirected else None,
            drain_deadline=self._steering.drain_deadline,
            shaping=shaping,
            cut=checked.cut,
            urgent=checked.urgent,
        )

    def _policy(self, place: Place) -> Policy:
        service = self._inputs.service
        local = service.external_traffic_local if place.external else service.internal_traffic_local
        return Policy.LOCAL if local else Policy.CLUSTER

    def _gather(self, place: Place) -> Gathered:
        which = port, family = place.port, place.key.family
        found = self._gathered.get(which)
        if found is None:
            slices, here = self._inputs.slices, self._around.here
            if self._parts is None:
                found = gather_all(slices, port, family, here)
            else:
                present = self._around.kernel.real_servers.get(place.key, ())
                found = self._parts.gather(slices, port, family, here, present=present)
            self._gathered[which] = found
        return found

    def _select(self, place: Place, policy: Policy) -> Selection:
        which = (place.port, place.key.family, policy)
        found = self._selected.get(which)
        if found is None:
            found = self._selected[which] = self._gather(place).select(policy)
        return found

    def _weigh(
        self, place: Place, policy: Policy, selection: Selection
    ) -> tuple[dict[RealServerKey, RealServer], Shaping]:
        gathered = self._gather(place)
        serving = gathered.in_order(selection.serving, policy)
        weights, shaping = self._weighing.weigh(
            place.key, gathered.placed, serving, self._steering.scheduler
        )
        made = {weight: self._steering.real_server(weight) for weight in set(weights.values())}
        if len(made) == 1:
            return dict.fromkeys(weights, *made.values()), shaping
        return {member: made[weight] for member, weight in weights.items()}, shaping


def _redirect(place: Place) -> Redirect:
    key = place.key
    address = None if place.kinds[0] is Kind.NODE_PORT else key.address
    return Redirect(key.protocol, address, key.port, place.cluster)


def _last_good_scheduler(
    keys: Sequence[VirtualServerKey],
    around: Surroundings,
    previous: Fragment | None,
) -> str | None:
    """Give the scheduler that served until now: in memory, or as the kernel has kept it.

    fo beside a real server of weight 0 stands in for dh while that drains (core.drain).
    """
    if previous is not None and previous.scheduler not in around.unavailable:
        return previous.scheduler
    for key in keys:
        found = around.kernel.virtual_servers.get(key)
        if found is not None:
            weights = [real.weight for real in around.kernel.real_servers.get(key, {}).values()]
            stands_in = found.scheduler == Scheduler.FO and any(weights) and not all(weights)
            return Scheduler.DH if stands_in else found.scheduler
    return None
