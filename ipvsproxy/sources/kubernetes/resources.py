"""What is listed and watched: the kinds that a node agent reads, and with which selectors.

Knows paths and selectors of the API; knows nothing of what is made of the objects.
"""

from __future__ import annotations

from typing import NamedTuple

from ipvsproxy.objects import WEIGHT_ANNOTATION
from ipvsproxy.sources.kubernetes.sending import JSON

OURS = "!service.kubernetes.io/headless,!service.kubernetes.io/service-proxy-name"
"""What kube-proxy selects: neither headless nor left to another proxy (KEP-2447)."""


class Resource(NamedTuple):
    """What is listed and watched."""

    kind: str
    paths: tuple[str, ...]
    """Of the collection, as in /api/v1/services; those after the first are for older servers."""
    plural: str
    """As in an RBAC rule."""
    group: str = ""
    label_selector: str = ""
    field_selector: str = ""
    optional_field_selector: str = ""
    """Used where the server knows the field; else the caller gets more objects than it needs."""
    name: str = ""
    """Of the watch, where a kind has several; empty: the kind's."""
    optional: bool = False
    """Whether servers may lack it, or refuse it, without harm: there are no such objects then."""

    annotation: str = ""
    """An object without this annotation counts as not there; empty: all count."""
    metadata_only: bool = False
    """Whether the server is asked to leave out all but the metadata (PartialObjectMetadata)."""

    def accept(self, *, listing: bool) -> str:
        """Give the Accept header: what is wanted, and at its end what every server has."""
        if not self.metadata_only:
            return JSON
        kind = "PartialObjectMetadataList" if listing else "PartialObjectMetadata"
        return f"{JSON};as={kind};g=meta.k8s.io;v=v1,{JSON}"

    @property
    def list_kinds(self) -> frozenset[str]:
        """The kinds that a list may be of."""
        partial = {"PartialObjectMetadataList"} if self.metadata_only else set()
        return frozenset({f"{self.kind}List", *partial})

    @property
    def watch(self) -> str:
        """By what the watch is known to health, to the log and to `store.Listed`."""
        return self.name or self.kind


def resources(node_name: str) -> tuple[Resource, ...]:
    """Name what a node agent watches.

    The field selector of Services is known to servers since 1.31. ServiceCIDRs are there since
    1.33; in 1.31 and 1.32 where the beta was switched on.
    """
    return (
        Resource(
            kind="Service",
            paths=("/api/v1/services",),
            plural="services",
            label_selector=OURS,
            optional_field_selector="spec.clusterIP!=None",
        ),
        Resource(
            kind="EndpointSlice",
            paths=("/apis/discovery.k8s.io/v1/endpointslices",),
            plural="endpointslices",
            group="discovery.k8s.io",
            label_selector=OURS,
        ),
        Resource(
            kind="Node",
            paths=("/api/v1/nodes",),
            plural="nodes",
            field_selector=f"metadata.name={node_name}",
        ),
        Resource(
            kind="ServiceCIDR",
            paths=(
                "/apis/networking.k8s.io/v1/servicecidrs",
                "/apis/networking.k8s.io/v1beta1/servicecidrs",
            ),
            plural="servicecidrs",
            group="networking.k8s.io",
            optional=True,
        ),
    )


def other_nodes(node_name: str) -> Resource:
    """Name what is watched once all Nodes are needed.

    The own Node is left out: of two watches one may be behind, and would undo what the other said.
    Whole objects, for what is needed of them are their addresses, and those are in the status:
    lists of metadata only (PartialObjectMetadata) do not have them.
    """
    return Resource(
        kind="Node",
        name="Nodes",
        paths=("/api/v1/nodes",),
        plural="nodes",
        field_selector=f"metadata.name!={node_name}",
    )


def weighing_pods() -> Resource:
    """Name what is watched where weights go by Pods: those that say what they weigh.

    No selector knows annotations, so the server sends all Pods; what is kept is few.
    """
    return Resource(
        kind="Pod",
        name="Pods",
        paths=("/api/v1/pods",),
        plural="pods",
        annotation=WEIGHT_ANNOTATION,
        metadata_only=True,
    )
