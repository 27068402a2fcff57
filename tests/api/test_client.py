"""Credentials, and every way in which a request fails, with what an operator is told."""

from __future__ import annotations

import asyncio
import base64
import errno
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from ipvsproxy.sources.kubernetes import client, session
from ipvsproxy.sources.kubernetes.access import (
    Access,
    InCluster,
    Kubeconfig,
    Server,
    choose,
)
from ipvsproxy.sources.kubernetes.client import ApiConnection, connect
from ipvsproxy.sources.kubernetes.errors import (
    AccessError,
    ApiError,
    BadRequest,
    Expired,
    Forbidden,
    NotFound,
    Rejected,
    Throttled,
    Unauthorized,
    Unavailable,
    Unreachable,
)
from tests.api.certificates import authority, needs_openssl, server_context
from tests.api.fake_server import FakeApiServer, Fault
from tests.api.support import connected, service

SERVICES = "/api/v1/services"
IN_POD = {"KUBERNETES_SERVICE_HOST": "192.0.2.1", "KUBERNETES_SERVICE_PORT": "6443"}

NAMING_ALL = (
    "{{current-context: a, contexts: [{{name: a, context: {{cluster: c, user: u}}}}],"
    "clusters: [{{name: c, cluster: {{{cluster}}}}}], users: [{{name: u, user: {{{user}}}}}]}}"
)


def kubeconfig(
    folder: Path, *, cluster: dict[str, object], user: dict[str, object] | None = None
) -> Path:
    path = folder / "kubeconfig"
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "here",
        "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": cluster}],
        "users": [{"name": "u", "user": user or {}}],
    }
    path.write_text(yaml.safe_dump(content))
    return path


# --------------------------------------------------------------------- where and as whom


@pytest.mark.parametrize(
    ("given_kubeconfig", "master", "environment", "chosen"),
    [
        ("/k", None, IN_POD, Kubeconfig(Path("/k"))),
        ("/k", "http://h:1/", {}, Kubeconfig(Path("/k"), ("http://h:1",))),
        ("/k", "http://h:1, http://g/", {}, Kubeconfig(Path("/k"), ("http://h:1", "http://g"))),
        (None, "https://h", {}, Server(("https://h",))),
        (None, "https://h,https://g:1", IN_POD, InCluster(("https://h", "https://g:1"))),
        (None, "http://h", IN_POD, Server(("http://h",))),
        (None, None, IN_POD, InCluster(("https://192.0.2.1:6443",))),
    ],
)
def test_the_way_to_the_server_is_chosen_by_what_is_given(
    given_kubeconfig: str | None, master: str | None, environment: dict[str, str], chosen: Access
) -> None:
    path = Path(given_kubeconfig) if given_kubeconfig else None
    assert choose(kubeconfig=path, master=master, environment=environment) == chosen


@pytest.mark.parametrize(
    "master",
    [
        "localhost:8080",
        "tcp://h",
        "http://",
        "",
        "https://[::1",
        "https://[zz]:6443",
        "https://h:99999",
        "https://:6443",
        "https://h:0",
    ],
)
def test_a_master_that_is_no_url_is_answered_with_what_to_write(master: str) -> None:
    with pytest.raises(AccessError, match="write http://HOST:PORT"):
        choose(kubeconfig=None, master=master, environment={})


@pytest.mark.parametrize("environment", [{}, {"KUBERNETES_SERVICE_HOST": "192.0.2.1"}])
def test_without_any_way_the_flags_are_named(environment: dict[str, str]) -> None:
    with pytest.raises(AccessError, match=r"both set.*--kubeconfig FILE, --master URL or"):
        choose(kubeconfig=None, master=None, environment=environment)


async def test_a_kubeconfig_that_is_empty_or_names_no_file_says_so(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.touch()
    with pytest.raises(AccessError, match="empty: the file is empty"):
        await connect(Kubeconfig(empty))
    cluster: dict[str, object] = {"server": "https://h", "certificate-authority": "/none"}
    with pytest.raises(AccessError, match="kubeconfig: there is no file: /none"):
        await connect(Kubeconfig(kubeconfig(tmp_path, cluster=cluster)))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (None, "No such file or directory"),
        ("{", "not a kubeconfig"),
        ("- a list", "not a kubeconfig"),
        ("apiVersion: v1", "has no current-context"),
        ("{current-context: a, contexts: []}", "current-context a is none of its contexts"),
        (NAMING_ALL.format(cluster="", user=""), "context a: cluster c has no server"),
        (
            NAMING_ALL.format(cluster="server: 'https://h'", user="").replace("user: u", "user: x"),
            "context a: user x is not in the file",
        ),
        (
            NAMING_ALL.format(cluster="server: 'https://h', certificate-authority: x.crt", user=""),
            "/x.crt",
        ),
        (
            NAMING_ALL.format(cluster="server: 'http://h'", user="tokenFile: nowhere"),
            "nowhere: No such file or directory",
        ),
        (
            NAMING_ALL.format(
                cluster="server: 'https://h', certificate-authority-data: bm9uZQ==", user=""
            ),
            "certificate files",
        ),
        (
            NAMING_ALL.format(cluster="server: 'https://h', tls-server-name: [h]", user=""),
            "not a kubeconfig",
        ),
    ],
)
async def test_a_kubeconfig_that_cannot_be_used_is_named_with_the_reason(
    tmp_path: Path, text: str | None, reason: str
) -> None:
    path = tmp_path / "kubeconfig"
    if text is not None:
        path.write_text(text)
    with pytest.raises(AccessError, match=reason) as raised:
        await connect(Kubeconfig(path))
    assert "\n" not in str(raised.value)


@needs_openssl
@pytest.mark.parametrize(
    "lose", [Path.unlink, lambda file: file.write_bytes(b"")], ids=["swept", "was full"]
)
async def test_inline_certificates_outlive_a_temporary_folder_that_is_swept_or_was_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lose: Callable[[Path], object]
) -> None:
    signer, swept = authority(tmp_path, "authority"), tmp_path / "swept"
    swept.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(swept))
    server = FakeApiServer(tls=server_context(tmp_path, signer))
    await server.start()
    data = base64.b64encode(signer.certificate.read_bytes()).decode()
    cluster: dict[str, object] = {"server": server.url, "certificate-authority-data": data}
    path = kubeconfig(tmp_path, cluster=cluster, user={"token": "first"})
    try:
        async with connected(Kubeconfig(path)) as connection:
            await connection.get(SERVICES, {})
            for file in swept.iterdir():
                lose(file)
            server.tokens = {"second"}
            kubeconfig(tmp_path, cluster=cluster, user={"token": "second"})
            await connection.get(SERVICES, {})
    finally:
        await server.stop()


async def test_without_a_temporary_folder_the_reason_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nowhere(**_: object) -> None:
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']")

    monkeypatch.setattr(tempfile, "mkstemp", nowhere)
    data = base64.b64encode(str(tmp_path).encode()).decode()
    cluster: dict[str, object] = {"server": "https://h", "certificate-authority-data": data}
    path = kubeconfig(tmp_path, cluster=cluster)
    with pytest.raises(AccessError, match="kubeconfig: No usable temporary directory"):
        await connect(Kubeconfig(path))


async def test_a_credential_plugin_that_hangs_is_told_and_the_old_credentials_go_on(
    tmp_path: Path, server: FakeApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin = {"apiVersion": "client.authentication.k8s.io/v1", "command": "sleep", "args": ["99"]}
    monkeypatch.setattr(session, "CREDENTIALS_SECONDS", 0.05)
    path = kubeconfig(tmp_path, cluster={"server": server.url}, user={"token": "first"})
    server.tokens = {"first"}
    async with connected(Kubeconfig(path)) as connection:
        kubeconfig(tmp_path, cluster={"server": server.url}, user={"exec": plugin})
        await connection.get(SERVICES, {})
        server.tokens = {"second"}
        with pytest.raises(
            Unauthorized, match=r"no credentials within 0.05s: its plugin \(exec\) hangs"
        ):
            await connection.get(SERVICES, {})
    with pytest.raises(AccessError, match="no credentials within"):
        await connect(Kubeconfig(path))


async def test_a_url_overrides_the_server_of_a_kubeconfig(
    tmp_path: Path, server: FakeApiServer
) -> None:
    path = kubeconfig(tmp_path, cluster={"server": "http://192.0.2.1"}, user={"token": "secret"})
    server.tokens = {"secret"}
    async with connected(Kubeconfig(path, (server.url,))) as connection:
        assert connection.url == server.url
        await connection.get(SERVICES, {})


async def test_a_token_file_is_read_again_when_it_is_replaced(
    tmp_path: Path, server: FakeApiServer
) -> None:
    token = tmp_path / "token"
    token.write_text("first\n")
    path = kubeconfig(tmp_path, cluster={"server": server.url}, user={"tokenFile": "token"})
    server.tokens = {"first"}
    async with connected(Kubeconfig(path)) as connection:
        await connection.get(SERVICES, {})
        server.tokens = {"second"}
        replacement = tmp_path / "new"
        replacement.write_text("second\n")
        replacement.rename(token)
        await connection.get(SERVICES, {})
        assert len(server.requests) == 2
        token.unlink()  # kubelet is about to write it anew: the last one still holds
        await connection.get(SERVICES, {})


async def test_after_401_credentials_are_loaded_anew(tmp_path: Path, server: FakeApiServer) -> None:
    path = kubeconfig(tmp_path, cluster={"server": server.url}, user={"token": "first"})
    server.tokens = {"first"}
    async with connected(Kubeconfig(path)) as connection:
        await connection.get(SERVICES, {})
        server.tokens = {"second"}
        with pytest.raises(Unauthorized):
            await connection.get(SERVICES, {})
        kubeconfig(tmp_path, cluster={"server": server.url}, user={"token": "second"})
        await connection.get(SERVICES, {})


async def test_a_stream_outlives_the_credentials_that_it_began_with(
    tmp_path: Path, server: FakeApiServer
) -> None:
    path = kubeconfig(tmp_path, cluster={"server": server.url}, user={"token": "first"})
    server.tokens = {"first"}
    watch = {"watch": "1", "resourceVersion": str(server.objects.version)}
    async with (
        connected(Kubeconfig(path)) as connection,
        connection.stream(SERVICES, watch, silence=20) as lines,
    ):
        server.tokens = {"second"}
        kubeconfig(tmp_path, cluster={"server": server.url}, user={"token": "second"})
        await connection.get(SERVICES, {})
        await server.put(service("late"))
        assert b"late" in await anext(aiter(lines))


async def test_a_pod_without_a_service_account_is_told_so(tmp_path: Path) -> None:
    with pytest.raises(AccessError, match="automountServiceAccountToken"):
        await connect(InCluster(("https://192.0.2.1",), tmp_path))


# ------------------------------------------------------------------------------------ TLS


@needs_openssl
async def test_a_pod_trusts_its_authority_and_follows_it_when_it_is_rotated(tmp_path: Path) -> None:
    first, second = authority(tmp_path, "first"), authority(tmp_path, "second")
    account = tmp_path / "account"
    account.mkdir()
    (account / "token").write_text("secret")
    (account / "ca.crt").write_bytes(first.certificate.read_bytes())
    context = server_context(tmp_path, second)
    async with (
        FakeApiServer(tokens={"secret"}, tls=context) as server,
        connected(InCluster((server.url,), account)) as connection,
    ):
        with pytest.raises(Unavailable, match=r"the certificate of .* is not trusted"):
            await connection.get(SERVICES, {})
        (account / "ca.crt").write_bytes(second.certificate.read_bytes())
        await connection.get(SERVICES, {})


async def test_a_server_without_tls_is_told_apart(server: FakeApiServer) -> None:
    async with connected(Server((server.url.replace("http:", "https:"),))) as connection:
        with pytest.raises(Unavailable, match=r"no TLS with https://.*does an API server listen"):
            await connection.get(SERVICES, {})


# ------------------------------------------------------------------------------- requests


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, BadRequest),
        (401, Unauthorized),
        (403, Forbidden),
        (404, NotFound),
        (422, Rejected),
        (410, Expired),
        (429, Throttled),
        (500, Unavailable),
        (502, Unavailable),
        (302, Unavailable),
    ],
)
async def test_a_status_is_an_error_of_its_kind(
    server: FakeApiServer, connection: ApiConnection, status: int, kind: type[ApiError]
) -> None:
    body = '{"kind": "Status", "message": "because\\nof that"}'
    server.faults.append(Fault(status=status, body=body, keep=True))
    with pytest.raises(ApiError, match=f"answered {status}: because of that") as raised:
        await connection.get(SERVICES, {})
    assert type(raised.value) is kind
    with pytest.raises(kind):
        async with connection.stream(SERVICES, {"watch": "1"}, silence=5):
            pass


async def test_how_long_to_wait_is_in_the_header_or_in_the_status(
    server: FakeApiServer, connection: ApiConnection
) -> None:
    server.faults.append(Fault(status=429, headers={"Retry-After": "7"}))
    server.faults.append(Fault(status=429, body='{"details": {"retryAfterSeconds": 3}}'))
    waits = []
    for _ in range(2):
        with pytest.raises(Throttled) as raised:
            await connection.get(SERVICES, {})
        waits.append(raised.value.retry_after)
    assert waits == [7, 3]


async def test_nobody_at_the_port_is_said_in_one_line(server: FakeApiServer) -> None:
    await server.stop()
    async with connected(Server((server.url,))) as connection:
        with pytest.raises(Unavailable, match=f"^cannot reach {server.url}: Connection refused$"):
            await connection.get(SERVICES, {})


async def test_who_hangs_up_while_tls_begins_is_said_in_one_line() -> None:
    """As a load balancer does that has no API server behind it."""

    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.abort()

    async with await asyncio.start_server(hang_up, "127.0.0.1", 0) as listening:
        url = f"https://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
        async with connected(Server((url,))) as connection:
            with pytest.raises(Unreachable, match=f"^cannot reach {url}: .*[a-z]$"):
                await connection.get(SERVICES, {})


async def test_a_sentence_in_the_place_of_a_status_is_told_and_a_page_is_not(
    server: FakeApiServer, connection: ApiConnection
) -> None:
    server.faults.append(Fault(status=400, body="Client sent HTTP to HTTPS.\n"))
    server.faults.append(Fault(status=400, body="<html>no</html>"))
    for told in ("answered 400: Client sent HTTP to HTTPS.", "answered 400"):
        with pytest.raises(BadRequest, match=f"^the API server {told}$"):
            await connection.get(SERVICES, {})


async def test_a_connection_that_is_lost_in_the_middle_is_said_in_one_line(
    server: FakeApiServer, connection: ApiConnection
) -> None:
    server.faults.append(Fault(verb="list", cut_after=10))
    lost = f"^connection to {server.url} lost in the middle of an answer$"
    with pytest.raises(Unreachable, match=lost):
        await connection.get(SERVICES, {})


async def test_a_stream_that_falls_silent_is_given_up(
    server: FakeApiServer, connection: ApiConnection
) -> None:
    watch = {"watch": "1", "resourceVersion": str(server.objects.version)}
    async with connection.stream(SERVICES, watch, silence=0.05) as lines:
        with pytest.raises(Unavailable, match="within the time limit"):
            _ = [line async for line in lines]


async def test_a_server_that_never_answers_a_watch_is_given_up(
    server: FakeApiServer, connection: ApiConnection
) -> None:
    gate = asyncio.Event()
    server.faults.append(Fault(verb="watch", gate=gate))
    with pytest.raises(Unavailable, match="within the time limit"):
        async with connection.stream(SERVICES, {"watch": "1"}, silence=0.05):
            pass
    gate.set()


async def test_a_line_without_end_is_given_up(
    server: FakeApiServer, connection: ApiConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "LONGEST_LINE", 1000)
    server.chunk_size = 100
    await server.put(service("huge", labels={"filler": "x" * 2000}))
    async with connection.stream(SERVICES, {"watch": "1"}, silence=20) as lines:
        with pytest.raises(Unavailable, match="a line of more than 1000 bytes"):
            _ = [line async for line in lines]


async def test_a_line_may_be_longer_than_any_buffer_of_the_library(
    server: FakeApiServer, connection: ApiConnection
) -> None:
    await server.put(service("huge", labels={"filler": "x" * (5 << 20)}))
    async with connection.stream(SERVICES, {"watch": "1"}, silence=20) as lines:
        assert len(await anext(aiter(lines))) > 5 << 20


async def test_an_error_of_the_caller_stays_what_it_is(
    server: FakeApiServer, connection: ApiConnection
) -> None:
    assert server.port
    with pytest.raises(ValueError, match="of the caller"):
        async with connection.stream(SERVICES, {"watch": "1"}, silence=5):
            raise ValueError("of the caller")


def test_the_library_is_not_imported_before_it_is_needed() -> None:
    code = (
        "import sys, ipvsproxy.sources.kubernetes.source as s; "
        "sys.exit(any(name.startswith('kubernetes_asyncio') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], env=os.environ, check=False).returncode == 0


async def test_every_request_is_counted_as_client_go_does(server: FakeApiServer) -> None:
    requests: Counter[tuple[str, str, str]] = Counter()
    connection = await connect(Server((server.url,)), requests)
    try:
        await connection.get(SERVICES, {})
        with pytest.raises(NotFound):
            await connection.get("/api/v1/nothing", {})
        async with connection.stream(SERVICES, {"watch": "1"}, silence=60):
            pass
    finally:
        await connection.close()
    host = server.url.partition("//")[2]
    assert requests == {("200", "GET", host): 2, ("404", "GET", host): 1}


async def test_a_request_without_an_answer_is_counted_as_an_error() -> None:
    requests: Counter[tuple[str, str, str]] = Counter()
    connection = await connect(Server(("http://127.0.0.1:1",)), requests)
    try:
        with pytest.raises(ApiError):
            await connection.get(SERVICES, {})
    finally:
        await connection.close()
    assert requests == {("<error>", "GET", "127.0.0.1:1"): 1}
