"""Redirections: clients inside the cluster are sent from an external frontend to the ClusterIP.

A value, and an index of those in force. core.translate says which are wanted, core.redirect_rules
how each is written as a rule, core.plan when it may come and go. See ADR 0009, the split.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Set as AbstractSet
from typing import NamedTuple

from ipvsproxy.model import Address, Protocol, VirtualServerKey


class Redirect(NamedTuple):
    """What is redirected, and where to."""

    protocol: Protocol
    address: Address | None
    """None: any address of the node, for a NodePort; the family is that of `target`."""
    port: int
    target: VirtualServerKey
    """The ClusterIP's virtual server."""


class Redirections:
    """The redirections of all frontends in force."""

    def __init__(self) -> None:
        self._of: dict[VirtualServerKey, Redirect] = {}
        self._sources: defaultdict[VirtualServerKey, set[VirtualServerKey]] = defaultdict(set)
        self._counted: Counter[Redirect] = Counter()
        self._listed: tuple[Redirect, ...] | None = ()

    def put(self, key: VirtualServerKey, redirect: Redirect | None) -> None:
        """Say where the clients of a virtual server are sent; None: nowhere."""
        before = self._of.pop(key, None)
        if redirect is not None:
            self._of[key] = redirect
        if before == redirect:
            return
        if before is not None:
            self._sources[before.target].discard(key)
            if not self._sources[before.target]:
                del self._sources[before.target]
            self._counted[before] -= 1
            if not self._counted[before]:
                del self._counted[before]
        if redirect is not None:
            self._sources[redirect.target].add(key)
            self._counted[redirect] += 1
        self._listed = None

    def all(self) -> tuple[Redirect, ...]:
        """Give every redirection once, in the order in which they are matched.

        Those of one address come first: a NodePort's number may be another Service's port on one
        of the node's addresses. The same object is given until one changes.
        """
        if self._listed is None:
            ranked = sorted(self._counted, key=lambda one: (one.address is None, one))
            self._listed = tuple(ranked)
        return self._listed

    def target_of(self, key: VirtualServerKey) -> VirtualServerKey | None:
        """Give the virtual server to which the clients of another one are sent."""
        redirect = self._of.get(key)
        return redirect.target if redirect is not None else None

    def sources_of(self, target: VirtualServerKey) -> AbstractSet[VirtualServerKey]:
        """Give the virtual servers whose clients are sent to `target`."""
        return self._sources.get(target, frozenset())
