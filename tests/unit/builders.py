"""Objects and kernels for unit tests, each with as little said as possible."""

from __future__ import annotations

from collections.abc import Iterable

from ipvsproxy.config import Settings
from ipvsproxy.core.detect_local import LocalPods, local_pods
from ipvsproxy.dataplane import Dataplane
from ipvsproxy.model import (
    Address,
    Family,
    Network,
    NodeNetwork,
    Protocol,
    RealServerKey,
    VirtualServerKey,
)
from ipvsproxy.objects import (
    Endpoint,
    EndpointSlice,
    KubernetesObject,
    ObjectReference,
    Service,
    ServiceName,
    ServicePort,
    SlicePort,
)
from ipvsproxy.reconciler import Reconciler
from ipvsproxy.store import KINDS, Listed, Put, Refused, Store
from ipvsproxy.telemetry import Conditions


def service(name: str = "web", address: str = "10.96.0.10", *ports: int) -> Service:
    """Make a Service with TCP ports, 80 where none are given."""
    numbers = ports or (80,)
    names = [f"port-{number}" if len(numbers) > 1 else "" for number in numbers]
    return Service(
        name=ServiceName("default", name),
        cluster_ips=(Address.parse(address),),
        ports=tuple(
            ServicePort(port_name, Protocol.TCP, number)
            for port_name, number in zip(names, numbers, strict=True)
        ),
    )


def part(owner: str = "web", *addresses: str, name: str = "") -> EndpointSlice:
    """Make a slice of a Service, its port being 8080."""
    return EndpointSlice(
        namespace="default",
        name=name or f"{owner}-1",
        service=ServiceName("default", owner),
        family=Family.IPV4,
        endpoints=tuple(Endpoint(Address.parse(address)) for address in addresses),
        ports=(SlicePort("", Protocol.TCP, 8080),),
    )


def named(name: str = "web") -> ServiceName:
    return ServiceName("default", name)


def frontend(address: str = "10.96.0.10", port: int = 80) -> VirtualServerKey:
    return VirtualServerKey(Protocol.TCP, Address.parse(address), port)


def member(address: str) -> RealServerKey:
    return RealServerKey(Address.parse(address), 8080)


def slice_reference(name: str = "web-1") -> ObjectReference:
    return ObjectReference("EndpointSlice", "default", name)


def service_reference(name: str = "web") -> ObjectReference:
    return ObjectReference("Service", "default", name)


def bad_slice(owner: str = "web", name: str = "web-1", reason: str = "nonsense") -> Refused:
    return Refused(slice_reference(name), "a.yaml", reason, service=named(owner))


class Clock:
    """Seconds that pass only when they are told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def pods_in(family: Family, *blocks: str) -> LocalPods:
    """Give pods that are told from others by these networks, as ClusterCIDR does."""
    settings = Settings(node_name="node-a", cluster_cidrs=tuple(map(Network.parse, blocks)))
    return local_pods(family, settings, None, NodeNetwork())


async def settle(reconciler: Reconciler) -> None:
    """Run cycles until another one would find nothing to do."""
    for _ in range(100):
        await reconciler.cycle()
        if not reconciler.busy:
            return
    raise AssertionError("there is always something to do")


class Agent:
    """A store and a reconciler on a kernel, and the clock that both go by."""

    def __init__(
        self,
        dataplane: Dataplane,
        clock: Clock | None = None,
        *,
        settings: Settings | None = None,
    ) -> None:
        self.clock = clock or Clock()
        self.store = Store("node-a")
        self.conditions = Conditions()
        self.reconciler = Reconciler(
            store=self.store,
            dataplane=dataplane,
            settings=settings or Settings(node_name="node-a"),
            conditions=self.conditions,
            clock=self.clock,
            wall_clock=self.clock,
        )

    def put(self, *objects: KubernetesObject) -> None:
        for one in objects:
            self.store.apply(Put(one, "a.yaml"))

    def list_all(self, objects: Iterable[KubernetesObject] = ()) -> None:
        """Give the store its initial lists."""
        self.put(*objects)
        for kind in sorted(KINDS):
            self.store.apply(Listed(kind))

    async def settle(self) -> None:
        await settle(self.reconciler)

    def said(self) -> list[str]:
        """Give what is wrong, by subject and type."""
        return [f"{one.subject} {one.type}" for one in self.conditions]
