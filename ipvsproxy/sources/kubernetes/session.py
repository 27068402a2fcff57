"""Configuration, credentials and TLS of one moment.

A kubeconfig is read by kubernetes_asyncio, which makes the TLS context and keeps the HTTP session;
its watch, its typed models and its retries are not used. What it leaves out is done here and beside
this (`plugin` runs credential plugins, `inline_files` keeps its temporary files). A ServiceAccount
and bare URLs need nothing of it (`sending`).

Token files are read again when they change, and a session knows whether the files that it was made
from are still those (`outdated`). When another one is made, and what an answer means, is `client`'s
affair.

The library is imported for a kubeconfig, not before (`library`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, assert_never

import aiohttp

from ipvsproxy.sources.kubernetes.access import Access, InCluster, Kubeconfig, Server, token_file
from ipvsproxy.sources.kubernetes.errors import AccessError, one_line
from ipvsproxy.sources.kubernetes.library import library
from ipvsproxy.sources.kubernetes.plugin import Limits, PluginError, ask
from ipvsproxy.sources.kubernetes.sending import (
    LibrarySender,
    PlainSender,
    Request,
    Sender,
    tls_by,
)

if TYPE_CHECKING:
    from kubernetes_asyncio.client import Configuration

    from ipvsproxy.sources.kubernetes.inline_files import InlineFiles

_Stamp: TypeAlias = tuple[int, int, int] | None
"""Time, inode and size of a file; None: there is none, or it cannot be looked at."""


CREDENTIALS_SECONDS = 30.0
"""How long a kubeconfig may take, whose credentials a program gives or another server renews."""
_ENDING_SECONDS = 5.0
"""After so long a plugin that does not heed a polite signal is killed."""


class Session:
    """Requests with the credentials of one moment; closed when retired and no longer used."""

    def __init__(
        self,
        sender: Sender,
        servers: tuple[str, ...],
        files: Mapping[Path, _Stamp],
        *,
        closed: Callable[[], None],
    ) -> None:
        """Use a sender that was made from `files`; `closed` is called once, at the end."""
        self._closed = closed
        self.servers = servers
        """URLs, at least one, in the order in which they are tried."""
        self._sender = sender
        self._files = files
        self._users = 0
        self._retired = False

    @property
    def outdated(self) -> bool:
        """Whether a file that it was made from has changed: kubeconfig, certificate, key, CA."""
        return any(_stamp(path) != seen for path, seen in self._files.items())

    async def send(self, server: str, request: Request) -> aiohttp.ClientResponse:
        """Make a request of a server; whatever the library and the system raise comes through."""
        return await self._sender.send(server, request)

    @asynccontextmanager
    async def used(self) -> AsyncIterator[None]:
        """Keep it open within the block."""
        self._users += 1
        try:
            yield
        finally:
            self._users -= 1
            await self._close_if_done()

    async def retire(self) -> None:
        """Close it, as soon as nobody uses it."""
        self._retired = True
        await self._close_if_done()

    async def _close_if_done(self) -> None:
        if self._retired and not self._users:
            await self._sender.close()
            self._closed()
            self._closed = _nothing


def _nothing() -> None:
    """Do nothing."""


@cache
def _inline_files() -> InlineFiles:
    # Like the library, for a kubeconfig only: it brings archives and compressions.
    from ipvsproxy.sources.kubernetes.inline_files import InlineFiles  # noqa: PLC0415

    return InlineFiles(library().loader)


async def load(access: Access) -> Session:
    """Load configuration and credentials; no request is made.

    Raises AccessError, whose message says what is missing and where.
    """
    match access:
        case Kubeconfig(path, servers):
            return await _of_kubeconfig(path, servers)
        case InCluster(servers, folder):
            return _of_service_account(folder, servers)
        case Server(servers):
            safe = any(server.startswith("https:") for server in servers)
            sender = PlainSender(tls=tls_by(None) if safe else None)
            return Session(sender, servers, {}, closed=_nothing)
        case _:
            assert_never(access)


def _of_service_account(folder: Path, servers: tuple[str, ...]) -> Session:
    authority = folder / "ca.crt"
    if not authority.is_file():
        raise AccessError(
            f"{authority} is missing: the pod needs a ServiceAccount with "
            "automountServiceAccountToken; outside of a pod give --kubeconfig FILE"
        )
    token = _read_token_file(folder / "token")
    # Looked at before it is read: what changes in between is noticed with the next request.
    files = {authority: _stamp(authority)}
    with _explained(files):
        sender = PlainSender(tls=tls_by(authority), authorization=token.header)
    return Session(sender, servers, files, closed=_nothing)


async def _of_kubeconfig(path: Path, servers: tuple[str, ...]) -> Session:
    found = await asyncio.to_thread(library)  # imports hold up nobody else
    # At DEBUG it logs whole answers.
    logging.getLogger("kubernetes_asyncio").setLevel(logging.INFO)
    configuration = found.configuration()
    files = {path: _stamp(path)}
    await _use_kubeconfig(path, configuration)
    written = (configuration.ssl_ca_cert, configuration.cert_file, configuration.key_file)
    named = [Path(file) for file in written if file]
    files |= {path: _stamp(path) for path in named}
    with _explained(named):
        sender = LibrarySender(found.api_client(configuration))
    inline = _inline_files()
    closed = partial(inline.release, inline.use(named))
    return Session(sender, servers or (str(configuration.host),), files, closed=closed)


@contextmanager
def _explained(files: Iterable[Path]) -> Iterator[None]:
    """Turn what is raised when certificates are read from files into an AccessError."""
    try:
        yield
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise AccessError(f"certificate files {', '.join(map(str, files))}: {error}") from None


async def _use_kubeconfig(path: Path, configuration: Configuration) -> None:
    found = library()
    token = token_file(path)
    _inline_files().forget_lost()
    _run_plugins_ourselves()
    try:
        # For what is no plugin, such as an OpenID server; a plugin has limits of its own.
        async with asyncio.timeout(CREDENTIALS_SECONDS + 3 * _ENDING_SECONDS):
            await found.load_kube_config(
                config_file=str(path),
                client_configuration=configuration,
                persist_config=False,
            )
    except TimeoutError:
        raise AccessError(f"kubeconfig {path}: no credentials within the time limit") from None
    except OSError as error:
        where = f" {error.filename}:" if error.filename is not None else ""
        raise AccessError(f"kubeconfig {path}:{where} {error.strerror}") from None
    except (
        found.config_error,
        PluginError,
        aiohttp.ClientError,  # of an OpenID server
        AssertionError,
        AttributeError,
        LookupError,
        TypeError,
        ValueError,
    ) as error:  # the library does not look at types
        reason = one_line(str(error) or repr(error)).removeprefix("Invalid kube-config file. ")
        reason = reason.replace("File does not exists", "there is no file")
        raise AccessError(f"kubeconfig {path}: {reason}") from None
    if token is not None:
        file = _read_token_file(token)
        file.refresh(configuration)
        configuration.refresh_api_key_hook = file.refresh


def _run_plugins_ourselves() -> None:
    """Have `plugin` run what the library would run and neither end nor close."""
    loader = library().loader.__dict__
    provider = loader["ExecProvider"]
    if provider.__module__ == __name__:
        return

    def described(description: object) -> object:
        made = provider(description)

        async def run() -> Mapping[str, object]:
            limits = Limits(CREDENTIALS_SECONDS, _ENDING_SECONDS)
            return await ask(made.args, made.env, api_version=made.api_version, limits=limits)

        made.run = run
        return made

    loader["ExecProvider"] = described


def _read_token_file(path: Path) -> _TokenFile:
    """Read a token that somebody else replaces. Raises AccessError where there is none."""
    token = _TokenFile(path)
    try:
        token.header()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise AccessError(f"token file {path}: {reason}") from None
    return token


class _TokenFile:
    """A bearer token in a file that somebody else replaces, as kubelet does every hour."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: _Stamp = None
        self._token = ""

    def header(self) -> str:
        """Give the header's value; a file that is missing or empty leaves the last good token.

        Raises OSError or ValueError when there has never been a good one.
        """
        try:
            seen = _stamp(self._path)
            if seen is None or seen != self._seen:
                token = self._path.read_text(encoding="ascii").strip()
                if not token:
                    raise ValueError("the file is empty")  # noqa: TRY301 - joins the other causes
                self._token, self._seen = token, seen
        except (OSError, ValueError):
            if not self._token:
                raise
        return f"Bearer {self._token}"

    def refresh(self, configuration: Configuration) -> None:
        """Be kubernetes_asyncio's `refresh_api_key_hook`, which it calls before each request."""
        configuration.api_key["BearerToken"] = self.header()


def _stamp(path: Path) -> _Stamp:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size
