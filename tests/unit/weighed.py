"""A Service with three endpoints, and what the kernel has of it, for tests of weights."""

from __future__ import annotations

from ipvsproxy.core.translate import Fragment, Frontend
from ipvsproxy.kernel.fake import fresh_state
from ipvsproxy.model import (
    Address,
    Protocol,
    RealServer,
    RealServerKey,
    State,
    VirtualServer,
    VirtualServerKey,
)
from ipvsproxy.objects import ServiceName

NAME = ServiceName("shop", "web")
IP = Address.parse("10.96.0.1")
KEY = VirtualServerKey(Protocol.TCP, IP, 80)
PODS = tuple(Address.parse(f"10.1.0.{number}") for number in (1, 2, 3))
MEMBERS = tuple(RealServerKey(pod, 8080) for pod in PODS)


def served(*weights: int) -> State:
    """Make a kernel that has the Service with these weights."""
    state = fresh_state()
    state.virtual_servers[KEY] = VirtualServer("wrr")
    real = (RealServer(weight) for weight in weights)
    state.real_servers[KEY] = dict(zip(MEMBERS, real, strict=True))
    return state


def frontend_of(fragment: Fragment) -> Frontend:
    """Give the only frontend."""
    (found,) = fragment.frontends
    return found


def weights_of(fragment: Fragment) -> list[int]:
    """Give the weights that are wanted, by address."""
    return [real.weight for _, real in sorted(frontend_of(fragment).real_servers.items())]
