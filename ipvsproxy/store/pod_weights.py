"""What Pods say their endpoints weigh, as it is written.

Knows which Pods say anything; knows no Service, and not what a weight may be.
"""

from __future__ import annotations

from collections.abc import Mapping


class PodWeights:
    """Texts by namespace and name of the Pod."""

    def __init__(self) -> None:
        self.listed = False
        """Whether all Pods that say what they weigh are known."""
        self._written: dict[tuple[str, str], str] = {}

    @property
    def written(self) -> Mapping[tuple[str, str], str]:
        """All that is known."""
        return self._written

    def put(self, namespace: str, pod: str, weight: str | None) -> bool:
        """Take in what a Pod says, None: nothing, or it is gone; say whether that is new."""
        if self._written.get((namespace, pod)) == weight:
            return False
        if weight is None:
            del self._written[namespace, pod]
        else:
            self._written[namespace, pod] = weight
        return True
