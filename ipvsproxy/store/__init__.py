"""The current inputs of each Service, which Services are dirty, and whether the picture is whole.

Knows objects and what sources say of them (`Event`); decides nothing. It is the one place where
input state lives: the reconciler takes dirty names from it and gets everything that a Service's
translation needs. A source is an async iterator of events and knows no more of the store.

An event that changes nothing (the same object again) makes nothing dirty: in a live cluster most
events do not touch what a node agent reads.

Completeness (docs/architecture.md, rule 2) has two sides: `listed` - every kind's initial list has
been read - without which nothing is translated at all; and `whole` - no part of the picture is
known to be missing - without which nothing counts as deleted that nobody claims.

    concerns    whom a change of what is around concerns
    dirty       who has changed, in order of change
    events      what a source says, and the protocol of a source
    inputs      the store
    neighbours  Nodes, and the addresses that no Service may have
    slices      the EndpointSlices of every Service
    pod_weights what Pods say that their endpoints weigh
    refusals    what follows from objects that are nonsense
    verdicts    what probes have come to
"""

from __future__ import annotations

from ipvsproxy.store.events import (
    Event,
    Gone,
    Judged,
    Listed,
    Put,
    Readable,
    Refused,
    Source,
    Unlisted,
    Unreadable,
    reference_of,
)
from ipvsproxy.store.inputs import KINDS, Store
from ipvsproxy.store.neighbours import API_SERVER

__all__ = [
    "API_SERVER",
    "KINDS",
    "Event",
    "Gone",
    "Judged",
    "Listed",
    "Put",
    "Readable",
    "Refused",
    "Source",
    "Store",
    "Unlisted",
    "Unreadable",
    "reference_of",
]
