"""A real kube-proxy on a node of the testbed, with an API server that serves the same manifests.

The program is the one in the folder that KUBEBUILDER_ASSETS names; it is no part of the project.
Both processes run in the node's network namespace, so that the server is on the node's loopback.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from testbed import namespaces, web
from testbed.layout import CLUSTER_CIDR

if TYPE_CHECKING:
    from testbed.layout import Node

PROGRAM = Path(os.environ.get("KUBEBUILDER_ASSETS", "")) / "kube-proxy"
METRICS_PORT = 10249
_STOP_SECONDS = 20.0


class KubeProxy:
    """kube-proxy on one node, in the mode it is started in."""

    def __init__(self, node: Node, manifests: Path, folder: Path) -> None:
        """Serve and follow `manifests` as they are when it is started; files go to `folder`."""
        self.node = node
        self._manifests = manifests
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._server: subprocess.Popen[str] | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, mode: str) -> None:
        """Start it, and its API server before."""
        self._server = subprocess.Popen(
            (*self._inside, sys.executable, "-m", "tests.api.fake_server", str(self._manifests)),
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._server.stdout is not None
        url = self._server.stdout.readline().strip()
        path = self._folder / f"{mode}.yaml"
        path.write_text(yaml.safe_dump(self._configuration(url, mode)))
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                (*self._inside, str(PROGRAM), f"--config={path}"),
                stdout=log,
                stderr=log,
                env=self._environment(),
            )

    @property
    def log(self) -> Path:
        """What it says."""
        return self._folder / "kube-proxy.log"

    @property
    def _inside(self) -> tuple[str, ...]:
        return ("ip", "netns", "exec", self.node.namespace)

    def unfinished(self) -> str | None:
        """Say that it has not programmed everything yet; None: it has, in this process.

        Its /healthz is 200 before that, and its IPVS table stands before its chains.
        """
        assert self._process is not None
        if self._process.poll() is not None:
            raise OSError(f"kube-proxy ended: {self.log.read_text()[-2000:]}")
        try:
            page = web.get(self.node, ("127.0.0.1", METRICS_PORT), "/metrics")
        except OSError as error:
            return f"kube-proxy does not answer: {error}"
        queued, last = (_times(page.body, which) for which in ("last_queued", "last"))
        done = last and min(last) > 0 and min(last) >= max(queued)
        return None if done else f"kube-proxy: queued {queued}, done {last}"

    def stop(self) -> None:
        """End it, as its pod ends: what it has programmed stays."""
        for process in (self._process, self._server):
            if process is not None and process.poll() is None:
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(_STOP_SECONDS)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
        if self._server is not None and self._server.stdout is not None:
            self._server.stdout.close()
        self._process = self._server = None

    def _environment(self) -> dict[str, str]:
        """Give it the backend of iptables that works here, as the wrapper in its image does."""
        programs = self._folder / "bin"
        programs.mkdir(exist_ok=True)
        try:
            namespaces.run_inside(self.node.namespace, "iptables-nft", "-N", "KUBE-IPTABLES-HINT")
            backend = "nft"
        except namespaces.CommandError:
            backend = "legacy"
        for family in ("iptables", "ip6tables"):
            for ending in ("", "-save", "-restore"):
                found = shutil.which(f"{family}-{backend}{ending}")
                link = programs / f"{family}{ending}"
                if found is not None and not link.exists():
                    link.symlink_to(found)
        return {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"}

    def _configuration(self, url: str, mode: str) -> dict[str, object]:
        kubeconfig = self._folder / "kubeconfig"
        kubeconfig.write_text(
            yaml.safe_dump(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "current-context": "test",
                    "clusters": [{"name": "test", "cluster": {"server": url}}],
                    "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
                    "users": [{"name": "test", "user": {}}],
                }
            )
        )
        return {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "mode": mode,
            "hostnameOverride": self.node.name,
            "clusterCIDR": CLUSTER_CIDR,
            "healthzBindAddress": "0.0.0.0:10256",
            "metricsBindAddress": f"127.0.0.1:{METRICS_PORT}",
            "conntrack": {"maxPerCore": 0, "min": 0},
            "clientConnection": {
                "kubeconfig": str(kubeconfig),
                "contentType": "application/json",
                "acceptContentTypes": "application/json",
            },
        }


def _times(metrics: str, which: str) -> list[float]:
    """Read when syncs were asked for, or done last, one for each family that is served."""
    name = f"kubeproxy_sync_proxy_rules_{which}_timestamp_seconds"
    return [float(line.split()[-1]) for line in metrics.splitlines() if line.startswith(name)]
