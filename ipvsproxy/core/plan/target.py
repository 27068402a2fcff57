"""What is wanted of the things that are named; nothing is said of the others.

A value only: core.settlement makes it, the planners read it, and none of them changes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ipvsproxy.core.drain import Wanted
from ipvsproxy.core.foundation import Foundation
from ipvsproxy.core.members import SetMember
from ipvsproxy.core.redirect import Redirections
from ipvsproxy.model import Address, VirtualServerKey


@dataclass(frozen=True, slots=True)
class Target:
    """What is wanted of the things that are named; nothing is said of the others."""

    foundation: Foundation
    virtual_servers: Mapping[VirtualServerKey, Wanted | None] = field(default_factory=dict)
    """None: must not exist."""
    addresses: Mapping[Address, bool] = field(default_factory=dict)
    """Whether the address is bound; one to be bound comes with all that stands behind it."""
    members: Mapping[SetMember, bool] = field(default_factory=dict)
    """Whether the member is in its set."""
    redirections: Redirections = field(default_factory=Redirections)
    """Where clients inside the cluster are sent: all of it, as in `foundation`'s chains."""
