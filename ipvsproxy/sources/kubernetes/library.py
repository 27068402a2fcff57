"""kubernetes_asyncio, without the 850 generated models that its packages import and nobody uses.

Knows where the names are that `session` needs, and what the packages' `__init__` do: import
everything. A package that is in `sys.modules` already is not imported again, and its submodules are
found by its `__path__`; so three packages are put there as they are before their `__init__` has
run. Nor does it need urllib3 and what else would help with requests that are not made so
(`_idle`). Some 20 modules are then imported instead of 950, which saves 0.2 s and 36 MiB natively.

What was imported so is taken out of `sys.modules` again: it is ours alone, and whoever imports the
library later, elsewhere in the process, has another that is whole. Where the lean way fails,
because another release of the library is laid out otherwise, the library is imported as it wants to
be: slower, and all the same.
"""

from __future__ import annotations

import importlib
import sys
from functools import cache
from importlib.util import find_spec, module_from_spec
from typing import TYPE_CHECKING, NamedTuple

import structlog

from ipvsproxy.stand_ins import calling, forget, stand_in, standing_in

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from types import ModuleType

    from kubernetes_asyncio.client import ApiClient, Configuration

log = structlog.get_logger(__name__)

_ROOT = "kubernetes_asyncio"
_LARGE = (_ROOT, f"{_ROOT}.client", f"{_ROOT}.client.models")
"""Packages whose `__init__` imports what is not needed, each after the one that it is in."""


class Library(NamedTuple):
    """What is used of kubernetes_asyncio."""

    api_client: type[ApiClient]
    configuration: type[Configuration]
    load_kube_config: Callable[..., Awaitable[None]]
    config_error: type[Exception]
    """What `load_kube_config` raises for a file that it cannot use."""
    loader: ModuleType
    """The module of `load_kube_config`; what `session` needs of it has no public name."""


@cache
def library() -> Library:
    """Import the library, once. Raises ImportError where it is missing."""
    if _ROOT in sys.modules:
        return _whole()
    try:
        return _lean()
    except Exception as error:  # noqa: BLE001 - whatever it is, there is another way
        log.info("kubernetes_asyncio is imported whole", reason=repr(error))
        return _whole()


def _lean() -> Library:
    try:
        return _without_models()
    finally:
        forget(_ROOT)


def _without_models() -> Library:
    with standing_in(_idle()):
        return _by_modules()


def _idle() -> dict[str, ModuleType]:
    return {
        "urllib3": stand_in("urllib3"),
        "dateutil.parser": calling("dateutil.parser", "parse"),
        "multiprocessing.pool": calling("multiprocessing.pool", "ThreadPool"),
    }


def _by_modules() -> Library:
    for name in _LARGE:
        _put_empty(name)
    client = sys.modules[f"{_ROOT}.client"]
    # config asks the package for these two.
    configuration = importlib.import_module(f"{_ROOT}.client.configuration").Configuration
    client.__dict__["Configuration"] = configuration
    api_client = importlib.import_module(f"{_ROOT}.client.api_client").ApiClient
    client.__dict__["ApiClient"] = api_client
    return _with_config(api_client, configuration)


def _whole() -> Library:
    client = importlib.import_module(f"{_ROOT}.client")
    return _with_config(client.ApiClient, client.Configuration)


def _with_config(api_client: type[ApiClient], configuration: type[Configuration]) -> Library:
    config = importlib.import_module(f"{_ROOT}.config")
    loader = importlib.import_module(f"{_ROOT}.config.kube_config")
    return Library(
        api_client, configuration, config.load_kube_config, config.ConfigException, loader
    )


def _put_empty(name: str) -> None:
    """Have a package imported already, with nothing in it but the way to its modules."""
    spec = find_spec(name)
    if spec is None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    package = sys.modules[name] = module_from_spec(spec)
    parent, _, own = name.rpartition(".")
    if parent:
        sys.modules[parent].__dict__[own] = package
