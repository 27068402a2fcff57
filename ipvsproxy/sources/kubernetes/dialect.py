"""How one resource is to be asked for from these servers: learnt from what they refuse.

Knows which path, which field selector and which way of listing older servers lack, and what they
answer then. It learns in one direction: what was refused once is not asked for again, until nothing
is left to ask for.
"""

from __future__ import annotations

from collections.abc import Mapping

import structlog

from ipvsproxy.sources.kubernetes.errors import (
    ApiError,
    BadRequest,
    Expired,
    Forbidden,
    NotFound,
    Rejected,
    Silent,
)
from ipvsproxy.sources.kubernetes.resources import Resource

_log = structlog.get_logger(__name__)


class Dialect:
    """What of a resource's address and parameters the servers understand."""

    def __init__(self, resource: Resource) -> None:
        self._resource = resource
        self._paths = list(resource.paths)
        self._optional_selector = resource.optional_field_selector
        self.streams_lists = True
        """Whether a list may be asked for as a watch that begins with all objects."""

    @property
    def path(self) -> str:
        """The collection's path."""
        return self._paths[0]

    @property
    def selectors(self) -> Mapping[str, str]:
        """Parameters of every request."""
        fields = (self._resource.field_selector, self._optional_selector)
        selectors = {
            "labelSelector": self._resource.label_selector,
            "fieldSelector": ",".join(field for field in fields if field),
        }
        return {key: value for key, value in selectors.items() if value}

    def without_optional_selector(self) -> bool:
        """Do without the field selector that not all servers know; False: it was not used."""
        if not self._optional_selector:
            return False
        _log.info(
            "API server does not know a field selector, asking without",
            watch=self._resource.watch,
            selector=self._optional_selector,
        )
        self._optional_selector = ""
        return True

    def other_path(self, error: ApiError) -> bool:
        """Take an older path where the server lacks this one; False: that is not it, or all."""
        if not isinstance(error, NotFound) or len(self._paths) == 1:
            return False
        del self._paths[0]
        return True

    def without_streams(self, error: ApiError) -> bool:
        """Do without streamed lists where one failed so that it seems a matter of principle.

        410 too: the server knows streams, and could not bring this one up to date. False: the
        failure is of another sort, or they were not asked for.
        """
        if not self.streams_lists or not isinstance(error, _OF_STREAMS):
            return False
        watch = self._resource.watch
        _log.debug("API server does not stream lists", watch=watch, reason=str(error))
        self.streams_lists = False
        return True

    def means_none(self, error: ApiError) -> bool:
        """Whether an error means that there are no such objects, or that we are shown none."""
        if not self._resource.optional:
            return False
        return isinstance(error, Forbidden) or (
            isinstance(error, NotFound) and len(self._paths) == 1
        )

    def start_anew(self) -> None:
        """Forget which paths are lacking: another version of the server may run by now."""
        self._paths = list(self._resource.paths)

    def for_operator(self, error: ApiError) -> str:
        """Say in one line what went wrong, and the mend where there is one."""
        resource = self._resource
        match error:
            case Forbidden() if _ANONYMOUS in str(error):
                return (
                    f"{error}; it takes us for nobody: the user in the kubeconfig needs a token "
                    "or a certificate"
                )
            case Forbidden():
                rule = f'apiGroups: ["{resource.group}"], resources: ["{resource.plural}"]'
                return f'{error}; the role needs the rule {{{rule}, verbs: ["list", "watch"]}}'
            case NotFound():
                return (
                    f"{error}: it knows no {resource.plural}; check its URL, and that it is "
                    "Kubernetes 1.21 or newer"
                )
            case _:
                return str(error)


_ANONYMOUS = "system:anonymous"
"""Who sends no credentials, to an API server that lets such ask (--anonymous-auth, the default)."""
_OF_STREAMS = (BadRequest, Rejected, Expired, Silent)
