"""Probing endpoints from this node: sockets on one side, verdicts on the other.

    asking       one probe: a connection, a request, a datagram
    prober       which endpoint is probed when, and what its probes have come to
    traffic      which virtual servers have traffic from here, where only those matter
    punctuality  whether probes are made when they are due; a condition where not

Which endpoints those are, and what follows from a verdict, is the core's to say (core.probing): a
verdict is told to the store like an object of a source, and only when it has changed.
"""

from __future__ import annotations

from ipvsproxy.probe.asking import Answered, Ask, Cancel, Outcome, ask
from ipvsproxy.probe.prober import Prober
from ipvsproxy.probe.punctuality import Punctuality
from ipvsproxy.probe.traffic import ProbedTraffic

__all__ = [
    "Answered",
    "Ask",
    "Cancel",
    "Outcome",
    "ProbedTraffic",
    "Prober",
    "Punctuality",
    "ask",
]
