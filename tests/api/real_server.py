"""A real kube-apiserver with its etcd and kubectl, from the folder that KUBEBUILDER_ASSETS names.

Everything listens on loopback and lives in the folder of the test. Authorization is RBAC's;
authentication of the test itself is by one token, of an administrator's. Nobody else runs: no
controller, so that an EndpointSlice is there only if the test writes it.

Programs are waited for by asking again and again; from an event loop, call what starts or asks
them in a thread.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import socket
import ssl
import subprocess
import time
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn, Self

import aiohttp
import pytest

from tests.api.certificates import Authority, authority, rsa_key, server_context

ASSETS = os.environ.get("KUBEBUILDER_ASSETS", "")
PROGRAMS = ("etcd", "kube-apiserver", "kubectl")
TOKEN = "of-the-test"
SECONDS = 240
"""Longest wait for a program; in a guest each takes its time."""


def marks() -> list[pytest.MarkDecorator]:
    """Say what a test that needs a real API server is marked with."""
    missing = [one for one in PROGRAMS if not (Path(ASSETS) / one).is_file()] if ASSETS else []
    return [
        pytest.mark.apiserver,
        pytest.mark.timeout(SECONDS),
        pytest.mark.skipif(
            not ASSETS or bool(missing),
            reason=f"no real API server: KUBEBUILDER_ASSETS={ASSETS} has no {', '.join(missing)}"
            if missing
            else "no real API server: KUBEBUILDER_ASSETS names no folder with "
            + ", ".join(PROGRAMS),
        ),
    ]


class RealServer:
    """One kube-apiserver; it can be stopped, started and given other certificates."""

    def __init__(self, folder: Path) -> None:
        """Make what the programs need in `folder`; start none."""
        self.folder = folder
        self.trusted = folder / "trusted.crt"
        """Certificates of all authorities that there were: what the administrator trusts."""
        self.use_certificate_of(authority(folder, "authority"))
        self.accounts_key = rsa_key(folder / "accounts.key")
        """Signs the tokens of ServiceAccounts."""
        (folder / "tokens.csv").write_text(f"{TOKEN},administrator,1,system:masters\n")
        self._etcd_port, self._peer_port, self.port = free_ports(3)
        self.url = f"https://127.0.0.1:{self.port}"
        self._etcd: subprocess.Popen[bytes] | None = None
        self._server: subprocess.Popen[bytes] | None = None
        (folder / "token").write_text(TOKEN)
        self.kubeconfig = folder / "kubeconfig"
        self.kubeconfig.write_text(_KUBECONFIG.format(url=self.url))

    def __enter__(self) -> Self:
        url = f"http://127.0.0.1:{self._etcd_port}"
        try:
            self._etcd = self._started(
                "etcd",
                f"--data-dir={self.folder / 'etcd'}",
                f"--listen-client-urls={url}",
                f"--advertise-client-urls={url}",
                f"--listen-peer-urls=http://127.0.0.1:{self._peer_port}",
                "--unsafe-no-fsync",
            )
            self.start()
        except BaseException:
            self._stop_all()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stop_all()

    # ------------------------------------------------------------------ what can happen to it

    def start(self) -> None:
        """Start the API server, and wait until it is ready."""
        self._server = self._started(
            "kube-apiserver",
            f"--etcd-servers=http://127.0.0.1:{self._etcd_port}",
            f"--secure-port={self.port}",
            "--bind-address=127.0.0.1",
            "--advertise-address=127.0.0.1",
            f"--cert-dir={self.folder}",
            f"--tls-cert-file={self.folder / 'server.crt'}",
            f"--tls-private-key-file={self.folder / 'server.key'}",
            "--service-cluster-ip-range=10.0.0.0/16",
            "--service-account-issuer=https://127.0.0.1",
            f"--service-account-key-file={self.accounts_key}",
            f"--service-account-signing-key-file={self.accounts_key}",
            f"--token-auth-file={self.folder / 'tokens.csv'}",
            "--authorization-mode=Node,RBAC",
            "--allow-privileged=true",  # as kubeadm sets it
            # Else it waits a minute for the watches of clients that speak HTTP/1.1.
            "--shutdown-watch-termination-grace-period=1s",
            "--disable-admission-plugins=ServiceAccount",
        )
        self._until(self._is_ready, "kube-apiserver is not ready")

    def stop(self) -> None:
        """Stop the API server as an operator does; etcd, and so what is stored, stays."""
        _stop(self._server)
        self._server = None

    def kill(self) -> None:
        """Have the API server die."""
        if self._server is not None:
            self._server.kill()
        self.stop()

    def use_certificate_of(self, signer: Authority) -> None:
        """Have a new serving certificate, signed by an authority.

        A server that runs notices the files by itself (dynamic_serving_content.go); wait for it
        with `until_certificate_is_used`.
        """
        self.authority = signer
        with self.trusted.open("ab") as bundle:
            bundle.write(signer.certificate.read_bytes())
        server_context(self.folder, signer)

    def until_certificate_is_used(self) -> None:
        """Wait until new connections get the certificate that lies in the folder."""
        wanted = (self.folder / "server.crt").read_text().split()
        address = ("127.0.0.1", self.port)
        self._until(
            lambda: ssl.get_server_certificate(address).split() == wanted,
            "kube-apiserver does not take its new certificate",
        )

    def compact(self) -> None:
        """Have etcd forget all that is past."""
        answer = self._etcd_asked("range", {"key": base64.b64encode(b"\0").decode()})
        self._etcd_asked("compaction", {"revision": answer["header"]["revision"], "physical": True})

    # ------------------------------------------------------------------------ who asks it

    def kubectl(self, *words: str, text: str = "") -> str:
        """Run the real kubectl as the administrator, and return what it prints.

        `text` is its standard input. Raises KubectlError.
        """
        done = subprocess.run(
            (Path(ASSETS) / "kubectl", f"--kubeconfig={self.kubeconfig}", *words),
            input=text,
            capture_output=True,
            text=True,
            check=False,
            timeout=SECONDS,
            env={**os.environ, "KUBECACHEDIR": str(self.folder / "cache")},
        )
        if done.returncode:
            raise KubectlError(done.stderr)
        return done.stdout

    def apply(self, *objects: Mapping[str, Any]) -> None:
        """Have kubectl apply objects, validated by the server."""
        text = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
        self.kubectl("apply", "--server-side", "--validate=strict", "-f", "-", text=text)

    def get(self, *words: str) -> Any:
        """Have kubectl get objects; `words` as for `kubectl get`."""
        return json.loads(self.kubectl("get", "--output=json", *words))

    def session(self) -> aiohttp.ClientSession:
        """Make a session of the administrator's."""
        return aiohttp.ClientSession(
            headers={"Authorization": f"Bearer {TOKEN}"},
            connector=aiohttp.TCPConnector(ssl=self._context()),
        )

    # ------------------------------------------------------------------------------ how

    def _context(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.trusted))

    def _started(self, program: str, *flags: str) -> subprocess.Popen[bytes]:
        with (self.folder / f"{program}.log").open("ab") as log:
            command = [str(Path(ASSETS) / program), *flags]
            return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def _stop_all(self) -> None:
        self.stop()
        _stop(self._etcd)

    def _is_ready(self) -> bool:
        """Ask whether it is ready and has made the namespaces; a Service needs `default`."""
        return all(
            self._asked(path)
            for path in (
                "/readyz",
                "/api/v1/namespaces/default",
                "/api/v1/namespaces/kube-system",
            )
        )

    def _asked(self, path: str) -> bool:
        request = urllib.request.Request(
            f"{self.url}{path}", headers={"Authorization": f"Bearer {TOKEN}"}
        )
        with _direct(self._context()).open(request, timeout=20) as answer:
            return bool(answer.status == 200)

    def _etcd_asked(self, verb: str, body: Mapping[str, object]) -> Any:
        """Ask etcd through its gateway to HTTP."""
        url = f"http://127.0.0.1:{self._etcd_port}/v3/kv/{verb}"
        request = urllib.request.Request(url, data=json.dumps(body).encode())
        with _direct(None).open(request, timeout=60) as answer:
            return json.load(answer)

    def _until(self, condition: Callable[[], bool], complaint: str) -> None:
        for _ in range(SECONDS * 5):
            with contextlib.suppress(OSError):  # urllib's errors are of that kind, and those of TLS
                if condition():
                    return
            if self._server is None or self._server.poll() is not None:
                self._fail("kube-apiserver has ended")
            time.sleep(0.2)  # another program, which tells nobody when it is ready
        self._fail(complaint)

    def _fail(self, complaint: str) -> NoReturn:
        log = (self.folder / "kube-apiserver.log").read_text(errors="replace")[-2000:]
        raise TimeoutError(f"{complaint}; its log ends with:\n{log}")


class KubectlError(Exception):
    """What kubectl has said."""


_KUBECONFIG = """
apiVersion: v1
kind: Config
current-context: test
contexts: [{{name: test, context: {{cluster: test, user: test}}}}]
clusters: [{{name: test, cluster: {{server: "{url}", certificate-authority: trusted.crt}}}}]
users: [{{name: test, user: {{tokenFile: token}}}}]
"""


def _direct(context: ssl.SSLContext | None) -> urllib.request.OpenerDirector:
    """Make what asks without a proxy, whatever the environment names."""
    return urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
    )


def _stop(process: subprocess.Popen[bytes] | None) -> None:
    if process is not None and process.poll() is None:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def free_ports(count: int) -> list[int]:
    """Find ports of loopback that nobody listens on."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]
