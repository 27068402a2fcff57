"""From dirty Services to fragments in `Desired`; whatever goes wrong in one Service stays with it.

Knows the store, the translation and whose a virtual server is; knows nothing of batches. A Service
that cannot be translated keeps its last fragment; one that has none (the agent has just started)
keeps what the kernel may have of it, by `holds`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Sequence
from collections.abc import Set as AbstractSet
from functools import partial

from ipvsproxy.config import Settings, WatchNodes
from ipvsproxy.core.desired import Desired, Touched, by_seniority
from ipvsproxy.core.gathering import Parts, is_large
from ipvsproxy.core.ledger import Ownership
from ipvsproxy.core.pieces import MANY, Pieces, cut
from ipvsproxy.core.probing import NODES_GIVEN_UP, NODES_MISSED
from ipvsproxy.core.settlement import Holds
from ipvsproxy.core.surroundings import Surroundings
from ipvsproxy.core.translate import Fragment, translate
from ipvsproxy.model import Address, State, VirtualServerKey
from ipvsproxy.objects import Service, ServiceName
from ipvsproxy.reconciler.conditions import ConditionWriter, Stage
from ipvsproxy.store import Store

FIRST_SERVICES = (
    ServiceName("default", "kubernetes"),
    ServiceName("kube-system", "kube-dns"),
    ServiceName("kube-system", "coredns"),
)
"""What everything else on a node waits for: the API server and the cluster's DNS."""


_AT_A_TIME = 20
"""Services that are translated at a time: some thousandths of a second, in which nobody else has
his turn; who asks for metrics or health may be one."""
_MOST = 256
"""Services of a cycle in a storm: a tenth of a second or two in a guest, natively less.
With fewer the system calls that each cycle has anyway would count."""


class Translation:
    """Takes dirty Services and puts what they want into `Desired`."""

    def __init__(
        self,
        *,
        store: Store,
        desired: Desired,
        settings: Settings,
        conditions: ConditionWriter,
        clock: Callable[[], float],
    ) -> None:
        self._store = store
        self._desired = desired
        self.settings = settings
        """Of the cycle that is under way."""
        self._conditions = conditions
        self._clock = clock
        self._first_served = False
        self._starting = True
        self._started = 0.0
        """When the start was over, by the clock."""
        self._waits = [NODES_MISSED, NODES_GIVEN_UP]
        """Seconds that all Nodes will be waited for, before something is said or done about it."""
        self._waited = 0.0
        """The last of them that is over."""
        self._untranslated: dict[ServiceName, frozenset[Address]] = {}
        self._judged: dict[ServiceName, frozenset[Address]] = {}
        """External addresses that are this node's and with which a Service was translated."""
        self._parts: dict[ServiceName, Parts] = {}
        """What the slices of a large Service gave in its last translation."""
        self.unavailable: set[str] = set()
        """Schedulers that this kernel has refused."""

    def holds(self, state: State) -> Holds:
        """Say what may belong to something that could not be read, or not be translated.

        Such a Service may have NodePorts, so what stands at the node's own addresses is among it;
        so it is while NodePorts wait for the own Node, to be at its addresses.
        """
        held = self._store.held_addresses()
        addresses = (held or frozenset()).union(*self._untranslated.values())
        waiting = self._store.node is None and self.settings.node_port_addresses.primary
        if addresses or waiting:
            addresses |= state.network.addresses
        return Holds(everything=held is None or not self._store.whole, addresses=addresses)

    def take_names(self, state: State, *, sweeps: bool = False) -> list[ServiceName]:
        """Take the Services to be looked at, the oldest first: to them the others give way.

        On a cold start those that all others wait for come first, alone. Not on a restart: nobody
        waits, and a Service that is looked at alone would take what an older one owns.

        Once a start is over no more are taken than `_MOST`, those that have waited longest, so that
        in a storm nobody waits for all; it is as if the storm had come a little at a time. All are
        taken where everything is going to be compared (`sweeps`), which would else have to wait for
        the storm's end, and with a pause between cycles, which is for changes to come together.
        """
        ours = Ownership(state)
        warm = self._first_served or any(key in ours for key in state.virtual_servers)
        self._first_served = True
        all_of_them = self._starting or sweeps or self.settings.min_sync_period > 0
        names = self._store.take_dirty(
            None if warm else FIRST_SERVICES, None if all_of_them else _MOST
        )
        return by_seniority(self._store.created(names))

    def around(self, state: State) -> Surroundings:
        """Say what every Service's translation depends on now."""
        gateways = dict.fromkeys(state.network.gateways, "the address of a gateway of this node")
        return Surroundings(
            self.settings,
            state,
            frozenset(self.unavailable),
            node=self._store.node,
            taken={**gateways, **self._store.taken},
            service_networks=self._store.service_networks,
            nodes=self._store.nodes,
            nodes_known=self._nodes_known,
            nodes_awaited=self._waited,
            pod_weights=self._store.pod_weights.written,
            pods_known=self._store.pod_weights.listed or not self.settings.reads_pods,
            starting=self._starting,
        )

    @property
    def due(self) -> float | None:
        """When `look_again` has something to do if Nodes are not known until then; None: never."""
        idle = self._starting or self._nodes_known or not self._store.needs_nodes
        return self._started + self._waits[0] if self._waits and not idle else None

    def look_again(self) -> None:
        """Have Services with a health check translated again that have waited long for Nodes."""
        while (due := self.due) is not None and due <= self._clock():
            self._waited = self._waits.pop(0)
            self._store.mark_checked()

    @property
    def _nodes_known(self) -> bool:
        return self._store.nodes_listed or self.settings.watch_nodes is WatchNodes.NEVER

    def needs_listeners(self, names: Iterable[ServiceName], state: State) -> Pieces[bool]:
        """Whether a Service is new at an address of this node, where somebody may listen."""
        own = state.network.addresses
        for some in cut(names, MANY):
            yield len(some) // 4
            for name in some:
                here = own.intersection(self._store.external_addresses(name))
                if here and here - self._judged.get(name, frozenset()):
                    return True
        return False

    def translate(self, names: Iterable[ServiceName], around: Surroundings) -> Touched:
        """Translate Services again; say what may have to change."""
        touched = Touched()
        now, ours = self._clock(), Ownership(around.kernel)
        for name in names:
            touched.add(self._translate_one(name, around, ours, now))
        return touched

    async def in_turns(
        self, names: Sequence[ServiceName], around: Surroundings, *, last: bool
    ) -> Touched:
        """Translate a few Services at a time, and let others have their turn in between.

        `last`: no other Service waits to be translated, and so a start is over.
        """
        touched = Touched()
        for start in range(0, len(names), _AT_A_TIME):
            if len(names) > _AT_A_TIME:
                await asyncio.sleep(0)
            touched.add(self.translate(names[start : start + _AT_A_TIME], around))
        if last and self._starting:
            self._starting, self._started = False, self._clock()
        return touched

    def lacking(self, schedulers: AbstractSet[str]) -> frozenset[ServiceName]:
        """Take note of schedulers that the kernel has refused.

        Gives the Services that are translated again for it in the next cycle.
        """
        news = schedulers - self.unavailable
        self.unavailable |= news
        return self._again(news)

    def reconsider(self) -> None:
        """Try the schedulers again that the kernel lacked: a module may have been installed."""
        lacking = frozenset(self.unavailable)
        self.unavailable.clear()
        self._again(lacking)

    def _again(self, schedulers: Collection[str]) -> frozenset[ServiceName]:
        if not schedulers:
            return frozenset()
        names = frozenset(
            name
            for name, fragment in self._desired.fragments.items()
            if fragment.asked in schedulers or fragment.scheduler in schedulers
        )
        self._store.mark_dirty(names)
        return names

    def _translate_one(
        self, name: ServiceName, around: Surroundings, ours: Ownership, now: float
    ) -> Touched:
        inputs = self._store.inputs(name)
        own = around.kernel.network.addresses.intersection(self._store.external_addresses(name))
        if own:
            self._judged[name] = own
        else:
            self._judged.pop(name, None)
        parts = self._parts.pop(name, None)
        if inputs is None:
            self._untranslated.pop(name, None)
            return self._desired.drop(name, now)
        if is_large(inputs.slices):
            parts = self._parts[name] = parts or Parts()
        else:
            parts = None
        try:
            fragment = translate(
                inputs,
                around,
                self._desired.fragments.get(name),
                partial(self._may_be_of, inputs.service, around.kernel, ours),
                parts=parts,
            )
        except Exception as error:  # noqa: BLE001 - a bug in one Service's case is that Service's
            self._conditions.internal_error(name, Stage.TRANSLATED, error)
            if name not in self._desired.fragments:
                service = inputs.service
                self._untranslated[name] = frozenset(
                    (*service.cluster_ips, *service.external_ips, *service.ingress_ips)
                )
            return Touched()
        self._untranslated.pop(name, None)
        self._conditions.worked(name, Stage.TRANSLATED)
        touched = self._mark_foreign(fragment, around.kernel, ours)
        touched.add(self._desired.put(fragment, now))
        return touched

    def _may_be_of(
        self, service: Service, state: State, ours: Ownership, key: VirtualServerKey
    ) -> bool:
        """Whether what the kernel has of a virtual server may have been made for this Service."""
        elders = self._desired.is_elders(key, service.name, service.created)
        return not elders and not self._is_foreign(key, state, ours)

    def _is_foreign(self, key: VirtualServerKey, state: State, ours: Ownership) -> bool:
        """Whether a virtual server exists that is neither ours nor wanted until now."""
        exists = key in state.virtual_servers and key not in self._desired.held
        return exists and key not in ours

    def _mark_foreign(self, fragment: Fragment, state: State, ours: Ownership) -> Touched:
        """Leave those virtual servers alone that exist, are wanted, and are somebody else's."""
        touched = Touched()
        for frontend in fragment.frontends:
            if self._is_foreign(frontend.key, state, ours):
                touched.add(self._desired.mark_foreign(frontend.key))
        return touched
