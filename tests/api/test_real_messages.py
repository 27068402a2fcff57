"""What an operator is told with a real API server: Events, and one line for what is wrong."""

from __future__ import annotations

import asyncio
import base64
import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import cast

import pytest

from ipvsproxy.sources.kubernetes.access import Access, InCluster, Kubeconfig, Server
from ipvsproxy.sources.kubernetes.errors import ApiError
from ipvsproxy.sources.kubernetes.health import SourceHealth
from ipvsproxy.sources.kubernetes.source import KubernetesSource
from tests.api import real_server
from tests.api.certificates import authority
from tests.api.fake_objects import Object
from tests.api.installed import NAMESPACE, Account, Agent, agent, install
from tests.api.real_server import RealServer, free_ports
from tests.api.support import VirtualTime, connected, service
from tests.api.watched_kernel import WatchedKernel

pytestmark = real_server.marks()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealServer]:
    with RealServer(tmp_path_factory.mktemp("server")) as running:
        install(running)
        yield running


@pytest.fixture
def account(server: RealServer, tmp_path: Path) -> Account:
    return Account(server, tmp_path / "account")


async def complaint(access: Access) -> str:
    """Ask for all kinds once, and return what goes wrong."""
    time = VirtualTime()
    async with connected(access) as connection:
        health = SourceHealth(wall_clock=time.timing.now)
        source = KubernetesSource(connection, "node-1", timing=time.timing, health=health)
        try:
            async for _ in source.once():
                pass
        except ApiError as error:
            return str(error)
    return ""


def of_account(server: RealServer, account: Account) -> Access:
    return InCluster((server.url,), account.folder)


def signed(server: RealServer, *, lives_until: float) -> str:
    """Make a token of our account, as the server itself does."""
    uid = server.get("serviceaccount/ipvsproxy", NAMESPACE)["metadata"]["uid"]
    bound = {"namespace": "kube-system", "serviceaccount": {"name": "ipvsproxy", "uid": uid}}
    claims = {
        "iss": "https://127.0.0.1",
        "aud": ["https://127.0.0.1"],
        "sub": "system:serviceaccount:kube-system:ipvsproxy",
        "iat": int(lives_until) - 3600,
        "nbf": int(lives_until) - 3600,
        "exp": int(lives_until),
        "kubernetes.io": bound,
    }
    text = ".".join(_encoded(json.dumps(one).encode()) for one in ({"alg": "RS256"}, claims))
    signature = subprocess.run(
        ("openssl", "dgst", "-sha256", "-sign", server.accounts_key),
        input=text.encode(),
        capture_output=True,
        check=True,
    ).stdout
    return f"{text}.{_encoded(signature)}"


def _encoded(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).decode().rstrip("=")


async def test_with_what_the_manifests_give_nothing_is_refused(
    server: RealServer, account: Account
) -> None:
    assert await complaint(of_account(server, account)) == ""


async def test_another_authority(server: RealServer, account: Account, tmp_path: Path) -> None:
    account.trust(authority(tmp_path, "another"))
    told = await complaint(of_account(server, account))
    assert told.startswith(f"the certificate of {server.url} is not trusted: ")
    assert told.endswith("and a name or address that the certificate has")


async def test_a_name_that_the_certificate_does_not_have(
    server: RealServer, account: Account
) -> None:
    url = server.url.replace("127.0.0.1", "localhost")
    told = await complaint(InCluster((url,), account.folder))
    assert told.startswith(f"the certificate of {url} is not trusted: Hostname mismatch")


async def test_a_token_that_has_expired_and_one_that_has_not(
    server: RealServer, account: Account
) -> None:
    account.write_token(signed(server, lives_until=time.time() + 600))
    assert await complaint(of_account(server, account)) == ""
    account.write_token(signed(server, lives_until=time.time() - 600))
    assert await complaint(of_account(server, account)) == (
        "the API server answered 401: Unauthorized; check the token or certificate in the "
        "kubeconfig, or the pod's ServiceAccount: is it expired, withdrawn or of another cluster?"
    )


async def test_no_token_at_all(server: RealServer, tmp_path: Path) -> None:
    """The server takes us for somebody without a name, and refuses what he asks for."""
    kubeconfig = tmp_path / "kubeconfig"
    cluster = f"{{server: '{server.url}', certificate-authority: {server.trusted}}}"
    kubeconfig.write_text(
        f"""apiVersion: v1
kind: Config
clusters: [{{name: c, cluster: {cluster}}}]
users: [{{name: u, user: {{}}}}]
contexts: [{{name: x, context: {{cluster: c, user: u}}}}]
current-context: x
"""
    )
    told = await complaint(Kubeconfig(kubeconfig))
    assert told.startswith("the API server answered 403: services is forbidden: ")
    assert told.endswith("the user in the kubeconfig needs a token or a certificate")


async def test_http_where_https_is_spoken(server: RealServer) -> None:
    assert await complaint(Server((server.url.replace("https", "http"),))) == (
        "the API server answered 400: Client sent an HTTP request to an HTTPS server."
    )


async def test_an_api_server_that_is_away(account: Account) -> None:
    (port,) = free_ports(1)
    url = f"https://127.0.0.1:{port}"
    told = await complaint(InCluster((url,), account.folder))
    assert told == f"cannot reach {url}: Connection refused"


@pytest.mark.parametrize(
    ("plural", "group"),
    [("services", ""), ("nodes", ""), ("endpointslices", "discovery.k8s.io")],
)
async def test_a_rule_that_is_missing(
    server: RealServer, account: Account, plural: str, group: str
) -> None:
    role = server.get("clusterrole/ipvsproxy")
    for rule in role["rules"]:
        rule["resources"] = [one for one in rule["resources"] if one != plural] or ["none"]
    server.kubectl("replace", "--filename=-", text=json.dumps(role))
    told = await refused(server, account)
    assert told.startswith(f"the API server answered 403: {plural}")
    assert told.endswith(
        f'; the role needs the rule {{apiGroups: ["{group}"], resources: ["{plural}"], '
        'verbs: ["list", "watch"]}'
    )


async def test_an_account_that_has_no_role(server: RealServer, account: Account) -> None:
    server.kubectl("delete", "clusterrolebinding/ipvsproxy")
    assert "the role needs the rule" in await refused(server, account)


async def refused(server: RealServer, account: Account) -> str:
    """Return what goes wrong once the server has read its changed roles; then mend them."""
    try:
        async with asyncio.timeout(20):
            while not (told := await complaint(of_account(server, account))):
                pass
    finally:
        await asyncio.to_thread(install, server)
        async with asyncio.timeout(20):
            while await complaint(of_account(server, account)):
                pass
    return told


async def test_an_event_of_two_agents_is_there_once_and_kubectl_shows_it(
    server: RealServer, account: Account
) -> None:
    one = service("wrong", address="10.0.9.1")
    one["metadata"] = {
        **cast("Object", one["metadata"]),
        "annotations": {"ipvsproxy.io/scheduler": "fastest"},
    }
    server.apply(one)
    async with AsyncExitStack() as stack:
        agents = [
            await stack.enter_async_context(agent(server.url, account, WatchedKernel(()), name))
            for name in ("node-1", "node-2")
        ]
        async with asyncio.timeout(60):
            while not all(told_of(one) for one in agents):  # noqa: ASYNC110 - two agents
                await asyncio.sleep(0.1)
    codes = sorted(code for one in agents for code in told_of(one))
    assert codes == ["201", "409"]
    (event,) = server.get("events", "--field-selector=involvedObject.name=wrong")["items"]
    assert event["reason"] == "InvalidAnnotation"
    assert event["type"] == "Warning"
    (line,) = server.kubectl("get", "events", "--no-headers").splitlines()
    seen, kind, reason, about, *message = line.split()
    assert (kind, reason, about) == ("Warning", "InvalidAnnotation", "service/wrong")
    assert " ".join(message).startswith("annotation ipvsproxy.io/scheduler: ")
    assert seen != "<unknown>"
    described = server.kubectl("describe", "service", "wrong").partition("Events:")[2]
    shown = described.splitlines()[-1].split()
    assert shown[:2] == ["Warning", "InvalidAnnotation"]
    assert shown[3] == "ipvsproxy", described
    assert "<unknown>" not in described


def told_of(one: Agent) -> set[str]:
    """Return the answers to Events of an agent."""
    requests = one.watches.requests
    return {code for code, method, _ in requests if method == "POST" and code in ("201", "409")}
