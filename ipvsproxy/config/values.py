"""Reads one value: from a flag or an environment variable (text) or from a file (YAML's values).

A reader returns the value or raises ValueError, whose text says what would be right; whoever calls
it adds the field, the value and the place (`ConfigurationError`).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from enum import StrEnum
from typing import TypeVar
from urllib.parse import urlsplit

from ipvsproxy import duration
from ipvsproxy.config.settings import LogFormat, NodePortAddresses
from ipvsproxy.model import Address, Network

Reader = Callable[[object], object]

_Choice = TypeVar("_Choice", bound=StrEnum)

_TRUE = frozenset({"true", "1", "t", "yes", "on"})
_FALSE = frozenset({"false", "0", "f", "no", "off"})
_HIGHEST_PORT = 65535


class ConfigurationError(Exception):
    """Settings are wrong; a line for each: where, which field, its value, what is right."""

    def __init__(self, *problems: str) -> None:
        """Take one line for each thing that is wrong."""
        super().__init__("\n".join(problems))
        self.problems = problems


def text(value: object) -> str:
    """Read a text that is not empty."""
    if not isinstance(value, str) or not value.strip():
        raise ValueError("a text that is not empty is needed")
    return value.strip()


def node_name(value: object) -> str:
    """Read a node's name; Kubernetes lower-cases a host's name to make it, and so do we."""
    return text(value).lower()


def urls(value: object) -> str:
    """Read the URLs of the API servers, one or several with commas between them."""
    read = [one.strip().rstrip("/") for one in text(value).split(",")]
    if not all(map(is_server_url, read)):
        raise ValueError("a URL such as https://192.0.2.1:6443 is needed, or several with commas")
    return ",".join(read)


def is_server_url(written: str) -> bool:
    """Say whether a URL is one of an HTTP server: scheme, host and, if there is one, a port."""
    try:
        parts = urlsplit(written)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # an address in brackets that is none, a port that is too high
        return False


def boolean(value: object) -> bool:
    """Read true or false, as YAML or as Go's flags write them."""
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.strip().lower() in _TRUE | _FALSE:
        return value.strip().lower() in _TRUE
    raise ValueError("true or false is needed")


def whole_number(lowest: int, highest: int) -> Reader:
    """Read a whole number between two bounds, both allowed."""

    def read(value: object) -> int:
        number: int | None = None
        if isinstance(value, int) and not isinstance(value, bool):
            number = value
        elif isinstance(value, str) and re.fullmatch(r"[+-]?\d{1,18}", value.strip()):
            number = int(value)
        if number is None or not lowest <= number <= highest:
            raise ValueError(f"a whole number from {lowest} to {highest} is needed")
        return number

    return read


def seconds(value: object) -> float:
    """Read a duration of 0 or more: as text (`duration`), or YAML's number, which is of seconds."""
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 1e9:  # noqa: PLR2004 - thirty years
        return float(value)
    return duration.seconds(value.strip() if isinstance(value, str) else "")


def whole_seconds(longest: int) -> Reader:
    """Read a duration for the kernel, which knows whole seconds; a fraction is cut off.

    So does kube-proxy (realConntracker, and ConfigureTimeouts in pkg/proxy/ipvs/util).
    """

    def read(value: object) -> int:
        whole = int(seconds(value))
        if whole > longest:
            raise ValueError(f"a duration of at most {longest}s is needed")
        return whole

    return read


def address(value: object) -> Address | None:
    """Read an address; an unspecified one (0.0.0.0, ::) is none."""
    written = value.strip() if isinstance(value, str) else ""
    try:
        read = Address.parse(written)
    except ValueError:
        raise ValueError("an IP address such as 192.0.2.1 is needed") from None
    return read if any(read) else None


def a_second_at_least(value: object) -> float:
    """Read a duration of 1 s or more."""
    read = seconds(value)
    if read < 1:
        raise ValueError("a duration of 1s or more such as 30s is needed")
    return read


def networks(value: object) -> tuple[Network, ...]:
    """Read networks: a list, or a text with commas between them."""
    return tuple(dict.fromkeys(map(_network, _items(value))))


def node_port_addresses(value: object) -> NodePortAddresses:
    """Read networks, or the one word `primary`; `all` or nothing: on all addresses.

    A word stands alone, as kube-proxy wants it of `primary`
    (pkg/proxy/apis/config/validation, validateKubeProxyNodePortAddress).
    """
    items = _items(value)
    words = [item.strip() for item in items if isinstance(item, str)]
    for word in ("all", "primary"):
        if word in words:
            if len(items) > 1:
                raise ValueError(f"{word!r} and nothing else is needed, or networks only")
            return NodePortAddresses(primary=word == "primary")
    return NodePortAddresses(networks=networks(items))


def ports(value: object) -> tuple[int, ...]:
    """Read port numbers: a list, or a text with commas between them."""
    return tuple(dict.fromkeys(map(_port, _items(value))))


def interface(longest: int) -> Reader:
    """Read an interface's name, or the beginning of one, of at most so many characters.

    The kernel's rule (dev_valid_name in net/core/dev.c), and no `+`, which iptables takes for "and
    whatever follows".
    """

    def read(value: object) -> str:
        written = value.strip() if isinstance(value, str) else ""
        if not re.fullmatch(rf"[^\s/:!+]{{1,{longest}}}", written):
            raise ValueError(f"an interface's name of 1-{longest} characters is needed")
        return written

    return read


def choice(kind: type[_Choice]) -> Callable[[object], _Choice]:
    """Read a member of an enumeration, by its value."""

    def read(value: object) -> _Choice:
        try:
            return kind(str(value).strip())
        except ValueError:
            raise ValueError(f"one of {', '.join(kind)} is needed") from None

    return read


def log_format(value: object) -> LogFormat:
    """Read a form of log lines; kube-proxy's `text` is `auto`."""
    return LogFormat.AUTO if value == "text" else choice(LogFormat)(value)


def bind_address(default_port: int) -> Reader:
    """Read ADDRESS:PORT or [ADDRESS]:PORT; an address alone gets the default port; empty: none.

    kube-proxy adds the port in the same way (pkg/proxy/apis/config/v1alpha1/defaults.go).
    """

    def read(value: object) -> str:
        written = value.strip() if isinstance(value, str) else None
        if written is None:
            raise ValueError(f"ADDRESS:PORT such as 127.0.0.1:{default_port} is needed")
        if not written:
            return ""
        if (alone := _address_alone(written)) is not None:
            host = f"[{alone}]" if ":" in alone else alone
            return f"{host}:{default_port}"
        split_bind_address(written)
        return written

    return read


def split_bind_address(written: str) -> tuple[str, int]:
    """Take ADDRESS:PORT apart; ValueError says what is wrong."""
    host, colon, port = written.rpartition(":")
    if not colon:
        raise ValueError("no IP address; ADDRESS:PORT such as 0.0.0.0:10256 is needed")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    alone = _address_alone(host)
    if alone is None:
        raise ValueError(f"{host!r} is no IP address; ADDRESS:PORT such as 0.0.0.0:10256 is needed")
    if not re.fullmatch(r"\d{1,5}", port) or not 0 < int(port) <= _HIGHEST_PORT:
        raise ValueError(f"{port!r} is no port from 1 to {_HIGHEST_PORT}")
    return alone, int(port)


def _address_alone(written: str) -> str | None:
    try:
        return str(ipaddress.ip_address(written.removeprefix("[").removesuffix("]")))
    except ValueError:
        return None


def _items(value: object) -> list[object]:
    """Take a list for what it is, and a text for items with commas between them."""
    if value is None:
        return []
    if isinstance(value, str):
        return [item for item in value.split(",") if item.strip()]
    return value if isinstance(value, list) else [value]


def _port(item: object) -> int:
    written = item.strip() if isinstance(item, str) else item
    if isinstance(written, str) and re.fullmatch(r"\d{1,5}", written):
        written = int(written)
    if isinstance(written, int) and not isinstance(written, bool) and 0 < written <= _HIGHEST_PORT:
        return written
    raise ValueError(f"{item!r} is no port; numbers from 1 to {_HIGHEST_PORT} are needed")


def _network(item: object) -> Network:
    written = item.strip() if isinstance(item, str) else str(item)
    try:
        return Network.parse(written)
    except ValueError:
        raise ValueError(
            f"{written!r} is no network; one such as 10.244.0.0/16 or fd00:10::/64 is needed"
        ) from None
