"""Values of which there are few kinds and tens of thousands of holders: each is one object.

So they take no room, and are told to be equal at a glance. Knows nothing of who holds them.
"""

from __future__ import annotations

from functools import lru_cache

from ipvsproxy.model import Flags, ForwardingMethod, RealServer, VirtualServer


@lru_cache(maxsize=1024)
def shared_real_server(
    weight: int, forwarding_method: ForwardingMethod, upper_threshold: int, lower_threshold: int
) -> RealServer:
    """Give the real server that looks like this, mostly the same object for the same arguments."""
    return RealServer(weight, forwarding_method, upper_threshold, lower_threshold)


@lru_cache(maxsize=1024)
def shared_virtual_server(
    scheduler: str, flags: Flags, persistence: int, persistence_prefix: int
) -> VirtualServer:
    """Give the virtual server that looks like this, as `shared_real_server` does."""
    return VirtualServer(scheduler, flags, persistence, persistence_prefix)
