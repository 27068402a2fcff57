"""The annotations by which a Service has its endpoints probed by each node.

`HEALTH_CHECK` says what is asked: `tcp`, `http:/path` or `udp`. `HEALTH_CHECK_OPTIONS` says how, as
a list of `name=value`, all optional but a payload for udp. Options stand in one annotation, for
they are judged together: a timeout is right or wrong beside an interval. Knows how they are written
and nothing of endpoints.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import NamedTuple, TypeAlias, assert_never

from ipvsproxy import duration
from ipvsproxy.core.annotations.reading import Reader
from ipvsproxy.core.problem import in_short
from ipvsproxy.model import Address, Family, Protocol

HEALTH_CHECK = "ipvsproxy.io/health-check"
HEALTH_CHECK_OPTIONS = "ipvsproxy.io/health-check-options"


class OnFailure(StrEnum):
    """What becomes of the connections of an endpoint that fails its checks."""

    KEEP = "keep"
    """They stay; it gets no new ones."""
    CUT = "cut"
    """They end: the endpoint is removed from the kernel's table."""


class TcpProbe(NamedTuple):
    """It is healthy when it takes a connection, which is then reset."""


class HttpProbe(NamedTuple):
    """It is healthy when it answers a GET with one of these statuses; redirects are not followed.

    HTTP/1.1 without TLS.
    """

    path: str
    lowest: int = 200
    highest: int = 399
    host: str | None = None
    """The header Host; None: the endpoint's address and port."""


class UdpProbe(NamedTuple):
    """It is healthy when it answers a datagram, with whatever."""

    payload: bytes


Probe: TypeAlias = TcpProbe | HttpProbe | UdpProbe


class Check(NamedTuple):
    """How the endpoints of a Service are checked. Durations are seconds."""

    probe: Probe
    interval: float = 10.0
    """From one probe to the next of the same endpoint, 1-3600."""
    timeout: float = 1.0
    """Until a probe has failed, 0.05 to the interval and at most 60."""
    rise: int = 2
    """Probes in a row that must succeed before an unhealthy endpoint is healthy again, 1-100."""
    fall: int = 3
    """Probes in a row that must fail before a healthy endpoint is unhealthy, 1-100."""
    jitter: float = 0.1
    """By how much of the interval each pause is made longer or shorter at random, 0-0.5."""
    on_failure: OnFailure = OnFailure.KEEP
    only_with_traffic: bool = False
    """Only what stands behind a virtual server that has traffic from this node is probed, and what
    is unhealthy."""

    @property
    def protocol(self) -> Protocol:
        """The protocol of the ports that can be probed so."""
        match self.probe:
            case TcpProbe() | HttpProbe():
                return Protocol.TCP
            case UdpProbe():
                return Protocol.UDP
            case _:
                assert_never(self.probe)


_UNTIL_THEN = "endpoints are not checked until then"


def read_check(reader: Reader) -> Check | None:
    """Read what a Service asks for; None: nothing, or nothing that was ever right.

    What is written well and does not go together leaves what was good before, of both. A check
    whose options were never right is none: the defaults are not what was asked for.
    """
    stays = "" if reader.was_good(HEALTH_CHECK) else _UNTIL_THEN
    kind = reader.read(HEALTH_CHECK, read_kind, stays=stays)
    options = reader.read(HEALTH_CHECK_OPTIONS, read_options, stays=stays)
    if stays and reader.never_right(HEALTH_CHECK_OPTIONS):
        reader.restore(HEALTH_CHECK)
        return None
    if kind is None:
        if options is not None:
            reader.no_effect(HEALTH_CHECK_OPTIONS, f"without effect: {HEALTH_CHECK} is not set")
        return None
    try:
        return combine(kind, options or {})
    except ValueError as error:
        kept = reader.restore(HEALTH_CHECK)
        options_kept = reader.restore(HEALTH_CHECK_OPTIONS)
        stays = _UNTIL_THEN
        if kept is not None:
            with_options = f" with {in_short(repr(options_kept), 100)}" if options_kept else ""
            stays = f"{in_short(repr(kept.strip()), 100)}{with_options} stays"
        reader.refuse(HEALTH_CHECK_OPTIONS, f"{error}; {stays}")
        return combine(read_kind(kept), read_options(options_kept or "")) if kept else None


_PATH = re.compile(r"/[!-\"$-~]*")
_LONGEST_PATH = 1024
_KIND_HINT = "write tcp, http:/path (such as http:/healthz) or udp"


def read_kind(text: str) -> str:
    """Read `HEALTH_CHECK`: gives `tcp`, `udp` or `http:/path`. Raises ValueError."""
    word, colon, path = text.partition(":")
    word = word.strip().lower()
    if word in ("tcp", "udp"):
        if colon:
            raise ValueError(f"{text!r}: nothing may follow {word}; {_KIND_HINT}")
        return word
    if word != "http":
        raise ValueError(f"{text!r} is no check; {_KIND_HINT}")
    path = path.strip() or "/"
    if path.startswith("//"):
        raise ValueError(f"{text!r} is a URL; the host is the endpoint, so {_KIND_HINT}")
    if not _PATH.fullmatch(path) or len(path) > _LONGEST_PATH:
        raise ValueError(
            f"{path!r} is no path; it begins with /, is of printable ASCII without spaces and # "
            f"(encode others as %20), and has at most {_LONGEST_PATH} characters; {_KIND_HINT}"
        )
    return f"http:{path}"


def read_options(text: str) -> Mapping[str, object]:
    """Read `HEALTH_CHECK_OPTIONS`: `interval=5s, timeout=1s`. Raises ValueError."""
    found: dict[str, object] = {}
    for item in filter(None, re.split(r"[,\s]+", text)):
        name, equals, value = item.partition("=")
        name = name.lower()
        if name not in OPTIONS or not equals:
            known = ", ".join(OPTIONS)
            hint = _HINTS.get(next(reversed(found), ""), "")
            raise ValueError(
                f"{item!r} is no option; {hint}write name=value with commas between them, such as "
                f"interval=5s, timeout=1s; known are {known}"
            )
        if name in found:
            raise ValueError(f"{name} is there twice; write it once")
        try:
            found[name] = OPTIONS[name](value)
        except ValueError as error:
            raise ValueError(f"{name}={value}: {error}") from None
    return found


_HINTS = {
    "payload": "a payload with spaces or commas is written in hexadecimal, as 0x00ff; ",
    "status": "of statuses there is one, or one range such as 200-399; ",
}
"""What may be meant, after these options, by what is none."""


def combine(kind: str, options: Mapping[str, object]) -> Check:
    """Put together what both annotations say. Raises ValueError where they do not go together."""
    word, _, path = kind.partition(":")
    foreign = sorted(options.keys() & (_OF_ONE_KIND.keys()) - _of_kind(word))
    if foreign:
        name = foreign[0]
        raise ValueError(
            f"{name} is for {_OF_ONE_KIND[name]}, and {HEALTH_CHECK} is {word}; take {name} out"
        )
    check = Check(_probe(word, path, options))
    common = {
        _FIELDS.get(name, name): value
        for name, value in options.items()
        if name not in _OF_ONE_KIND
    }
    made = Check(**{**check._asdict(), **common})
    if made.timeout > made.interval:
        raise ValueError(
            f"timeout is {made.timeout:g}s and interval {made.interval:g}s; "
            "write a timeout of at most the interval"
        )
    return made


_OF_ONE_KIND = {"status": "http", "host": "http", "payload": "udp"}
_FIELDS = {"on-failure": "on_failure", "only": "only_with_traffic"}


def _of_kind(word: str) -> set[str]:
    return {name for name, kind in _OF_ONE_KIND.items() if kind == word}


def _probe(word: str, path: str, options: Mapping[str, object]) -> Probe:
    if word == "tcp":
        return TcpProbe()
    if word == "http":
        probe = HttpProbe(path)
        if isinstance(status := options.get("status"), tuple):
            probe = probe._replace(lowest=status[0], highest=status[1])
        if isinstance(host := options.get("host"), str):
            probe = probe._replace(host=host)
        return probe
    payload = options.get("payload")
    if isinstance(payload, bytes):
        return UdpProbe(payload)
    raise ValueError(
        "udp needs a payload, for no server answers nothing; "
        "write payload=TEXT, or payload=0x and bytes in hexadecimal"
    )


# ------------------------------------------------------------------------- single options

_HOST = re.compile(
    r"(?:[A-Za-z0-9._~\-]{1,253}|\[(?P<ipv6>[0-9A-Fa-f:.]+)\])(?::(?P<port>[0-9]{1,5}))?"
)
_PORTS = range(1, 65536)
_PAYLOAD = re.compile(r"(?!0X)[!#-&(-\[\]-~]*")
"""Whoever writes a quote or a backslash, or 0X, means something else than these characters."""
_MOST_PAYLOAD = 512
"""Bytes of a datagram; more may be cut into pieces on the way."""
_STATUSES = range(100, 600)


def _count(text: str) -> int:
    if not re.fullmatch(r"[1-9][0-9]?|100", text):
        raise ValueError("a whole number from 1 to 100 is needed")
    return int(text)


def _share(text: str) -> float:
    if not re.fullmatch(r"([0-9]|[1-4][0-9]|50)%", text):
        raise ValueError("a percentage from 0% to 50% is needed")
    return int(text[:-1]) / 100


def _status(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"([0-9]{3})(?:-([0-9]{3}))?", text)
    if found:
        lowest, highest = int(found[1]), int(found[2] or found[1])
        if lowest in _STATUSES and highest in _STATUSES and lowest <= highest:
            return lowest, highest
    raise ValueError(
        "one status from 100 to 599 is needed, such as 204, or one range, the lower first, such as "
        "200-399"
    )


def _host(text: str) -> str:
    found = _HOST.fullmatch(text)
    if not found or not _is_ipv6(found["ipv6"]) or int(found["port"] or 1) not in _PORTS:
        raise ValueError("a host name is needed, with a port if it has to be, such as shop.example")
    return text


def _is_ipv6(text: str | None) -> bool:
    """Whether what stands in brackets, if anything, is an address of IPv6."""
    try:
        return text is None or Address.parse(text).family is Family.IPV6
    except ValueError:
        return False


def _payload(text: str) -> bytes:
    if text.startswith("0x"):
        try:
            payload = bytes.fromhex(text[2:])
        except ValueError:
            raise ValueError(
                "after 0x bytes in hexadecimal are needed, two digits each, as 0x00ff"
            ) from None
    elif _PAYLOAD.fullmatch(text):
        payload = text.encode()
    else:
        raise ValueError(
            "letters, digits and signs of ASCII are needed, without quotes and backslashes, which "
            "would be sent as they stand; write other bytes in hexadecimal, as 0x00ff"
        )
    if not 0 < len(payload) <= _MOST_PAYLOAD:
        raise ValueError(f"1 to {_MOST_PAYLOAD} bytes are needed")
    return payload


def _on_failure(text: str) -> OnFailure:
    try:
        return OnFailure(text)
    except ValueError:
        raise ValueError("keep or cut is needed") from None


def _only(text: str) -> bool:
    if text != "traffic":
        raise ValueError("traffic is needed; without this option all endpoints are probed")
    return True


OPTIONS: Mapping[str, Callable[[str], object]] = {
    "interval": duration.seconds_from(1, 3600),
    "timeout": duration.seconds_from(0.05, 60),
    "rise": _count,
    "fall": _count,
    "jitter": _share,
    "on-failure": _on_failure,
    "only": _only,
    "status": _status,
    "host": _host,
    "payload": _payload,
}
"""What may stand in `HEALTH_CHECK_OPTIONS`, and how it is read."""
