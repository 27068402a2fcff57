"""What the cluster wants while it changes: the objects that say so, and the table that is to be.

Pure, and without chance: the same calls give the same changes. Which Services change is spread all
over the cluster; a pod's address is never used a second time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import msgspec

from bench.workload import (
    FIRST_SERVICES,
    NODE_ADDRESS,
    PORT,
    SLICE_ENDPOINTS,
    TARGET_PORT,
    Size,
    endpoint_slice,
    first_objects,
    first_pods,
    name,
    node,
    node_port,
    pods,
    service,
    service_address,
    slice_name,
    spare_pod,
)
from ipvsproxy.objects import ServiceName

SERVICE, SLICE, NODES = "services", "endpointslices", "nodes"
FIRST_VERSION = 1_000_000
"""The version of the lists before anything changes; each change has the next one."""
GIANT_ENDPOINTS = 5000
_STRIDE = 7919  # a prime: the Services that change lie all over the cluster
_PROTOCOLS = {"TCP": 6, "UDP": 17}


class Frontend(NamedTuple):
    """The address of a virtual server."""

    address: str
    port: int
    protocol: int = 6


Backend = tuple[str, int]
"""Address and port of a real server."""
Backends = frozenset[Backend]
"""The real servers that are to take connections."""


class Written(msgspec.Struct, frozen=True):
    """An object that was written, or deleted, as a watch tells of it."""

    kind: str
    """As in a path of the API: services, endpointslices, nodes."""
    name: str
    """With its namespace."""
    version: int
    body: msgspec.Raw
    deleted: bool = False


class Replaced(NamedTuple):
    """One endpoint that another takes the place of."""

    service: int
    old: str
    new: str
    written: Written


class Cluster:
    """The Services by number, each with the addresses of its endpoints."""

    def __init__(self, size: Size) -> None:
        self.size = size
        self.version = FIRST_VERSION
        self.endpoints = {index: pods(index, size.endpoints) for index in range(size.services)}
        self._order = list(self.endpoints)
        """Those that changes are chosen from."""
        self._spare = 0
        self._turn = 0
        self._next = size.services

    def objects(self) -> Iterator[Written]:
        """Write everything as it is now, sorted as an API server lists it."""
        for index in self.endpoints:
            yield self._service(index)
            yield from self._slices(index)
        for own, written, part in first_objects():
            yield _written(SERVICE, own, FIRST_VERSION, written)
            yield _written(SLICE, slice_name(own, 0), FIRST_VERSION, part)
        yield _written(NODES, ServiceName("", "node"), FIRST_VERSION, node())

    def expected(self) -> dict[Frontend, Backends]:
        """Say what the IPVS table is to be."""
        table = dict(self.first_expected())
        for index in self.endpoints:
            table |= self.expected_of(index)
        return table

    def expected_of(self, index: int) -> Mapping[Frontend, Backends]:
        """Say what the virtual servers of one Service are to be."""
        backends = frozenset((address, TARGET_PORT) for address in self.endpoints[index])
        return dict.fromkeys(self.frontends(index), backends)

    @staticmethod
    def first_expected() -> dict[Frontend, Backends]:
        """Say what the virtual servers are to be that all others wait for."""
        return {
            Frontend(address, port, _PROTOCOLS[protocol]): frozenset(
                (pod, port) for pod in first_pods(number)
            )
            for number, (address, ports) in enumerate(FIRST_SERVICES.values())
            for _, protocol, port in ports
        }

    @staticmethod
    def frontends(index: int) -> list[Frontend]:
        """Name the virtual servers of a Service."""
        found = [Frontend(service_address(index), PORT)]
        port = node_port(index)
        return found if port is None else [*found, Frontend(NODE_ADDRESS, port)]

    def addresses(self) -> list[str]:
        """Name the addresses that are to be bound."""
        first = [address for address, _ in FIRST_SERVICES.values()]
        return first + [service_address(index) for index in self.endpoints]

    def cluster_members(self) -> int:
        """Count the ClusterIPs with their ports."""
        return len(self.endpoints) + sum(len(ports) for _, ports in FIRST_SERVICES.values())

    def choose(self, passed_over: Iterable[int] = ()) -> int:
        """Choose the next Service that is to change."""
        indexes, avoided = self._order, set(passed_over)
        while True:
            self._turn += 1
            index = indexes[self._turn * _STRIDE % len(indexes)]
            if index not in avoided:
                return index

    def replace(self, index: int) -> Replaced:
        """Have another endpoint take the place of one of a Service's."""
        addresses = self.endpoints[index]
        position = self._turn % len(addresses)
        old, new = addresses[position], self._new_pod()
        addresses[position] = new
        self.version += 1
        return Replaced(index, old, new, self._slice(index, position // SLICE_ENDPOINTS))

    def add(self, endpoints: int) -> tuple[int, list[Written]]:
        """Add a Service; give its number and what is written. It will not be chosen."""
        index, self._next = self._next, self._next + 1
        self.endpoints[index] = [self._new_pod() for _ in range(endpoints)]
        self.version += 1
        return index, [self._service(index), *self._slices(index)]

    def delete(self, index: int) -> list[Written]:
        """Delete a Service with its slices; give what is told of it."""
        self.version += 1
        gone = [self._service(index), *self._slices(index)]
        del self.endpoints[index]
        if index in self._order:
            self._order.remove(index)
        return [msgspec.structs.replace(one, deleted=True) for one in gone]

    def _new_pod(self) -> str:
        self._spare += 1
        return spare_pod(self._spare)

    def _service(self, index: int) -> Written:
        body = service(index, node_port=node_port(index), version=self.version)
        return _written(SERVICE, name(index), self.version, body)

    def _slices(self, index: int) -> list[Written]:
        parts = -(-len(self.endpoints[index]) // SLICE_ENDPOINTS)
        return [self._slice(index, part) for part in range(parts)]

    def _slice(self, index: int, part: int) -> Written:
        start = part * SLICE_ENDPOINTS
        addresses = self.endpoints[index][start : start + SLICE_ENDPOINTS]
        body = endpoint_slice(index, addresses, part=part, version=self.version)
        return _written(SLICE, slice_name(name(index), part), self.version, body)


def _written(kind: str, own: ServiceName, version: int, body: bytes) -> Written:
    return Written(kind, f"{own.namespace}/{own.name}", version, msgspec.Raw(body))
