"""What one Service wants in the kernel: a Service, its slices and the node become a `Fragment`.

This is where Kubernetes' words end. A Service is a set of frontends (today its ClusterIP and port
in each family); each frontend is one virtual server with its real servers, whether its address is
bound to the dummy interface, and the set members that let its traffic work. A fragment knows
nothing of other Services, nor - with one exception - of what the kernel holds: the exception is a
wrong annotation after a restart, whose last good value is then read from the kernel.

Pure: the same inputs give an equal fragment, and an equal fragment touches nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import NamedTuple, TypeAlias

from ipvsproxy.config import Settings
from ipvsproxy.core.annotations import (
    WEIGHTS,
    choose_scheduler,
    read_weights,
    scheduler_flags,
    unknown_annotation,
)
from ipvsproxy.core.endpoints import PlacedEndpoint, Policy, Selection, gather, select
from ipvsproxy.core.firewall import (
    CLUSTER_IP,
    IPVS_IPS,
    LEDGER,
    LOOP_BACK,
    frontend_member,
    loop_back_member,
    set_name,
)
from ipvsproxy.core.problem import Problem, ProblemKind
from ipvsproxy.model import (
    Address,
    Family,
    IpMember,
    Member,
    RealServer,
    RealServerKey,
    Scheduler,
    State,
    VirtualServer,
    VirtualServerKey,
)
from ipvsproxy.objects import EndpointSlice, Service, ServiceName, ServicePort

SetMember: TypeAlias = tuple[str, Member]
"""A member, with the name of its set."""

DEFAULT_WEIGHT = 1


class Frontend(NamedTuple):
    """One virtual server as one Service wants it."""

    key: VirtualServerKey
    server: VirtualServer
    real_servers: Mapping[RealServerKey, RealServer]
    """In rotation, and those that an annotation has given weight 0."""
    displaced: frozenset[RealServerKey]
    """Ready, but not for this frontend: goes when its replacements stand."""
    retiring: frozenset[RealServerKey]
    """Still in a slice, but not to be used: no deadline for its open connections."""
    bind: bool
    """Whether the address is put on the dummy interface."""
    members: frozenset[SetMember]
    whole: bool
    """False: slices of this Service may be missing from the picture, so no real server is gone."""


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
    weights: Mapping[str, Mapping[Address, int]]
    """The weights in force, by slice name."""


class Inputs(NamedTuple):
    """Everything that a Service's translation depends on."""

    service: Service
    slices: Sequence[EndpointSlice]
    whole: bool
    """Whether everything that the source describes could be read."""
    sound: bool = True
    """Whether no slice of this Service is nonsense without a good state that stands for it."""

    def knows_endpoints(self, family: Family) -> bool:
        """Whether no slice of a family can be missing; see `Frontend.whole`.

        A slice that was read counts as all there are: endpoints are withdrawn though another file
        is broken.
        """
        return self.sound and (self.whole or any(one.family is family for one in self.slices))


class Surroundings(NamedTuple):
    """What is the same for all Services of a cycle."""

    settings: Settings
    kernel: State
    unavailable: Collection[str] = frozenset()
    """Schedulers that this kernel has refused."""


def translate(inputs: Inputs, around: Surroundings, previous: Fragment | None) -> Fragment:
    """Say what a Service wants, given what it wanted before (None: new, or after a restart)."""
    service = inputs.service
    keys = tuple(_keys(service, around.kernel))
    choice = choose_scheduler(
        dict(service.annotations),
        default=around.settings.default_scheduler,
        previous=_last_good_scheduler(keys, around, previous),
        unavailable=around.unavailable,
    )
    weighing = _Weighing(inputs.slices, previous, around.kernel)
    frontends = tuple(
        _frontend(
            key, port, inputs=inputs, around=around, scheduler=choice.scheduler, weighing=weighing
        )
        for key, port in keys
    )
    found = (choice.problem, unknown_annotation(dict(service.annotations)), *weighing.problems)
    return Fragment(
        service.name,
        service.created,
        frontends,
        tuple(problem for problem in found if problem is not None),
        choice.annotated,
        choice.asked,
        choice.scheduler,
        weighing.weights,
    )


def _keys(service: Service, kernel: State) -> Iterator[tuple[VirtualServerKey, ServicePort]]:
    if service.proxy_name is not None:
        return
    for address in service.cluster_ips:
        if address.family in kernel.families:
            for port in service.ports:
                yield VirtualServerKey(port.protocol, address, port.port), port


def _frontend(
    key: VirtualServerKey,
    port: ServicePort,
    *,
    inputs: Inputs,
    around: Surroundings,
    scheduler: str,
    weighing: _Weighing,
) -> Frontend:
    endpoints = gather(
        inputs.slices, port_name=port.name, protocol=port.protocol, family=key.family
    )
    # An address of the node's own stays where it is: on the dummy interface it would be filtered,
    # and every other port of the node with it (kubernetes #72236, k3s #7183).
    bind = key.address not in around.kernel.network.addresses
    policy = Policy.LOCAL if inputs.service.internal_traffic_local else Policy.CLUSTER
    selection = select(endpoints, policy, around.settings.node_name)
    return Frontend(
        key=key,
        server=VirtualServer(
            scheduler,
            scheduler_flags(scheduler),
            inputs.service.affinity_seconds,
            key.family.host_prefix,
        ),
        real_servers=_real_servers(key, endpoints, selection, weighing),
        displaced=selection.displaced,
        retiring=selection.retiring,
        bind=bind,
        members=frozenset(_members(key, endpoints, around.settings.node_name, bind=bind)),
        whole=inputs.knows_endpoints(key.family),
    )


def _real_servers(
    key: VirtualServerKey,
    endpoints: Mapping[RealServerKey, PlacedEndpoint],
    selection: Selection,
    weighing: _Weighing,
) -> dict[RealServerKey, RealServer]:
    return {
        member: RealServer(weighing.weight(key, member, endpoints[member].slice_name))
        for member in sorted(selection.serving)
    }


def _members(
    key: VirtualServerKey,
    endpoints: Mapping[RealServerKey, PlacedEndpoint],
    node_name: str,
    *,
    bind: bool,
) -> Iterator[SetMember]:
    family = key.family
    yield set_name(LEDGER, family), frontend_member(key)
    yield set_name(CLUSTER_IP, family), frontend_member(key)
    if bind:
        yield set_name(IPVS_IPS, family), IpMember(key.address)
    for member, placed in endpoints.items():
        if placed.endpoint.node_name == node_name:
            yield set_name(LOOP_BACK, family), loop_back_member(key.protocol, member)


def _last_good_scheduler(
    keys: Sequence[tuple[VirtualServerKey, ServicePort]],
    around: Surroundings,
    previous: Fragment | None,
) -> str | None:
    """Give the scheduler that served until now: in memory, or as the kernel has kept it.

    fo beside a real server of weight 0 stands in for dh while that drains (core.drain).
    """
    if previous is not None and previous.scheduler not in around.unavailable:
        return previous.scheduler
    for key, _ in keys:
        found = around.kernel.virtual_servers.get(key)
        if found is not None:
            weights = [real.weight for real in around.kernel.real_servers.get(key, {}).values()]
            stands_in = found.scheduler == Scheduler.FO and any(weights) and not all(weights)
            return Scheduler.DH if stands_in else found.scheduler
    return None


class _Weighing:
    """The weights of a Service's slices, with what is wrong in their annotations."""

    def __init__(
        self, slices: Sequence[EndpointSlice], previous: Fragment | None, kernel: State
    ) -> None:
        self.problems: list[Problem] = []
        self.weights: dict[str, dict[Address, int]] = {}
        self._kernel = kernel
        self._from_kernel: set[str] = set()
        """Slices whose annotation is wrong and whose last good weights nobody remembers."""
        for part in slices:
            if part.weights is not None:
                self._read(part.name, part.weights, previous)

    def weight(self, key: VirtualServerKey, member: RealServerKey, slice_name: str) -> int:
        """Weight of one endpoint; 1 where nobody has said anything else."""
        if slice_name in self._from_kernel:
            found = self._kernel.real_servers.get(key, {}).get(member)
            # A weight of 0 may be that of a server that was draining: not a choice to go on with.
            if found and found.weight:
                self.weights.setdefault(slice_name, {})[member.address] = found.weight
        return self.weights.get(slice_name, {}).get(member.address, DEFAULT_WEIGHT)

    def _read(self, slice_name: str, text: str, previous: Fragment | None) -> None:
        try:
            self.weights[slice_name] = read_weights(text)
        except ValueError as error:
            message = (
                f"annotation {WEIGHTS} of EndpointSlice {slice_name}: {error}; "
                "the previous weights stay"
            )
            self.problems.append(Problem(ProblemKind.INVALID_ANNOTATION, message))
            if previous is None:
                self._from_kernel.add(slice_name)
            elif slice_name in previous.weights:
                self.weights[slice_name] = dict(previous.weights[slice_name])
