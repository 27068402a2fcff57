"""The loop that keeps the kernel equal to what the store asks for, and its shadow of the kernel.

`writer` holds the shadow and is the one place that writes; `loop` decides when, and takes what
changed through the core's decisions; `conditions` says what is wrong with which Service.
"""

from __future__ import annotations

from ipvsproxy.reconciler.loop import Reconciler
from ipvsproxy.reconciler.report import CycleReport

__all__ = ["CycleReport", "Reconciler"]
