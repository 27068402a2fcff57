"""Objects that are nonsense: the reason, and what can be said of them all the same.

Knows how to take an object's name, its Service and its addresses out of data that follows no
rule; knows nothing of the rules themselves. What is found here protects what the kernel has of an
object that was already nonsense when the agent started (docs/architecture.md, rule 1).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress

from ipvsproxy.model import Address
from ipvsproxy.objects.fields import plain
from ipvsproxy.objects.values import SERVICE_LABEL, ObjectReference, ServiceName
from ipvsproxy.objects.wire import Raw, loosely

DEFAULT_NAMESPACE = "default"
_WITHOUT_NAMESPACE = ("Node", "ServiceCIDR")
_NO_ADDRESS = (None, "", "None")


class InvalidObject(Exception):  # noqa: N818  (the noun of the operator's message)
    """An object that is there but cannot be used as it is; `str()` is the reason, in one line.

    `reference` is None where not even the object's name could be read. `internal` says that the
    fault is ours: an unexpected error while the object was read, which is the exception's cause.
    `addresses` are those at which a Service may be served; None: some could not be read.
    """

    def __init__(
        self,
        reason: str,
        *,
        reference: ObjectReference | None = None,
        addresses: frozenset[Address] | None = frozenset(),
        service: ServiceName | None = None,
        internal: bool = False,
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.reference = reference
        self.addresses = addresses
        self.service = service
        self.internal = internal


def describe(kind: str, raw: Raw, reason: str, *, internal: bool = False) -> InvalidObject:
    """Make the refusal of an object, with what can be read of it in spite of everything."""
    data = loosely(raw)
    metadata = _get(data, "metadata")
    name = _text(metadata, "name")
    # Only text is taken for a namespace; an absent one is the default one, as when it is read.
    namespace = _text(metadata, "namespace") or DEFAULT_NAMESPACE
    if kind in _WITHOUT_NAMESPACE:
        namespace = ""
    return InvalidObject(
        reason,
        reference=ObjectReference(kind, namespace, name) if name else None,
        addresses=_addresses(data) if kind == "Service" else frozenset(),
        service=_service(kind, namespace, metadata),
        internal=internal,
    )


def _service(kind: str, namespace: str, metadata: object) -> ServiceName | None:
    match kind:
        case "Service":
            name = _text(metadata, "name")
        case "EndpointSlice":
            name = _text(_get(metadata, "labels"), SERVICE_LABEL)
        case _:
            name = ""
    return ServiceName(namespace, name) if name else None


def _addresses(data: object) -> frozenset[Address] | None:
    """Give every address at which the Service may be served today; None: one is not readable.

    An external address that cannot be read is served by nobody: `external` passes over it.
    """
    spec = _get(data, "spec")
    if not isinstance(spec, Mapping):
        return None
    written = [_get(spec, "clusterIP"), *_items(spec, "clusterIPs")]
    try:
        own = [Address.parse(str(text)) for text in written if text not in _NO_ADDRESS]
    except ValueError:
        return None
    return frozenset([*own, *_external_addresses(data, spec)])


def _external_addresses(data: object, spec: object) -> Iterator[Address]:
    ingresses = _items(_get(_get(data, "status"), "loadBalancer"), "ingress")
    for text in (*_items(spec, "externalIPs"), *(_get(one, "ip") for one in ingresses)):
        with suppress(ValueError):
            yield Address.parse(plain(str(text)))


def _get(value: object, key: str) -> object:
    return value.get(key) if isinstance(value, Mapping) else None


def _text(value: object, key: str) -> str:
    found = _get(value, key)
    return found if isinstance(found, str) else ""


def _items(value: object, key: str) -> list[object]:
    found = _get(value, key)
    return found if isinstance(found, list) else []
