"""The loop that keeps the kernel equal to what the store asks for, and its shadow of the kernel.

    loop         when something is done, and in which order; the one task that does it
    translation  from dirty Services to what they want
    planning     from what was touched to batches
    writer       the shadow, and the one place that writes
    audits       when the kernel is looked at, a little at a time, for what others change
    rounds       what of it is read next, and how much
    doubts       what a glance at it gives reason to doubt
    sweeps       when everything is compared, not only what was touched
    turns        what takes long gives way to others after each piece
    polls        when the connections of draining real servers are looked at
    network      following the node's own network
    conditions   what is wrong with which Service
    report       what a cycle did
    progress     how far everything has been carried out
    observers    who is told what was done

Knows the store, the core and the port; how the kernel is spoken to it does not know.
"""

from __future__ import annotations

from ipvsproxy.reconciler.loop import Reconciler
from ipvsproxy.reconciler.report import CycleReport

__all__ = ["CycleReport", "Reconciler"]
