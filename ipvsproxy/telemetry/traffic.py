"""What has gone through the virtual servers of each Service, as counters that never go back.

The kernel counts for as long as a virtual server is there. Here that is added up for each port of a
Service: what the kernel has at first sight is the beginning, after that what it has more than at
the reading before. A number that has become smaller was counted from zero again.

What nobody has seen is not counted: traffic between the last reading of a virtual server and its
removal, and a virtual server that was made again and has overtaken the old one between two
readings. A port through which nothing has ever gone has no series, for a node sees little of a
cluster's traffic, and a Service has five series for each of its ports.

`take` may run in another thread than a scrape, which sees the rows of the last one that is done.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from operator import add, sub
from typing import NamedTuple

from prometheus_client.core import CollectorRegistry, CounterMetricFamily
from prometheus_client.registry import Collector

from ipvsproxy.dataplane import Counters, TrafficReading
from ipvsproxy.model import RealServerKey, VirtualServerKey
from ipvsproxy.objects import ServiceName

PORT_LABELS = ("namespace", "service", "port", "protocol")
_NONE = Counters()


class TrafficPort(NamedTuple):
    """A port of a Service, whatever its frontends."""

    service: ServiceName
    port: str
    """Its name, or its number where it has none."""
    protocol: str

    @property
    def labels(self) -> tuple[str, ...]:
        """The values of `PORT_LABELS`."""
        return (*self.service, self.port, self.protocol)


class _Seen(NamedTuple):
    port: TrafficPort
    reading: TrafficReading


class _Rows(NamedTuple):
    ports: Mapping[TrafficPort, Counters]
    endpoints: Mapping[tuple[TrafficPort, RealServerKey], Counters]


class Traffic(Collector):
    """The counters, and the registry in which they are scraped."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry(auto_describe=False)
        self.registry.register(self)
        self._seen: dict[VirtualServerKey, _Seen] = {}
        self._rows = _Rows({}, {})

    def take(
        self,
        readings: Mapping[VirtualServerKey, TrafficReading],
        ports: Mapping[VirtualServerKey, TrafficPort],
        services: Collection[ServiceName],
    ) -> None:
        """Add what was read.

        `ports` says whose a virtual server is; one that is nobody's now counts for whom it last
        did, as while it drains. `services` are those that are there: others are forgotten with
        their last virtual server. An endpoint is forgotten as soon as it is not read.
        """
        seen: dict[VirtualServerKey, _Seen] = {}
        totals = dict(self._rows.ports)
        endpoints: dict[tuple[TrafficPort, RealServerKey], Counters] = {}
        for key, reading in readings.items():
            before = self._seen.get(key)
            port = ports.get(key) or (before.port if before is not None else None)
            if port is None:
                continue
            seen[key] = _Seen(port, reading)
            last = before.reading if before is not None else TrafficReading(_NONE, {})
            totals[port] = _more(totals.get(port, _NONE), last.counters, reading.counters)
            for member, counted in reading.real_servers.items():
                row = (port, member)
                total = endpoints.get(row) or self._rows.endpoints.get(row, _NONE)
                endpoints[row] = _more(total, last.real_servers.get(member, _NONE), counted)
        there = {*services, *(one.port.service for one in seen.values())}
        self._seen = seen
        self._rows = _Rows(
            {port: total for port, total in totals.items() if port.service in there}, endpoints
        )

    def collect(self) -> Iterator[CounterMetricFamily]:
        """Give all series but those through which nothing has gone."""
        rows = self._rows
        yield from _families(
            "service", PORT_LABELS, {port.labels: one for port, one in rows.ports.items()}
        )
        yield from _families(
            "endpoint",
            (*PORT_LABELS, "endpoint"),
            {(*port.labels, str(member)): one for (port, member), one in rows.endpoints.items()},
        )


def _more(total: Counters, last: Counters, now: Counters) -> Counters:
    """Add what has come since `last`; all of `now` where that was counted from zero again."""
    grown = tuple(map(sub, now, last))
    return Counters(*map(add, total, now if min(grown) < 0 else grown))


def _families(
    subject: str, labels: tuple[str, ...], rows: Mapping[tuple[str, ...], Counters]
) -> Iterator[CounterMetricFamily]:
    connections = _family(f"{subject}_connections", "Connections that were given to", labels)
    packets = _family(f"{subject}_packets", "IP packets to and from", (*labels, "direction"))
    octets = _family(f"{subject}_bytes", "Bytes of IP packets to and from", (*labels, "direction"))
    for values, counted in rows.items():
        if counted == _NONE:
            continue
        connections.add_metric(values, counted.connections)
        packets.add_metric((*values, "in"), counted.packets_in)
        packets.add_metric((*values, "out"), counted.packets_out)
        octets.add_metric((*values, "in"), counted.bytes_in)
        octets.add_metric((*values, "out"), counted.bytes_out)
    yield from (connections, packets, octets)


def _family(name: str, meaning: str, labels: tuple[str, ...]) -> CounterMetricFamily:
    what = "an endpoint of a Service" if "endpoint" in labels else "a port of a Service"
    return CounterMetricFamily(f"ipvsproxy_{name}", f"{meaning} {what}", labels=labels)
