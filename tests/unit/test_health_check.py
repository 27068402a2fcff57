"""How many endpoints a node answers for."""

from __future__ import annotations

import pytest

from ipvsproxy.core.health_check import local_endpoints
from ipvsproxy.model import Address, Family, Protocol
from ipvsproxy.objects import Endpoint, EndpointSlice, ServiceName, SlicePort

HTTP = (SlicePort("http", Protocol.TCP, 8080),)


def endpoint(address: str, node: str | None = "node-a", *, ready: bool = True) -> Endpoint:
    return Endpoint(Address.parse(address), ready=ready, node_name=node)


def a_slice(*endpoints: Endpoint, ports: tuple[SlicePort, ...] = HTTP) -> EndpointSlice:
    family = endpoints[0].address.family if endpoints else Family.IPV4
    name = ServiceName("default", "web")
    return EndpointSlice("default", "web-1", name, family, endpoints=endpoints, ports=ports)


TERMINATING = Endpoint(
    Address.parse("10.1.0.9"), ready=False, serving=True, terminating=True, node_name="node-a"
)
PUBLISHED = Endpoint(Address.parse("10.1.0.9"), ready=True, terminating=True, node_name="node-a")


@pytest.mark.parametrize(
    ("slices", "count"),
    [
        pytest.param([], 0, id="no slice"),
        pytest.param([a_slice(endpoint("10.1.0.1"), endpoint("10.1.0.2"))], 2, id="here"),
        pytest.param([a_slice(endpoint("10.1.0.1", "node-b"))], 0, id="elsewhere"),
        pytest.param([a_slice(endpoint("10.1.0.1", None))], 0, id="nobody knows where"),
        pytest.param([a_slice(endpoint("10.1.0.1", ready=False))], 0, id="not ready"),
        pytest.param([a_slice(TERMINATING)], 0, id="terminating, though it serves"),
        pytest.param([a_slice(PUBLISHED)], 1, id="terminating and published all the same"),
        pytest.param(
            [a_slice(endpoint("10.1.0.1"), ports=(*HTTP, SlicePort("dns", Protocol.UDP, 53)))],
            1,
            id="two ports of one address",
        ),
        pytest.param(
            [a_slice(endpoint("10.1.0.1")), a_slice(endpoint("10.1.0.1"))], 1, id="two slices"
        ),
        pytest.param(
            [a_slice(endpoint("10.1.0.1")), a_slice(endpoint("fd00::1"))], 1, id="both families"
        ),
        pytest.param(
            [a_slice(endpoint("10.1.0.1", ready=False)), a_slice(endpoint("fd00::1"))],
            1,
            id="one family is behind",
        ),
        pytest.param([a_slice(endpoint("10.1.0.1"), ports=())], 0, id="no port"),
    ],
)
def test_ready_endpoints_of_this_node_are_counted_by_address(
    slices: list[EndpointSlice], count: int
) -> None:
    assert local_endpoints(slices, "node-a") == count
