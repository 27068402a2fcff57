import errno
import socket
from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from ipvsproxy.agent import AnotherAgentError
from ipvsproxy.agent.lock import only_agent, refuse_beside_kube_proxy
from ipvsproxy.config import Settings
from ipvsproxy.http import neighbours


@pytest.fixture(autouse=True)
def nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing answers in kube-proxy's usual place, whatever runs on this machine."""
    monkeypatch.setattr(neighbours, "KUBE_PROXY_ADDRESSES", ("127.0.0.1:1",))


@pytest.fixture
async def kube_proxy() -> AsyncIterator[str]:
    """Something that answers /proxyMode as kube-proxy does; gives its address."""

    async def mode(_: web.Request) -> web.Response:
        return web.Response(text="iptables")

    application = web.Application()
    application.add_routes([web.get("/proxyMode", mode)])
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield "{}:{}".format(*runner.addresses[0][:2])
    await runner.cleanup()


def test_a_second_agent_is_refused_until_the_first_has_ended() -> None:
    with (
        only_agent(),
        pytest.raises(AnotherAgentError, match=r"stop it first .*ss -xap"),
        only_agent(),
    ):
        pass
    with only_agent():
        pass


def test_another_error_is_not_taken_for_an_agent(monkeypatch: pytest.MonkeyPatch) -> None:
    class Refusing(socket.socket):
        def bind(self, *_: object) -> None:
            raise PermissionError(errno.EACCES, "no")

    monkeypatch.setattr(socket, "socket", Refusing)
    with pytest.raises(AnotherAgentError, match="cannot be had: Permission denied"), only_agent():
        pass


async def test_a_start_beside_a_live_kube_proxy_is_refused(kube_proxy: str) -> None:
    settings = Settings(node_name="n", metrics_bind_address=kube_proxy)
    with pytest.raises(AnotherAgentError, match=r"kube-proxy in iptables mode .*--take-over"):
        await refuse_beside_kube_proxy(settings)


@pytest.mark.parametrize("ours", ["127.0.0.1:20249", ""], ids=["elsewhere", "nowhere"])
async def test_wherever_our_metrics_are_a_kube_proxy_is_found_where_it_listens(
    kube_proxy: str, monkeypatch: pytest.MonkeyPatch, ours: str
) -> None:
    monkeypatch.setattr(neighbours, "KUBE_PROXY_ADDRESSES", (kube_proxy,))
    with pytest.raises(AnotherAgentError, match=rf"kube-proxy .*{kube_proxy}"):
        await refuse_beside_kube_proxy(Settings(node_name="n", metrics_bind_address=ours))


async def test_a_kube_proxy_can_be_taken_over_by_an_explicit_word(kube_proxy: str) -> None:
    await refuse_beside_kube_proxy(
        Settings(node_name="n", metrics_bind_address=kube_proxy, take_over=True)
    )


async def test_a_node_without_a_proxy_is_free() -> None:
    await refuse_beside_kube_proxy(Settings(node_name="n", metrics_bind_address="127.0.0.1:1"))
