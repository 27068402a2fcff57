"""Where the API servers are and who we are to them: a kubeconfig file, the pod, or bare URLs.

Knows what an operator can give and how to choose; opens no connection. Each way is a value, and
`choose` makes one of the command line and the environment. Several URLs are several servers of one
cluster, with the same certificate authority and the same credentials.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import msgspec

from ipvsproxy.config.values import is_server_url
from ipvsproxy.sources.kubernetes.errors import AccessError

_SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_HOST, _PORT = "KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT"


@dataclass(frozen=True, slots=True)
class Kubeconfig:
    """The current context of a kubeconfig file."""

    path: Path
    servers: tuple[str, ...] = ()
    """URLs that take the place of the cluster's own; empty: the cluster's."""


@dataclass(frozen=True, slots=True)
class InCluster:
    """The ServiceAccount of the pod that we run in."""

    servers: tuple[str, ...]
    """URLs, all https: a token is for nobody else to read."""
    folder: Path = _SERVICE_ACCOUNT
    """Has the files `token` and `ca.crt`, which kubelet replaces from time to time."""


@dataclass(frozen=True, slots=True)
class Server:
    """Bare URLs, without credentials; https is verified against the system's authorities."""

    servers: tuple[str, ...]


Access: TypeAlias = Kubeconfig | InCluster | Server


def choose(
    *, kubeconfig: Path | None, master: str | None, environment: Mapping[str, str]
) -> Access:
    """Choose by what was given: a kubeconfig, else URLs, else the pod's ServiceAccount.

    `master` is one URL or several with commas between them. With a kubeconfig they override its
    server, as in client-go; in a pod they take the place of the address that kubelet tells, which
    is a ClusterIP, and the ServiceAccount still says who we are. Raises AccessError when there is
    nothing to choose from, or a URL is none.
    """
    servers = tuple(map(_server, master.split(","))) if master is not None else ()
    if kubeconfig is not None:
        return Kubeconfig(kubeconfig, servers)
    if servers:
        safe = all(one.startswith("https:") for one in servers)
        return InCluster(servers) if safe and _HOST in environment else Server(servers)
    host, port = environment.get(_HOST), environment.get(_PORT)
    if not host or not port:
        raise AccessError(
            f"no API server is known: {_HOST} and {_PORT} are not both set, so this is no pod; "
            "give --kubeconfig FILE, --master URL or --manifests DIR"
        )
    return InCluster((f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}",))


def _server(written: str) -> str:
    """Read a URL. Raises AccessError."""
    if not is_server_url(written.strip()):
        raise AccessError(
            f"--master {written}: no URL of a server; write http://HOST:PORT or https://HOST:PORT"
        )
    return written.strip().rstrip("/")


class _Context(msgspec.Struct):
    cluster: str
    user: str | None = None


class _Cluster(msgspec.Struct, rename="kebab"):
    server: str = ""
    tls_server_name: str | None = None


class _NamedCluster(msgspec.Struct):
    name: str
    cluster: _Cluster


class _NamedContext(msgspec.Struct):
    name: str
    context: _Context


class _User(msgspec.Struct):
    token_file: str | None = msgspec.field(default=None, name="tokenFile")


class _NamedUser(msgspec.Struct):
    name: str
    user: _User | None = None


class _File(msgspec.Struct, rename="kebab"):
    current_context: str = ""
    clusters: list[_NamedCluster] | None = None
    contexts: list[_NamedContext] | None = None
    users: list[_NamedUser] | None = None


def token_file(kubeconfig: Path) -> Path | None:
    """Find the `tokenFile` of the current context's user; None: its credentials are of other kinds.

    A relative path is relative to the kubeconfig. Raises AccessError for a file that is missing,
    is no kubeconfig, or whose current context leads nowhere.
    """
    try:
        written = kubeconfig.read_bytes()
        if not written.strip():
            raise AccessError(f"kubeconfig {kubeconfig}: the file is empty")
        content = msgspec.yaml.decode(written, type=_File)
    except OSError as error:
        raise AccessError(f"kubeconfig {kubeconfig}: {error.strerror}") from None
    except (ValueError, msgspec.DecodeError) as error:
        reason = " ".join(str(error).split())
        raise AccessError(f"kubeconfig {kubeconfig}: not a kubeconfig: {reason}") from None
    try:
        user = _current_user(content)
    except LookupError as error:
        raise AccessError(f"kubeconfig {kubeconfig}: {error.args[0]}") from None
    return kubeconfig.parent / user.token_file if user and user.token_file else None


def _current_user(content: _File) -> _User | None:
    """Follow the current context to its user. Raises LookupError, whose text is the reason."""
    chosen = content.current_context
    if not chosen:
        raise LookupError("has no current-context; set one with `kubectl config use-context NAME`")
    contexts = {entry.name: entry.context for entry in content.contexts or ()}
    context = contexts.get(chosen)
    if context is None:
        others = ", ".join(contexts) or "it has none"
        raise LookupError(f"current-context {chosen} is none of its contexts ({others})")
    clusters = {entry.name: entry.cluster for entry in content.clusters or ()}
    cluster = clusters.get(context.cluster)
    if cluster is None or not cluster.server:
        raise LookupError(f"context {chosen}: cluster {context.cluster} has no server")
    users = {entry.name: entry.user for entry in content.users or ()}
    if context.user not in users:
        raise LookupError(f"context {chosen}: user {context.user or '(none)'} is not in the file")
    return users[context.user]
