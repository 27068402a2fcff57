"""What our own code costs for each item, without a kernel.

Every figure is the least of a few rounds: what disturbs a measurement only ever adds to it. The
garbage collector is off while a round is timed, as it looks at everything that a process holds,
the benchmark's own lists included.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterable, Iterator

from prometheus_client import generate_latest

from bench.figures import Figure
from bench.workload import NODE, Objects, Size, endpoint_slice, objects, pods, spare_pod
from ipvsproxy.config import Settings
from ipvsproxy.core.desired import Desired, Touched
from ipvsproxy.core.operations import AddRealServer, advance
from ipvsproxy.core.pieces import whole
from ipvsproxy.core.plan import Batch, plan
from ipvsproxy.core.settlement import Holds, Settlement
from ipvsproxy.core.surroundings import Surroundings
from ipvsproxy.core.translate import Fragment, Inputs, translate
from ipvsproxy.dataplane import Counters, TrafficReading
from ipvsproxy.kernel import codec
from ipvsproxy.kernel.fake import fresh_state
from ipvsproxy.kernel.message import attribute, attributes
from ipvsproxy.model import Family, State, VirtualServerKey
from ipvsproxy.objects import EndpointSlice, Service, read_endpoint_slice, read_service
from ipvsproxy.telemetry.traffic import Traffic, TrafficPort

_SETTINGS = Settings(node_name=NODE)
_SEED = NODE.encode()
_ROUNDS = 3
_REPEATS = 200
"""For what takes microseconds."""


def measure(size: Size) -> Iterator[Figure]:
    """Give the inner figures for one size of the cluster, in seconds for each item."""
    described = objects(size)
    for name, seconds in _measured(size, described):
        yield Figure(
            stage="inner",
            services=size.services,
            endpoints=size.endpoints,
            name=name,
            value=seconds,
        )


def _measured(size: Size, described: Objects) -> Iterator[tuple[str, float]]:
    each = size.services
    yield "read a Service from JSON", _least(lambda: _services(described)) / each
    yield "read a slice from JSON", _least(lambda: _slices(described)) / each
    inputs = [
        Inputs(service, (part,), whole=True)
        for service, part in zip(_services(described), _slices(described), strict=True)
    ]
    empty = fresh_state()
    yield "translate a Service", _least(lambda: _fragments(inputs, empty)) / each
    fragments = _fragments(inputs, empty)
    yield "merge a Service's wishes", _least(lambda: _merge(fragments)) / each
    desired, touched = _merge(fragments)
    settlement = Settlement(desired, _SETTINGS)
    yield "plan a Service, all new", _least(lambda: _plan(settlement, touched, empty)) / each
    yield from _of_a_change(size, fragments)
    yield from _of_the_codec(fragments)
    yield from _of_a_scrape(fragments)


def _of_a_change(size: Size, fragments: list[Fragment]) -> Iterator[tuple[str, float]]:
    """Measure what a kernel that is as it should be costs, and one that is not in one place."""
    desired, touched = _merge(fragments)
    settlement = Settlement(desired, _SETTINGS)
    state = fresh_state()
    for step in _plan(settlement, touched, state).steps:
        advance(state, step.operation)

    def compare_all() -> None:
        everything = Touched()
        whole(settlement.sweep(everything, state, Holds(), 0.0))
        batch = _plan(settlement, everything, state)
        assert not batch.steps, "nothing has changed"

    yield "compare a Service, none changed", _least(compare_all) / size.services
    texts = [
        endpoint_slice(0, [*pods(0, size.endpoints), spare_pod(number)])
        for number in range(_REPEATS)
    ]
    service = _services(objects(Size(1, size.endpoints)))[0]
    around = Surroundings(_SETTINGS, state)

    def change() -> None:
        for text in texts:
            part = _slice(text)
            fragment = translate(Inputs(service, (part,), whole=True), around, None)
            batch = _plan(settlement, desired.put(fragment, 0.0), state)
            assert len(batch.steps) == 1, "one real server is new"

    yield "one endpoint changed, JSON to batch", _least(change) / _REPEATS


def _of_the_codec(fragments: Iterable[Fragment]) -> Iterator[tuple[str, float]]:
    new = [
        AddRealServer(frontend.key, member, real)
        for fragment in fragments
        for frontend in fragment.frontends
        for member, real in frontend.real_servers.items()
    ]

    def encode() -> list[bytes]:
        return [codec.encode_add_real_server(one.key, one.member, one.server) for one in new]

    yield "encode a real server", _least(encode) / len(new)
    reports = [_report(request) for request in encode()]

    def decode() -> None:
        for report in reports:
            codec.decode_real_server(report, Family.IPV4)

    yield "decode a real server", _least(decode) / len(new)


def _of_a_scrape(fragments: Iterable[Fragment]) -> Iterator[tuple[str, float]]:
    """Measure the traffic counters, of a node through which every Service has had traffic."""
    counters = b"".join(attribute(kind, bytes([kind] * 8)) for kind in range(1, 6))
    ports = {
        frontend.key: TrafficPort(fragment.name, "http", frontend.key.protocol.name)
        for fragment in fragments
        for frontend in fragment.frontends
    }
    generic, service, statistics = 4, 1, 12
    reports = [
        request[:generic]
        + attribute(
            service,
            attributes(request, generic)[service] + attribute(statistics, counters),
        )
        for request in map(codec.encode_read_virtual_server, ports)
    ]

    def decode() -> list[tuple[VirtualServerKey, Counters]]:
        found = map(codec.decode_virtual_server_counters, reports)
        return [one for one in found if one is not None]

    yield "decode a virtual server's counters", _least(decode) / len(reports)
    readings = {key: TrafficReading(counted, {}) for key, counted in decode()}
    traffic = Traffic()
    services = frozenset(port.service for port in ports.values())
    seconds = _least(lambda: traffic.take(readings, ports, services))
    yield "add up a virtual server's counters", seconds / len(reports)
    yield (
        "write the series of a Service port",
        _least(lambda: generate_latest(traffic.registry)) / (len(reports)),
    )


def _report(request: bytes) -> bytes:
    """Make of a request what the kernel would report: the same, with counts of connections."""
    generic, destination = 4, 2
    counts = b"".join(attribute(kind, bytes(4)) for kind in (7, 8, 9))
    real = attributes(request, generic)[destination]
    return request[:generic] + attribute(destination, real + counts)


def _services(described: Objects) -> list[Service]:
    return [read_service(text) for text in described.services]


def _slices(described: Objects) -> list[EndpointSlice]:
    return [_slice(text) for text in described.slices]


def _slice(text: bytes) -> EndpointSlice:
    part = read_endpoint_slice(text)
    assert part is not None, "the slice names its Service"
    return part


def _fragments(inputs: Iterable[Inputs], state: State) -> list[Fragment]:
    around = Surroundings(_SETTINGS, state)
    return [translate(one, around, None) for one in inputs]


def _merge(fragments: Iterable[Fragment]) -> tuple[Desired, Touched]:
    desired, touched = Desired(), Touched()
    for fragment in fragments:
        touched.add(desired.put(fragment, 0.0))
    return desired, touched


def everything_new(size: Size) -> Batch:
    """Give the batch of a cold start, as the agent would plan it."""
    described = objects(size)
    parts = zip(_services(described), _slices(described), strict=True)
    inputs = [Inputs(service, (part,), whole=True) for service, part in parts]
    empty = fresh_state()
    desired, touched = _merge(_fragments(inputs, empty))
    return _plan(Settlement(desired, _SETTINGS), touched, empty)


def _plan(settlement: Settlement, touched: Touched, state: State) -> Batch:
    return plan(
        whole(settlement.target(touched, Surroundings(_SETTINGS, state), connections={}, now=0.0)),
        state,
        _SEED,
    )


def _least(work: Callable[[], object]) -> float:
    """Give the seconds of the fastest of a few rounds."""
    seconds = []
    for _ in range(_ROUNDS):
        gc.collect()
        gc.disable()
        try:
            start = time.perf_counter()
            work()
            seconds.append(time.perf_counter() - start)
        finally:
            gc.enable()
    return min(seconds)
