"""A redirection: clients inside the cluster are sent from an external frontend to the ClusterIP.

A value and nothing more: core.translate says which are wanted, core.firewall how each is written
as a rule, core.trace and core.plan read it. See DESIGN section 6, the split.
"""

from __future__ import annotations

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
