"""Health check node ports, over loopback."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field

import aiohttp
import pytest
import structlog
from aiohttp.test_utils import make_mocked_request

from ipvsproxy.core.health_check import HealthCheck
from ipvsproxy.http import HealthChecks
from ipvsproxy.model import Address
from ipvsproxy.objects import ServiceName
from ipvsproxy.telemetry import Condition, Conditions, ConditionType, Health

WEB, SHOP = ServiceName("default", "web"), ServiceName("default", "shop")
HOME = Address.parse("127.0.0.1")
HOME_V6 = Address.parse("::1")
BODY = """{
	"service": {
		"namespace": "default",
		"name": "web"
	},
	"localEndpoints": 2,
	"serviceProxyHealthy": true
}"""


@dataclass
class Rig:
    """Health check ports that run, and what they look at and tell."""

    health: Health = field(default_factory=lambda: Health(sync_period=30, now=0))
    conditions: Conditions = field(default_factory=Conditions)
    now: float = 0.0
    told: list[Condition] = field(default_factory=list)
    checks: HealthChecks = field(init=False)

    def __post_init__(self) -> None:
        self.checks = HealthChecks(
            self.health,
            self.conditions,
            clock=lambda: self.now,
            wall_clock=lambda: self.now,
            tell=self.told.append,
            retry_seconds=0.01,
        )

    async def update(self, *checks: HealthCheck, addresses: tuple[Address, ...] | None) -> None:
        """Say what is wanted and wait until it is so."""
        self.checks.update(checks, addresses)
        await asyncio.wait_for(self.checks.settled.wait(), 10)

    async def another_pass(self) -> None:
        """Wait until what is refused has been tried once more."""
        self.checks.settled.clear()
        await asyncio.wait_for(self.checks.settled.wait(), 10)


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    made = Rig()
    task = asyncio.create_task(made.checks.run())
    yield made
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@asynccontextmanager
async def asking() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as session:
        yield session


async def status(port: int, host: str = "127.0.0.1") -> int | None:
    """Ask once; None: nobody listens."""
    async with asking() as session:
        try:
            async with session.get(f"http://{host}:{port}/") as response:
                return response.status
        except aiohttp.ClientConnectorError:
            return None


def free_ports(count: int) -> list[int]:
    """Find ports that nobody has: all are held until the last is found, so that they differ."""
    with ExitStack() as held:
        sockets = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [one.getsockname()[1] for one in sockets]


@pytest.fixture
def port() -> int:
    (found,) = free_ports(1)
    return found


class TestAnswers:
    async def test_body_and_headers_are_kube_proxy_s_on_any_path(self, rig: Rig, port: int) -> None:
        await rig.update(HealthCheck(WEB, port, 2), addresses=(HOME,))
        async with (
            asking() as session,
            session.get(f"http://127.0.0.1:{port}/whatever/path?x=1") as response,
        ):
            assert response.status == 200
            assert await response.text() == BODY
            assert response.headers["Content-Type"] == "application/json"
            assert response.headers["X-Content-Type-Options"] == "nosniff"
            assert response.headers["X-Load-Balancing-Endpoint-Weight"] == "2"

    async def test_without_local_endpoints_the_node_wants_no_traffic(
        self, rig: Rig, port: int
    ) -> None:
        await rig.update(HealthCheck(WEB, port, 0), addresses=(HOME,))
        async with asking() as session, session.get(f"http://127.0.0.1:{port}/") as response:
            assert response.status == 503
            assert response.headers["X-Load-Balancing-Endpoint-Weight"] == "0"
            assert await response.json() == {
                "service": {"namespace": "default", "name": "web"},
                "localEndpoints": 0,
                "serviceProxyHealthy": True,
            }

    async def test_an_agent_that_does_not_keep_up_wants_no_traffic(
        self, rig: Rig, port: int
    ) -> None:
        await rig.update(HealthCheck(WEB, port, 2), addresses=(HOME,))
        rig.health.queued(0)
        rig.now = 60
        async with asking() as session, session.get(f"http://127.0.0.1:{port}/") as response:
            assert response.status == 503
            assert (await response.json())["serviceProxyHealthy"] is False

    async def test_a_node_that_leaves_still_answers_for_its_endpoints(
        self, rig: Rig, port: int
    ) -> None:
        rig.health.leaving = True
        await rig.update(HealthCheck(WEB, port, 1), addresses=(HOME,))
        assert await status(port) == 200

    async def test_a_changed_number_is_answered_by_the_same_socket(
        self, rig: Rig, port: int
    ) -> None:
        await rig.update(HealthCheck(WEB, port, 1), addresses=(HOME,))
        before = [id(one) for one in rig.checks._listeners.values()]
        assert await status(port) == 200
        await rig.update(HealthCheck(WEB, port, 0), addresses=(HOME,))
        assert await status(port) == 503
        assert [id(one) for one in rig.checks._listeners.values()] == before


class TestPorts:
    async def test_a_service_that_goes_takes_its_port_and_its_connections_with_it(
        self, rig: Rig, port: int
    ) -> None:
        await rig.update(HealthCheck(WEB, port, 1), addresses=(HOME,))
        async with asking() as session:
            async with session.get(f"http://127.0.0.1:{port}/") as kept:
                assert kept.status == 200
            await rig.update(addresses=(HOME,))
            async with session.get(f"http://127.0.0.1:{port}/") as last:
                assert last.status == 503
                assert last.headers["Connection"] == "close"
        assert await status(port) is None
        assert rig.checks.listening == 0

    async def test_a_request_whose_connection_is_lost_already_is_no_mistake(
        self, rig: Rig, port: int
    ) -> None:
        await rig.update(HealthCheck(WEB, port, 1), addresses=(HOME,))
        request = make_mocked_request("GET", "/")
        request.protocol.transport = None
        response = await rig.checks._answer(request)
        assert response.status == 503

    async def test_another_port_of_the_same_service_is_another_socket(self, rig: Rig) -> None:
        first, second = free_ports(2)
        await rig.update(HealthCheck(WEB, first, 1), addresses=(HOME,))
        await rig.update(HealthCheck(WEB, second, 1), addresses=(HOME,))
        assert (await status(first), await status(second)) == (None, 200)

    async def test_each_service_answers_for_itself(self, rig: Rig) -> None:
        first, second = free_ports(2)
        await rig.update(
            HealthCheck(WEB, first, 1), HealthCheck(SHOP, second, 0), addresses=(HOME,)
        )
        assert (await status(first), await status(second)) == (200, 503)
        assert rig.checks.listening == 2

    async def test_all_addresses_of_both_families(self, rig: Rig, port: int) -> None:
        await rig.update(HealthCheck(WEB, port, 1), addresses=None)
        assert await status(port, "127.0.0.1") == 200
        assert await status(port, "127.0.0.2") == 200
        if socket.has_dualstack_ipv6():
            assert await status(port, "[::1]") == 200

    async def test_without_ipv6_all_addresses_are_those_of_ipv4(
        self, rig: Rig, port: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(socket, "has_dualstack_ipv6", lambda: False)
        await rig.update(HealthCheck(WEB, port, 1), addresses=None)
        assert await status(port, "127.0.0.2") == 200
        assert len(rig.conditions) == 0

    @pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")
    async def test_only_the_addresses_that_are_given(self, rig: Rig, port: int) -> None:
        await rig.update(HealthCheck(WEB, port, 1), addresses=(HOME, HOME_V6))
        assert await status(port, "127.0.0.1") == 200
        assert await status(port, "[::1]") == 200
        assert await status(port, "127.0.0.2") is None

    async def test_a_socket_moves_when_the_addresses_change(self, rig: Rig, port: int) -> None:
        """The wildcard is closed first: it is in the way of the others."""
        await rig.update(HealthCheck(WEB, port, 1), addresses=None)
        await rig.update(HealthCheck(WEB, port, 1), addresses=(Address.parse("127.0.0.2"),))
        assert await status(port, "127.0.0.2") == 200
        assert await status(port, "127.0.0.1") is None
        await rig.update(HealthCheck(WEB, port, 1), addresses=None)
        assert await status(port, "127.0.0.1") == 200
        assert len(rig.conditions) == 0

    async def test_a_node_without_addresses_answers_nowhere(self, rig: Rig, port: int) -> None:
        await rig.update(HealthCheck(WEB, port, 1), addresses=())
        assert rig.checks.listening == 0
        assert len(rig.conditions) == 0

    async def test_nothing_listens_after_the_end(self, port: int) -> None:
        rig = Rig()
        task = asyncio.create_task(rig.checks.run())
        await rig.update(HealthCheck(WEB, port, 1), addresses=(HOME,))
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert await status(port) is None

    def test_without_a_run_nothing_is_opened(self, port: int) -> None:
        """As in `run --once` and `plan`, which tell it of Services and serve no port."""
        rig = Rig()
        rig.checks.update([HealthCheck(WEB, port, 1)])
        assert rig.checks.listening == 0


class TestTaken:
    async def test_it_is_a_condition_until_the_port_is_free_and_others_are_served(
        self, rig: Rig
    ) -> None:
        taken, free = free_ports(2)
        checks = HealthCheck(WEB, taken, 1), HealthCheck(SHOP, free, 1)
        with socket.create_server(("127.0.0.1", taken)), structlog.testing.capture_logs() as logged:
            await rig.update(*checks, addresses=(HOME,))
            await rig.another_pass()
            await rig.another_pass()
            (condition,) = rig.conditions
            assert await status(free) == 200
        assert condition.subject == "Service default/web"
        assert condition.type is ConditionType.HEALTH_CHECK_PORT_TAKEN
        assert condition.message == (
            f"the health check cannot listen on 127.0.0.1:{taken} (address already in use): stop "
            "what listens there; until then load balancers may pass this node over"
        )
        assert [one["event"] for one in logged if one["log_level"] == "warning"] == ["condition"]
        assert rig.told == [condition]
        await rig.another_pass()
        assert len(rig.conditions) == 0
        assert await status(taken) == 200

    async def test_where_one_of_the_addresses_is_taken_the_others_answer(
        self, rig: Rig, port: int
    ) -> None:
        elsewhere = Address.parse("127.0.0.2")
        with socket.create_server(("127.0.0.2", port)):
            await rig.update(HealthCheck(WEB, port, 1), addresses=(HOME, elsewhere))
            assert [one.subject for one in rig.conditions] == ["Service default/web"]
            assert await status(port) == 200

    async def test_an_address_that_has_left_the_node_is_told_too(self, rig: Rig, port: int) -> None:
        await rig.update(HealthCheck(WEB, port, 1), addresses=(Address.parse("192.0.2.1"),))
        (condition,) = rig.conditions
        assert "192.0.2.1" in condition.message

    async def test_the_condition_goes_with_the_service(self, rig: Rig, port: int) -> None:
        with socket.create_server(("127.0.0.1", port)):
            await rig.update(HealthCheck(WEB, port, 1), addresses=(HOME,))
            await rig.update(addresses=(HOME,))
        assert len(rig.conditions) == 0

    @pytest.mark.parametrize(
        ("web", "shop", "owner"),
        [
            (1.0, 2.0, WEB),
            (2.0, 1.0, SHOP),
            (None, 9.0, SHOP),
            (None, None, SHOP),
            (5.0, 5.0, SHOP),
        ],
        ids=["older", "younger", "without an age", "none has an age", "of one age"],
    )
    async def test_of_two_services_with_one_port_the_older_has_it_then_the_first_by_name(
        self, rig: Rig, port: int, web: float | None, shop: float | None, owner: ServiceName
    ) -> None:
        both = (HealthCheck(WEB, port, 1, web), HealthCheck(SHOP, port, 1, shop))
        await rig.update(*both, addresses=(HOME,))
        async with asking() as session, session.get(f"http://127.0.0.1:{port}/") as response:
            assert (await response.json())["service"]["name"] == owner.name
        (condition,) = rig.conditions
        (other,) = {WEB, SHOP} - {owner}
        assert condition.subject == f"Service {other}"
        assert condition.message.startswith(
            f"the health check node port {port} belongs to Service {owner}, first by age, then name"
        )

    async def test_what_the_older_one_leaves_the_younger_has_at_once(
        self, rig: Rig, port: int
    ) -> None:
        old, young = HealthCheck(WEB, port, 0, 1.0), HealthCheck(SHOP, port, 1, 2.0)
        await rig.update(old, young, addresses=(HOME,))
        assert await status(port) == 503
        await rig.update(young, addresses=(HOME,))
        assert await status(port) == 200
        assert len(rig.conditions) == 0
