"""Libraries, imported without what they import and no run uses.

A run has to import them before it does anything, and each page of memory that is touched, and each
module, is time in which nothing is balanced. Nothing is left out for good (`stand_ins`, ADR 0019).

    structlog          finds no rich, with which it would draw tracebacks with the values of all
                       variables. The agent must not do that, for a value may be a token
    prometheus_client  its `__init__`, which has an HTTP server and client, runs when it is asked
                       for one of its names; its modules can be imported before
    aiohttp            imports email, html, idna, tempfile and urllib.request, of which it needs a
                       function or two: for what is uploaded, for names in other scripts, for
                       proxies

That aiohttp reads all authorities which the system trusts, though a ServiceAccount has its own, is
left as it is: a fiftieth of a start, and nothing that bears on TLS is done behind its back.

Knows the insides of these libraries; where a release is laid out otherwise, it is imported as it
wants to be. Commands that run once, and tests, import them whole.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from importlib.util import find_spec, module_from_spec
from types import ModuleType
from typing import TYPE_CHECKING

from ipvsproxy.stand_ins import calling, forget, later, stand_in, standing_in

if TYPE_CHECKING:
    from email.parser import HeaderParser

__all__ = ["import_libraries"]

_AIOHTTP = ("aiohttp", "aiohttp.web_server")
_LATER = {
    "email.utils": ("parsedate",),
    "html": ("escape",),
    "idna": ("decode", "encode"),
    "tempfile": ("SpooledTemporaryFile",),
}
"""What aiohttp and yarl use of modules that can be imported when it is called."""
_PROXIES = "_proxy"
"""How the names of variables end that say something of proxies, in small letters."""


def import_libraries() -> None:
    """Import what is not imported yet."""
    with standing_in({"rich": None}):
        importlib.import_module("structlog")
    _run_when_asked("prometheus_client")
    if "aiohttp" not in sys.modules:
        try:
            _import_aiohttp()
        except Exception:  # noqa: BLE001 - whatever it is, whoever imports it next does so whole
            forget("aiohttp")


def _run_when_asked(name: str) -> None:
    """Have a package imported already; its `__init__` runs for a name that is no module's."""
    spec = None if name in sys.modules else find_spec(name)
    if spec is None:
        return
    package = module_from_spec(spec)

    def find(attribute: str) -> object:
        if find_spec(f"{name}.{attribute}") is not None:
            return importlib.import_module(f"{name}.{attribute}")
        del package.__dict__["__getattr__"]
        assert spec is not None
        assert spec.loader is not None
        spec.loader.exec_module(package)
        return getattr(package, attribute)

    package.__dict__["__getattr__"] = find
    sys.modules[name] = package


def _import_aiohttp() -> None:
    """Import client and server. Raises whatever comes of it where they are laid out otherwise."""
    with standing_in(_stand_ins()):
        for name in _AIOHTTP:
            importlib.import_module(name)


def _stand_ins() -> dict[str, ModuleType]:
    made = {module: calling(module, *names) for module, names in _LATER.items()}
    contents: dict[str, dict[str, object]] = {
        "email.message": {"EmailMessage": _Message},
        "email.parser": {"HeaderParser": _header_parser},
        "email.policy": {"HTTP": None},
        "urllib.request": {
            "getproxies": _if_proxies("getproxies", otherwise=dict),
            "proxy_bypass": _if_proxies("proxy_bypass", otherwise=bool),
        },
    }
    return made | {module: stand_in(module, content) for module, content in contents.items()}


def _if_proxies(name: str, *, otherwise: Callable[[], object]) -> Callable[..., object]:
    """Stand for a function of urllib.request, which asks the environment only (not so on macOS)."""
    call = later("urllib.request", name)

    def call_if_any(*arguments: object) -> object:
        if any(variable.lower().endswith(_PROXIES) for variable in os.environ):
            return call(*arguments)
        return otherwise()

    return call_if_any


class _Message:
    """Stands for the class of messages, below that of aiohttp."""


def _header_parser(kind: type[_Message], *, policy: object) -> HeaderParser:
    """Be the class HeaderParser with the policy HTTP, for aiohttp's class of messages."""
    from email.message import EmailMessage  # noqa: PLC0415 - what is stood for
    from email.parser import HeaderParser  # noqa: PLC0415
    from email.policy import HTTP  # noqa: PLC0415

    assert policy is None, "it stands for HTTP"
    if not issubclass(kind, EmailMessage):
        kind.__bases__ = (EmailMessage,)
    return HeaderParser(kind, policy=HTTP)  # type: ignore[arg-type] # by now it is one
