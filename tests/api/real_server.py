"""A real kube-apiserver with its etcd, from the folder that KUBEBUILDER_ASSETS names.

Everything listens on loopback and lives in the folder of the test. Authorization lets everybody
in; authentication is by one token, so that the client's own way of sending it is used.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp

from tests.api.certificates import authority, rsa_key, server_context

TOKEN = "of-the-test"
_TRIES = 300


@contextlib.asynccontextmanager
async def running(assets: Path, folder: Path) -> AsyncIterator[Path]:
    """Start both; yields the path of a kubeconfig, once the server is ready."""
    signer = authority(folder, "authority")
    server_context(folder, signer)
    accounts = rsa_key(folder / "accounts.key")
    (folder / "tokens.csv").write_text(f"{TOKEN},tester,1\n")
    (folder / "token").write_text(TOKEN)
    etcd_port, peer_port, port = _free_ports(3)
    etcd, url = f"http://127.0.0.1:{etcd_port}", f"https://127.0.0.1:{port}"
    commands = [
        [
            str(assets / "etcd"),
            f"--data-dir={folder / 'etcd'}",
            f"--listen-client-urls={etcd}",
            f"--advertise-client-urls={etcd}",
            f"--listen-peer-urls=http://127.0.0.1:{peer_port}",
            "--unsafe-no-fsync",
        ],
        [
            str(assets / "kube-apiserver"),
            f"--etcd-servers={etcd}",
            f"--secure-port={port}",
            "--bind-address=127.0.0.1",
            "--advertise-address=127.0.0.1",
            f"--cert-dir={folder}",
            f"--tls-cert-file={folder / 'server.crt'}",
            f"--tls-private-key-file={folder / 'server.key'}",
            "--service-cluster-ip-range=10.0.0.0/16",
            "--service-account-issuer=https://127.0.0.1",
            f"--service-account-key-file={accounts}",
            f"--service-account-signing-key-file={accounts}",
            f"--token-auth-file={folder / 'tokens.csv'}",
            "--authorization-mode=AlwaysAllow",
            "--disable-admission-plugins=ServiceAccount",
        ],
    ]
    processes: list[asyncio.subprocess.Process] = []
    try:
        for command in commands:
            with (folder / f"{Path(command[0]).name}.log").open("wb") as log:
                processes.append(
                    await asyncio.create_subprocess_exec(*command, stdout=log, stderr=log)
                )
        await _until_ready(url, signer.certificate, folder)
        kubeconfig = folder / "kubeconfig"
        kubeconfig.write_text(_KUBECONFIG.format(url=url, authority=signer.certificate))
        yield kubeconfig
    finally:
        for process in reversed(processes):
            if process.returncode is None:
                process.terminate()
            await process.wait()


_KUBECONFIG = """
apiVersion: v1
kind: Config
current-context: test
contexts: [{{name: test, context: {{cluster: test, user: test}}}}]
clusters: [{{name: test, cluster: {{server: "{url}", certificate-authority: "{authority}"}}}}]
users: [{{name: test, user: {{tokenFile: token}}}}]
"""


def session(certificate: Path) -> aiohttp.ClientSession:
    """Make a session that trusts the server and is let in by it."""
    context = ssl.create_default_context(cafile=str(certificate))
    return aiohttp.ClientSession(
        headers={"Authorization": f"Bearer {TOKEN}"},
        connector=aiohttp.TCPConnector(ssl=context),
    )


async def _until_ready(url: str, certificate: Path, folder: Path) -> None:
    """Ask until the server is ready and has made the namespace `default`."""
    async with session(certificate) as http:
        for _ in range(_TRIES):
            with contextlib.suppress(aiohttp.ClientError):
                ready = (await http.get(f"{url}/readyz")).status
                if ready == (await http.get(f"{url}/api/v1/namespaces/default")).status == 200:
                    return
            await asyncio.sleep(0.2)  # another program, which tells nobody when it is ready
    raise TimeoutError(f"kube-apiserver is not ready; its log is in {folder}")


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]
