"""What follows from objects that are nonsense now: what of theirs the kernel may still have.

Knows refusals, and which of the objects have a good state that stands for them; keeps nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from ipvsproxy.model import Address
from ipvsproxy.objects import ServiceName
from ipvsproxy.store.events import Refused
from ipvsproxy.store.slices import Slices


def held_addresses(
    refusals: Iterable[Refused], known: Collection[ServiceName]
) -> frozenset[Address] | None:
    """Addresses of nonsense Services of which no good state is known; None: any may be.

    What the kernel has at them may be theirs, so it is no leftover.
    """
    held: set[Address] = set()
    for refused in refusals:
        reference = refused.reference
        if reference.kind != "Service":
            continue
        if ServiceName(reference.namespace, reference.name) not in known:
            if refused.addresses is None:
                return None
            held |= refused.addresses
    return frozenset(held)


def is_sound(name: ServiceName, refusals: Iterable[Refused], slices: Slices) -> bool:
    """Whether no slice of a Service is nonsense without a good state that stands for it."""
    return not any(
        refused.reference.kind == "EndpointSlice"
        and refused.may_belong_to(name)
        and slices.owner(refused.reference.namespace, refused.reference.name) is None
        for refused in refusals
    )
