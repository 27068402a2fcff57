"""What the endpoints of one Service are to weigh, and what becomes of that: of objects only.

Knows annotations of the Service, its slices and Nodes, and their order; knows nothing of what is
made of a weight (`shaping`, `normal`). The first of these that says anything counts:

1. the slice, by address, else of all its endpoints;
2. the Service's rules, by node, by label of the node, by zone;
3. the Node's annotation, or the Pod's, as the Service's weight source says;
4. what the Node can bear, where that is the source;
5. nothing: 1.

A value that is wrong after a restart, when nobody remembers the good one, has the kernel speak for
those endpoints whose weight it may give: their weights stay, and those of others are what they are
(`keeping`). Where there is no other to compare with, all weights of the virtual server stay as they
are in the kernel. So they do while a zone preference is not known, or Nodes or Pods are needed and
not listed yet.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from fractions import Fraction
from typing import TypeVar

from ipvsproxy.config import WatchNodes
from ipvsproxy.core.annotations import (
    HEALTH_CHECK,
    NODE_WEIGHT,
    POD_WEIGHT,
    SLICE_WEIGHT,
    SLICE_WEIGHTS,
    SLOW_START,
    WEIGHT_RULES,
    WEIGHT_SOURCE,
    ZONE_PREFERENCE,
    Reader,
    WeightRules,
    WeightSource,
    read_slow_start,
    read_weight,
    read_weight_rules,
    read_weight_source,
    read_weights,
    read_zone_preference,
)
from ipvsproxy.core.endpoints import PlacedEndpoint
from ipvsproxy.core.problem import Problem, ProblemKind
from ipvsproxy.core.surroundings import Surroundings
from ipvsproxy.core.weights.keeping import NOTHING_KEPT, Kept, KeptWeights, compared, whole
from ipvsproxy.core.weights.normal import TABLES, WEIGHTLESS
from ipvsproxy.core.weights.shaping import UNSHAPED, WITHOUT_PREFERENCE, Shaping
from ipvsproxy.model import Address, RealServerKey, Scheduler, VirtualServerKey
from ipvsproxy.objects import EndpointSlice, Node

Value = TypeVar("Value")

DEFAULT_WEIGHT = 1

_STAYS = "the previous weights stay"
_WEIGHTED = {Scheduler.RR: Scheduler.WRR, Scheduler.LC: Scheduler.WLC}
_ON_SERVICE = (WEIGHT_RULES, WEIGHT_SOURCE, ZONE_PREFERENCE, SLOW_START)


class Weighing:
    """Weighs the endpoints of one Service."""

    def __init__(
        self,
        annotations: Mapping[str, str],
        slices: Sequence[EndpointSlice],
        around: Surroundings,
        reader: Reader,
        *,
        kept: Kept | None,
        keys: Collection[VirtualServerKey],
    ) -> None:
        """Read all that weights depend on; what is wrong with it is told to `reader`.

        `kept` is `kept` of the translation before; None: there was none, as after a restart.
        `keys` are the Service's virtual servers.
        """
        self._around = around
        self._reader = reader
        self.problems: list[Problem] = []
        self._written = [name for name in _ON_SERVICE if name in annotations] if annotations else []
        self._in_slices = any(
            part.weights is not None or part.weight is not None for part in slices
        )
        self._rules: WeightRules | None = None
        self._source: WeightSource | None = None
        self._slow_start: int | None = None
        self._preference: int | None = None
        self._by_address: dict[str, Mapping[Address, int]] = {}
        self._by_slice: dict[str, int] = {}
        self._kept: dict[VirtualServerKey, KeptWeights] = {}
        self._taken_now = False
        """Whether what the kernel has was read for this translation."""
        self._all_of_kernel = False
        """Whether all weights stay as they are in the kernel."""
        if self._written or self._in_slices:  # nothing says what most Services weigh
            self._read_all(annotations, slices, kept=kept, keys=keys)

    def _read_all(
        self,
        annotations: Mapping[str, str],
        slices: Sequence[EndpointSlice],
        *,
        kept: Kept | None,
        keys: Collection[VirtualServerKey],
    ) -> None:
        around, reader = self._around, self._reader
        self._rules = reader.read(WEIGHT_RULES, read_weight_rules, stays=_STAYS)
        self._source = reader.read(WEIGHT_SOURCE, read_weight_source, stays=_STAYS)
        self._slow_start = reader.read(SLOW_START, read_slow_start)
        self._preference = reader.read(ZONE_PREFERENCE, read_zone_preference, stays=_STAYS)
        self._lost = {name for name in (WEIGHT_RULES, WEIGHT_SOURCE) if reader.never_right(name)}
        """What is wrong, and was never right, as the reader knows it; its good value is unknown."""
        self._read_slices(slices)
        self._by_node: dict[str, int] = {}
        self._by_pod: dict[str, int] = {}
        by_nodes = self._source not in {None, WeightSource.POD} or (
            self._rules is not None and bool(self._rules.labels)
        )
        waits = by_nodes and self._waits_for_nodes()
        if not by_nodes and self._goes_by_zones and any(part.lacks_zones for part in slices):
            waits = self._waits_for_nodes("endpoints whose zone no slice says are in none")
        if self._source is WeightSource.POD:
            self._read_pods(slices)
            waits = self._waits_for_pods() or waits
        elif self._source is not None:
            self._read_nodes(slices)
        if kept is None or (waits and not any(not one.compared for one in kept.values())):
            zeros = HEALTH_CHECK not in annotations  # else who is at 0 has failed, and may rise
            kept = _in_kernel(around, keys, zeros=zeros)
            self._taken_now = True
        self._all_of_kernel = waits or reader.never_right(ZONE_PREFERENCE)
        if self._all_of_kernel or self._lost:
            self._kept = dict(kept)

    def default_scheduler(self, default: str) -> str:
        """Give the scheduler of a Service that chooses none: one that goes by weights.

        It depends on what is written, not on whether it is right: a wrong value changes nothing.
        """
        asked = self._written or self._in_slices
        return _WEIGHTED.get(Scheduler(default), default) if asked else default

    @property
    def kept(self) -> Kept:
        """Weights that were found in the kernel, and count because nothing better is known.

        Read once: what the kernel has later is made of these, and may be at a step of a climb.
        """
        return self._kept or NOTHING_KEPT

    def weigh(
        self,
        key: VirtualServerKey,
        endpoints: Mapping[RealServerKey, PlacedEndpoint],
        serving: Collection[RealServerKey],
        scheduler: str,
    ) -> tuple[dict[RealServerKey, int], Shaping]:
        """Weigh those that serve at one virtual server: whole numbers from 0, and their shaping."""
        shaping = self._shaping(endpoints, serving)
        kept = self._kept.get(key)
        if kept is not None and self._taken_now:
            kept = self._kept[key] = kept.without_draining(serving)
        if not self._all_of_kernel:
            if not self._weighs:
                weights = dict.fromkeys(serving, DEFAULT_WEIGHT)
            else:
                weights = {member: self._weight(endpoints[member]) for member in serving}
            if kept is None:
                return weights, shaping
            unknown = {member for member in serving if self._is_unknown(endpoints[member])}
            others = {one: weight for one, weight in weights.items() if one not in unknown}
            kept = compared(kept, others, unknown, shaping=shaping, scheduler=scheduler)
            self._kept[key] = kept
            if kept.compared:
                stay = {one: kept.weights[one] for one in unknown if one in kept.weights}
                if not any({**weights, **stay}.values()):
                    stay = {}  # what is kept at 0 was so beside others
                known = {member: Fraction(weight) for member, weight in weights.items()}
                return whole({**known, **stay}), shaping._replace(
                    deduced=bool(stay), doubt=kept.doubt
                )
        of_kernel = {} if kept is None else kept.weights
        if not any(of_kernel.get(member, DEFAULT_WEIGHT) for member in serving):
            of_kernel = {}
        weights = {
            member: 0
            if self._by_slices(endpoints[member]) == 0
            else int(of_kernel.get(member, DEFAULT_WEIGHT))
            for member in serving
        }
        slow_start = self._slow_start or 0
        return weights, Shaping(slow_start, of_kernel=True) if slow_start else UNSHAPED

    @property
    def _weighs(self) -> bool:
        """Whether anything says what endpoints are to weigh."""
        return self._in_slices or self._rules is not None or self._source is not None

    def _weight(self, placed: PlacedEndpoint) -> int:
        weight = self._by_slices(placed)
        if weight is None:
            weight = self._by_place(placed)
        return DEFAULT_WEIGHT if weight is None else weight

    def _by_slices(self, placed: PlacedEndpoint) -> int | None:
        weight = self._by_address.get(placed.slice_name, {}).get(placed.endpoint.address)
        return self._by_slice.get(placed.slice_name) if weight is None else weight

    def _is_unknown(self, placed: PlacedEndpoint) -> bool:
        """Whether what is not known any more may give an endpoint its weight, and counts first."""
        lost, endpoint, part = self._lost, placed.endpoint, placed.slice_name
        for name, speaks in (
            (_of_slice(SLICE_WEIGHTS, part), endpoint.address in self._by_address.get(part, {})),
            (_of_slice(SLICE_WEIGHT, part), part in self._by_slice),
            (WEIGHT_RULES, self._by_rules(placed) is not None),
        ):
            if name in lost or speaks:
                return name in lost
        of_place = {_of_node(endpoint.node_name or ""), _of_pod(endpoint.pod or "")}
        return bool(lost & {WEIGHT_SOURCE, *of_place})

    def _shaping(
        self, endpoints: Mapping[RealServerKey, PlacedEndpoint], serving: Iterable[RealServerKey]
    ) -> Shaping:
        """Say what becomes of the weights of those that serve at one virtual server."""
        slow_start, preference = self._slow_start or 0, self._preference or 0
        if not preference:
            return Shaping(slow_start) if slow_start else UNSHAPED
        here = self._around.here.zone
        zones = {member: self._zone(endpoints[member]) for member in serving}
        own = frozenset(member for member, zone in zones.items() if zone and zone == here)
        count = len({zone for zone in zones.values() if zone})
        return Shaping(slow_start, preference, own, max(1, count))

    def remark(self, scheduler: str, sizes: Collection[int]) -> None:
        """Tell what has no effect, or no room, under a scheduler; `sizes`: of the frontends."""
        if without := self._without_effect(scheduler):
            self._reader.no_effect(
                ", ".join(without),
                f"no effect with scheduler {scheduler}; leave ipvsproxy.io/scheduler out, or write "
                "wrr or wlc",
            )
        room = TABLES.get(scheduler)
        if room is not None and max(sizes, default=0) > room:
            self.problems.append(
                Problem(
                    ProblemKind.TOO_MANY_ENDPOINTS,
                    f"{max(sizes)} endpoints, and the table of scheduler {scheduler} has room for "
                    f"{room}: the others take no connection; choose another scheduler",
                )
            )

    def _without_effect(self, scheduler: str) -> list[str]:
        without = self._written if scheduler in WEIGHTLESS else []
        if scheduler in WEIGHTLESS and any(
            weight > 1
            for weights in (
                self._by_slice.values(),
                *(one.values() for one in self._by_address.values()),
            )
            for weight in weights
        ):
            without = [*without, f"{SLICE_WEIGHTS} of an EndpointSlice"]
        if scheduler in WITHOUT_PREFERENCE - WEIGHTLESS and ZONE_PREFERENCE in self._written:
            without = [ZONE_PREFERENCE]
        return without

    def _read_slices(self, slices: Sequence[EndpointSlice]) -> None:
        for part in slices if self._in_slices else ():
            by_address = self._read(_of_slice(SLICE_WEIGHTS, part.name), part.weights, read_weights)
            if by_address is not None:
                self._by_address[part.name] = by_address
            of_all = self._read(_of_slice(SLICE_WEIGHT, part.name), part.weight, read_weight)
            if of_all is not None:
                self._by_slice[part.name] = of_all

    def _read_nodes(self, slices: Sequence[EndpointSlice]) -> None:
        for name in _node_names(slices):
            node = self._around.nodes.get(name)
            if node is not None:
                weight = self._read(_of_node(name), node.weight, read_weight)
                if weight is not None:
                    self._by_node[name] = weight

    def _read_pods(self, slices: Sequence[EndpointSlice]) -> None:
        for namespace, name in _pods(slices) if self._around.settings.reads_pods else ():
            text = self._around.pod_weights.get((namespace, name))
            weight = self._read(_of_pod(name), text, read_weight)
            if weight is not None:
                self._by_pod[name] = weight

    def _read(self, name: str, text: str | None, parse: Callable[[str], Value]) -> Value | None:
        value = self._reader.read_text(name, text, parse, stays=_STAYS)
        if self._reader.never_right(name):
            self._lost.add(name)
        return value

    @property
    def _goes_by_zones(self) -> bool:
        return bool(self._preference or (self._rules is not None and self._rules.zones))

    def _waits_for_nodes(self, otherwise: str = "endpoints on other nodes weigh 1") -> bool:
        """Whether Nodes are needed that are not known yet; tell so, also where they never will.

        `otherwise` says what is so where they never will.
        """
        never = self._around.settings.watch_nodes is WatchNodes.NEVER
        waits = not self._around.nodes_known
        if waits:
            text = (
                "weights by Node wait for the list of all Nodes; those in the kernel stay till then"
            )
            self.problems.append(Problem(ProblemKind.NODES_UNKNOWN, text))
        elif never:
            text = (
                f"weights by Node need all Nodes, and watchNodes is never: {otherwise}; set "
                "watchNodes to auto"
            )
            self.problems.append(Problem(ProblemKind.NODES_UNKNOWN, text))
        return waits

    def _waits_for_pods(self) -> bool:
        """Whether Pods are needed that are not known yet; tell so, also where they never will."""
        if not self._around.settings.reads_pods:
            self._reader.no_effect(
                WEIGHT_SOURCE,
                "pod has no effect while watchPods is false: set watchPods to true, and give the "
                "agents' role the right to list and watch pods",
            )
            return False
        if not self._around.pods_known:
            text = (
                "weights by Pod wait for the list of all Pods; those in the kernel stay till then"
            )
            self.problems.append(Problem(ProblemKind.PODS_UNKNOWN, text))
        return not self._around.pods_known

    def _by_rules(self, placed: PlacedEndpoint) -> int | None:
        if self._rules is None:
            return None
        node = self._node(placed)
        labels = node.labels if node is not None else ()
        return self._rules.weight(placed.endpoint.node_name, self._zone(placed), labels)

    def _by_place(self, placed: PlacedEndpoint) -> int | None:
        endpoint = placed.endpoint
        node = self._node(placed)
        weight = self._by_rules(placed)
        if weight is None and self._source is WeightSource.POD:
            return self._by_pod.get(endpoint.pod) if endpoint.pod is not None else None
        if weight is None and node is not None and self._source is not None:
            weight = self._by_node.get(node.name)
            if weight is None:
                weight = self._source.weight(node.capacity)
        return weight

    def _node(self, placed: PlacedEndpoint) -> Node | None:
        name = placed.endpoint.node_name
        return self._around.nodes.get(name) if name is not None else None

    def _zone(self, placed: PlacedEndpoint) -> str | None:
        """Give the zone of an endpoint: of its slice, else of its Node as far as that is known."""
        if placed.endpoint.zone is not None:
            return placed.endpoint.zone
        node = self._node(placed)
        return node.zone if node is not None else None


def _of_slice(name: str, slice_name: str) -> str:
    return f"{name} of EndpointSlice {slice_name}"


def _of_node(name: str) -> str:
    return f"{NODE_WEIGHT} of Node {name}"


def _of_pod(name: str) -> str:
    return f"{POD_WEIGHT} of Pod {name}"


def _in_kernel(
    around: Surroundings, keys: Collection[VirtualServerKey], *, zeros: bool
) -> dict[VirtualServerKey, KeptWeights]:
    """Give the weights that the kernel has now, of each of these virtual servers that it has.

    A weight of 0 may be that of a server that was draining and has come back. Beside others it is
    gone on with, where `zeros` says so: it may as well be what was asked for.
    """
    found: dict[VirtualServerKey, KeptWeights] = {}
    for key in keys:
        real_servers = around.kernel.real_servers.get(key, {})
        if any(real.weight for real in real_servers.values()):
            found[key] = KeptWeights(
                {
                    member: Fraction(real.weight)
                    for member, real in real_servers.items()
                    if real.weight or zeros
                }
            )
    return found


def _node_names(slices: Sequence[EndpointSlice]) -> list[str]:
    """Name the nodes of all endpoints, each once."""
    return sorted({one.node_name for part in slices for one in part.endpoints if one.node_name})


def _pods(slices: Sequence[EndpointSlice]) -> list[tuple[str, str]]:
    """Name the Pods of all endpoints, each once, with their namespace."""
    return sorted(
        {(part.namespace, one.pod) for part in slices for one in part.endpoints if one.pod}
    )
