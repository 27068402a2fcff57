"""Several servers, credentials that are rotated under way, and peers that vanish."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import pytest
import structlog
import yaml

from ipvsproxy.sources.kubernetes import client
from ipvsproxy.sources.kubernetes.access import InCluster, Kubeconfig, Server
from ipvsproxy.sources.kubernetes.client import ApiConnection
from ipvsproxy.sources.kubernetes.errors import Forbidden, Throttled, Unauthorized, Unreachable
from tests.api.certificates import (
    Authority,
    authority,
    client_certificate,
    needs_openssl,
    server_context,
)
from tests.api.fake_server import FakeApiServer, Fault
from tests.api.support import connected, service

SERVICES = "/api/v1/services"


class Pair:
    """Two servers of one cluster, and a connection to both."""

    def __init__(self, first: FakeApiServer, second: FakeApiServer, to: ApiConnection) -> None:
        self.first, self.second, self.connection = first, second, to

    @property
    def asked(self) -> tuple[int, int]:
        return len(self.first.requests), len(self.second.requests)


@pytest.fixture
async def pair(server: FakeApiServer) -> AsyncIterator[Pair]:
    async with (
        FakeApiServer(objects=server.objects) as second,
        connected(Server((server.url, second.url))) as connection,
    ):
        yield Pair(server, second, connection)


async def test_the_first_server_is_asked_while_it_answers(pair: Pair) -> None:
    for _ in range(3):
        await pair.connection.get(SERVICES, {})
    assert pair.asked == (3, 0)
    assert pair.connection.url == pair.first.url


async def test_when_one_is_away_the_other_is_asked_at_once_and_from_then_on(pair: Pair) -> None:
    await pair.first.stop()
    await pair.connection.get(SERVICES, {})
    await pair.first.start()
    await pair.connection.get(SERVICES, {})
    assert pair.asked == (0, 2)
    await pair.second.stop()
    await pair.connection.get(SERVICES, {})
    assert pair.asked == (1, 2)


async def test_when_both_are_away_it_is_said_and_each_was_asked_once(pair: Pair) -> None:
    await pair.first.stop()
    await pair.second.stop()
    with pytest.raises(Unreachable, match="cannot reach"):
        await pair.connection.get(SERVICES, {})


async def test_a_server_that_is_ill_is_passed_over(pair: Pair) -> None:
    pair.first.faults.append(Fault(status=503, keep=True))
    await pair.connection.get(SERVICES, {})
    assert pair.asked == (1, 1)


@pytest.mark.parametrize(("status", "kind"), [(403, Forbidden), (429, Throttled)])
async def test_an_answer_that_the_other_would_give_too_is_the_answer(
    pair: Pair, status: int, kind: type[Exception]
) -> None:
    pair.first.faults.append(Fault(status=status))
    with pytest.raises(kind):
        await pair.connection.get(SERVICES, {})
    assert pair.asked == (1, 0)


async def test_requests_that_fail_together_pass_on_once(pair: Pair) -> None:
    gate = asyncio.Event()
    pair.first.faults.append(Fault(status=500, gate=gate, keep=True))
    requests = [asyncio.create_task(pair.connection.get(SERVICES, {})) for _ in range(3)]
    await pair.first.until(lambda: len(pair.first.requests) == 3)
    gate.set()
    await asyncio.gather(*requests)
    assert pair.asked == (3, 3)
    assert pair.connection.url == pair.second.url


async def test_a_stream_that_is_lost_counts_against_its_server(pair: Pair) -> None:
    watch = {"watch": "1", "resourceVersion": str(pair.first.objects.version)}
    async with AsyncExitStack() as stack:
        stack.enter_context(pytest.raises(Unreachable))
        stream = pair.connection.stream(SERVICES, watch, silence=20)
        lines = await stack.enter_async_context(stream)
        await pair.first.until_watched(1)
        await pair.first.stop()
        _ = [line async for line in lines]
    assert pair.connection.url == pair.second.url


# ------------------------------------------------------------------------- rotation of files


def in_pod(folder: Path, trusted: Authority) -> Path:
    account = folder / "account"
    account.mkdir()
    (account / "token").write_text("secret")
    (account / "ca.crt").write_bytes(trusted.certificate.read_bytes())
    return account


@needs_openssl
async def test_an_authority_is_rotated_without_one_request_that_fails(tmp_path: Path) -> None:
    """Both certificates are in the file before the server has the new one, as kubelet does it."""
    old, new = authority(tmp_path, "old"), authority(tmp_path, "new")
    account = in_pod(tmp_path, old)
    async with (
        FakeApiServer(tokens={"secret"}, tls=server_context(tmp_path, old)) as server,
        connected(InCluster((server.url,), account)) as connection,
    ):
        await connection.get(SERVICES, {})
        both = old.certificate.read_bytes() + new.certificate.read_bytes()
        (account / "ca.crt").write_bytes(both)
        await connection.get(SERVICES, {})
        await server.stop()
        server.tls = server_context(tmp_path, new)
        await server.start()
        await connection.get(SERVICES, {})
        (account / "ca.crt").write_bytes(new.certificate.read_bytes())
        await connection.get(SERVICES, {})
    assert len(server.requests) == 4


@needs_openssl
async def test_files_that_are_half_written_leave_the_old_session(tmp_path: Path) -> None:
    trusted = authority(tmp_path, "trusted")
    account = in_pod(tmp_path, trusted)
    async with (
        FakeApiServer(tokens={"secret"}, tls=server_context(tmp_path, trusted)) as server,
        connected(InCluster((server.url,), account)) as connection,
    ):
        (account / "ca.crt").write_text("-----BEGIN CERTIFICATE-----\n")
        with structlog.testing.capture_logs() as logs:
            await connection.get(SERVICES, {})
            await connection.get(SERVICES, {})
        assert [one["event"] for one in logs] == ["new credentials cannot be used yet"]
        (account / "ca.crt").unlink()
        await connection.get(SERVICES, {})
        server.tokens = {"another"}
        with pytest.raises(Unauthorized, match=r"ca\.crt is missing"):
            await connection.get(SERVICES, {})


@needs_openssl
async def test_a_client_certificate_is_rotated_also_when_the_server_refuses_the_old_one(
    tmp_path: Path,
) -> None:
    trusted, old, new = (authority(tmp_path, name) for name in ("server-ca", "old", "new"))
    own = client_certificate(tmp_path, old)
    path = tmp_path / "kubeconfig"
    cluster = {"server": "https://192.0.2.1", "certificate-authority": str(trusted.certificate)}
    user = {"client-certificate": str(own.certificate), "client-key": str(own.key)}
    path.write_text(
        yaml.safe_dump(
            {
                "current-context": "here",
                "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u"}}],
                "clusters": [{"name": "c", "cluster": cluster}],
                "users": [{"name": "u", "user": user}],
            }
        )
    )
    async with (
        FakeApiServer(tls=asking(server_context(tmp_path, trusted), old)) as server,
        connected(Kubeconfig(path, (server.url,))) as connection,
    ):
        await connection.get(SERVICES, {})
        await server.stop()
        server.tls = asking(server_context(tmp_path, trusted), new)
        await server.start()
        with pytest.raises(Unreachable):
            await connection.get(SERVICES, {})
        client_certificate(tmp_path, new)
        await connection.get(SERVICES, {})


def asking(context: ssl.SSLContext, clients: Authority) -> ssl.SSLContext:
    """Have a server let in only who has a certificate of this authority."""
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(clients.certificate)
    return context


# --------------------------------------------------------------------- peers that vanish


async def test_the_kernel_asks_after_the_peer_of_a_stream(
    server: FakeApiServer, connection: ApiConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That it then notices is shown in tests/kernel: here the peer cannot vanish."""
    found: list[int] = []
    ask = client._ask_after_the_peer

    def recorded(response: aiohttp.ClientResponse) -> None:
        ask(response)
        assert response.connection is not None
        assert response.connection.transport is not None
        own = response.connection.transport.get_extra_info("socket")
        found.append(own.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE))
        found.append(own.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE))
        found.append(own.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT))

    monkeypatch.setattr(client, "_ask_after_the_peer", recorded)
    await server.put(service("web"))
    await connection.get(SERVICES, {})
    assert found == []
    async with connection.stream(SERVICES, {"watch": "1"}, silence=20):
        assert found == [1, 30, 60_000]
