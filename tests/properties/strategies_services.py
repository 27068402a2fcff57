"""Strategies for Services of every kind, and an agent without a loop that follows them.

A `World` is two Services in a universe small enough that they meet: they may claim the same
external address, the same ports, and each other's NodePort after one another. Worlds are drawn as
neighbours, a few edits apart. `Follower` makes of them what the reconciler does: it translates in
the simplest way, and the reconciler's planning plans; whoever uses it carries the batches out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from hypothesis import strategies as st

from ipvsproxy.config import Settings
from ipvsproxy.core.desired import Desired, Touched
from ipvsproxy.core.packet import Sender, SenderKind
from ipvsproxy.core.pieces import whole
from ipvsproxy.core.plan import Batch
from ipvsproxy.core.portions import AT_ONCE
from ipvsproxy.core.settlement import Holds, Settlement
from ipvsproxy.core.surroundings import Surroundings
from ipvsproxy.core.translate import Inputs, translate
from ipvsproxy.kernel.fake import fresh_state
from ipvsproxy.model import (
    Address,
    Family,
    Network,
    NodeNetwork,
    Protocol,
    State,
    VirtualServerKey,
)
from ipvsproxy.objects import (
    Endpoint,
    EndpointSlice,
    Node,
    Service,
    ServiceName,
    ServicePort,
    SlicePort,
)
from ipvsproxy.reconciler.conditions import ConditionWriter
from ipvsproxy.reconciler.planning import Planning
from ipvsproxy.store import Store
from ipvsproxy.telemetry import Conditions

HERE, ELSEWHERE = "node-1", "node-2"
MOST_BATCHES = 8


class Places(NamedTuple):
    """The addresses of one family."""

    node: Address
    cluster: tuple[Address, ...]
    """Two for each Service."""
    external: tuple[Address, Address]
    """Neither is an address of the node."""
    local_pods: tuple[Address, Address]
    remote_pods: tuple[Address, Address]
    pods: Network
    ranges: tuple[tuple[Network, ...], ...]
    """Source ranges: none, a client's, another client's, the node's, everybody's."""
    senders: Mapping[str, Sender]

    def is_remote(self, address: Address) -> bool:
        """Whether a pod is on another node."""
        return address in self.remote_pods


def _places(  # noqa: PLR0917 - one for each of the family's addresses
    node: str, cluster: str, external: str, local: str, remote: str, pods: str, clients: str
) -> Places:
    def addresses(prefix: str) -> tuple[Address, Address]:
        return Address.parse(f"{prefix}1"), Address.parse(f"{prefix}2")

    own, (one, other) = Address.parse(node), addresses(clients)
    ranges = tuple(Network(address, address.family.host_prefix) for address in (one, other, own))
    return Places(
        own,
        tuple(Address.parse(f"{cluster}{index}") for index in range(1, 5)),
        addresses(external),
        addresses(local),
        addresses(remote),
        Network.parse(pods),
        ((), ranges[:1], ranges[1:2], ranges[::2], (Network(Address(bytes(len(own))), 0),)),
        {
            "one outside": Sender(SenderKind.OUTSIDE, one, "eth0"),
            "another outside": Sender(SenderKind.OUTSIDE, other, "eth0"),
            "a pod": Sender(SenderKind.POD, Address.parse(f"{local}9"), "cbr0"),
            "the node": Sender(SenderKind.NODE),
        },
    )


PLACES: Mapping[Family, Places] = {
    Family.IPV4: _places(
        *("192.0.2.10", "10.96.0.", "203.0.113.", "10.244.1.", "10.244.2."),
        *("10.244.0.0/16", "198.51.100."),
    ),
    Family.IPV6: _places(
        *("2001:db8:1::10", "fd00:96::", "2001:db8:2::", "fd00:244:0:1::", "fd00:244:0:2::"),
        *("fd00:244::/56", "2001:db8:3::"),
    ),
}
NETWORK = NodeNetwork(
    {"eth0": frozenset(places.node for places in PLACES.values())}, frozenset(), frozenset()
)
NODE = Node(HERE, addresses=tuple(places.node for places in PLACES.values()))
_NETWORKS = tuple(places.pods for places in PLACES.values())
SETTINGS = (
    Settings(node_name=HERE, cluster_cidrs=_NETWORKS),
    Settings(node_name=HERE, cluster_cidrs=_NETWORKS, masquerade_all=True),
    Settings(node_name=HERE),
)
NAMES = (ServiceName("shop", "a"), ServiceName("shop", "b"))


class Condition(NamedTuple):
    """The conditions of an endpoint."""

    ready: bool
    serving: bool
    terminating: bool


READY = Condition(True, True, False)
UNREADY = Condition(False, False, False)
LEAVING = Condition(False, True, True)


class Wanted(NamedTuple):
    """A Service, as far as it is drawn."""

    protocol: Protocol = Protocol.TCP
    port: int = 80
    cluster: int = 0
    """Which of its ClusterIPs, 0 or 1; the API server never gives one to two Services."""
    external_ip: int | None = None
    ingress: int | None = None
    """Which external address, 0 or 1; 2: the node's own."""
    node_port: int = 0
    external_local: bool = False
    internal_local: bool = False
    ranges: int = 0
    endpoints: tuple[Condition | None, ...] = (READY, None, READY, None)
    """Two here, two elsewhere; None: not in the slice."""


World = tuple[Wanted | None, Wanted | None]


def service_of(index: int, wanted: Wanted, family: Family) -> Service:
    """Make the Service."""
    places = PLACES[family]
    addresses = (*places.external, places.node)
    return Service(
        NAMES[index],
        created=float(index),
        cluster_ips=(places.cluster[2 * index + wanted.cluster],),
        ports=(ServicePort("http", wanted.protocol, wanted.port, wanted.node_port),),
        external_ips=() if wanted.external_ip is None else (addresses[wanted.external_ip],),
        ingress_ips=() if wanted.ingress is None else (addresses[wanted.ingress],),
        source_ranges=places.ranges[wanted.ranges],
        internal_traffic_local=wanted.internal_local,
        external_traffic_local=wanted.external_local,
    )


def slice_of(index: int, wanted: Wanted, family: Family) -> EndpointSlice:
    """Make its slice; both Services have the same pods, on ports of their own."""
    places = PLACES[family]
    pods = (*places.local_pods, *places.remote_pods)
    nodes = (HERE, HERE, ELSEWHERE, ELSEWHERE)
    return EndpointSlice(
        NAMES[index].namespace,
        f"{NAMES[index].name}-1",
        NAMES[index],
        family,
        tuple(
            Endpoint(pod, *condition, node_name=node)
            for pod, node, condition in zip(pods, nodes, wanted.endpoints, strict=True)
            if condition is not None
        ),
        (SlicePort("http", wanted.protocol, 8080 + index),),
    )


@dataclass
class Follower:
    """What the reconciler does with a world, without waiting for anything."""

    settings: Settings
    family: Family
    at_once: int = AT_ONCE
    """Of what is new and stands alone, so much is planned at once (core.portions)."""
    state: State = field(default_factory=fresh_state)
    now: float = 0.0

    def __post_init__(self) -> None:
        """Begin with a kernel that nobody has touched."""
        self.state.network = NETWORK
        self.desired = Desired()
        self._settlement = Settlement(self.desired, self.settings)
        self._wrong = Conditions()
        self._planning = Planning(
            desired=self.desired,
            settlement=self._settlement,
            settings=self.settings,
            conditions=ConditionWriter(Store(HERE), self.desired, self._wrong, lambda: 0.0),
            clock=lambda: self.now,
            at_once=self.at_once,
        )

    def tell(self, world: World) -> Touched:
        """Translate what changed; give what it touched."""
        touched = Touched()
        around = Surroundings(self.settings, self.state, node=NODE)
        for index, (name, wanted) in enumerate(zip(NAMES, world, strict=True)):
            if wanted is None:
                touched.add(self.desired.drop(name, self.now))
                continue
            parts = (slice_of(index, wanted, self.family),)
            inputs = Inputs(service_of(index, wanted, self.family), parts, whole=True)
            fragment = translate(inputs, around, self.desired.fragments.get(name))
            touched.add(self.desired.put(fragment, self.now))
        return touched

    def batches(self, touched: Touched) -> Iterator[Batch]:
        """Give batches until there is nothing to do: of what was touched, then of all there is.

        Each has to be carried out on `state` before the next is asked for. What drains is idle.
        """
        for _ in range(MOST_BATCHES):
            idle = {
                key: {member: 0 for member, real in members.items() if not real.weight}
                for key, members in self.state.real_servers.items()
            }
            around = Surroundings(self.settings, self.state, node=NODE)
            nothing = True
            for batch in self._planning.batches(touched, around, idle):
                assert not list(self._wrong), "what cannot be planned is told, and left out"
                if not isinstance(batch, Batch):  # what planning has cost
                    continue
                if batch.steps:
                    nothing = False
                    yield batch
            if nothing:
                return
            self.now += 1000.0
            touched = Touched()
            whole(self._settlement.sweep(touched, self.state, Holds(), self.now))
        raise AssertionError("there is always something to do")


def keys_of(desired: Desired) -> frozenset[VirtualServerKey]:
    """Give every address and port that a Service wants to be reached at."""
    return frozenset(one.key for found in desired.fragments.values() for one in found.frontends)


_FIELDS: Mapping[str, st.SearchStrategy[Any]] = {
    "protocol": st.sampled_from((Protocol.TCP, Protocol.TCP, Protocol.UDP, Protocol.SCTP)),
    "port": st.sampled_from((80, 80, 80, 81)),
    "cluster": st.sampled_from((0, 0, 1)),
    "external_ip": st.sampled_from((None, 0, 1, 2)),
    "ingress": st.sampled_from((None, 0, 0, 1, 2)),
    "node_port": st.sampled_from((0, 30080, 30080, 30081)),
    "external_local": st.booleans(),
    "internal_local": st.sampled_from((False, False, True)),
    "ranges": st.integers(0, 4),
}
_conditions = st.sampled_from((None, READY, READY, UNREADY, LEAVING))
_endpoints = st.tuples(*[_conditions] * 4)


@st.composite
def services(draw: st.DrawFn) -> Wanted:
    """Draw a Service."""
    fields = {name: draw(strategy) for name, strategy in _FIELDS.items()}
    return Wanted()._replace(**fields, endpoints=draw(_endpoints))


@st.composite
def worlds(draw: st.DrawFn) -> World:
    """Draw a world; the second Service is there now and then."""
    first = draw(st.one_of(services(), services(), st.none()))
    second = draw(st.one_of(st.none(), st.none(), services()))
    return first, second


@st.composite
def edited_world(draw: st.DrawFn, world: World) -> World:
    """Draw a world that is a few edits away."""
    changed = list(world)
    for _ in range(draw(st.sampled_from((1, 1, 2, 3)))):
        index = draw(st.sampled_from((0, 0, 1)))
        wanted = changed[index]
        if wanted is None:
            changed[index] = draw(services())
            continue
        what = draw(st.sampled_from(("gone", "endpoint", "external_local", *_FIELDS)))
        if what == "gone":
            changed[index] = None
        elif what == "endpoint":
            endpoints = list(wanted.endpoints)
            endpoints[draw(st.integers(0, 3))] = draw(_conditions)
            changed[index] = wanted._replace(endpoints=tuple(endpoints))
        else:
            changed[index] = wanted._replace(**{what: draw(_FIELDS[what])})
    return changed[0], changed[1]
