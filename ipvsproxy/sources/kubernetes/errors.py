"""What can go wrong with the Kubernetes API, as a closed set that decides what is done next.

Knows HTTP statuses and the API's `Status` object; knows nothing of retrying. Messages are one line
each, made for the operator.

    AccessError    the configuration cannot be used: said once, at start
    ApiError       a request failed; each child says what helps:
      Expired        410: list again                  Unauthorized   401: read the credentials anew
      Throttled      429: wait as long as told        Forbidden      403: an operator must grant it
      BadRequest     400: ask for less                Rejected       another 4xx: list again
      Conflict       409: what is to be made is there already
      NotFound       404: no such resource on this server
      Unavailable    everything else, from a 503 to nonsense: try again, elsewhere if there is
        Unreachable    no connection, or a lost one     Silent       nothing came for too long

Reference: apimachinery meta/v1 Status; API conventions, "HTTP status codes".
"""

# ruff: noqa: N818 - each name says what the server said, and is read after `except`
from __future__ import annotations

import msgspec

_LONGEST_MESSAGE = 300  # characters of what somebody else says
_UNAUTHORIZED = 401
_VERSION_TOO_LARGE = "Too large resource version"


def one_line(text: str) -> str:
    """Make a message of somebody else one line of a sensible length."""
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST_MESSAGE else f"{line[:_LONGEST_MESSAGE]}..."


class AccessError(Exception):
    """The way to the API server is not usable as configured; the message names the mend."""


class ApiError(Exception):
    """A request to the API server failed."""

    def __init__(self, message: str, *, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        """Seconds to wait at least, as the server has asked for; 0: it has not."""


class Expired(ApiError):
    """410: the resource version or the continuation is older than the server remembers."""


class Unauthorized(ApiError):
    """401: the credentials are missing, expired or wrong."""


class Forbidden(ApiError):
    """403: the credentials are good, but RBAC does not allow this request."""


class Throttled(ApiError):
    """429: the server is busy and says when to come back."""


class BadRequest(ApiError):
    """400: the server does not understand a parameter."""


class Rejected(ApiError):
    """Another refusal of the request itself (4xx)."""


class Conflict(Rejected):
    """409: an object of this name is there already."""


class NotFound(Rejected):
    """404: the server has no such resource, as before the version that brought it."""


class Unavailable(ApiError):
    """The server cannot be reached, has failed, or the connection was lost."""


class Unreachable(Unavailable):
    """There is no connection to the server, or none any more."""


class Silent(Unreachable):
    """The server is connected, as far as can be seen, and says nothing for longer than it does."""


class _Details(msgspec.Struct, rename="camel"):
    retry_after_seconds: float | None = None


class _Status(msgspec.Struct):
    code: int | None = None
    message: str | None = None
    details: _Details | None = None


_KINDS: dict[int, type[ApiError]] = {
    400: BadRequest,
    _UNAUTHORIZED: Unauthorized,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    410: Expired,
    429: Throttled,
}


def of_response(code: int, body: bytes, *, retry_after: str | None = None) -> ApiError:
    """Name the failure that an HTTP answer tells; the body is a Status, or what a proxy wrote."""
    status = _decode(body)
    waits = status.details.retry_after_seconds if status.details else None
    if retry_after is not None and retry_after.isascii() and retry_after.isdigit():
        waits = float(retry_after)
    return _make(code, status.message or _sentence(body), waits or 0.0)


def of_event(body: bytes | msgspec.Raw) -> ApiError:
    """Name the failure that an ERROR event of a watch tells."""
    status = _decode(body)
    waits = status.details.retry_after_seconds if status.details else None
    return _make(status.code or 0, status.message or "", waits or 0.0)


def _sentence(body: bytes) -> str:
    """Give what was answered where it is a sentence, as to HTTP on a port of TLS, and no page."""
    try:
        text = body.decode("ascii").strip()
    except ValueError:
        return ""
    return text if text.isprintable() and not text.startswith(("<", "{", "[")) else ""


def _decode(body: bytes | msgspec.Raw) -> _Status:
    try:
        return msgspec.json.decode(body, type=_Status)
    except ValueError:
        return _Status()


def _make(code: int, message: str, retry_after: float) -> ApiError:
    text = f"the API server answered {code or 'with an error'}"
    if message:
        text += f": {one_line(message)}"
    if code == _UNAUTHORIZED:
        text += (
            "; check the token or certificate in the kubeconfig, or the pod's ServiceAccount: "
            "is it expired, withdrawn or of another cluster?"
        )
    # The server has gone back in time, as after a restore of etcd: what we know is from a future
    # that it does not have, and only a new list helps.
    if _VERSION_TOO_LARGE in message:
        return Expired(text)
    kind = _KINDS.get(code)
    if kind is None:
        kind = Rejected if 400 < code < 500 else Unavailable  # noqa: PLR2004 - the 4xx class
    return kind(text, retry_after=retry_after)
