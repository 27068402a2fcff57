"""How much of a virtual server's traffic each real server is to have, and how the kernel is told.

    weighing    what is wanted, of objects only: annotations of slices, Services and Nodes
    keeping     what the kernel remembers of it, where nobody else does
    shaping     from there to the kernel: one slow start and zone preference after the other
    slow_start  climbs of real servers that are new, and which step each has reached
    climbing    the memory that these need
    resuming    who was climbing before a restart
    zones       a preference for the own zone, as far as that can bear it
    normal      whole numbers that the kernel's schedulers and their tables can do with

Weights are exact whole numbers of any size until `normal`, which is the last to see them, so that
what is wanted does not depend on what the kernel had before (ADR 0015).
"""
